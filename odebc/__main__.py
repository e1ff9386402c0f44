"""The command `odebc`, as `python -m odebc` and `torchrun -m -- odebc`. Written by hand, as a
page has no way to export this name.
"""

import os
import sys

if __name__ == '__main__':
    # -m puts the working directory first:
    # a user's own random.py there must not stand in for Python's
    if sys.path and sys.path[0] in ('', os.getcwd()):
        del sys.path[0]
    from odebc.cli import main

    main()
