"""Five searches, and what costs nothing, alone and together, on unseen photographs:

    python tools/searches.py --references TRAIN --unseen BSD100 [--networks small small-mid]

Each search draws other candidates and other reference patches. Free tricks are tried on the
references of the first search; taken together are all that help there, and those that a greedy
choice adds one by one. Everything is then measured with one sampler, on one patch of each
photograph: the errors are over searches and photographs. Into data/search/searches.json; the
same command goes on where it was stopped.
"""

import argparse
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import torch
from scipy.stats import t as student
from odebc.data import crops, photographs, tiles, upsample
from odebc.boundary import standard_error
from odebc.diagnosis import Changed, with_grey, without_mean
from odebc.identity import digest
from odebc.images import byte_folder, from_bytes
from odebc.matrix import candidate
from odebc.metrics import default_distance, psnr
from odebc.progress import Bar
from odebc.search import BoundaryCondition, search
from odebc.sr3 import gaussian_first, scaled, SR3
from odebc.store import write_atomically
from strategies import check_same, kept

SAMPLER = 'DDIM-20'
K, R, BUDGET = 200, 32, 1200  # candidates, pairs and solves of a search
SEARCHES = 5
DRAWS = 2  # random starts for each photograph
PATCHES, BATCH = 100, 20
RANDOM = 10**6  # seed of random starts
TRIED = 2  # starts with which a trick is tried on the references
WITHOUT_MEAN = 'mean of x_T removed'
DDPM = 'DDPM-250', 'DDPM-100', 'DDPM-20'


@dataclass(frozen=True)
class Trick:
    "What costs nothing: it changes the start, or the guesses"

    start: object = None  # starts (B, C, H, W) -> the same shape
    guess: object = None  # model -> model


def tricks(model, s):
    "Those of any network; a plain one looks at the mean, and may take the Gaussian guess"
    found = {
        'x_T × 0.98': Trick(start=lambda x_T: 0.98 * x_T),
        'x_T × 1.02': Trick(start=lambda x_T: 1.02 * x_T),
        'grey energy 0.95': Trick(start=partial(with_grey, value=0.95)),
        'grey energy 1.05': Trick(start=partial(with_grey, value=1.05)),
        'cosine schedule': Trick(guess=lambda model: model.on('cosine')),
        '0.995·ε': Trick(guess=lambda model: scaled(model, 0.995)),
    }
    if model.net.s is None:
        found[WITHOUT_MEAN] = Trick(start=without_mean)
        found['Gaussian guess'] = Trick(guess=lambda model: gaussian_first(model, s))
    return found


def with_tricks(model, chosen):
    "The map with some of them"
    for trick in chosen.values():
        model = trick.guess(model) if trick.guess else model
    h = model.solution_map(SAMPLER)
    for name, trick in chosen.items():
        h = Changed(h, name, trick.start) if trick.start else h
    return h


def kind(name):
    "What a trick changes: two that change the same are not taken together"
    return name.rsplit(' ', 1)[0]


def all_that_help(gains):
    "Names of the tricks that help: of each kind the better one"
    best = {}
    for name, gain in sorted(gains.items(), key=lambda item: item[1]):
        if gain > 0:
            best[kind(name)] = name  # the last one, with the largest gain, stays
    return [name for name in gains if name in best.values()]


def greedy(names, score):
    "The best one, then what helps most beside it, as long as something does"
    chosen, best = [], score([])
    while True:
        taken = {kind(name) for name in chosen}
        rest = [name for name in names if kind(name) not in taken]
        scores = {name: score([*chosen, name]) for name in rest}
        name = min(scores, key=scores.get, default=None)
        if name is None or scores[name] >= best:
            return chosen
        chosen, best = [*chosen, name], scores[name]


def random_start(draw, i, shape):
    return candidate(RANDOM + 1000 * draw + i, shape)


