"""Install a wheel into a new environment, as somebody would who has nothing else, and run the
README's six lines from an empty folder.

    python tools/try_wheel.py dist/odebc-0.1.0-py3-none-any.whl [--extra lab]
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

CODE = re.compile(r'```python\n(.*?)```', re.S)


def six_lines(wheel):
    "From the description that PyPI shows"
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith('.dist-info/METADATA')]
    return CODE.search(archive.read(name).decode())[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('wheel', type=Path)
    parser.add_argument('--extra', default='')
    args = parser.parse_args()
    print(f'{args.wheel.name}: {args.wheel.stat().st_size / 1e6:.1f} MB')
    code = six_lines(args.wheel)
    wanted = str(args.wheel.resolve()) + (f'[{args.extra}]' if args.extra else '')
    with tempfile.TemporaryDirectory() as folder:
        home, empty = Path(folder, 'home'), Path(folder, 'empty')
        empty.mkdir()
        venv.create(home, with_pip=True)
        python = home / ('Scripts' if sys.platform == 'win32' else 'bin') / 'python'
        start = time.monotonic()
        subprocess.run(
            [python, '-m', 'pip', 'install', '--quiet', wanted], check=True, timeout=3600
        )
        print(f'installed in {time.monotonic() - start:.0f} s')
        start = time.monotonic()
        subprocess.run([python, '-c', code], check=True, cwd=empty, timeout=1800)
        print(f'the six lines ran in {time.monotonic() - start:.0f} s')


if __name__ == '__main__':
    main()
