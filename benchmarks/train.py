"""Training throughput: samples/s and its ratio to plain float32, and the share of the time
that goes into making the examples.
"""

import argparse
import time
from statistics import median
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader
from odebc.data import photographs
from odebc.images import to_bytes
from odebc.engine import Recipe, Training
from odebc.unet import UNet


def seconds(run, batch, tf32):
    "Wall time of one step; TF32, which a GPU's convolutions take by themselves, only if asked"
    torch.backends.cudnn.allow_tf32 = tf32
    start = time.perf_counter()
    run.step(batch)
    if run.accelerator.device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--config', choices=('small', 'base', 'paper'), default='small', help='network'
    )
    parser.add_argument('--batch', type=int, default=16, help='patches per step')
    parser.add_argument('--size', type=int, default=64, help='side of a patch, pixels')
    parser.add_argument('--rounds', type=int, default=8, help='rounds over all variants')
    args = parser.parse_args()
    images = [to_bytes(p) for p in photographs().values() if min(p.shape[1:]) >= args.size]

    def make(bf16, layout=torch.channels_last):
        recipe = Recipe(batch=args.batch, size=args.size, bf16=bf16)
        run = Training(getattr(UNet, args.config)(), images, recipe)
        run.net.to(memory_format=layout)
        return run

    runs = {
        'float32, contiguous': make(False, torch.contiguous_format),
        'float32, channels last': make(False),
        'bfloat16, channels last': make(True),
    }
    plain = runs['float32, contiguous']
    if plain.accelerator.device.type == 'cuda':
        runs['TF32, contiguous'] = make(False, torch.contiguous_format)
        runs['bfloat16, compiled'] = make(True)
        runs['bfloat16, compiled'].net.F.compile(dynamic=False)
    times = {name: [] for name in runs}
    start = time.perf_counter()
    loader = DataLoader(plain.examples, args.batch, sampler=range(args.batch * args.rounds))
    batches = [send_to_device(batch, plain.accelerator.device) for batch in loader]
    making = (time.perf_counter() - start) / args.rounds
    for name, run in runs.items():
        seconds(run, batches[0], 'TF32' in name)  # warm up
    for batch in batches:
        for name, run in runs.items():
            times[name].append(seconds(run, batch, 'TF32' in name))
    print(
        f'{args.config}, batches of {args.batch} patches of {args.size}×{args.size}, '
        f'{plain.accelerator.device}, {torch.get_num_threads()} threads'
    )
    for name, t in times.items():
        ratio = median(a / b for a, b in zip(times['float32, contiguous'], t))
        print(f'{name:26} {args.batch / median(t):8.1f} samples/s   ratio {ratio:.2f}')
    share = making / (making + min(map(median, times.values())))
    print(
        f'making the examples in the same process: {making / args.batch * 1e3:.2f} ms each, '
        f'{share:.1%} of the time of the fastest'
    )


if __name__ == '__main__':
    main()