class Bench:
    "One network, its references, and what it is measured on"

    def __init__(self, name, references, unseen, folder):
        self.name, self.folder = name, folder / name
        self.model = SR3.from_pretrained(name, 'auto')
        ours, y = self.pairs(tiles(list(photographs().values()), 40, 64, generator(0)))
        self.s = (ours - self.enlarged(y)).std().item()
        self.references = references
        self.z, self.y = self.pairs(tiles(list(unseen.values()), PATCHES, 64, generator(0)))
        self.distance = default_distance()
        self.tricks = tricks(self.model, self.s)

    def pairs(self, z, seed=0):
        "What the network's task makes of bytes; `seed` is of its chance, where it has some"
        z = from_bytes(z)
        return z, self.model.task(z, generator(seed))

    def enlarged(self, y):
        return upsample(y, self.model.scale)

    def reference_pairs(self, seed):
        z = crops(list(self.references.values()), R, 64, generator(200 + seed))
        return self.pairs(z, 200 + seed)

    def found(self, seed):
        "One search: its candidate"

        def make():
            path = self.folder / f'search-{seed}.safetensors'
            h = self.model.solution_map(SAMPLER)
            z, y = self.reference_pairs(seed)
            best = search(h, z, y, K, self.distance, 'halving', BUDGET, seed + 1, path=path)
            return dict(seed=seed + 1, index=best.index, solves=best.solves)

        return kept(self.folder / f'search-{seed}.json', make)

    def start(self, seed):
        return start_of(self.found(seed), self.model.shape)

    def tried(self, names):
        "The score with some tricks on the references of the first search"

        def scores(h):
            z, y = self.reference_pairs(0)
            x_T = [random_start(9, i, self.model.shape) for i in range(TRIED * R)]
            x_T = torch.stack(x_T)
            z, y = (v.repeat(TRIED, 1, 1, 1) for v in (z, y))
            return self.distance(h(x_T, y), z).mean().item()

        def make():
            chosen = {name: self.tricks[name] for name in names}
            return scores(with_tricks(self.model, chosen))

        return kept(self.folder / 'tried' / f'{named(names)}.json', make)

    def measured(self, label, solve):
        "LPIPS and PSNR of each photograph; `solve(rows)` gives their pictures"

        def make():
            scores, quality = [], []
            for i in range(0, PATCHES, BATCH):
                rows = range(i, min(i + BATCH, PATCHES))
                x_0, z = solve(rows), self.z[rows.start : rows.stop]
                scores += self.distance(x_0, z).tolist()
                quality += psnr(x_0, z).tolist()
            return [scores, quality]

        return torch.tensor(kept(self.folder / 'unseen' / f'{label}.json', make))

    def random(self, label, h):
        "(draws, 2, photographs)"

        def solve(draw, rows):
            x_T = torch.stack([random_start(draw, i, self.model.shape) for i in rows])
            return h(x_T, self.y[rows.start : rows.stop])

        columns = [
            self.measured(f'{label}, random {draw}', partial(solve, draw))
            for draw in range(DRAWS)
        ]
        return torch.stack(columns)

    def searched(self, label, h):
        "(searches, 2, photographs)"

        def solve(seed, rows):
            return h(self.start(seed)[None], self.y[rows.start : rows.stop])

        columns = [
            self.measured(f'{label}, search {seed}', partial(solve, seed))
            for seed in range(SEARCHES)
        ]
        return torch.stack(columns)

    def ddpm(self, label):
        def solve(rows):
            x_T = torch.stack([random_start(0, i, self.model.shape) for i in rows])
            chance = generator(rows.start)
            return self.model.h(x_T, self.y[rows.start : rows.stop], label, chance)

        return self.measured(label, solve)[None]

    def nothing_done(self):
        "y as it is, or enlarged"

        def solve(rows):
            return self.enlarged(self.y[rows.start : rows.stop])

        return self.measured('y', solve)[None]

    def cell(self):
        "What a test computes again: the first found start on a shipped photograph"
        z, y = self.pairs(tiles([photographs()['coffee']], 1, 64, generator(0)))
        x_0 = with_tricks(SR3.from_pretrained(self.name), {})(self.start(0)[None], y)
        return [round(v.item(), 5) for v in (self.distance(x_0, z), psnr(x_0, z))]


def start_of(found, shape):
    "The candidate that a search has found"
    return candidate(found['index'], shape, found['seed'])


def agreement(path):
    "ρ among the pairs of a search, with its interval, where it has measured it"
    worth = BoundaryCondition.load(path).worth
    return dict(rho=[round(v, 4) for v in worth.rho] if worth else None)


def named(tricks):
    return ' + '.join(tricks) or 'nothing'


def generator(seed):
    return torch.Generator().manual_seed(seed)


