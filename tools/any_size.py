"""Pictures of any size: how they are solved, and on which start.

    python tools/any_size.py --photographs FOLDER [--networks small small-mid base]

Each photograph (of at least 256×384 pixels) is enlarged by 4 in eight ways: whole, in windows
and in tiles, from a random canvas (in windows it is as in tiles, and left out), from x̃_T
repeated, and from x̃_T scrambled. And crops of it are solved at three sizes from the x̃_T that
was found at one. Into data/search/any_size.json; what is measured is kept in FOLDER, and the
same command goes on there. `--table` only makes the file.
"""

import argparse
import json
import time
from itertools import product
from importlib.resources import files
from pathlib import Path
import torch
from safetensors import safe_open
from odebc.canvas import averaged, canvas, ghost, seam
from odebc.data import degrade, photographs as shipped
from odebc.enlarge import Blend, shipped_start, Tiling
from odebc.footprint import needs
from odebc.images import image_folder
from odebc.matrix import candidate
from odebc.metrics import default_distance, psnr
from odebc.sr3 import SR3
from odebc.store import write_atomically
from odebc.unet import Attention

SAMPLERS = {'small': 'DDIM-20', 'small-mid': 'DDIM-10', 'base': 'DDIM-10'}
WAYS = 'whole', 'windows', 'tiles'
STARTS = 'random', 'periodic', 'scrambled'
RANDOM = 10**6  # seed of random starts
SAMPLE = 'coffee', ('whole scrambled', 'tiles periodic')  # that a test computes again
FEWER = 2  # random starts at the smaller sizes
OVERLAP = 4
BATCH = 4  # tiles or windows at a time
SIDES = 64, 128, 256, 512
LOW = torch.zeros(3, 192, 192)
NOT_OFFERED = ('tiles scrambled',)  # by `upscale`: measured for comparison only
REFERENCE = dict(whole='whole random', windows='tiles random', tiles='tiles random')


def best_of_matrix(name):
    "Candidate with the best mean score in the matrix that ships"
    path = Path(str(files('odebc.assets'))) / name / 'matrix.safetensors'
    with safe_open(path, 'pt') as file:
        return file.get_tensor('LPIPS').mean(1).argmin().item()


def found_start(name, model):
    "x̃_T, and how it was found"
    start = shipped_start(model.fingerprint, SAMPLERS[name])
    if start:
        return start.x_T, f"search, K = {start.meta['K']}, {start.meta['sampler']}"
    k = best_of_matrix(name)
    return candidate(k, model.shape), f'candidate {k}, the best of the shipped matrix'


def crop(z, height, width):
    "The middle, lying if the photograph lies, else standing"
    if z.shape[1] > z.shape[2]:
        height, width = width, height
    top, left = (z.shape[1] - height) // 2, (z.shape[2] - width) // 2
    return z[:, top : top + height, left : left + width]


def solved(h, way, tiling, x_T, starts, y):
    "The picture (1, 3, H, W)"
    if way == 'whole':
        return h(starts[None], y)
    if way == 'windows':
        return h.with_eps(lambda eps: averaged(eps, tiling, BATCH))(starts[None], y)
    blend, rows = Blend(tiling), []
    for n in range(0, len(tiling.places), BATCH):
        corners = [(4 * i, 4 * j) for i, j in tiling.places[n : n + BATCH]]
        parts = [starts[:, i : i + tiling.size, j : j + tiling.size] for i, j in corners]
        some = torch.stack(parts) if x_T is None else x_T[None]
        rows.append(blend.add(h(some, tiling.cut(y[0], n, n + BATCH))))
    return torch.cat(rows, 1)[None]


def borders(tiling, period):
    "Rows and columns where tiles begin or end, and where cells of the canvas begin"
    shape, s = tiling.shape, tiling.scale
    at_tiles = []
    for dim in (0, 1):
        begins = {s * place[dim] for place in tiling.places}
        at_tiles.append(sorted(begins | {i + tiling.size for i in begins}))
    return at_tiles, [list(range(0, side, period)) for side in shape]


def spacing(tiling):
    "Pixels from one tile to the next, along the longer side"
    dim = tiling.width > tiling.height
    first, second = sorted({place[dim] for place in tiling.places})[:2]
    return tiling.scale * (second - first)


@torch.no_grad()
def photograph(model, h, x_T, z, number, distance, kinds=None):
    "All ways for one photograph, or some"
    size = model.size
    height, width = z.shape[1:]
    y = degrade(z[None])
    tiling = Tiling(*y.shape[2:], size, model.scale, OVERLAP)
    at_tiles, at_cells = borders(tiling, size)
    starts = dict(
        random=candidate(number, z.shape, RANDOM),
        periodic=canvas(x_T, height, width),
        scrambled=canvas(x_T, height, width, 'scrambled', number),
    )
    rows = {}
    for way in WAYS:
        for name, start in starts.items():
            kind = f'{way} {name}'
            if kind == 'windows random' or kinds and kind not in kinds:
                continue
            begin = time.thread_time()
            same = x_T if way == 'tiles' and name == 'periodic' else None
            x = solved(h, way, tiling, same, start, y)
            seconds = time.thread_time() - begin
            error = x - z
            rows[kind] = dict(
                lpips=distance(x, z[None]).item(),
                psnr=psnr(x, z[None]).item(),
                ghost=ghost(error, spacing(tiling) if way == 'tiles' else size).item(),
                seam=seam(error, *(at_tiles if way != 'whole' else at_cells)).item(),
                seconds=seconds / (height * width / 1e6),
            )
    return rows


