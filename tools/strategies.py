"Every strategy of the search on one network, with the same budget: a table, and the course of each for the picture on the search page. Run again to resume."
import argparse
import json
from pathlib import Path
import torch
from odebc.data import crops, degrade, image_folder, tiles, write_atomically
from odebc.metrics import lpips_model
from odebc.scores import candidates, score_matrix
from odebc.search import STRATEGIES, search
from odebc.train import SR3


def run(name, strategy, seed, args, h, pairs, unseen, coarse):
    "One search with its course: (NFE, score of the best so far)"
    folder, course, path = Path(args.out), [], Path(args.out)/f'{name}-{seed}.safetensors'
    done = folder/f'{name}-{seed}.json'
    if done.exists(): return json.loads(done.read_text())
    budget = args.k*args.r if name == 'all cells' else args.budget
    found = search(h, *pairs, args.k, lpips_model(), strategy, budget, seed, path=path, unseen=unseen, coarse=coarse if strategy in ('multifidelity', 'gradient') else None,
        watch=lambda found: course.append((found.nfe, round(found.score, 5))))
    answer = dict(name=name, seed=seed, index=found.index, score=found.score, unseen=[round(v, 5) for v in found.unseen.tolist()], nfe=found.nfe, solves=found.solves, seconds=round(found.seconds, 1), course=course[::max(len(course)//100, 1)])
    write_atomically(done, json.dumps(answer).encode())
    return answer


def line(name, runs, random):
    "A row of the table: means over the seeds, and the standard error over the unseen images of their mean score and of its difference to a random x_T"
    mean = lambda key: sum(r[key] for r in runs)/len(runs)
    unseen = torch.tensor([r['unseen'] for r in runs]).mean(0)
    gain = unseen - random
    error = lambda v: v.std()/len(v)**.5
    each = ', '.join(f"{sum(r['unseen'])/len(r['unseen']):.4f}" for r in runs)
    return f"| {name} | {mean('score'):.4f} | {unseen.mean():.4f} ± {error(unseen):.4f} | {gain.mean():+.4f} ± {error(gain):.4f} | {each} | {mean('nfe'):.0f} | {mean('seconds'):.0f} |"


def table(result):
    "Markdown"
    lines = ['| strategy | reference score | unseen score | unseen, against random | each seed | NFE | s |', '| --- | --- | --- | --- | --- | --- | --- |']
    random = torch.tensor(result['random'])
    for name in dict.fromkeys(r['name'] for r in result['runs']): lines.append(line(name, [r for r in result['runs'] if r['name'] == name], random))
    return '\n'.join(lines + [f"| a random x_T | | {random.mean():.4f} ± {random.std()/len(random)**.5:.4f} | | | 0 | 0 |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='small')
    parser.add_argument('--references', required=True, help='folder of photographs for the search')
    parser.add_argument('--unseen', required=True, help='folder of photographs for the judgement')
    parser.add_argument('--k', type=int, default=200)
    parser.add_argument('--r', type=int, default=16)
    parser.add_argument('--n', type=int, default=96, help='unseen patches')
    parser.add_argument('--budget', type=int, default=640, help='solves')
    parser.add_argument('--sampler', default='DDIM-20')
    parser.add_argument('--coarse', default='DDIM-5')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out', default='runs/strategies')
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model)
    h, coarse = model.solution_map(args.sampler), model.solution_map(args.coarse)
    patches = lambda cut, folder, n: cut(list(image_folder(folder, model.size).values()), n, model.size, torch.Generator().manual_seed(0))
    z = patches(tiles, args.unseen, args.n)
    unseen = z, degrade(z, model.scale)
    random = score_matrix(h, candidates(8, model.shape, 99), *unseen, lpips_model()).mean(0)
    result = dict(model=args.model, weights=h.meta['weights'], sampler=args.sampler, coarse=args.coarse, K=args.k, R=args.r, budget=args.budget, random=[round(v, 5) for v in random.tolist()], runs=[])
    for seed in range(args.seeds):
        z = crops(list(image_folder(args.references, model.size).values()), args.r, model.size, torch.Generator().manual_seed(100 + seed))
        for name, strategy in {**{s: s for s in STRATEGIES}, 'all cells': 'exhaustive'}.items():
            result['runs'].append(run(name, strategy, seed, args, h, (z, degrade(z, model.scale)), unseen, coarse))
            write_atomically(Path(args.out)/'strategies.json', json.dumps(result).encode())
    print(table(result))


if __name__ == '__main__': main()
