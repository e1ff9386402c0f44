"""What the Gaussian guess at high noise brings a plain network, beside a found x_T and DDPM:

    python tools/gaussian_first.py BSD100 [--out data/search/gaussian_first.json]

on the 200 patches of BSD100 that its other results are measured on. The residual's standard
deviation is that of the photographs that ship.
"""

import argparse
import json
from pathlib import Path
import torch
from odebc.boundary import standard_error
from odebc.data import degrade, photographs, tiles, upsample
from odebc.images import byte_folder, from_bytes
from odebc.matrix import candidate
from odebc.metrics import default_distance, psnr
from odebc.progress import Bar
from odebc.enlarge import shipped_start
from odebc.sr3 import gaussian_first, SR3

PATCHES, BATCH = 200, 20
UNTIL = 300.0, 400.0, 500.0, 600.0, 700.0


def pairs(images, n, size):
    z = from_bytes(tiles(list(images.values()), n, size, torch.Generator().manual_seed(0)))
    return z, degrade(z)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('images', type=Path, help='folder of BSD100')
    parser.add_argument('--model', default='small-mid')
    parser.add_argument('--out', type=Path, default=Path('data/search/gaussian_first.json'))
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model, 'auto')
    ours, our_y = pairs(photographs(), 40, model.size)
    s = (ours - upsample(our_y)).std().item()
    z, y = pairs(byte_folder(args.images, model.size), PATCHES, model.size)
    distance = default_distance()
    found = shipped_start(model.fingerprint, 'DDIM-20').x_T

    def own(network, label, start=None):
        "Each image from its own random start, or all from one"
        chance = torch.Generator().manual_seed(0)  # for DDPM

        def solve(i):
            rows = range(i, i + BATCH)
            starts = torch.stack([candidate(1000 + k, model.shape) for k in rows])
            starts = starts if start is None else start[None]
            noise = chance if label.startswith('DDPM') else None
            return network.h(starts, y[i : i + BATCH], label, noise)

        return solve

    ways = {'bicubic': lambda i: upsample(y[i : i + BATCH])}
    ways['DDPM-100'] = own(model, 'DDPM-100')
    ways['DDPM-20'] = own(model, 'DDPM-20')
    ways['DDIM-20'] = own(model, 'DDIM-20')
    ways['DDIM-20 + x̃_T'] = own(model, 'DDIM-20', found)
    for until in UNTIL:
        network = gaussian_first(model, s, until)
        ways[f'DDIM-20, Gaussian guess above {until:.0f}'] = own(network, 'DDIM-20')
    half = gaussian_first(model, s)
    ways['DDIM-20 + x̃_T, Gaussian guess above 500'] = own(half, 'DDIM-20', found)
    for label in ('DDIM-10', 'DDIM-50'):
        ways[label] = own(model, label)
        ways[f'{label}, Gaussian guess above 500'] = own(half, label)
    rows = {}
    for name, solve in Bar(ways.items(), desc='measure', unit='way'):
        pictures = torch.cat([solve(i).cpu() for i in range(0, PATCHES, BATCH)])
        scores, quality = torch.empty(PATCHES), psnr(pictures, z)
        for i in range(0, PATCHES, BATCH):
            scores[i : i + BATCH] = distance(pictures[i : i + BATCH], z[i : i + BATCH])
        rows[name] = dict(
            mean=round(scores.mean().item(), 5),
            error=round(standard_error(scores), 5),
            psnr=round(quality.mean().item(), 3),
        )
        print(name, rows[name], flush=True)
    facts = dict(model=args.model, weights=model.fingerprint, s=round(s, 5))
    facts |= dict(images='BSD100', patches=PATCHES, distance=distance.name)
    args.out.write_text(
        json.dumps(facts | dict(rows=rows), indent=1, ensure_ascii=False) + '\n'
    )


if __name__ == '__main__':
    main()
