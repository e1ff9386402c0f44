"""What a GPU is good for, in nine minutes: train a network on, and take the figures of speed.

Each part is a command of its own with a time limit, so that one that hangs or fails costs no
other part. Everything that it prints goes to the screen and into report.txt, beside the model.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# training; bfloat16 against float32; compiled against eager for the paper's network; overhead
NAMES = ['training', 'precision', 'compiled', 'search']


def command(script, *args):
    "Arguments of a process that runs one of the project's scripts"
    return [sys.executable, '-u', str(ROOT / script), *map(str, args)]


def parts(args):
    "Name -> command and seconds, the most important part first"
    folders = ['--images', args.images, '--out', args.out / 'vanilla', '--start', args.start]
    steps = ['--batch', args.batch, '--lr', args.lr, '--size', args.training_size]
    limit = ['--seconds', args.training or 0.6 * args.seconds]
    train = command('tools/train_by_clock.py', *folders, *steps, *limit)
    speed = ['--rounds', args.rounds, '--size', args.size]
    paper = ['--config', 'paper', '--batch', args.paper_batch]
    precision = command('benchmarks/train.py', '--batch', args.batch, *speed)
    compiled = command('benchmarks/train.py', *paper, *speed)
    search = command('benchmarks/search.py', '--k', args.k)
    shares = 0.68, 0.12, 0.12, 0.08
    commands = zip(NAMES, (train, precision, compiled, search), shares)
    return {name: (arguments, share * args.seconds) for name, arguments, share in commands}


def run(name, arguments, seconds, report):
    "One part; what it prints, and how it ended"
    began = time.monotonic()
    print(f'--- {name} (at most {seconds:.0f} s)', flush=True)
    try:
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
        output = done.stdout
        end = f'status {done.returncode}'
    except subprocess.TimeoutExpired as e:
        output = e.stdout or b''
        end = 'stopped by its limit'
    lines = output.decode(errors='replace').splitlines()
    text = '\n'.join(line.split('\r')[-1] for line in lines)
    entry = f'--- {name}: {end}, {time.monotonic() - began:.0f} s\n{text}\n'
    print(entry, flush=True)
    with open(report, 'a', encoding='utf8') as file:
        file.write(entry)
    return end == 'status 0'


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=Path, required=True, help='folder of photographs')
    parser.add_argument('--start', default='vanilla', help='a shipped model, or a folder')
    parser.add_argument(
        '--out', type=Path, default=Path('runs/gpu'), help='for model and report'
    )
    parser.add_argument('--seconds', type=float, default=540, help='for all parts together')
    parser.add_argument('--training', type=float, help='seconds of it, to try it out')
    parser.add_argument('--training-size', type=int, default=128, help='side of a patch')
    parser.add_argument('--batch', type=int, default=256, help='patches per step')
    parser.add_argument('--paper-batch', type=int, default=64, help="for the paper's network")
    parser.add_argument('--lr', type=float, default=6e-4, help='learning rate')
    parser.add_argument('--size', type=int, default=64, help='side of the patches for speed')
    parser.add_argument('--rounds', type=int, default=8, help='of the measurements of speed')
    parser.add_argument('--k', type=int, default=40, help='candidates of the search')
    parser.add_argument('--only', choices=NAMES, nargs='+', default=NAMES, help='these parts')
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.images = args.images.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    report = args.out / 'report.txt'
    planned = parts(args)
    ended_well = [run(name, *planned[name], report) for name in args.only]
    print(f"{sum(ended_well)} of {len(ended_well)} parts ended well; see {report}")
    sys.exit(not all(ended_well))


if __name__ == '__main__':
    main()
