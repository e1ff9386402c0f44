"""How much a result differs from run to run, and what a search at each picture is worth.

    python tools/stability.py ../shared/data/test/BSD100

One patch of each photograph is solved many times: by DDPM, by DDIM from random starts, from
x̃_T, from cells of its canvas, from the winners of other searches; and by searches for each
picture that are judged by y. Results are kept in --folder, and the same command goes on there.
In the end it writes data/search/stability.json.
"""

import argparse
import json
from functools import partial
from importlib.resources import files
from pathlib import Path
import numpy as np
import torch
from good_starts import KNOWN, one_of_each
from odebc.boundary import standard_error
from odebc.canvas import scrambled
from odebc.data import degrade, photographs as shipped, tiles
from odebc.enlarge import shipped_start
from odebc.identity import pairs_digest
from odebc.matrix import candidate
from odebc.metrics import default_distance, psnr
from odebc.samplers import nfe
from odebc.sr3 import SR3
from odebc.stability import best_of, g_std, l_std, misfit, zero_order
from odebc.store import Store, write_atomically
from safetensors.torch import load_file

RUNS = 10
TRIES = 2, 4, 8, 16  # solves for each picture
PHOTOGRAPHS = 24
LABELS = {  # of the first one all is measured, of others no cells and no searches
    'small': ('DDIM-20',),
    'small-mid': ('DDIM-20', 'DDIM-10'),
}
NOISY = {  # runs; many steps are dear
    'small': {'DDPM-100': RUNS, 'DDPM-250': 5},
    'small-mid': {'DDPM-100': RUNS},
}
RANDOM, MOVES, CHANCE = 2000, 3000, 4000  # seeds
MATRIX = {name: KNOWN[name, 'DDIM-10'] for name in LABELS}


def random_starts(k, z):
    "Of run k, one for each picture"
    return torch.stack([candidate(k, z.shape[1:], RANDOM + i) for i in range(len(z))])


def cells(x_T, k, z):
    "Cells of a scrambled canvas: x̃_T shifted and flipped, for each picture in another way"
    chances = [np.random.default_rng((MOVES, k, i)) for i in range(len(z))]
    return torch.stack([scrambled(x_T, chance) for chance in chances])


def winners(name, shape):
    "Of ten searches on disjoint blocks of the candidates of the matrix that ships"
    D = load_file(files('odebc.assets') / MATRIX[name])['LPIPS']
    numbers = torch.arange(len(D)).tensor_split(RUNS)
    best = [int(rows[D[rows].mean(1).argmin()]) for rows in numbers]
    return [candidate(k, shape) for k in best], len(numbers[0]), D.shape[1]


class Kept:
    "What is solved is kept: pictures of one call, for all photographs"

    def __init__(self, folder, facts):
        self.folder, self.facts = folder, facts

    def __call__(self, name, solve):
        "The pictures of this name, solved if they are not known"
        path = self.folder / f'{name}.safetensors'
        store = Store(path, self.facts | dict(name=name), what='pictures')
        kept = store.load()
        if kept:
            return kept.tensors['x_0']
        x_0 = solve()
        store.save(dict(x_0=x_0))
        print(path, flush=True)
        return x_0


def by_eights(solve, *tensors):
    "Solved eight at a time"
    return torch.cat([solve(*part) for part in zip(*(x.split(8) for x in tensors))])


def noisy(model, kept, label, z, y, runs):
    "DDPM, run by run: (runs, B, 3, H, W)"

    def run(k):
        chance = torch.Generator().manual_seed(CHANCE + k)
        return by_eights(lambda x_T, y: model.h(x_T, y, label, chance), random_starts(k, z), y)

    return torch.stack([kept(f'{label}-{k}', partial(run, k)) for k in range(runs)])


