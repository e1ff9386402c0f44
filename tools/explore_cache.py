"""What the explorer shows without solving anything: the scores of many candidates on the
photographs that come with odebc, in three distances, and a sheet of what the candidates do to
the three unseen pictures with most detail. Run again to resume, or with a larger --k
to go on.
"""

import argparse
import math
from pathlib import Path
import torch
from PIL import Image
from safetensors.torch import load_file, save
from tqdm import tqdm
from odebc.app.views import telling
from odebc.data import photographs, upsample
from odebc.identity import pairs_digest
from odebc.images import to_image
from odebc.errors import OdebcError
from odebc.store import Content, head_of, Store
from odebc.metrics import dssim, lpips_model
from odebc.experiments.lab import reference_and_test
from odebc.matrix import candidate, processes
from odebc.sr3 import SR3

DISTANCES = dict(
    LPIPS=lambda a, b: lpips_model()(a, b),
    DSSIM=dssim,
    MSE=lambda a, b: (a - b).square().mean((1, 2, 3)),
)
SHOWN = 3  # unseen pictures on the sheet
ACROSS = 20  # pictures in a row of the sheet


def unpacked(path):
    "The facts are the head of the file, in words"
    return Content(head_of(path), load_file(path))


def packed(content):
    return save(content.tensors, content.facts)


def kept(store, path):
    "Rows of an earlier run with the same network, pairs and seed, or none"
    try:
        content = store.load()
    except OdebcError as refusal:
        old = path.replace(path.with_suffix('.old'))
        print(f'{refusal}, and the former one is now {old}')
        content = None
    if content:
        return content.tensors
    pairs = int(store.facts['R']) + int(store.facts['U'])
    return {name: torch.empty(0, pairs) for name in DISTANCES}


def scored(x_0, z):
    "A row of each matrix"
    return {name: d(x_0, z)[None].float().cpu() for name, d in DISTANCES.items()}


@torch.no_grad()
def fill(store, path, model, z, y, K):
    "Candidate by candidate; the file is written after every eighth"
    D = kept(store, path)
    seed, label = int(store.facts['seed']), store.facts['sampler']
    done = len(D['MSE'])
    bar = dict(desc=path.stem, unit='candidate', initial=done, total=K)
    for k in tqdm(range(done, K), **bar):
        row = scored(model.h(candidate(k, model.shape, seed)[None], y, label), z)
        for name in DISTANCES:
            D[name] = torch.cat([D[name], row[name]])
        if k % 8 == 7 or k == K - 1:
            store.save(D)
    return D


def rivals(model, y, seed, label):
    "What the sheet shows beside the candidates: bicubic, and a start of another seed"
    other = candidate(0, model.shape, seed + 1)[None]
    return torch.stack([upsample(y, model.scale), model.h(other, y, label)])


@torch.no_grad()
def draw(store, path, model, z, y, D):
    """The sheet: for each picture bicubic, the random start, HR, and then all candidates; and
    what the first two score on all unseen pairs.
    """
    seed, label = int(store.facts['seed']), store.facts['sampler']
    R = int(store.facts['R'])
    z, y = z[R:], y[R:]
    bicubic, random = rivals(model, y, seed, label)
    numbers = {
        f'{what} {name}': row[0]
        for what, x_0 in dict(bicubic=bicubic, random=random).items()
        for name, row in scored(x_0, z).items()
    }
    those = telling(numbers['bicubic LPIPS'], SHOWN)
    columns = [bicubic[those], random[those], z[those]]
    for k in tqdm(range(len(D['LPIPS'])), desc=f'{path.stem}, sheet', unit='candidate'):
        x_T = candidate(k, model.shape, seed)[None]
        columns.append(model.h(x_T, y[those], label))
    pictures = torch.stack(columns, 1).flatten(0, 1).cpu()  # picture by picture
    sheet_of(pictures).save(path.with_suffix('.webp'), quality=82, method=6)
    store.save(D | numbers | dict(shown=torch.tensor(those)))


def side_on_sheet(side):
    "Of a picture, pixels"
    return min(side, 128)


def sheet_of(pictures):
    "Small pictures in rows of twenty; large ones are halved first"
    side = pictures.shape[-1]
    shown = side_on_sheet(side)
    rows = math.ceil(len(pictures) / ACROSS)
    sheet = Image.new('RGB', (ACROSS * shown, rows * shown))
    for i, picture in enumerate(pictures):
        image = to_image(picture)
        if side != shown:
            image = image.resize((shown, shown), Image.Resampling.BOX)
        sheet.paste(image, (i % ACROSS * shown, i // ACROSS * shown))
    return sheet


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='small-mid')
    parser.add_argument('--samplers', nargs='+', default=['DDIM-10'])
    parser.add_argument('--k', type=int, default=200, help='candidates')
    parser.add_argument(
        '--r', type=int, default=32, help='reference pairs, from half of the photographs'
    )
    parser.add_argument('--u', type=int, default=8, help='unseen pairs, from the other half')
    parser.add_argument('--seed', type=int, default=0, help='of pairs and candidates')
    parser.add_argument('--precision', default='float32', help='or bfloat16')
    parser.add_argument('--out', type=Path, default=Path('data/explore'))
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model, args.precision).to(processes().device)
    z_ref, y_ref, z, y = reference_and_test(
        photographs(), args.r, args.u, model.size, model.scale, args.seed
    )
    z = torch.cat([z_ref, z]).to(model.device)
    y = torch.cat([y_ref, y]).to(model.device)
    for label in args.samplers:
        facts = dict(
            model=args.model,
            sampler=label,
            seed=args.seed,
            R=args.r,
            U=args.u,
            side=side_on_sheet(model.size),
            bf16=model.bf16,
            pairs=pairs_digest(z, y),
            weights=model.solution_map(label).meta['weights'],
        )
        facts = {name: str(value) for name, value in facts.items()}
        path = args.out / f'{Path(args.model).name}-{label}.safetensors'
        how = dict(what='scores', accept=None, remedy='it is made anew')
        store = Store(path, facts, read=unpacked, pack=packed, **how)
        D = fill(store, path, model, z, y, args.k)
        draw(store, path, model, z, y, D)


if __name__ == '__main__':
    main()
