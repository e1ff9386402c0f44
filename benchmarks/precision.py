"What bfloat16 brings and costs: times of one call in turn, and LPIPS of DDIM-10's results in both precisions."
import argparse
import time
from functools import partial
from statistics import median
import torch
from odebc.data import degrade, photographs, tiles, upsample
from odebc.metrics import best_distance
from odebc.precision import PRECISIONS, found_out, one_thread, race, seconds
from odebc.scores import candidates
from odebc.train import SR3

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def on_the_wall(models, x, y_up):
    "Time of one call in float32 over that in bfloat16, with all threads: medians of calls that take turns, after two of each to warm up"
    times = {name: [] for name in PRECISIONS}
    for n in range(9):
        for name, model in models.items():
            with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=model.bf16):
                start = time.perf_counter()
                model.net(x, y_up, 500.)
                if DEVICE.type == 'cuda': torch.cuda.synchronize()
                if n > 1: times[name].append(time.perf_counter() - start)
    return median(times['float32'])/median(times['bfloat16'])


@torch.no_grad()
def line(name, images, distance):
    "One row of the table"
    models = {p: SR3.from_pretrained(name, p).to(DEVICE) for p in PRECISIONS}
    model = models['float32']
    choice = found_out(model.net, model.size)
    z = tiles(list(photographs().values()), images, model.size, torch.Generator().manual_seed(0)).to(DEVICE)
    y, x_T = degrade(z, model.scale), candidates(images, model.shape, seed=7).to(DEVICE)
    batch = max(2**16//model.size**2, 1)
    x, y_up = x_T[:1].expand(batch, -1, -1, -1), upsample(y[:1], model.scale).expand(batch, -1, -1, -1)
    alone = None
    if DEVICE.type == 'cpu':
        with one_thread():
            float32, bfloat16 = race(partial(seconds, model.net, x.contiguous()), limit=60)
        alone = float32/bfloat16
    wall = on_the_wall(models, x, y_up)
    if not choice.bf16: alone, wall = 1/alone if alone else None, 1/wall
    scores = {p: [] for p in PRECISIONS}
    levels = []
    for i in range(images):
        x_0 = {p: m.h(x_T[i:i+1], y[i:i+1], 'DDIM-10') for p, m in models.items()}
        levels.append((x_0['float32'] - x_0['bfloat16']).abs().mean().item()*127.5)
        for p in PRECISIONS: scores[p].append(distance(x_0[p], z[i:i+1]).item())
    change = torch.tensor(scores['bfloat16'], dtype=torch.float64) - torch.tensor(scores['float32'], dtype=torch.float64)
    print(f'| {name} | {batch} × {model.size}² | {choice.precision} | {f"{alone:.2f}" if alone else "–"} | {wall:.2f} | {images} | {sum(scores["float32"])/images:.4f} | '
          f'{change.mean():+.5f} | {change.abs().mean():.5f} | {change.abs().max():.5f} | {sum(levels)/images:.3f} |', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('models', nargs='*', default=['small', 'small-mid', 'base'])
    parser.add_argument('--images', type=int, default=16, help='patches; of networks for 256² a quarter')
    args = parser.parse_args()
    name, distance, why = best_distance()
    if why: print(f'NOTE: the distance is {name}: {why}')
    print(f'{DEVICE}, {torch.get_num_threads()} threads; ratio: time of one call in the other precision over that in the chosen one\n')
    print(f'| network | input | chosen | ratio, one thread, its own time | ratio, all threads, on the wall | patches | {name} | mean change | mean size of the change | largest | mean difference, of 255 levels |')
    print('|' + ' --- |'*11)
    for model in args.models: line(model, args.images if SR3.from_pretrained(model).size < 256 else max(args.images//4, 1), distance.to(DEVICE) if hasattr(distance, 'to') else distance)


if __name__ == '__main__': main()
