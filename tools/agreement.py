"""How much a network's results depend on x_T: LPIPS of K starts on R crops, which
nbs/hood/weights.ipynb reads.

    python tools/agreement.py --model base --images BSD100 --out data/base/matrix.safetensors
"""

import argparse
import json
from pathlib import Path
import torch
from safetensors.torch import save
from odebc.boundary import mean_correlation
from odebc.data import degrade, tiles
from odebc.images import image_folder
from odebc.matrix import candidates, score_matrix
from odebc.metrics import lpips
from odebc.sr3 import SR3
from odebc.store import write_atomically


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='base', help='a shipped model, or a folder')
    parser.add_argument('--images', required=True, help='folder of photographs')
    parser.add_argument('--k', type=int, default=16, help='starts')
    parser.add_argument('--r', type=int, default=8, help='crops')
    parser.add_argument('--sampler', default='DDIM-10', help='of the ODE')
    parser.add_argument('--precision', choices=('float32', 'bfloat16'), default='bfloat16')
    parser.add_argument('--out', type=Path, required=True, help='.safetensors file')
    return parser.parse_args()


@torch.no_grad()
def main():
    args = arguments()
    model = SR3.from_pretrained(args.model, args.precision)
    images = list(image_folder(args.images, model.size).values())
    z = tiles(images, args.r, model.size, torch.Generator().manual_seed(0))
    y = degrade(z, model.scale)
    x_T = candidates(args.k, z.shape[1:])
    D = score_matrix(model.solution_map(args.sampler), x_T, z, y, lpips, batch=args.r)
    facts = dict(
        weights=model.fingerprint,
        sampler=args.sampler,
        images=Path(args.images).name,
        bf16=model.bf16,
    )
    metadata = {name: json.dumps(value) for name, value in facts.items()}
    write_atomically(args.out, save({'LPIPS': D}, metadata))
    print(f'correlation between crops {mean_correlation(D):.3f}')


if __name__ == '__main__':
    main()
