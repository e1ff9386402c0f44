"""What tells a good start from a bad one, and does it make one? Three steps, each of which
goes on where it was stopped:

    python tools/good_starts.py solve ../shared/data/train  # many starts on common pairs
    python tools/good_starts.py cause ../shared/data/test/BSD100  # one property changed
    python tools/good_starts.py write  # data/search/good_starts.json

The first asks which properties of a start predict its mean score, over photographs for
training. The second sets one property of fresh noises and scores them on photographs that
nobody searched on. What is solved lies in a folder of its own, --folder. The last step also
takes what tools/strategies.py has measured beside that folder, in spectrum-NETWORK:

    python tools/strategies.py --model small --precision auto --n 48 --seeds 5 --budget 640 \\
        --strategies spectrum halving refinement --out runs/spectrum-small \\
        --references ../shared/data/train --unseen ../shared/data/test/BSD100

(for small-mid --r 8 --k 100 --budget 320). --networks vanilla is measured at its own size,
256² pixels, from the matrix that ships. What is written of other networks stays.
"""

import argparse
import json
import math
from importlib.resources import files
from pathlib import Path
import torch
from safetensors.torch import load_file
from odebc.app.views import caches
from odebc.boundary import standard_error
from odebc.data import degrade, photographs, split, tiles
from odebc.diagnosis import names_of_tiles
from odebc.identity import pairs_digest
from odebc.images import byte_folder, from_bytes
from odebc.matrix import candidate, candidates
from odebc.metrics import default_distance
from odebc.runner import BoundaryCondition
from odebc.search import search
from odebc.sr3 import SR3
from odebc.store import Store, write_atomically
from odebc.traits import BANDS, ceiling, energies, explained, flipped, PARTS, rolled
from odebc.traits import shaped, shuffled, traits, with_energy, with_length

SAMPLERS = 'DDIM-10', 'DPMS-10', 'DDIM-20', 'DPMS-20', 'DDIM-50'
NETWORKS = 'small', 'small-mid', 'base'
SIDES = {'vanilla': 256}  # pixels
SIDE = 64  # for all others, as a convolutional network takes any
KNOWN = {  # matrices that ship, from starts of the same seed
    ('small', 'DDIM-10'): 'results/small/matrix.safetensors',
    ('small', 'DPMS-10'): 'explore/small-DPMS-10.safetensors',
    ('small-mid', 'DDIM-10'): 'results/small-mid/matrix.safetensors',
    ('vanilla', 'DDIM-10'): 'results/vanilla/matrix.safetensors',
}
SIZES = {'small': (120, 16), 'small-mid': (100, 8), 'base': (64, 12)}  # starts, pairs
DEAR = {  # the same where a solve takes long
    ('small', 'DDIM-50'): (40, 16),
    ('small-mid', 'DPMS-20'): (60, 8),
    ('small-mid', 'DDIM-50'): (40, 6),
    ('base', 'DDIM-50'): (40, 6),
}


def shape_of(name):
    "Of the starts of a network"
    side = SIDES.get(name, SIDE)
    return 3, side, side


def one_of_each(folder, n, mixed, side=SIDE):
    "A patch of each of n photographs, the first ones or some drawn by a fixed seed"
    images = list(byte_folder(folder, side).values())
    chance = torch.Generator().manual_seed(0)
    if mixed:
        images = [images[i] for i in torch.randperm(len(images), generator=chance).tolist()]
    z = from_bytes(tiles(images[:n], n, side, chance))
    return z, degrade(z)


# --- which properties predict


def solve(args):
    "A score matrix for each network and sampler"
    z, y = one_of_each(args.images, 16, mixed=True)
    for name in args.networks:
        model = SR3.from_pretrained(name, 'auto')
        for label in args.samplers:
            if (name, label) in KNOWN:
                continue
            K, R = DEAR.get((name, label), SIZES[name])
            path = args.folder / f'{name}-{label}.safetensors'
            how = dict(strategy='exhaustive', path=path)
            h, distance = model.solution_map(label), default_distance()
            print(name, label, flush=True)
            found = search(h, z[:R], y[:R], K, distance, **how)
            print(f'{found.scores.mean():.4f}, best {found.score:.4f}', flush=True)


