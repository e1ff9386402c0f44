"""Every strategy of the search on one network, with the same budget, and once all cells: the
table and the picture on the search page. Run again to resume.
"""

import argparse
import json
from functools import partial
from pathlib import Path
import torch
from odebc.boundary import mean_correlation
from odebc.cli import calm_streams
from odebc.data import crops, degrade, tiles
from odebc.identity import digest
from odebc.images import image_folder
from odebc.store import write_atomically
from odebc.metrics import lpips_model
from odebc.matrix import candidates, processes, score_matrix
from odebc.runner import BoundaryCondition
from odebc.experiments.results import standings
from odebc.search import search
from odebc.strategies import STRATEGIES
from odebc.sr3 import SR3


def kept(path, make):
    "What the file holds, or what is made now"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(make()).encode())
    return json.loads(path.read_text(encoding='utf8'))


def check_same(folder, facts):
    "What a folder holds belongs to these facts, or the tool ends"
    facts = json.loads(json.dumps(facts))
    known = kept(folder / 'facts.json', lambda: facts)
    differ = [name for name in known | facts if known.get(name) != facts.get(name)]
    if differ:
        raise SystemExit(
            f'{folder} holds measurements with other {", ".join(differ)}: '
            'give another folder, or remove it to start anew'
        )


def run(name, strategy, seed, args, h, pairs, unseen, coarse):
    "One search"
    print(f'{name}, seed {seed}', flush=True)
    budget = args.k * args.r if name == 'all cells' else args.budget
    options = dict(path=Path(args.out) / f'{name}-{seed}.safetensors', unseen=unseen)
    if strategy in ('multifidelity', 'gradient'):
        options['coarse'] = coarse
    found = search(h, *pairs, args.k, lpips_model(), strategy, budget, seed, **options)
    return dict(
        name=name,
        seed=seed,
        index=found.index,
        score=found.score,
        unseen=[round(v, 5) for v in found.unseen.tolist()],
        nfe=found.nfe,
        solves=found.solves,
        seconds=round(found.seconds, 1),
    )


def agreement(D, coarse, pairs, points):
    """What the shortcuts stand on: correlation between pairs, and between the cheaper map and
    the full one, over candidates
    """
    cheap = score_matrix(coarse, points, *pairs, lpips_model()).mean(1).double()
    full = D[: len(cheap)].double().mean(1)
    correlation = torch.corrcoef(torch.stack([full, cheap]))[0, 1].item()
    return dict(pairs=round(mean_correlation(D), 4), cheap=round(correlation, 4))


def main():
    calm_streams()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='small')
    parser.add_argument(
        '--references', required=True, help='folder of photographs for the search'
    )
    parser.add_argument(
        '--unseen', required=True, help='folder of photographs for the judgement'
    )
    parser.add_argument('--k', type=int, default=200)
    parser.add_argument('--r', type=int, default=16)
    parser.add_argument('--n', type=int, default=96, help='unseen patches')
    parser.add_argument('--budget', type=int, default=640, help='solves')
    parser.add_argument('--sampler', default='DDIM-10')
    parser.add_argument('--coarse', default='DDIM-4')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument(
        '--strategies', nargs='+', help='only these, and not all cells beside them'
    )
    parser.add_argument('--precision', default='float32', help='or bfloat16, or auto')
    parser.add_argument('--out', default='runs/strategies')
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model, args.precision).to(processes().device)
    h, coarse = model.solution_map(args.sampler), model.solution_map(args.coarse)
    out = Path(args.out)
    path = out / 'strategies.json'

    def cut(how, images, n, seed):
        generator = torch.Generator().manual_seed(seed)
        return how(list(images.values()), n, model.size, generator).to(model.device)

    photographs = image_folder(args.references, model.size)
    references = [cut(crops, photographs, args.r, 100 + seed) for seed in range(args.seeds)]
    z = cut(tiles, image_folder(args.unseen, model.size), args.n, 0)
    facts = dict(
        model=args.model,
        weights=h.meta['weights'],
        sampler=args.sampler,
        coarse=args.coarse,
        K=args.k,
        R=args.r,
        budget=args.budget,
        references=digest(references[0]),
        unseen=digest(z),
    )
    old = json.loads(path.read_text(encoding='utf8')) if path.exists() else facts
    differ = [k for k, v in facts.items() if old.get(k) != v]
    if differ:
        parser.error(
            f'{args.out} holds measurements with other {", ".join(differ)}: '
            'give another folder, or remove it to start anew'
        )

    def keep():
        return write_atomically(path, json.dumps(result).encode())

    result = facts | dict(random=[], runs=[])
    unseen = z, degrade(z, model.scale)

    def random_scores():
        points = candidates(8, model.shape, 99)
        return score_matrix(h, points, *unseen, lpips_model()).mean(0).tolist()

    keep()
    result['random'] = [round(v, 5) for v in kept(out / 'random.json', random_scores)]
    for seed, z in enumerate(references):
        pairs = z, degrade(z, model.scale)
        runs = {s: s for s in args.strategies or STRATEGIES}
        if seed == 0 and not args.strategies:
            runs['all cells'] = 'exhaustive'
        for name, strategy in runs.items():
            task = partial(run, name, strategy, seed, args, h, pairs, unseen, coarse)
            result['runs'].append(kept(out / f'{name}-{seed}.json', task))
            keep()
        if seed or args.strategies:
            continue
        D = BoundaryCondition.load(out / 'all cells-0.safetensors').scores
        points = candidates(min(args.k, 48), model.shape)
        result['agreement'] = agreement(D, coarse, pairs, points)
        keep()
    print(standings(result))


if __name__ == '__main__':
    main()
