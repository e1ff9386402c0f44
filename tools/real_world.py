"""Table 2: real-world degradations, from 64² to 256² pixels:

    python tools/real_world.py --references TRAIN --tests TESTS --network FOLDER

TESTS holds the folders BSD100 and Urban100-dev. The chain of blur, noise and JPEG makes y of
crops of their photographs. Compared are bicubic, the rivals whose weights are there (see
`odebc.experiments.rivals`), and the network with DDPM-200, and with DDIM-50 and D-4 from
random starts and from found ones. Both starts are found on training photographs. DISTS
needs VGG16's weights (ODEBC_LPIPS_VGG). Into data/results/real.json, beside other networks
there; the same command goes on where it stopped.
"""

import argparse
import json
from functools import partial
from pathlib import Path
import torch
from odebc.data import crops, photographs, tiles, upsample
from odebc.diagnosis import diagnose, names_of_tiles, pairs_of
from odebc.errors import OdebcError
from odebc.experiments.rivals import KNOWN, rival
from odebc.identity import digest
from odebc.images import byte_folder, from_bytes, to_image
from odebc.matrix import candidate
from odebc.metrics import default_distance, dists, psnr
from odebc.progress import Bar
from odebc.samplers import nfe
from odebc.search import BoundaryCondition, search
from odebc.sr3 import SR3
from odebc.store import write_atomically
from searches import agreement, generator, start_of
from strategies import check_same, kept

SETS = {'BSD100': 48, 'Urban100-dev': 48}  # crops of each
SIZE, BATCH = 256, 4
K, R = 200, 32
RANDOM = 10**6  # seed of random starts
DDPM, DDIM, MEANS = 'DDPM-200', 'DDIM-50', 'D-4'
DRAWS = {DDPM: 1, DDIM: 1, MEANS: 2}  # random starts for each crop
# solves; half of DDIM-50's pay for five times as many of DDIM-10, the rest for finalists
BUDGETS = {DDIM: 320, MEANS: 1200}
# of D, from random starts: how many of them, and on how many training photographs
CORNERS = {'DDIM-10': (12, 8), MEANS: (24, 12)}
# what the picture shows, the middle of each: where 256² pixels are spoilt by the chain, and
# where 64² are taken as they came (row, column)
SPOILT = {'chelsea': (20, 100), 'coffee': (60, 200)}
AS_IT_CAME = {'rocket': (352, 290), 'china': (30, 180)}


