"""What is shipped (models, scores, results, photographs) lies where
`importlib.resources.files('odebc.assets')` is.

In an installed package they lie beside this file. In a clone they lie in data/, two folders up:
that folder holds data and is no package, so that no `odebc/data` can hide the module `odebc.data`.
"""

from importlib.machinery import SourceFileLoader
from pathlib import Path

_beside = Path(__file__).parent
_in_clone = _beside.parents[1] / 'data'
if not (_beside / 'small').is_dir():
    # importlib.resources looks beside the file that the loader names; it need not exist
    __spec__.loader = SourceFileLoader(__name__, str(_in_clone / '__init__.py'))
