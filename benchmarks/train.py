"Training throughput: samples/s and its ratio to plain float32, and the share of the time that goes into making the examples."
import argparse
import time
from statistics import median
import torch
from torch.utils.data import DataLoader
from odebc.data import photographs, to_bytes
from odebc.train import Recipe, Run
from odebc.unet import UNet


def seconds(run, batch):
    "Wall time of one step"
    start = time.perf_counter()
    run.step(batch)
    if run.accelerator.device.type == 'cuda': torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', choices=('small', 'base', 'paper'), default='small', help='network')
    parser.add_argument('--batch', type=int, default=16, help='patches per step')
    parser.add_argument('--size', type=int, default=64, help='side of a patch, pixels')
    parser.add_argument('--rounds', type=int, default=8, help='rounds over all variants')
    args = parser.parse_args()
    images = [to_bytes(p) for p in photographs().values() if min(p.shape[1:]) >= args.size]
    make = lambda bf16: Run(getattr(UNet, args.config)(), images, Recipe(batch=args.batch, size=args.size, bf16=bf16))
    runs = {'float32, contiguous': make(False), 'float32, channels last': make(False), 'bfloat16, channels last': make(True)}
    plain = runs['float32, contiguous']
    plain.net.to(memory_format=torch.contiguous_format)
    if plain.accelerator.device.type == 'cuda':
        runs['bfloat16, compiled'] = make(True)
        runs['bfloat16, compiled'].net.F.compile(dynamic=False)
    start, times = time.perf_counter(), {name: [] for name in runs}
    loader = DataLoader(plain.examples, args.batch, sampler=range(args.batch*args.rounds))
    batches = [[x.to(plain.accelerator.device) for x in batch] for batch in loader]
    making = (time.perf_counter() - start)/args.rounds
    for run in runs.values(): run.step(batches[0])  # warm up
    for batch in batches:
        for name, run in runs.items(): times[name].append(seconds(run, batch))
    print(f'{args.config}, batches of {args.batch} patches of {args.size}×{args.size}, {plain.accelerator.device}, {torch.get_num_threads()} threads' + (', float32 convolutions in TF32' if plain.accelerator.device.type == 'cuda' and torch.backends.cudnn.allow_tf32 else ''))
    for name, t in times.items(): print(f'{name:26} {args.batch/median(t):8.1f} samples/s   ratio {median(a/b for a, b in zip(times["float32, contiguous"], t)):.2f}')
    print(f'making the examples in the same process: {making/args.batch*1e3:.2f} ms each, {making/(making + min(map(median, times.values()))):.1%} of the time of the fastest')


if __name__ == '__main__': main()