class Bench:
    "One network, its references, and what it is measured on"

    def __init__(self, network, references, tests, folder):
        self.model = SR3.from_pretrained(network, 'auto')
        self.references, self.folder = references, folder
        self.distance = default_distance()
        crops_of = {name: list(images.values()) for name, images in tests.items()}
        parts = [tiles(crops_of[name], SETS[name], SIZE, generator(0)) for name in SETS]
        self.photographs = [
            f'{name}/{photograph}'
            for name in SETS
            for photograph in names_of_tiles(tests[name], SIZE)[: SETS[name]]
        ]
        self.z, self.y = self.pairs(torch.cat(parts), 0)

    @property
    def own_facts(self):
        return dict(weights=self.model.fingerprint, bf16=self.model.bf16)

    def pairs(self, z, seed):
        "What the network's task makes of bytes"
        z = from_bytes(z)
        return z, self.model.task(z, generator(seed))

    def path(self, label):
        return self.folder / f'search-{label}.safetensors'

    def found(self, label):
        "A search on training photographs: its candidate, and what it says of itself"

        def make():
            z, y = self.pairs(
                crops(list(self.references.values()), R, SIZE, generator(200)), 200
            )
            how = dict(budget=BUDGETS[label], seed=1, batch=BATCH)
            how['path'] = self.path(label)
            strategy = 'halving'
            if label == DDIM:
                strategy, how['coarse'] = 'multifidelity', self.model.solution_map('DDIM-10')
            h = self.model.solution_map(label)
            best = search(h, z, y, K, self.distance, strategy, **how)
            return dict(seed=1, index=best.index, solves=best.solves)

        return kept(self.folder / f'search-{label}.json', make)

    def searched(self, label):
        "The same, what it cost, and how far its pairs agree"
        calls = BoundaryCondition.load(self.path(label)).nfe  # with those of DDIM-10
        return self.found(label) | dict(calls=calls) | agreement(self.path(label))

    def start(self, label):
        return start_of(self.found(label), self.model.shape)

    def corner(self, label):
        "What `odebc diagnose` says of it: ρ and the forecast gain, with their intervals"
        starts, pairs = CORNERS[label]
        z, y, names = pairs_of(self.references, pairs, SIZE, 4, 0, self.model.task.name)
        how = dict(K=starts, starts=1, asked=(K, R), tricks={}, batch=BATCH)
        how['folder'] = self.folder / f'corner-{label}'
        found = diagnose(self.model.solution_map(label), z, y, names, self.distance, **how)
        told = {
            name: [round(v, 4) for v in values]
            for name, values in dict(rho=found.worth.rho, share=found.worth.share).items()
        }
        mean = round(found.parts.mean, 4)
        return told | dict(starts=starts, pairs=pairs, mean=mean, verdict=found.verdict)

    def measured(self, name, solve):
        "LPIPS, DISTS and PSNR of each crop; `solve(rows)` gives their pictures"

        def make(i):
            rows = slice(i, i + BATCH)
            x_0, z = solve(rows), self.z[rows]
            return [measure(x_0, z).tolist() for measure in (self.distance, dists, psnr)]

        batches = [
            kept(self.folder / 'unseen' / f'{name}-{i}.json', partial(make, i))
            for i in Bar(range(0, len(self.z), BATCH), desc=name, unit='batch')
        ]
        return torch.cat([torch.tensor(batch) for batch in batches], 1)

    def random(self, label, draw, rows):
        "Pictures from random starts, and with the sampler's own chance where it has some"
        numbers = range(len(self.z))[rows]
        x_T = [candidate(RANDOM + 1000 * draw + i, self.model.shape) for i in numbers]
        return self.model.h(torch.stack(x_T), self.y[rows], label, generator(rows.start))

    def shared(self, label, rows):
        "Pictures from the start that was found"
        return self.model.h(self.start(label)[None], self.y[rows], label)

    def ways(self):
        "Name of a row -> calls, and its pictures by rows, of each draw"
        for label, draws in DRAWS.items():
            solves = [partial(self.random, label, draw) for draw in range(draws)]
            yield label, nfe(label), solves
            if label in BUDGETS:
                yield f'{label} + x̃_T', nfe(label), [partial(self.shared, label)]

    def cell(self, path):
        """What a test computes again: bicubic and D-4 + x̃_T on a shipped photograph; y goes
        into a file, as its chance may fall otherwise on another machine
        """
        z, y = self.pairs(tiles([photographs()['coffee']], 1, SIZE, generator(0)), 0)
        to_image(y[0]).save(path)
        exact = SR3(self.model.net, self.model.scale, SIZE, task=self.model.task.name)
        x_0 = exact.h(self.start(MEANS)[None], y, MEANS)  # in float32, as anywhere
        pictures = dict(bicubic=upsample(y, 4), found=x_0)
        return {
            name: [round(v.item(), 5) for v in (self.distance(x, z), psnr(x, z))]
            for name, x in pictures.items()
        }


def rivals():
    "Bicubic, and those whose weights are there: name, calls of a network, y -> x_0"
    yield 'bicubic', 0, lambda y: upsample(y, 4)
    for name in KNOWN:
        try:
            yield name, 1, rival(name, task='real')
        except OdebcError as e:
            print(f'{name} is left out: {e}')


def of_rivals(bench):
    "Rows that no network of ours has a part in"
    return {
        name: told([bench.measured(name, lambda rows: method(bench.y[rows]))], calls)
        for name, calls, method in rivals()
    }


def square(name, row, column, side):
    "Of a shipped photograph"
    return photographs()[name][None, :, row : row + side, column : column + side]


