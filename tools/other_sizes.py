"""What is found at one size, at others: recipes, grey energy, and starts that were searched.

    python tools/other_sizes.py ../shared/data/train ../shared/data/test/BSD100

Recipes are those of data/search/good_starts.json, found at 64². With `--search`, two searches
of the same K and R for `small-mid`, too, at 64² and at 128², on photographs for training. All
is tested at 64², 128² and 256² on photographs that nobody searched on. It is kept in --folder.
One photograph of the package is solved beside them, for a test to do the same.
In the end it writes data/search/other_sizes.json.
"""

import argparse
import json
import time
from pathlib import Path
import torch
from any_size import crop, corners, paired
from good_starts import one_of_each
from odebc.canvas import canvas
from odebc.data import degrade, photographs as shipped
from odebc.identity import digest
from odebc.images import image_folder
from odebc.matrix import candidate
from odebc.metrics import default_distance
from odebc.runner import BoundaryCondition
from odebc.search import search
from odebc.sr3 import SR3
from odebc.store import write_atomically
from odebc.traits import recipe, with_energy
from strategies import check_same

LABEL = 'DDIM-10'
SIZES = {64: 4, 128: 2, 256: 1}  # pixels of a side -> crops of each photograph
GREY = {'small': 1.05, 'small-mid': 0.95}  # that was good at 64²
SEARCHED = {'small-mid': (64, 128)}  # at which sizes
K, R = 48, 8
FIRST, COUNT = 76, 12  # photographs
RANDOM = 10**6 + 7  # seed of random starts


def searched(model, size, folder, images):
    "The winner of a search at one size"
    path = folder / f'search-{size}.safetensors'
    z, y = one_of_each(images, R, mixed=True, side=size)
    begin = time.thread_time()
    how = dict(strategy='exhaustive', path=path, shape=(3, size, size))
    found = search(model.solution_map(LABEL), z, y, K, default_distance(), **how)
    print(path, f'{found.score:.4f}, {time.thread_time() - begin:.0f} s', flush=True)
    return BoundaryCondition.load(path)


def parts(z, size, n):
    "Some squares of a photograph"
    if size == 256:
        return z[None]
    places = corners(z, size)[:: 4 // n]
    return torch.stack([z[:, i : i + size, j : j + size] for i, j in places])


def starts_of(name, number, size, recipes, winners):
    "Each kind of start, of this size, for one photograph; winners: side -> x_T"
    shape = 3, size, size
    random = candidate(number, shape, RANDOM)
    found = dict(
        random=random,
        grey=with_energy(random, GREY[name]),
        recipe=recipe(**recipes[number % len(recipes)], shape=shape),
    )
    for side, winner in winners.items():
        found[f'x̃_T of {side}'] = canvas(winner, size, size, 'scrambled', number)
    return found


def photograph(model, name, z, number, recipes, winners, distance, known, sizes=None):
    "LPIPS of all kinds of starts at all sizes; `known` are solved already"
    h, scores = model.solution_map(LABEL), dict(known)
    for size, n in (sizes or SIZES).items():
        z_s = parts(z, size, n)
        y = degrade(z_s)
        for kind, x_T in starts_of(name, number, size, recipes, winners).items():
            if f'{size} {kind}' not in known:
                x_0 = h(x_T[None].expand_as(z_s), y)
                scores[f'{size} {kind}'] = distance(x_0, z_s).mean().item()
    return scores


def measure(name, args, distance):
    "All photographs of one network"
    model = SR3.from_pretrained(name, precision='bfloat16')
    told = json.loads(args.recipes.read_text())['contests']
    (contest,) = [one for one in told if one['network'] == name]
    folder = args.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    sides = SEARCHED.get(name, ()) if args.search else ()
    searches = {side: searched(model, side, folder, args.training) for side in sides}
    winners = {side: found.x_T for side, found in searches.items()}
    photographs = image_folder(args.photographs, 256)
    facts = dict(weights=model.fingerprint, sampler=LABEL, recipes=contest['recipes'])
    facts |= dict(distance=distance.name, photographs=digest(*photographs.values()))
    facts['searches'] = {side: [K, R, w.index] for side, w in searches.items()}
    check_same(folder, facts)
    rows = []
    for number, file in enumerate(sorted(photographs)[FIRST : FIRST + COUNT]):
        path = folder / f'{Path(file).stem}.json'
        known = json.loads(path.read_text()) if path.exists() else {}
        z = crop(photographs[file], 256, 256)
        rest = contest['recipes'], winners, distance, known
        scores = photograph(model, name, z, number, *rest)
        if scores != known:
            write_atomically(path, json.dumps(scores).encode())
            print(path, flush=True)
        rows.append(scores)
    found = summary(rows) | dict(
        weights=model.fingerprint,
        sampler=LABEL,
        photographs=len(rows),
        grey=GREY[name],
        searches={side: dict(K=K, R=R, x_T=w.index) for side, w in searches.items()},
    )
    return found | dict(sample=sample(model, name, found, contest['recipes'], distance))


SAMPLE = 'chelsea', 1  # a photograph that comes with the package, and its number
SAMPLED = {'small': {64: 4, 128: 2}, 'small-mid': {64: 4}}  # sizes, crops


def sample(model, name, found, recipes, distance):
    "LPIPS of all kinds of starts, as of other photographs; a test computes it again"
    winners = {
        int(side): candidate(one['x_T'], (3, int(side), int(side)))
        for side, one in found['searches'].items()
    }
    file, number = SAMPLE
    z = crop(shipped()[file], 256, 256)
    rest = recipes, winners, distance, {}, SAMPLED[name]
    scores = photograph(model, name, z, number, *rest)
    return {kind: round(score, 5) for kind, score in scores.items()}


def summary(rows):
    "Means and gains over random starts, paired, with errors over photographs"
    table = {kind: paired([row[kind] for row in rows]) for kind in rows[0]}
    gains = {}
    for kind in rows[0]:
        size, _, what = kind.partition(' ')
        if what != 'random':
            gains[kind] = paired([row[f'{size} random'] - row[kind] for row in rows])
    lead = {}
    if '64 x̃_T of 128' in rows[0]:
        for size in SIZES:
            kinds = f'{size} x̃_T of 64', f'{size} x̃_T of 128'
            lead[size] = paired([row[kinds[0]] - row[kinds[1]] for row in rows])
    return dict(table=table, gains=gains, lead=lead)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('training', type=Path, help='folder')
    parser.add_argument('photographs', type=Path, help='folder, for the test')
    parser.add_argument('--networks', nargs='+', default=list(GREY))
    parser.add_argument('--search', action='store_true', help='search at two sizes, too')
    parser.add_argument('--recipes', type=Path, default=Path('data/search/good_starts.json'))
    parser.add_argument('--folder', type=Path, default=Path('runs/other_sizes'))
    parser.add_argument('--out', type=Path, default=Path('data/search/other_sizes.json'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        found = {name: measure(name, args, default_distance()) for name in args.networks}
    text = json.dumps(found, ensure_ascii=False, indent=1)
    write_atomically(args.out, (text + '\n').encode())


if __name__ == '__main__':
    main()
