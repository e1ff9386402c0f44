"""What an import costs: every module of odebc as a multiple of `import torch`, and `odebc --help` of an empty Python.

    python benchmarks/imports.py [rounds]

Each command runs in fresh processes, all of them in turn, so that a busy machine slows all alike; the medians are compared.
"""
import statistics
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]/'odebc'
PYTHON = [sys.executable, '-c']


def seconds(command):
    "Wall time of one process"
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return time.perf_counter() - start


def main(rounds=7):
    modules = sorted(path.stem for path in PACKAGE.glob('*.py') if not path.stem.startswith('_'))
    commands = {'nothing': [*PYTHON, 'pass'], 'torch': [*PYTHON, 'import torch']}
    commands |= {f'odebc.{name}': [*PYTHON, f'import odebc.{name}'] for name in modules}
    commands['odebc --help'] = [sys.executable, '-m', 'odebc', '--help']
    for command in commands.values():
        seconds(command)  # the first run compiles modules and fills the disk's cache
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"import torch: {medians['torch']:.2f} s; python -c pass: {medians['nothing']:.3f} s; {rounds} rounds")
    print('| command | s | × import torch | × python -c pass |')
    print('|---|---|---|---|')
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median/medians['torch']:.2f} | {median/medians['nothing']:.1f} |")


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