def shown(bench):
    "Rows of pictures: enlarged by each method; and the photograph, where it is known"
    model = bench.model
    small = SIZE // model.scale
    z = torch.cat([square(name, *place, SIZE) for name, place in SPOILT.items()])
    came = [square(name, *place, small) for name, place in AS_IT_CAME.items()]
    y = torch.cat([model.task(z, generator(1)), *came])
    x_T = torch.stack([candidate(RANDOM + i, model.shape) for i in range(len(y))])
    columns = [upsample(y, 4), rival('Real-ESRGAN', task='real')(y)]
    columns += [model.h(x_T, y, DDPM, generator(0)), model.h(x_T, y, DDIM)]
    columns += [model.h(bench.start(label)[None], y, label) for label in (DDIM, MEANS)]
    columns.append(torch.cat([z, *(torch.ones_like(z[:1]) for _ in came)]))
    part = slice(SIZE // 4, -SIZE // 4)
    rows = torch.stack(columns)[..., part, part].transpose(0, 1)
    return torch.cat([torch.cat([*row], -1) for row in rows], -2)


def told(draws, calls):
    "For the file: of each draw the scores of each crop"
    lpips, other, quality = torch.stack(draws, 1).tolist()

    def rounded(rows, digits):
        return [[round(v, digits) for v in row] for row in rows]

    scores = dict(lpips=rounded(lpips, 4), dists=rounded(other, 4), psnr=rounded(quality, 2))
    return dict(calls=calls) | scores


def corners_of_network(bench):
    "Whether its starts differ at all"
    corners = {label: bench.corner(label) for label in CORNERS}
    return bench.own_facts | dict(corners=corners)


def of_network(bench, path):
    "The same, and all rows; `path`: for y of the cell"
    rows = {}
    for name, calls, solves in bench.ways():
        draws = [bench.measured(f'{name}, {k}', solve) for k, solve in enumerate(solves)]
        rows[name] = told(draws, calls)
    searches = {label: bench.searched(label) for label in BUDGETS}
    corners = corners_of_network(bench)
    return corners | dict(searches=searches, rows=rows, cell=bench.cell(path))


def measured_before(out, facts):
    "What the file holds of other networks, which stays there"
    known = json.loads(out.read_text()) if out.exists() else facts
    results = {name: known.pop(name, {}) for name in ('networks', 'others')}
    if known != facts:
        raise SystemExit(f'{out} was measured otherwise: take it away, or say --out')
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--references', type=Path, required=True)
    parser.add_argument('--tests', type=Path, required=True)
    parser.add_argument('--network', default='real', help='a shipped one, or a folder')
    parser.add_argument('--folder', type=Path, default=Path('runs/real_world'))
    parser.add_argument('--out', type=Path, default=Path('data/results/real.json'))
    parser.add_argument('--corners', action='store_true', help='only what diagnose says')
    parser.add_argument('--picture', type=Path, help='a JPEG of some results, drawn at last')
    args = parser.parse_args()
    references = byte_folder(args.references, SIZE)
    tests = {name: byte_folder(args.tests / name, SIZE) for name in SETS}
    name = Path(args.network).name
    bench = Bench(args.network, references, tests, args.folder / name)
    facts = dict(K=K, R=R, budgets=BUDGETS, draws=DRAWS, photographs=bench.photographs)
    facts |= dict(references=digest(*references.values()), distance=bench.distance.name)
    facts['unseen'] = [digest(z, y) for z, y in zip(bench.z, bench.y)]
    measured_before(args.out, facts)  # refuse before the work, not after it
    check_same(bench.folder, facts | bench.own_facts)
    if args.corners:
        network, others = corners_of_network(bench), {}
    else:
        network = of_network(bench, args.out.with_suffix('.png'))
        others = of_rivals(bench)
    known = measured_before(args.out, facts)
    whole = facts | dict(others=known['others'] | others)
    whole['networks'] = known['networks'] | {name: network}
    write_atomically(args.out, f'{json.dumps(whole, ensure_ascii=False)}\n'.encode())
    if args.picture:
        to_image(shown(bench)).save(args.picture, quality=85)


if __name__ == '__main__':
    main()