def of_cached(name, label):
    "The photograph of each pair of the explorer's scores"
    cache = caches()[f'{name}-{label}']
    of = [names_of_tiles(part, SIDE) for part in split(photographs(), seed=cache.seed)]
    return of[0][: cache.R] + of[1][: cache.U]


def matrix(name, label, folder):
    "Scores (K, R), and the photograph of each pair, None where each has its own"
    if (name, label) not in KNOWN:
        path = folder / f'{name}-{label}.safetensors'
        found = BoundaryCondition.load(path) if path.exists() else None
        if not (found and found.finished):
            return None, None
        return found.scores[found.scores.isfinite().all(1)].double(), None
    path = KNOWN[name, label]
    D = load_file(files('odebc.assets') / path)['LPIPS'].double()
    return D, of_cached(name, label) if 'explore' in path else None


def curved(told):
    "Powers of the length: a fit that may bend"
    x = (told['length'] - told['length'].mean()) / told['length'].std()
    return [x, x**2, x**3]


def groups(told):
    "What is fitted together: name -> (K, p)"
    spectra = {part: [told[f'{part} {band}'] for band in BANDS] for part in PARTS}
    both = spectra['grey'] + spectra['colour']
    chosen = {
        'mean': [told['mean']],
        'neighbours': [told['neighbours']],
        'length': [told['length']],
        'length, curved': curved(told),
        'grey energy': [told['grey energy']],
        'colour energy': [told['colour energy']],
        'grey spectrum': spectra['grey'],
        'colour spectrum': spectra['colour'],
        'both spectra': both,
        'both spectra and length, curved': both + curved(told)[1:],
    }
    return {group: torch.stack(columns, 1) for group, columns in chosen.items()}


def rounded(*values):
    return [round(float(value), 4) for value in values]


def explanation(D, of, side):
    "What explains the mean scores of one matrix"
    scores = (D - D.mean(0)).mean(1)
    told = traits(candidates(len(D), (3, side, side)))
    order = told['length'].argsort().tensor_split(10)
    r = {trait: torch.corrcoef(torch.stack([x, scores]))[0, 1] for trait, x in told.items()}
    return dict(
        starts=len(D),
        pairs=D.shape[1],
        photographs=len(set(of)) if of else D.shape[1],
        mean=round(D.mean().item(), 4),
        ceiling=rounded(*ceiling(D, of)),
        explained={g: rounded(*explained(P, scores)) for g, P in groups(told).items()},
        correlations={t: rounded(x, (1 - x**2) / (len(D) - 1) ** 0.5) for t, x in r.items()},
        tenths_by_length=rounded(*(D[rows].mean() for rows in order)),
    )


def alike(name, label, folder):
    "Correlations with the mean scores by other samplers, for the same starts and pairs"
    asked = [one for one in SAMPLERS if (name, one) not in KNOWN]
    found = {one: matrix(name, one, folder)[0] for one in asked}
    solved = {one: D for one, D in found.items() if D is not None}
    if label not in solved:
        return {}
    mine, told = solved.pop(label), {}
    for other, D in solved.items():
        K, R = (min(sizes) for sizes in zip(mine.shape, D.shape))
        both = torch.stack([mine[:K, :R].mean(1), D[:K, :R].mean(1)])
        r = torch.corrcoef(both)[0, 1]
        told[other] = rounded(r, (1 - r**2) / (K - 1) ** 0.5)
    return told


def predicted(name, label, folder):
    "What explains the scores of a network with a sampler; None where it is not solved"
    D, of = matrix(name, label, folder)
    if D is None:
        return None
    side = shape_of(name)[-1]
    row = dict(network=name, sampler=label, side=side) | explanation(D, of, side)
    return row | dict(alike=alike(name, label, folder))


