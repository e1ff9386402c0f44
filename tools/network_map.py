"""When does x_T matter? Diagnose networks at several sizes of the picture:

    python tools/network_map.py [--networks small-mid small] [--sizes 64 128]

DDIM-10, 24 starts on 12 patches of the seven photographs; into data/search/map-NETWORK.json.
What is measured is kept in FOLDER, and the same command goes on there.
"""

import argparse
import json
from pathlib import Path
from odebc.data import photographs, upsample
from odebc.diagnosis import diagnose, pairs_of
from odebc.metrics import default_distance
from odebc.sr3 import gaussian_first, SR3

SAMPLER, STARTS, PAIRS = 'DDIM-10', 24, 12
ASKED = 200, 16


def place(model, size, folder, distance):
    "One network at one size, as JSON knows it"
    z, y, names = pairs_of(photographs(), PAIRS, size, model.scale)
    y_up = upsample(y, model.scale)
    tricks = {}
    if model.net.s is None:
        formula = gaussian_first(model, (z - y_up).std().item())
        tricks['Gaussian guess'] = formula.solution_map(SAMPLER)
    h = model.solution_map(SAMPLER)
    how = dict(K=STARTS, asked=ASKED, tricks=tricks, folder=folder)
    found = diagnose(h, z, y, names, distance, **how)
    return dict(
        size=size,
        bicubic=round(distance(y_up, z).mean().item(), 5),
        mean=round(found.parts.mean, 5),
        spread=round(found.parts.start.value**0.5, 5),
        worth=found.worth.facts,
        verdict=found.worth.verdict,
        tricks={name: [*gain] for name, gain in found.tricks.items()},
        photographs=len(set(names)),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--networks', nargs='+', default=['small-mid', 'small'])
    parser.add_argument('--sizes', nargs='+', type=int, default=[64, 128])
    parser.add_argument('--precision', default='float32', help='or bfloat16')
    parser.add_argument('--folder', type=Path, default=Path('runs/map'))
    parser.add_argument('--out', type=Path, default=Path('data/search'))
    args = parser.parse_args()
    distance = default_distance()
    for name in args.networks:
        model = SR3.from_pretrained(name, args.precision)
        facts = dict(weights=model.fingerprint, sampler=SAMPLER, distance=distance.name)
        if model.bf16:
            facts['precision'] = model.precision
        facts['form'] = 'plain' if model.net.s is None else 'residual'
        facts['places'] = []
        for size in args.sizes:
            folder = args.folder / name / str(size)
            facts['places'].append(place(model, size, folder, distance))
            text = json.dumps(facts, indent=1, ensure_ascii=False)
            (args.out / f'map-{name}.json').write_text(text + '\n')
            print(name, facts['places'][-1], flush=True)


if __name__ == '__main__':
    main()
