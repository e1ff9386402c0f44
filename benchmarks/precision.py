"""What bfloat16 brings and costs: the time of one call in turn, and LPIPS of DDIM-10's results
in both precisions.
"""

import argparse
import time
from functools import partial
import torch
from odebc.data import degrade, photographs, tiles
from odebc.metrics import default_distance
from odebc.precision import found_out, one_thread, PRECISIONS, race, seconds
from odebc.matrix import candidates
from odebc.sr3 import SR3

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def on_the_gpu(net, images, precision):
    "Seconds of one call, until the GPU has done it"
    torch.cuda.synchronize()
    start = time.perf_counter()
    autocast = torch.autocast('cuda', torch.bfloat16, enabled=precision == 'bfloat16')
    with torch.no_grad(), autocast:
        net(images, images, 500.0)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(net, images):
    "Time in float32 over time in bfloat16; on a CPU that of one thread, counted by itself"
    if DEVICE.type == 'cuda':
        float32, bfloat16 = race(partial(on_the_gpu, net, images), rounds=9)
    else:
        with one_thread():
            float32, bfloat16 = race(partial(seconds, net, images), rounds=5, limit=60)
    return float32 / bfloat16


@torch.no_grad()
def line(name, images, distance):
    "One row of the table"
    models = {p: SR3.from_pretrained(name, p).to(DEVICE) for p in PRECISIONS}
    model = models['float32']
    choice = found_out(model.net, model.size)
    batch = max(2**16 // model.size**2, 1)
    faster = ratio(model.net, torch.zeros(batch, *model.shape, device=DEVICE))
    photos = list(photographs().values())
    z = tiles(photos, images, model.size, torch.Generator().manual_seed(0)).to(DEVICE)
    y = degrade(z, model.scale)
    x_T = candidates(images, model.shape, seed=7).to(DEVICE)
    scores = {precision: [] for precision in PRECISIONS}
    levels = []
    for i in range(images):
        one = slice(i, i + 1)
        x_0 = {p: m.h(x_T[one], y[one], 'DDIM-10') for p, m in models.items()}
        levels.append((x_0['float32'] - x_0['bfloat16']).abs().mean().item() * 127.5)
        for precision in PRECISIONS:
            scores[precision].append(distance(x_0[precision], z[one]).double().item())
    exact, rough = (torch.tensor(scores[p], dtype=torch.float64) for p in PRECISIONS)
    change = rough - exact
    print(
        f'| {name} | {batch} × {model.size}² | {choice.precision} '
        f'| {faster if choice.bf16 else 1 / faster:.2f} | {images} | {exact.mean():.4f} '
        f'| {change.mean():+.5f} | {change.abs().mean():.5f} | {change.abs().max():.5f} '
        f'| {sum(levels) / images:.3f} |',
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('models', nargs='*', default=['small', 'small-mid', 'base'])
    parser.add_argument(
        '--images', type=int, default=16, help='patches; of networks for 256² half of them'
    )
    args = parser.parse_args()
    distance = default_distance()
    name = distance.name
    if distance.note:
        print(f'NOTE: the distance is {name}: {distance.note}')
    print(
        f'{DEVICE}; ratio: time of one call in the other precision over that in the chosen one'
    )
    print()
    print(
        f'| network | input | chosen | ratio | patches | {name} | mean change '
        '| mean size of the change | largest | mean difference, of 255 levels |'
    )
    print('|' + ' --- |' * 10)
    for model in args.models:
        large = SR3.from_pretrained(model).size >= 256
        line(model, max(args.images // 2, 1) if large else args.images, distance)


if __name__ == '__main__':
    main()