def rows_of_runs(name, model, kept, label, z, y, x_T):
    "Each kind of start: (runs, B, 3, H, W)"
    h = model.solution_map(label)

    def solved(kind, k, starts):
        return kept(f'{label}-{kind}-{k}', lambda: by_eights(h, starts, y))

    def alone(starts, y):
        return torch.cat([h(*(v[None] for v in one)) for one in zip(starts, y)])

    found = x_T.expand_as(z)
    exact = SR3.from_pretrained(name).solution_map(label)
    rows = dict(
        random=[solved('random', k, random_starts(k, z)) for k in range(RUNS)],
        found=[solved('found', k, found) for k in range(2)],
    )
    if label == LABELS[name][0]:
        others = winners(name, z.shape[1:])[0]
        rows['cells'] = [solved('cells', k, cells(x_T, k, z)) for k in range(RUNS)]
        rows['searches'] = [solved('searches', k, others[k].expand_as(z)) for k in range(RUNS)]
    rows['rounding'] = [
        rows['found'][0],
        kept(f'{label}-alone', lambda: alone(found, y)),
        kept(f'{label}-float32', lambda: by_eights(exact, found, y)),
    ]
    return {kind: torch.stack(pictures) for kind, pictures in rows.items()}


def rivals(model, kept, label, z, y, x_T, distance, tries=TRIES):
    "Searches at each picture: way -> n -> pictures of several repetitions, (runs, B, 3, H, W)"
    h = model.solution_map(label)
    most = max(tries)
    randoms = torch.stack(
        [
            kept(f'{label}-random-{k}', lambda: by_eights(h, random_starts(k, z), y))
            for k in range(most)
        ]
    )

    def remembered(way, first):
        "Call after call; a search with a smaller n makes the same ones"
        calls = iter(range(most))

        def fn(starts, y):
            k = next(calls)
            name = f'{label}-{way}-{k}' if k else f'{label}-{first}-0'
            return kept(name, lambda: by_eights(h, starts, y))

        return fn

    def picked(n, judge):
        "Of disjoint groups of the random ones"
        groups = randoms.split(n)
        empty = torch.zeros(n, 1, 3, 1, 1)
        return [best_of(answering(group), empty, y, judge).x_0 for group in groups]

    def to_z(x_0, y):
        return distance(x_0, z)

    first, shared = random_starts(0, z), x_T.expand_as(z)

    def climbed(n):
        return [zero_order(remembered('near', 'random'), first, y, n).x_0]

    def climbed_from_shared(n):
        return [zero_order(remembered('around', 'found'), shared, y, n).x_0]

    found = {
        'random': {1: randoms},
        'x̃_T': {1: remembered('', 'found')(shared, y)[None]},
    }
    ways = {
        'best of n': lambda n: picked(n, misfit),
        'neighbours': climbed,
        'neighbours of x̃_T': climbed_from_shared,
        'oracle': lambda n: picked(n, to_z),
    }
    for way, make in ways.items():
        found[way] = {n: torch.stack(make(n)) for n in tries}
    return found


def answering(pictures):
    "A map that answers with pictures that are known, one after the other"
    each = iter(pictures)
    return lambda x_T, y: next(each)


def told(x):
    "Mean and standard error over photographs"
    return [round(x.double().mean().item(), 5), round(standard_error(x.double()), 5)]


def of_runs(pictures, z, distance):
    "Metrics and deviations of one row"
    scores = {
        'LPIPS': torch.stack([distance(x, z) for x in pictures]),
        'PSNR': torch.stack([psnr(x, z) for x in pictures]),
    }
    row = dict(runs=len(pictures))
    for metric, values in scores.items():
        row[metric] = told(values.mean(0))
        row[f'G-STD {metric}'] = told(g_std(values))
    return row | {'L-STD': told(l_std(pictures))}


def of_rivals(found, z, y, distance):
    "Metrics of each way, and its gain over a random start, paired"

    def scores(pictures):
        return dict(
            LPIPS=torch.stack([distance(x, z) for x in pictures]).mean(0),
            PSNR=torch.stack([psnr(x, z) for x in pictures]).mean(0),
            misfit=127.5 * torch.stack([misfit(x, y) for x in pictures]).mean(0).sqrt(),
        )

    plain, shared = scores(found['random'][1]), scores(found['x̃_T'][1])
    rows = {}
    for way, by_n in found.items():
        rows[way] = {}
        for n, pictures in by_n.items():
            mine = scores(pictures)
            row = {metric: told(values) for metric, values in mine.items()}
            row['gain'] = told(plain['LPIPS'] - mine['LPIPS'])
            row['gain PSNR'] = told(mine['PSNR'] - plain['PSNR'])
            row['PSNR above x̃_T'] = told(mine['PSNR'] - shared['PSNR'])
            row['behind x̃_T'] = told(mine['LPIPS'] - shared['LPIPS'])
            rows[way][n] = row
    return rows


