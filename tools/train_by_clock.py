"""Training for a given time on a rented GPU: the examples are made there, the network is
compiled, the learning rate follows the clock. How the last stages of `small` and `base` were
trained.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
import torch
from odebc.data import crops, degrade, turned_or_mirrored, upsample
from odebc.images import byte_folder, from_bytes
from odebc.engine import Recipe, Training
from odebc.sr3 import SR3
from odebc.unet import UNet


def eighths(z):
    "A batch in eight parts, each in another symmetry of the square"
    return torch.cat(
        [turned_or_mirrored(part, k) for k, part in enumerate(z.split(len(z) // 8))]
    )


def batches(images, recipe, device):
    "Arguments of `Objective`, without end"
    places = torch.Generator().manual_seed(recipe.seed)
    noise = torch.Generator(device).manual_seed(recipe.seed)
    images = [image.to(device) for image in images]
    while True:
        z = from_bytes(eighths(crops(images, recipe.batch, recipe.size, places)))
        z = z.contiguous(memory_format=torch.channels_last)
        y_up = upsample(degrade(z, recipe.scale), recipe.scale)
        v, u = torch.rand(2, recipe.batch, generator=noise, device=device)
        eps = torch.randn(z.shape, generator=noise, device=device)
        yield z, y_up, v, eps, u < 0.1


def factor(share):
    "Of the learning rate: up for 3 % of the time, down for the last 60 %"
    return max(min(1, (share + 1e-3) / 0.03, (1 - share) / 0.6), 0)


def train(run, seconds, warm=3):
    "Steps until the time is up; the first ones, in which the compiler works, do not count"
    device = run.accelerator.device
    losses = []
    share = 0.0
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    for batch in batches(run.examples.images, run.recipe, device):
        for group in run.optimizer.param_groups:
            group['lr'] = run.recipe.lr * factor(share)
        with torch.autocast(device.type, torch.bfloat16):
            loss = run.objective(*batch)
        run.optimizer.zero_grad()
        run.accelerator.backward(loss)
        run.accelerator.clip_grad_norm_(run.net.parameters(), 1.0)
        run.optimizer.step()
        run.ema.update_parameters(run.net)
        losses.append(loss.detach())
        if len(losses) == warm:
            wait()
            start = time.monotonic()
        if len(losses) > warm and len(losses) % 8 == 0:
            wait()
            if not losses[-1].isfinite():
                raise SystemExit(
                    f'the loss is {losses[-1]} at step {len(losses)}: '
                    'lower the learning rate; nothing was written'
                )
            share = min((time.monotonic() - start) / seconds, 1)
            if len(losses) % 128 == 0:
                mean = torch.stack(losses[-128:]).mean()
                print(f'{share:.0%}: {len(losses)} steps, loss {mean:.4f}', flush=True)
            if share == 1:
                break
    run.losses = torch.stack(losses).tolist()
    run.seconds = time.monotonic() - start
    run.recipe = replace(run.recipe, steps=len(losses))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--start', default='small', help='a shipped model, or a folder')
    parser.add_argument('--images', type=Path, required=True, help='folder of photographs')
    parser.add_argument('--out', type=Path, required=True, help='folder for the model')
    parser.add_argument('--seconds', type=float, default=300)
    parser.add_argument('--size', type=int, default=64, help='side of a patch')
    parser.add_argument(
        '--batch', type=int, default=512, help='patches per step, a multiple of 8'
    )
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--perceptual', type=float, default=0, help='weight of LPIPS of the estimated picture'
    )
    parser.add_argument(
        '--own-path', type=float, default=0, help='the same where sampling leads'
    )
    parser.add_argument('--about', default='', help='what the photographs are, for the record')
    args = parser.parse_args()
    if args.batch % 8:
        parser.error(f'a batch of {args.batch} has no eight equal parts')
    torch.backends.cudnn.benchmark = True
    start = SR3.from_pretrained(args.start)
    net = UNet(**start.net.config)
    net.start_from(start.net)
    images = list(byte_folder(args.images, args.size).values())
    recipe = Recipe(
        batch=args.batch,
        lr=args.lr,
        size=args.size,
        seed=args.seed,
        perceptual=args.perceptual,
        own_path=args.own_path,
        bf16=True,
    )
    run = Training(net, images, recipe, start.record)
    if run.accelerator.device.type == 'cuda':
        net.F.compile(dynamic=False)
    train(run, args.seconds)
    model = run.model(args.about or args.images.name)
    model.record['note'] = (
        'tools/train_by_clock.py: examples made on the GPU; the learning rate followed the '
        'clock: it rose for 3 % of the time and fell for the last 60 %'
    )
    model.to('cpu').save_pretrained(args.out)
    samples = model.record['samples']
    print(f'{len(run.losses)} steps, {samples} patches, the model is in {args.out}')


if __name__ == '__main__':
    main()
