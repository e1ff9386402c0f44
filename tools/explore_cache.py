"""Scores of many candidates on the photographs that come with odebc, in three
distances: what the sliders of the explorer reduce. Run again to resume, or with a larger --k
to go on.
"""

import argparse
from pathlib import Path
import torch
from safetensors.torch import load_file, save
from tqdm import tqdm
from odebc.data import photographs
from odebc.identity import digest
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


@torch.no_grad()
def fill(path, facts, model, z, y, K):
    "Candidate by candidate; the file is written after every eighth"
    how = dict(what='scores', accept=None, remedy='it is made anew')
    store = Store(path, facts, read=unpacked, pack=packed, **how)
    D = kept(store, path)
    done = len(D['MSE'])
    bar = dict(desc=path.stem, unit='candidate', initial=done, total=K)
    for k in tqdm(range(done, K), **bar):
        x_T = candidate(k, model.shape, int(facts['seed']))[None]
        x_0 = model.h(x_T, y, facts['sampler'])
        for name, d in DISTANCES.items():
            D[name] = torch.cat([D[name], d(x_0, z)[None].float().cpu()])
        if k % 8 == 7 or k == K - 1:
            store.save(D)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='small')
    parser.add_argument('--samplers', nargs='+', default=['DDIM-10', 'DPMS-10'])
    parser.add_argument('--k', type=int, default=48, help='candidates')
    parser.add_argument(
        '--r', type=int, default=16, help='reference pairs, from half of the photographs'
    )
    parser.add_argument('--u', type=int, default=12, help='unseen pairs, from the other half')
    parser.add_argument('--seed', type=int, default=0, help='of pairs and candidates')
    parser.add_argument('--out', type=Path, default=Path('data/explore'))
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model).to(processes().device)
    z_ref, y_ref, z, y = reference_and_test(
        photographs(), args.r, args.u, model.size, model.scale, args.seed
    )
    z = torch.cat([z_ref, z]).to(model.device)
    y = torch.cat([y_ref, y]).to(model.device)
    for label in args.samplers:
        facts = dict(
            sampler=label,
            seed=args.seed,
            R=args.r,
            U=args.u,
            pairs=digest(z, y),
            weights=model.solution_map(label).meta['weights'],
        )
        facts = {name: str(value) for name, value in facts.items()}
        fill(args.out / f'{label}.safetensors', facts, model, z, y, args.k)


if __name__ == '__main__':
    main()