def at_its_own_size():
    "`base` at 256², from the matrix that ships"
    D = load_file(files('odebc.assets') / 'base/matrix.safetensors')['LPIPS'].double()
    return dict(network='base', sampler='DDIM-10', side=256) | explanation(D, None, 256)


# --- one property changed

NOISES = 1000  # seed of the noises; each photograph has its own
PHOTOGRAPHS = {'small': 60, 'small-mid': 40, 'base': 40, 'vanilla': 24}
MIDDLE = 3, 4, 5, 6  # bands from 1/8 to 1/2 cycles per pixel
SHORT = 'DDIM-20', 'DPMS-20', 'DDIM-50'  # on which only some are tried


def changes(best, few):
    "name -> (noise, number of the photograph) -> start; those of x̃_T where it is known"
    levels = (0.95, 1.05) if few else (0.9, 0.95, 1.0, 1.05, 1.1)
    lengths = (0.98, 1.02) if few else (0.96, 0.98, 1.0, 1.02, 1.04)
    found = {'plain': lambda x, k: x}
    for value in lengths:
        found[f'length {value}'] = lambda x, k, v=value: with_length(x, v)
    for value in levels:
        found[f'grey energy {value}'] = lambda x, k, v=value: with_energy(x, v)
    if not few:
        for value in levels:
            how = dict(value=value, part='colour')
            found[f'colour energy {value}'] = lambda x, k, how=how: with_energy(x, **how)
        for value in levels:
            how = dict(value=value, bands=MIDDLE)
            found[f'grey 1/8–1/2 {value}'] = lambda x, k, how=how: with_energy(x, **how)
    if best is None:
        return found
    gains = energies(best).sqrt()
    found['x̃_T'] = lambda x, k: best
    found['spectrum of x̃_T'] = lambda x, k: shaped(x, gains)
    if not few:
        found['x̃_T rolled'] = lambda x, k: rolled(best, k)
        found['x̃_T mirrored'] = lambda x, k: flipped(best)
        found['x̃_T shuffled'] = lambda x, k: shuffled(best, k)
    return found


