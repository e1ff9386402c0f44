"""Diagnose the networks that ship, and write what came out beside their other measurements:

    python tools/diagnoses.py [--networks NAME …] [--folder FOLDER] [--out FILE]

FOLDER keeps what is measured; the same command goes on there.
"""

import argparse
import json
from pathlib import Path
from odebc.data import photographs, upsample
from odebc.diagnosis import diagnose, pairs_of, tricks_of_sr3
from odebc.metrics import default_distance
from odebc.sr3 import SR3

# network, its sampler, and candidates and pairs of the search that ships
SEARCHES = {
    'small-mid': ('DDIM-20', 100, 16),
    'small': ('DDIM-20', 200, 32),
    'grey': ('DDIM-20', 200, 32),
    'dark': ('DDIM-20', 200, 32),
}


def diagnosed(name, sampler, asked, folder):
    "The verdict, with its numbers, as JSON knows them"
    model = SR3.from_pretrained(name)
    how = model.size, model.scale, 0, model.task.name
    z, y, names = pairs_of(photographs(), 12, *how)
    tricks = tricks_of_sr3(model, sampler, (z - upsample(y, model.scale)).std().item())
    found = diagnose(
        model.solution_map(sampler),
        z,
        y,
        names,
        default_distance(),
        asked=asked,
        tricks=tricks,
        folder=folder,
    )
    return dict(
        sampler=sampler,
        weights=model.fingerprint,
        distance=found.distance,
        photographs=names,
        scores=[[round(x, 5) for x in row] for row in found.scores.tolist()],
        worth=found.worth.facts,
        tricks={name: [*gain] for name, gain in found.tricks.items()},
        sentence=found.sentence,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--folder', type=Path, default=Path('runs/diagnoses'))
    parser.add_argument('--out', type=Path, default=Path('data/search/diagnoses.json'))
    parser.add_argument('--networks', nargs='+', default=list(SEARCHES), choices=SEARCHES)
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.networks:
        sampler, *asked = SEARCHES[name]
        results[name] = diagnosed(name, sampler, asked, args.folder / name)
    args.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + '\n')
    for name, result in results.items():
        print(f"{name}: {result['sentence']}\n")


if __name__ == '__main__':
    main()