def lead(scores, rival, shared):
    """By how much LPIPS is lower: value, 95 % interval and p. Photographs are drawn; where a
    start is shared by all of them, the search for it is, too.
    """
    better = rival[:, 0].mean(0) - scores[:, 0]  # (searches or draws, photographs)
    value, error = better.mean().item(), standard_error(better.mean(0))
    fewest = better.shape[1]
    if shared:
        error = math.hypot(error, standard_error(better.mean(1)))
        fewest = min(better.shape)
    margin = float(student.ppf(0.975, fewest - 1)) * error
    p = 2 * float(student.sf(abs(value) / max(error, 1e-12), fewest - 1))
    return [round(v, 5) for v in (value, value - margin, value + margin, p)]


def row(scores, **rivals):
    "LPIPS of each search or draw, PSNR, and the lead over some rivals"
    told = dict(lpips=[round(v, 5) for v in scores[:, 0].mean(1).tolist()])
    told['psnr'] = round(scores[:, 1].mean().item(), 3)
    shared = len(scores) == SEARCHES
    return told | {name: lead(scores, rival, shared) for name, rival in rivals.items()}


def measured(bench):
    "All rows of one network"
    nothing = bench.tried([])
    gains = {name: nothing - bench.tried([name]) for name in Bar(bench.tricks, desc='tricks')}
    everything, chosen = all_that_help(gains), greedy(bench.tricks, bench.tried)
    ways = [[], *([name] for name in bench.tricks), everything, chosen]
    tricks = {named(names): {name: bench.tricks[name] for name in names} for names in ways}
    maps = {name: with_tricks(bench.model, some) for name, some in tricks.items()}
    random, found = {}, {}
    for name, h in Bar(maps.items(), desc=bench.name, unit='way'):
        random[name] = bench.random(name, h)
        found[name] = bench.searched(name, h)
    ddpm = {label: bench.ddpm(label) for label in DDPM}
    best = min(ddpm.values(), key=lambda scores: scores[:, 0].mean())
    plain, free = random['nothing'], random[named(chosen)]
    rows = {label: row(scores, plain=plain) for label, scores in ddpm.items()}
    rows['y'] = row(bench.nothing_done(), plain=plain)
    for name in maps:
        rows[name] = row(random[name], plain=plain, ddpm=best)
        others = dict(plain=plain, ddpm=best, free=free)
        if WITHOUT_MEAN in random:
            others['bare'] = random[WITHOUT_MEAN]
        rows[f'x̃_T, {name}'] = row(found[name], **others)
    return dict(
        weights=bench.model.fingerprint,
        searches=[
            bench.found(seed) | agreement(bench.folder / f'search-{seed}.safetensors')
            for seed in range(SEARCHES)
        ],
        tried={name: round(gain / nothing, 4) for name, gain in gains.items()},
        everything=named(everything),
        chosen=named(chosen),
        rows=rows,
        cell=bench.cell(),
    )


def measured_before(out, facts):
    "Networks that are in the file already, and stay there"
    told = json.loads(out.read_text()) if out.exists() else facts
    networks = told.pop('networks', {})
    if told != facts:
        raise SystemExit(f'{out} was measured otherwise: take it away, or say --out')
    return networks


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--references', type=Path, required=True)
    parser.add_argument('--unseen', type=Path, required=True, help='folder of BSD100')
    parser.add_argument('--networks', nargs='+', default=['small', 'small-mid'])
    parser.add_argument('--folder', type=Path, default=Path('runs/searches'))
    parser.add_argument('--out', type=Path, default=Path('data/search/searches.json'))
    args = parser.parse_args()
    references, unseen = byte_folder(args.references, 64), byte_folder(args.unseen, 64)
    facts = dict(sampler=SAMPLER, K=K, R=R, budget=BUDGET, patches=PATCHES, draws=DRAWS)
    facts |= dict(references=digest(*references.values()), unseen=digest(*unseen.values()))
    measured_before(args.out, facts)  # refuse before the work, not after it
    for name in args.networks:
        bench = Bench(name, references, unseen, args.folder)
        own = dict(weights=bench.model.fingerprint, distance=bench.distance.name)
        check_same(bench.folder, facts | own)
        rows = measured(bench)
        networks = measured_before(args.out, facts) | {name: rows}
        whole = json.dumps(facts | dict(networks=networks), indent=1, ensure_ascii=False)
        write_atomically(args.out, f'{whole}\n'.encode())


if __name__ == '__main__':
    main()
