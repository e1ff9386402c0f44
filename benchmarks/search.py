"""A search's wall time over that of its bare network calls at the best batch size, LPIPS
included; and its peak memory for few and many candidates.
"""

import argparse
import resource
import subprocess
import sys
import time
import torch
from odebc.data import degrade, photographs, tiles, upsample
from odebc.metrics import default_distance
from odebc.search import search
from odebc.sr3 import SR3


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.no_grad()
def per_image(model, y, batch, rounds=6):
    "Seconds of one bare call of the network, the fastest of some"
    y_up = upsample(y[:1].expand(batch, -1, -1, -1), model.scale)
    times = []
    for _ in range(rounds):
        synchronize()
        start = time.perf_counter()
        model.net(y_up, y_up, 500.0)
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times) / batch


def pairs(model, R, device):
    z = tiles(list(photographs().values()), R, model.size, torch.Generator().manual_seed(0))
    return z.to(device), degrade(z, model.scale).to(device)


def one_search(args, K, R, sampler):
    "A search without a file, its result and its wall time"
    model = SR3.from_pretrained(args.model)
    distance = default_distance()
    model.net.to(args.device)
    z, y = pairs(model, R, args.device)
    search(model.solution_map('DDIM-1'), z[:1], y[:1], 1, distance, 'exhaustive')  # warm up
    start = time.perf_counter()
    found = search(model.solution_map(sampler), z, y, K, distance, 'exhaustive')
    return model, y, found, time.perf_counter() - start


def memory(args, K):
    "Peak memory in MB of a process that searches"
    options = ['--model', args.model, '--device', args.device, '--only-memory-of', str(K)]
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, capture_output=True, check=True, encoding='utf8')
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='small')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--k', type=int, default=12)
    parser.add_argument('--r', type=int, default=8)
    parser.add_argument('--sampler', default='DDIM-20')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument(
        '--only-memory-of', type=int, help='K: search, print the peak memory, and nothing else'
    )
    args = parser.parse_args()
    if args.only_memory_of:
        one_search(args, args.only_memory_of, 2, 'DDIM-2')
        if args.device == 'cuda':
            print(torch.cuda.max_memory_allocated() / 2**20)
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    batches = (4, 8, 16, 32) if args.device == 'cpu' else (16, 64, 256)
    ratios = []
    for _ in range(args.rounds):
        model, y, found, seconds = one_search(args, args.k, args.r, args.sampler)
        bare = {batch: per_image(model, y, batch) for batch in batches}
        best = min(bare, key=bare.get)
        ratios.append(seconds / found.nfe / bare[best])
        print(
            f'{found.nfe} calls in {seconds:.1f} s; a bare call {1e3 * bare[best]:.2f} ms '
            f'an image in batches of {best}; ratio {ratios[-1]:.3f}',
            flush=True,
        )
    middle = sorted(ratios)[len(ratios) // 2]
    print(f'wall time of the search over its calls: {middle:.3f} (median of {args.rounds})')
    few, many = memory(args, 50), memory(args, 500)
    print(f'peak memory: K = 50 {few:.0f} MB, K = 500 {many:.0f} MB, ratio {many / few:.3f}')


if __name__ == '__main__':
    main()
