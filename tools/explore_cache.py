"""Scores of many candidates on the photographs that come with odebc, in three
distances: what the sliders of the explorer reduce. Run again to resume, or with a larger --k
to go on.
"""

import argparse
from pathlib import Path
import torch
from safetensors import safe_open
from safetensors.torch import save
from tqdm import tqdm
from odebc.data import photographs
from odebc.identity import digest
from odebc.store import write_atomically
from odebc.metrics import dssim, lpips_model
from odebc.experiments.lab import reference_and_test
from odebc.matrix import candidate, processes
from odebc.sr3 import SR3

DISTANCES = dict(
    LPIPS=lambda a, b: lpips_model()(a, b),
    DSSIM=dssim,
    MSE=lambda a, b: (a - b).square().mean((1, 2, 3)),
)


def kept(path, facts):
    "Rows of an earlier run with the same network, pairs and seed, or none"
    none = {name: torch.empty(0, int(facts['R']) + int(facts['U'])) for name in DISTANCES}
    if not path.exists():
        return none
    with safe_open(path, 'pt') as f:
        if f.metadata() == facts:
            return {name: f.get_tensor(name) for name in f.keys()}
    old = path.replace(path.with_suffix('.old'))
    print(
        f'{path} belongs to another network or to other pairs: '
        f'it is made anew, and the former one is now {old}'
    )
    return none


@torch.no_grad()
def fill(path, facts, model, z, y, K):
    "Candidate by candidate; the file is written after every eighth"
    D = kept(path, facts)
    done = len(D['MSE'])
    bar = dict(desc=path.stem, unit='candidate', initial=done, total=K)
    for k in tqdm(range(done, K), **bar):
        x_T = candidate(k, model.shape, int(facts['seed']))[None]
        x_0 = model.h(x_T, y, facts['sampler'])
        for name, d in DISTANCES.items():
            D[name] = torch.cat([D[name], d(x_0, z)[None].float().cpu()])
        if k % 8 == 7 or k == K - 1:
            write_atomically(path, save(D, facts))


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
