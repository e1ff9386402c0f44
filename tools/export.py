"""Write the modules from the pages, in the layout of all other code.

    python tools/export.py

nbdev writes `__all__` and its index of names on lines as long as their contents; ruff breaks
them.
"""

import subprocess
import sys
from pathlib import Path

if __name__ == '__main__':
    for program, *arguments in (['nbdev_export'], ['ruff', 'format', '--quiet', 'odebc']):
        command = [Path(sys.executable).with_name(program), *arguments]
        subprocess.run(command, check=True, timeout=600)