def agreement(randoms, z, y, distance):
    "Correlation of misfit and LPIPS over the starts of one picture"
    both = (
        torch.stack([misfit(x, y) for x in randoms]),
        torch.stack([distance(x, z) for x in randoms]),
    )
    a, b = (values - values.mean(0) for values in both)
    return told((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)))


def summary(name, folder, z, y, distance):
    "All of one network"
    model = SR3.from_pretrained(name, precision='bfloat16')
    facts = dict(weights=model.fingerprint, pairs=pairs_digest(z, y))
    kept = Kept(folder / name, facts)
    answer = dict(weights=model.fingerprint, photographs=len(z), samplers={})
    for label in LABELS[name]:
        start = shipped_start(model.fingerprint, label)
        rows = rows_of_runs(name, model, kept, label, z, y, start.x_T)
        _, K, R = winners(name, model.shape)
        answer['samplers'][label] = dict(
            nfe=nfe(label),
            x_T=f"{start.meta['sampler']}, K = {start.meta['K']}",
            solves=start.solves,
            searches=f'{RUNS} of K = {K}, R = {R}, DDIM-10',
            largest=round((rows['rounding'][1:] - rows['found'][0]).abs().max().item(), 4),
            again=(rows['found'][1] - rows['found'][0]).abs().max().item(),
            rows={kind: of_runs(x, z, distance) for kind, x in rows.items()},
        )
        found = rivals(model, kept, label, z, y, start.x_T, distance)
        told_of = of_rivals(found, z, y, distance)
        known = agreement(found['random'][1], z, y, distance)
        answer['samplers'][label] |= dict(rivals=told_of, agreement=known)
    for label, runs in NOISY[name].items():
        pictures = noisy(model, kept, label, z, y, runs)
        row = dict(nfe=nfe(label)) | of_runs(pictures, z, distance)
        answer['samplers'][label] = dict(nfe=nfe(label), rows=dict(random=row))
    return answer


SAMPLE = 'small-mid', 'DDIM-10'  # that a test computes again


def sample(folder, distance=None):
    "Two patches that come with the package, some of the ways"
    name, label = SAMPLE
    model = SR3.from_pretrained(name, precision='bfloat16')
    images = [shipped()[one] for one in ('chelsea', 'coffee')]
    z = tiles(images, 2, 64, torch.Generator().manual_seed(0))
    y = degrade(z)
    kept = Kept(folder, dict(weights=model.fingerprint, pairs=pairs_digest(z, y)))
    x_T = shipped_start(model.fingerprint, label).x_T
    distance = distance or default_distance()
    found = rivals(model, kept, label, z, y, x_T, distance, tries=(4,))
    rows = of_rivals(found, z, y, distance)
    return dict(
        rivals={way: rows[way][max(rows[way])] for way in rows},
        runs=of_runs(found['random'][1], z, distance),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('photographs', type=Path, help='folder')
    parser.add_argument('--networks', nargs='+', default=list(LABELS))
    parser.add_argument('--folder', type=Path, default=Path('runs/stability'))
    parser.add_argument('--out', type=Path, default=Path('data/search/stability.json'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    z, y = one_of_each(args.photographs, PHOTOGRAPHS, mixed=False)
    distance = default_distance()
    with torch.no_grad():
        found = {n: summary(n, args.folder, z, y, distance) for n in args.networks}
        found['sample'] = sample(args.folder / 'sample', distance)
    text = json.dumps(found, ensure_ascii=False, indent=1)
    write_atomically(args.out, (text + '\n').encode())


if __name__ == '__main__':
    main()