def solved(model, label, starts, z, y, distance):
    "Scores (n,), as many at a time as have the pixels of sixteen small ones"
    batch = max(16 * SIDE**2 // z[0, 0].numel(), 1)
    parts = []
    for i in range(0, len(z), batch):
        rows = slice(i, i + batch)
        parts.append(distance(model.h(starts[rows], y[rows], label), z[rows]).double())
    return torch.cat(parts)


def winner(name, label, folder):
    "The best candidate of the matrix; None where it is not solved"
    D, _ = matrix(name, label, folder)
    return None if D is None else candidate(int(D.mean(1).argmin()), shape_of(name))


def cause(args):
    "Scores of changed noises on photographs that nobody searched on"
    distance = default_distance()
    for label in args.samplers:
        for name in args.networks:
            model = SR3.from_pretrained(name, 'auto')
            best = winner(name, label, args.folder)
            n = PHOTOGRAPHS[name] // (2 if label == 'DDIM-50' else 1)
            shape = shape_of(name)
            most = max(PHOTOGRAPHS.values())
            z, y = one_of_each(args.images, most, mixed=False, side=shape[-1])
            z, y = z[:n], y[:n]
            noises = torch.stack([candidate(k, shape, NOISES) for k in range(len(z))])
            facts = dict(weights=model.fingerprint, sampler=label, pairs=pairs_digest(z, y))
            facts |= dict(bf16=model.bf16, distance=distance.name, noises=NOISES)
            path = args.folder / f'cause-{name}-{label}.safetensors'
            store = Store(path, facts, what='scores')
            kept = store.load()
            scores = dict(kept.tensors) if kept else {}
            for change, make in changes(best, label in SHORT).items():
                if change in scores:
                    continue
                starts = torch.stack([make(x, k) for k, x in enumerate(noises)])
                scores[change] = solved(model, label, starts, z, y, distance)
                store.save(scores)
                gain = scores['plain'] - scores[change]
                told = f'{gain.mean():+.4f} ± {standard_error(gain):.4f}'
                print(name, label, change, told, flush=True)


def caused(name, label, folder):
    "Mean scores and gains against plain noise; None where nothing is solved"
    path = folder / f'cause-{name}-{label}.safetensors'
    if not path.exists():
        return None
    scores = load_file(path)
    if len(scores) < 2:
        return None
    plain = scores['plain']
    gains = {change: plain - x for change, x in scores.items() if change != 'plain'}
    return dict(
        network=name,
        sampler=label,
        side=shape_of(name)[-1],
        photographs=len(plain),
        plain=rounded(plain.mean(), standard_error(plain)),
        gains={c: rounded(g.mean(), standard_error(g)) for c, g in gains.items()},
    )


# --- the search for a recipe, beside others


def over_both(gains):
    "Mean of (seeds, photographs), and its standard error over both"
    errors = standard_error(gains.mean(0)), standard_error(gains.mean(1))
    return rounded(gains.mean(), math.hypot(*errors))


def contest(name, folder):
    """What tools/strategies.py has measured in FOLDER/spectrum-NETWORK; gains against random
    starts, with errors over photographs and seeds
    """
    path = folder.parent / f'spectrum-{name}' / 'strategies.json'
    if not path.exists():
        return None
    told = json.loads(path.read_text())
    random = torch.tensor(told['random'])
    runs = {name: [] for name in dict.fromkeys(run['name'] for run in told['runs'])}
    for run in told['runs']:
        runs[run['name']].append(run)
    gains = {
        name: random - torch.tensor([run['unseen'] for run in mine])
        for name, mine in runs.items()
    }
    rows, recipes = {}, []
    for strategy, gain in gains.items():
        rows[strategy] = dict(
            gain=over_both(gain),
            by_seed=rounded(*gain.mean(1)),
            solves=[run['solves'] for run in runs[strategy]],
        )
        if 'spectrum' in gains and strategy != 'spectrum':
            seeds = min(len(gain), len(gains['spectrum']))
            lead = gains['spectrum'][:seeds] - gain[:seeds]
            rows[strategy]['lead of spectrum'] = over_both(lead)
    for seed in range(len(rows.get('spectrum', {}).get('by_seed', []))):
        found = BoundaryCondition.load(path.parent / f'spectrum-{seed}.safetensors')
        recipes.append(found.meta['recipe'])
    keys = 'weights', 'sampler', 'K', 'R', 'budget'
    facts = dict(network=name) | {key: told[key] for key in keys}
    return facts | dict(
        photographs=len(random),
        random=rounded(random.mean(), standard_error(random)),
        strategies=rows,
        recipes=recipes,
    )


def of_others(args, step):
    "What the file holds of networks that are not asked for"
    rows = json.loads(args.out.read_text())[step] if args.out.exists() else []
    return [row for row in rows if row['network'] not in args.networks]


def write(args):
    "All figures, each with its standard error"
    asked = [(name, label) for name in args.networks for label in args.samplers]
    figures = dict(
        side=SIDE,
        distance=default_distance().name,
        predicted=[predicted(*one, args.folder) for one in asked],
        at_256=at_its_own_size(),
        caused=[caused(*one, args.folder) for one in asked],
        contests=[contest(name, args.folder) for name in args.networks],
    )
    for step in ('predicted', 'caused', 'contests'):
        figures[step] = of_others(args, step) + [row for row in figures[step] if row]
    text = json.dumps(figures, ensure_ascii=False, indent=1)
    write_atomically(args.out, (text + '\n').encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('step', choices=['solve', 'cause', 'write'])
    parser.add_argument('images', type=Path, nargs='?', help='folder of photographs')
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS))
    parser.add_argument('--samplers', nargs='+', default=list(SAMPLERS))
    parser.add_argument('--folder', type=Path, default=Path('runs/good_starts'))
    parser.add_argument('--out', type=Path, default=Path('data/search/good_starts.json'))
    args = parser.parse_args()
    with torch.no_grad():
        dict(solve=solve, cause=cause, write=write)[args.step](args)


if __name__ == '__main__':
    main()
