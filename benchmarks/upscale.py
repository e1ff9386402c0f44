"""Megapixels a minute of `SR3.upscale`, and the calls that it takes."""

import argparse
import time
import torch
from odebc.data import degrade, photographs
from odebc.matrix import candidate
from odebc.sr3 import SR3


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='base')
    parser.add_argument('--sampler', default='DDIM-10')
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--side', type=int, default=448, help='of the result, pixels')
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = SR3.from_pretrained(args.model, args.precision).to(device)
    z = photographs()['astronaut'][:, : args.side, : args.side]
    y = degrade(z[None], model.scale)[0].to(device)
    x_T = candidate(0, model.shape).to(device)
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    handle = model.net.register_forward_hook(count)
    start = time.perf_counter()
    x_0 = model.upscale(y, x_T, args.sampler)
    seconds = time.perf_counter() - start
    handle.remove()
    pixels = x_0.shape[1] * x_0.shape[2]
    print(
        f'{args.model}, {args.sampler}, {model.precision}, {x_0.shape[2]}×{x_0.shape[1]}: '
        f'{pixels / 1e6 / seconds * 60:.2f} megapixels a minute, {calls} calls'
    )


if __name__ == '__main__':
    main()
