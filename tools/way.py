"""Where on its way a sampler's result gets better or worse: LPIPS and PSNR of x̂_0 at every
call of the network, on every n-th of the crops that `evaluate.py` takes.
"""

import json
from pathlib import Path
import torch
from tqdm import tqdm
from odebc.data import crops, degrade, upsample
from odebc.images import image_folder
from odebc.store import write_atomically
from odebc.metrics import lpips, psnr
from odebc.samplers import Point, predict_x0, sampler
from odebc.matrix import candidates
from odebc.sr3 import SR3
from evaluate import options


def judged(eps_fn, sched, z, seen):
    "The same noise estimate; what its x̂_0 is worth at time t is added to `seen`"

    def judge(x, t):
        eps = eps_fn(x, t)
        x_0 = predict_x0(Point(t, x, eps), sched).clamp(-1, 1)
        seen.append((float(t), lpips(x_0, z).item(), psnr(x_0, z).item()))
        return eps

    return judge


def way(model, label, x_T, z):
    "Times, and the means over images of LPIPS (as a share of bicubic's) and PSNR there"
    y = degrade(z, model.scale)
    seen = []
    for i in tqdm(range(len(z)), desc=label):
        one = slice(i, i + 1)
        seen.append([])
        eps_fn = judged(model.eps(y[one]), model.sched, z[one], seen[-1])
        solve = sampler(label, model.sched, clip=True)
        solve(eps_fn, x_T[one], torch.Generator().manual_seed(i))
    t, distance, noise = torch.tensor(seen, dtype=torch.float64).mean(0).T
    ratio = distance / lpips(upsample(y, model.scale), z).mean()
    return dict(
        t=t.round(decimals=2).tolist(),
        ratio=ratio.round(decimals=4).tolist(),
        psnr=noise.round(decimals=2).tolist(),
    )


@torch.no_grad()
def main():
    parser = options(__doc__, 96)
    parser.add_argument(
        '--out', type=Path, required=True, help='.json file that the ways are added to'
    )
    parser.add_argument('--every', type=int, default=6, help='n')
    args = parser.parse_args()
    model = SR3.from_pretrained(args.model, args.precision)
    images = list(image_folder(args.images, model.size).values())
    z = crops(images, args.crops, model.size, torch.Generator().manual_seed(0))[:: args.every]
    x_T = candidates(args.crops, z.shape[1:], seed=7)[:: args.every]
    for label in args.samplers:
        facts = dict(
            sampler=label,
            samples=model.samples,
            weights=model.fingerprint,
            images=Path(args.images).name,
            crops=len(z),
            bf16=model.bf16,
        )
        found = facts | way(model, label, x_T, z)
        old = json.loads(args.out.read_text(encoding='utf8')) if args.out.exists() else []
        write_atomically(args.out, json.dumps([*old, found]).encode())


if __name__ == '__main__':
    main()