@torch.no_grad()
def at_sizes(model, h, x_T, z, number, distance, sizes):
    "x̃_T of one size at others, whole pictures"
    rows = {}
    for size in sizes:
        z_s = torch.stack([z[:, i : i + size, j : j + size] for i, j in corners(z, size)])
        y = degrade(z_s)
        for name in STARTS[1:]:
            x = h(canvas(x_T, size, size, name, number)[None], y)
            rows[f'{size} {name}'] = distance(x, z_s).mean().item()
        found = []
        for k in range(FEWER):
            x = h(candidate(FEWER * number + k, (3, size, size), RANDOM + 1)[None], y)
            found.append(distance(x, z_s).mean().item())
        rows[f'{size} random'] = sum(found) / FEWER
    return rows


def corners(z, size):
    "Of four crops, one in each quarter of the picture"
    ends = [(side // 2 - size) // 2 for side in z.shape[1:]]
    halves = [side // 2 for side in z.shape[1:]]
    return [(i * halves[0] + ends[0], j * halves[1] + ends[1]) for i in (0, 1) for j in (0, 1)]


def measure(name, photographs, folder, distance):
    "All photographs of one network"
    model = SR3.from_pretrained(name, precision='bfloat16')
    h = model.solution_map(SAMPLERS[name])
    x_T, how = found_start(name, model)
    for number, (file, z) in enumerate(photographs.items()):
        path = folder / name / f'{Path(file).stem}.json'
        facts = dict(weights=model.fingerprint, sampler=h.name, x_T=how)
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get('facts') != facts:
            known = dict(facts=facts)
        if 'ways' not in known:
            z_crop = crop(z, 256, 256 if model.size < 256 else 384)
            known['ways'] = photograph(model, h, x_T, z_crop, number, distance)
        if 'sizes' not in known and model.size < 256:
            z_crop = crop(z, 256, 256)
            known['sizes'] = at_sizes(model, h, x_T, z_crop, number, distance, (64, 128))
        write_atomically(path, json.dumps(known).encode())
        print(name, number, file, flush=True)


def sample(name, distance=None):
    "A photograph that comes with the package, some ways"
    model = SR3.from_pretrained(name, precision='bfloat16')
    h = model.solution_map(SAMPLERS[name])
    photo, kinds = SAMPLE
    distance = distance or default_distance()
    z = crop(shipped()[photo], 256, 256 if model.size < 256 else 384)
    return photograph(model, h, found_start(name, model)[0], z, 0, distance, kinds)


def in_cells(attention, side):
    "Attention that sees cells of side × side places, as in training, and nothing beyond"
    forward = attention.forward

    def fn(x, emb=None):
        b, c, h, w = x.shape
        cells = x.reshape(b, c, h // side, side, w // side, side).permute(0, 2, 4, 1, 3, 5)
        seen = forward(cells.reshape(-1, c, side, side)).reshape(cells.shape)
        return seen.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    attention.forward = fn


@torch.no_grad()
def local_attention(name, photographs, folder, distance):
    "Whole pictures once more, with attention as in training: LPIPS from x̃_T, per photograph"
    model = SR3.from_pretrained(name, precision='bfloat16')
    side = model.size // model.net.multiple
    for module in model.net.modules():
        if isinstance(module, Attention):
            in_cells(module, side)
    h = model.solution_map(SAMPLERS[name])
    x_T, _ = found_start(name, model)
    for number, (file, z) in enumerate(photographs.items()):
        path = folder / f'{name}-local' / f'{Path(file).stem}.json'
        if path.exists() or not (folder / name / path.name).exists():
            continue
        z = crop(z, 256, 256)[None]
        found = {}
        for start in STARTS[1:]:
            x = h(canvas(x_T, 256, 256, start, number)[None], degrade(z))
            found[start] = distance(x, z).item()
        write_atomically(path, json.dumps(found).encode())
        print(name, 'local', number, found, flush=True)


@torch.no_grad()
def costs(name):
    "Bytes a pixel, and processor seconds a megapixel for one call, at several sizes"
    model = SR3.from_pretrained(name, precision='bfloat16')
    side = model.size // model.scale
    found = needs(
        model.solution_map(SAMPLERS[name]), torch.zeros(model.shape), LOW[:, :side, :side]
    )
    seconds = {}
    for size in SIDES:
        eps_fn, x = (
            model.eps(LOW[None, :, : size // 4, : size // 4]),
            torch.zeros(1, 3, size, size),
        )
        eps_fn(x, 500.0)
        begin = time.thread_time()
        eps_fn(x, 500.0)
        seconds[size] = round((time.thread_time() - begin) / size**2 * 1e6, 2)
    return dict(whole=round(found.whole + 12), windows=round(found.held + 16), seconds=seconds)


MORE = dict(sample=sample, costs=costs)  # that needs no photographs of others


def paired(x):
    "Mean and standard error over photographs"
    x = torch.tensor(x, dtype=torch.float64)
    return [round(x.mean().item(), 5), round(x.std().item() / len(x) ** 0.5, 5)]


def advice(rows, today='tiles periodic'):
    """The default: of the ways whose LPIPS is worse than today's by less than .003 (upper 95 %
    bound) and that keep half of x̃_T's gain, the one with the lowest ghost; of those whose
    ghosts are not told apart (two standard errors, paired) the first in the order of `WAYS`
    """
    gain = paired([r['tiles random']['lpips'] - r[today]['lpips'] for r in rows])
    answers = {}
    for way, start in product(WAYS, STARTS[1:]):
        one = f'{way} {start}'
        worse = paired([r[one]['lpips'] - r[today]['lpips'] for r in rows])
        kept = paired([r[REFERENCE[way]]['lpips'] - r[one]['lpips'] for r in rows])
        near = worse[0] + 1.96 * worse[1] < 0.003
        something = gain[0] - 1.96 * gain[1] > 0
        taken = near and (not something or kept[0] >= gain[0] / 2)
        mean, error = paired([r[one]['ghost'] for r in rows])
        answers[one] = dict(worse=worse, gain=kept, ghost=[abs(mean), error], taken=taken)
    able = [k for k, v in answers.items() if v['taken'] and k not in NOT_OFFERED]
    least = min(able, key=lambda one: answers[one]['ghost'][0])

    def alike(one):
        mean, error = paired([r[one]['ghost'] - r[least]['ghost'] for r in rows])
        return abs(mean) <= 2 * error

    best = next(one for one in able if alike(one))
    return dict(today=gain, ways=answers, default=best)


def summary(name, folder):
    "What is known of one network, with errors"
    known = [json.loads(path.read_text()) for path in sorted((folder / name).glob('*.json'))]
    ways = [one['ways'] for one in known]
    kinds = list(ways[0])
    measures = list(ways[0][kinds[0]])
    table = {k: {m: paired([row[k][m] for row in ways]) for m in measures} for k in kinds}
    for kind, row in table.items():  # the same photographs, so differences are known better
        apart = [one[kind]['lpips'] - one['tiles periodic']['lpips'] for one in ways]
        row['worse'] = paired(apart)
    answer = known[0]['facts'] | dict(photographs=len(known), table=table)
    answer['advice'] = advice(ways)
    for kind in MORE:
        path = folder / f'{name}-{kind}.json'
        if path.exists():
            answer[kind] = json.loads(path.read_text())
    local = {
        path.name: json.loads(path.read_text()) for path in folder.glob(f'{name}-local/*')
    }
    if local:
        near = {}
        for start in STARTS[1:]:
            pairs = [
                (cells[start], json.loads((folder / name / file).read_text())['ways'])
                for file, cells in local.items()
            ]
            near[start] = paired([a - ways[f'whole {start}']['lpips'] for a, ways in pairs])
        answer['attention in cells'] = near | dict(photographs=len(local))
    sizes = [one['sizes'] for one in known if 'sizes' in one]
    if sizes:
        for one, row in zip(sizes, ways):
            one |= {f'256 {s}': row[f'whole {s}']['lpips'] for s in STARTS}
        answer['sizes'] = {k: paired([row[k] for row in sizes]) for k in sizes[0]}
        for size in (64, 128, 256):
            for s in STARTS[1:]:
                gains = [row[f'{size} random'] - row[f'{size} {s}'] for row in sizes]
                answer['sizes'][f'{size} gain of {s}'] = paired(gains)
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--photographs', type=Path, help='folder')
    parser.add_argument('--networks', nargs='+', default=list(SAMPLERS))
    parser.add_argument('--first', type=int, default=0, help='number of the first photograph')
    parser.add_argument('--count', type=int, default=24)
    parser.add_argument('--folder', type=Path, default=Path('runs/any_size'))
    parser.add_argument('--out', type=Path, default=Path('data/search/any_size.json'))
    parser.add_argument('--local', action='store_true', help='only: attention in cells')
    parser.add_argument('--table', action='store_true', help='solve nothing')
    args = parser.parse_args()
    if not args.table:
        torch.set_num_threads(1)
        photographs = image_folder(args.photographs, 256)
        names = sorted(photographs)[args.first : args.first + args.count]
        for name in args.networks:
            some = {file: photographs[file] for file in names}
            if args.local:
                local_attention(name, some, args.folder, default_distance())
                continue
            measure(name, some, args.folder, default_distance())
            for kind, make in MORE.items():
                path = args.folder / f'{name}-{kind}.json'
                if not path.exists():
                    write_atomically(path, json.dumps(make(name)).encode())
    known = {n: len(list((args.folder / n).glob('*.json'))) for n in SAMPLERS}
    measured = [n for n in SAMPLERS if known[n] >= args.count]  # no half measured network
    found = {n: summary(n, args.folder) for n in measured}
    args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n')


if __name__ == '__main__':
    main()
