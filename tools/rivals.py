"""Measure bicubic and the methods that the paper compares with, on crops of a test set:

    python tools/rivals.py --tests BSD100 [--pairs 24] [--rival NAME=FILE …] [--out FILE]

BSD100 is a folder of photographs. The weights are found as `odebc.experiments.rivals` says; a
method whose weights are not there is left out, and said so. `base` is measured beside them,
from one random start.
"""

import argparse
import json
from pathlib import Path
import torch
from odebc.data import upsample
from odebc.diagnosis import pairs_of
from odebc.errors import OdebcError
from odebc.experiments.lab import pm, tabulated
from odebc.experiments.rivals import KNOWN, rival, Rival
from odebc.images import byte_folder
from odebc.matrix import candidate
from odebc.metrics import default_distance, psnr
from odebc.progress import Bar
from odebc.sr3 import SR3

SIZE = 256  # side of a crop; y is four times smaller
OURS = 'DDIM-20', 'DDPM-100'  # samplers of `base`


def found(names):
    "Bicubic, and those whose weights are there"
    yield Rival('bicubic', 'none', lambda y: (upsample(2 * y - 1) + 1) / 2)
    for name in names:
        try:
            yield rival(name)
        except OdebcError as e:
            print(f'{name} is left out: {e}')


def of_network(name, label):
    "One of ours: all pictures from one start, chance anew for each"
    model = SR3.from_pretrained(name, 'auto')
    x_T = candidate(0, model.shape)[None]

    def solve(y):
        chance = torch.Generator().manual_seed(0)
        return (model.h(x_T, 2 * y - 1, label, chance) + 1) / 2

    return Rival(f'{name}, {label}', 'data/base', solve)


def measured(method, z, y, distance):
    "Scores of each crop"
    scores = {distance.name: [], 'PSNR': []}
    for i in Bar(range(len(y)), desc=method.name, unit='crop'):
        x_0 = method(y[i : i + 1])
        for name, measure in ((distance.name, distance), ('PSNR', psnr)):
            scores[name].append(round(measure(x_0, z[i : i + 1]).item(), 5))
    return dict(source=method.source) | scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--tests', type=Path, required=True)
    parser.add_argument('--pairs', type=int, default=24)
    parser.add_argument('--rival', action='append', default=[])
    parser.add_argument('--out', type=Path, default=Path('data/results/rivals.json'))
    args = parser.parse_args()
    z, y, names = pairs_of(byte_folder(args.tests, SIZE), args.pairs, SIZE)
    distance = default_distance()
    rows = {}
    ours = [of_network('base', label) for label in OURS]
    for method in (*found([*KNOWN, *args.rival]), *ours):
        rows[method.name] = measured(method, z, y, distance)
    result = dict(set=args.tests.name, size=SIZE, photographs=names, rows=rows)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n')
    table = [
        [
            name,
            *(pm(torch.tensor(row[key]), n) for key, n in ((distance.name, 4), ('PSNR', 2))),
        ]
        for name, row in rows.items()
    ]
    print(tabulated(['method', f'{distance.name} ↓', 'PSNR ↑'], table))


if __name__ == '__main__':
    main()
