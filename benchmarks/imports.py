"""What an import costs: every module of odebc as a multiple of `import torch`, and
`odebc --help` of an empty Python.

    python benchmarks/imports.py [rounds]

Each command runs in fresh processes, all of them in turn, so that a busy machine slows all
alike; the medians are compared. Wall time is what a user waits for; processor time hardly
depends on what else the machine does.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / 'odebc'
PYTHON = [sys.executable, '-c']


def seconds(command):
    "Wall time and processor time of one process"

    def used():
        times = os.times()
        return times.children_user + times.children_system

    start = time.perf_counter()
    before = used()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    wall = time.perf_counter() - start
    return wall, used() - before


def main(rounds=7):
    stems = sorted(path.stem for path in PACKAGE.glob('*.py'))
    modules = [stem for stem in stems if not stem.startswith('_')]
    commands = {'nothing': [*PYTHON, 'pass'], 'torch': [*PYTHON, 'import torch']}
    commands |= {f'odebc.{name}': [*PYTHON, f'import odebc.{name}'] for name in modules}
    commands['odebc --help'] = [sys.executable, '-m', 'odebc', '--help']
    for command in commands.values():
        seconds(command)  # the first run compiles modules and fills the disk's cache
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {}
    for name, taken in times.items():
        medians[name] = [statistics.median(kind) for kind in zip(*taken)]
    wall, cpu = medians['torch']
    empty_wall, empty_cpu = medians['nothing']
    print(
        f'import torch: {wall:.2f} s ({cpu:.2f} s of the processor); '
        f'python -c pass: {empty_wall:.3f} s ({empty_cpu:.3f} s); medians of {rounds}'
    )
    print(
        '| command | s | processor s '
        '| × import torch | × in processor time | × python -c pass |'
    )
    print('|---|---|---|---|---|---|')
    for name, (mine, mine_cpu) in medians.items():
        print(
            f'| {name} | {mine:.3f} | {mine_cpu:.3f} '
            f'| {mine / wall:.2f} | {mine_cpu / cpu:.2f} | {mine / empty_wall:.1f} |'
        )


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
