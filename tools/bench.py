"""Every ratio of benchmarks/ in one table, with the machine.

python tools/bench.py [sampler search precision train degradation imports upscale explore]
    [--quick]
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
import torch

ROOT = Path(__file__).parents[1]
LIMIT = 3600  # seconds for one benchmark
NUMBER = r'([\d.]+)'
# name -> script, options, and fewer of them; (what, where its number stands, times)
RUNS = {
    'sampler': ('sampler_overhead.py', '', '--rounds 3 --calls 20 --batch 4'),
    'search': ('search.py', '', '--rounds 1 --k 6 --r 4 --sampler DDIM-10'),
    'precision': ('precision.py', '', 'small base --images 2'),
    'train': ('train.py', '', '--rounds 3 --batch 8'),
    'degradation': ('degradation.py', '', '--rounds 1 --batch 1'),
    'imports': ('imports.py', '', '3'),
    'upscale': ('upscale.py', '', '--side 256'),
    'explore': ('explore.py', '', '--n 10 --repeats 1'),
}
FIGURES = {
    'sampler': [
        (
            r'odebc DDIM-\d+ .*?\) +' + NUMBER,
            'DDIM, processor time over that of its network calls',
        ),
        (r'odebc DPM\S+ .*?\) +' + NUMBER, 'DPM-Solver++ 2M, the same'),
        (r'diffusers DDIM .*?\) +' + NUMBER, "diffusers' DDIM, the same"),
        (r'diffusers DPM\S+ 2M .*?\) +' + NUMBER, "diffusers' DPM-Solver++ 2M, the same"),
    ],
    'search': [
        (f'wall time of the search over its calls: {NUMBER}', 'a search over its bare calls'),
        (rf'K = 500 \d+ MB, ratio {NUMBER}', 'memory of a search, K = 500 over K = 50'),
    ],
    'precision': [
        (
            r'\| small \| .*?\| (\w+ \| [\d.]+) \|',
            '`small`: the faster precision, over the other',
        ),
        (r'\| base \| .*?\| (\w+ \| [\d.]+) \|', '`base`: the same'),
    ],
    'train': [
        (r'bfloat16, channels last .*ratio ' + NUMBER, 'training in bfloat16 over float32'),
        (r'each, ([\d.]+%)', 'share of the time that makes examples'),
    ],
    'degradation': [
        (r'share ([\d.]+%)', 'the degradation of `real` over a training step of `base`'),
    ],
    'imports': [
        (
            r'\| odebc.search (?:\| [\d.]+ ){3}\| ' + NUMBER,
            '`import odebc.search` over `import torch`, processor time',
        ),
        (
            r'\| odebc --help \| .*\| ' + NUMBER + r' \|',
            '`odebc --help` over `python -c pass`',
        ),
    ],
    'upscale': [(f'{NUMBER} megapixels', 'megapixels a minute, `base`, DDIM-10')],
    'explore': [
        (
            r'Search, K, candidates  .*?median\s+' + NUMBER,
            'slider of K, ms until it is painted',
        ),
        (r'Trajectory, t .*?median\s+' + NUMBER, 'slider of t, ms'),
        (f'ratio {NUMBER}', 'opening the explorer over a bare page with torch'),
    ],
}


def processor():
    "Its name, where the system tells it"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf8')
        return re.search(r'model name\s*: (.*)', lines)[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def machine():
    load = f', load {os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else ''
    threads = f'{torch.get_num_threads()} threads of torch, {os.cpu_count()} processors'
    return (
        f'{processor()}, {threads}{load} at the beginning; '
        f'Python {platform.python_version()}, torch {torch.__version__}'
    )


def measured(name, quick):
    "Rows of one benchmark; a number that is not found is an error"
    script, options, fewer = RUNS[name]
    words = (fewer if quick else options).split()
    command = [sys.executable, ROOT / 'benchmarks' / script, *words]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, encoding='utf8', check=True, timeout=LIMIT
    )
    for pattern, what in FIGURES[name]:
        found = re.search(pattern, done.stdout)
        if not found:
            raise SystemExit(f'{script} did not say {what}:\n{done.stdout}')
        yield f'| {what} | {found[1].replace(" | ", " ")} | `benchmarks/{script}` |'


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(RUNS))
    parser.add_argument('--quick', action='store_true', help='fewer rounds: rough numbers')
    args = parser.parse_args()
    unknown = set(args.names) - set(RUNS)
    if unknown:
        parser.error(f'no benchmark {", ".join(unknown)}; there are {", ".join(RUNS)}')
    print(f'{machine()}\n\n| what | ratio | by |\n| --- | --- | --- |', flush=True)
    for name in args.names or RUNS:
        for row in measured(name, args.quick):
            print(row, flush=True)


if __name__ == '__main__':
    main()
