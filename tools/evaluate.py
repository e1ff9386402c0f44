"""A model on seeded crops of a folder that it was not trained on: LPIPS, PSNR and colour bias
beside bicubic enlargement.
"""

import argparse
import json
import time
from pathlib import Path
import torch
from tqdm import tqdm
from odebc.cli import calm_streams
from odebc.data import crops, degrade, upsample
from odebc.images import image_folder
from odebc.store import write_atomically
from odebc.experiments.lab import batch_size
from odebc.metrics import lpips, psnr
from odebc.matrix import candidates, processes
from odebc.sr3 import SR3


def squares(x, side):
    "Images cut into squares"
    cut = x.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)


def row(sampler, x, z, side, bicubic, seconds=0.0):
    """LPIPS and its ratio to bicubic's, PSNR, and the rms over images and channels of the mean
    error (colour bias)
    """

    def lpips_of_one(a, b):
        return lpips(squares(a, side), squares(b, side)).mean()

    distance = torch.stack([lpips_of_one(a, b) for a, b in zip(x.split(1), z.split(1))])
    values = dict(
        lpips=distance.mean(),
        error=distance.std() / len(z) ** 0.5,
        ratio=distance.mean() / bicubic if bicubic else torch.tensor(1.0),
        psnr=psnr(x, z).mean(),
        bias=(x - z).mean((2, 3)).square().mean().sqrt(),
        seconds=torch.tensor(seconds / len(z)),
    )
    answer = dict(sampler=sampler, crops=len(z), size=z.shape[-1])
    answer |= {name: round(value.item(), 4) for name, value in values.items()}
    line = (
        '| {sampler} | {lpips:.4f} ± {error:.4f} | {ratio:.3f} '
        '| {psnr:.2f} | {bias:.4f} | {seconds:.2f} |'
    )
    print(line.format(**answer), flush=True)
    return answer


def keep(path, rows):
    "Add rows to a file, in place of earlier ones of the same measurement"

    def key(r):
        return (
            r['samples'],
            r.get('weights'),
            r['images'],
            r['crops'],
            r['size'],
            r['sampler'],
            r.get('bf16', False),
            r.get('schedule', 'linear'),
            r.get('squares'),
        )

    old = json.loads(path.read_text(encoding='utf8')) if path.exists() else []
    replaced = set(map(key, rows))
    others = [r for r in old if key(r) not in replaced]
    write_atomically(path, json.dumps(others + rows, indent=0).encode())


def options(description, crops):
    "A parser with what every measurement on crops is asked; `way.py` has the same"
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('samplers', nargs='+', help='labels, such as DDIM-50 DDPM-100')
    parser.add_argument('--model', default='small', help='a shipped model, or a folder')
    parser.add_argument('--images', required=True, help='folder of photographs')
    parser.add_argument('--crops', type=int, default=crops)
    parser.add_argument(
        '--precision',
        choices=('float32', 'bfloat16', 'auto'),
        default='float32',
        help='of the network',
    )
    # as it was called
    hidden = dict(action='store_const', const='bfloat16', help=argparse.SUPPRESS)
    parser.add_argument('--bf16', dest='precision', **hidden)
    return parser


@torch.no_grad()
def main():
    calm_streams()
    parser = options(__doc__, 256)
    parser.add_argument('--out', type=Path, help='.json file that the rows are added to')
    parser.add_argument('--size', type=int, help='side of a crop; of the training by default')
    parser.add_argument(
        '--squares',
        type=int,
        help='cut both images into squares of this side before LPIPS compares them',
    )
    parser.add_argument(
        '--schedule',
        choices=('linear', 'cosine'),
        help="solve on this one; on the model's own by default",
    )
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model, args.precision).to(processes().device)
    if args.schedule:
        model = model.on(args.schedule)
    size = args.size or model.size
    side = args.squares or size
    if size % side:
        parser.error(f'squares of {side} do not fill crops of {size}')
    images = list(image_folder(args.images, size).values())
    z = crops(images, args.crops, size, torch.Generator().manual_seed(0)).to(model.device)
    batch = batch_size(z)
    y = degrade(z, model.scale)
    x_T = candidates(args.crops, z.shape[1:], seed=7)
    facts = dict(
        samples=model.samples,
        weights=model.fingerprint,
        images=Path(args.images).name,
        bf16=model.bf16,
        schedule=model.sched.name,
        squares=args.squares,
    )
    print(
        f'{args.model}: {model.samples} patches of training; {model.sched.name} schedule; '
        f'{args.crops} crops of {size}×{size}\n'
    )
    print('| | LPIPS | of bicubic | PSNR | colour bias | s/image |')
    print('| --- | --- | --- | --- | --- | --- |')
    rows = [row('bicubic', upsample(y, model.scale), z, side, None)]
    bicubic = rows[0]['lpips']
    for label in args.samplers:
        start = time.monotonic()
        parts = []
        for i in tqdm(range(0, args.crops, batch), desc=label):
            some = slice(i, i + batch)
            generator = torch.Generator(model.device).manual_seed(i)
            parts.append(model.h(x_T[some], y[some], label, generator))
        x = torch.cat(parts)
        seconds = time.monotonic() - start
        rows.append(row(label, x, z, side, bicubic, seconds))
        if args.out:
            keep(args.out, [r | facts for r in rows])


if __name__ == '__main__':
    main()
