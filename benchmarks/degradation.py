"""What the degradation of `real` costs of a training step: processor time of the degradations
of one batch over that of one step, by default of `base` at 256×256.
"""

import argparse
import time
from statistics import mean
from torch.utils.data import default_collate
import torch
from odebc.data import crops, photographs
from odebc.degradations import realistic
from odebc.engine import CONFIGS, configured
from odebc.images import from_bytes, to_bytes
from odebc.precision import chosen


def seconds(call):
    "Processor time, of all threads"
    start = time.process_time()
    call()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.replace('\n', ' '))
    parser.add_argument('--config', choices=CONFIGS, default='base', help='what is trained')
    parser.add_argument('--batch', type=int, help='patches per step; of the configuration')
    parser.add_argument('--size', type=int, help='side of a patch; of the configuration')
    parser.add_argument('--rounds', type=int, default=4, help='steps, after one to warm up')
    parser.add_argument('--precision', default='auto', help='float32, bfloat16 or auto')
    args = parser.parse_args()
    changes = dict(batch=args.batch, size=args.size)
    given = {name: value for name, value in changes.items() if value}
    size = args.size or CONFIGS[args.config][1].size
    images = [to_bytes(p) for p in photographs().values() if min(p.shape[1:]) >= size]
    run = configured(args.config, images, task='real', **given)
    choice = chosen(args.precision, run.net, size)
    run.recipe.bf16 = choice.bf16
    batch, scale = run.recipe.batch, run.recipe.scale
    generator = torch.Generator().manual_seed(0)
    steps, degradations = [], []
    for i in range(args.rounds + 1):
        examples = default_collate([run.examples[i * batch + j] for j in range(batch)])
        z = from_bytes(crops(images, batch, size, generator))
        # a history may be long or short: the mean of several batches
        for _ in range(8):
            spent = seconds(lambda: realistic(z, scale, generator))
            if i:
                degradations.append(spent)
        spent = seconds(lambda: run.step(examples))
        if i:
            steps.append(spent)
    share = mean(degradations) / mean(steps)
    print(
        f'{args.config}, batches of {batch} patches of {size}×{size}, {choice}\n'
        f'a step {mean(steps):.2f} s, the degradations of its batch '
        f'{mean(degradations) * 1e3:.1f} ms, of processor time: share {share:.2%}'
    )


if __name__ == '__main__':
    main()
