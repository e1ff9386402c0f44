"""Train `vanilla`: plain SR3 from 64² to 256² pixels, as in the paper's appendix B but small.

ε-prediction, y concatenated, linear schedule, t uniform in 1 … T, Eq. B.1. The training is
endless: it stops when it is told to (Ctrl-C, --patches, --minutes), and the same command goes
on. Every `--watch-every` patches it measures samples on crops of photographs that it was not
trained on, and adds a line to a CSV file.
"""

import argparse
import csv
import io
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from odebc.boundary import mean_correlation
from odebc.data import augment, crops, degrade, tiles
from odebc.images import byte_folder, from_bytes, image_folder
from odebc.data import upsample
from odebc.store import as_json, packed_by_torch, Store, unpacked_by_torch, write_atomically
from odebc.metrics import lpips, lpips_model, psnr
from odebc.matrix import candidates, score_matrix
from odebc.engine import facts_of_photographs, interrupts
from odebc.errors import OdebcError
from odebc.sr3 import SR3
from odebc.train import sr3_loss
from odebc.unet import BASE, UNet

LAYOUTS = {
    # the layout of `base` with one group: squares of 2×2 pixels folded into channels
    'folded': BASE | dict(groups=1),
    # the layout of `small-mid`, one level deeper
    'pixels': dict(channels=32, mults=(1, 2, 4, 4), blocks=1, attention=(2, 3), groups=1),
}
# steps over which the learning rate rises, also after a restart with a fresh Adam
WARMUP = 200
DROPPED = 0.1  # share of the examples without their condition (Eq. 7)
SCALE = 4
# facts of a training that may change on the way
FREE = 'plan', 'decay', 'bf16'
PARTS = 'net', 'ema', 'optimizer'
PROGRESS = 'origin', 'steps', 'warm', 'patches', 'seconds', 'losses'


@dataclass(frozen=True)
class Stage:
    "How the patches up to a number are trained on"

    until: float  # patches seen at its end
    size: int  # side of a patch, pixels
    batch: int  # patches per step
    lr: float = 4e-4
    relative: bool = True  # the logarithm of each image's loss; False: Eq. B.1 itself


PLANS = {
    'trial': [Stage(16_000, 64, 16), Stage(20_000, 128, 4)],
    'vanilla': [
        Stage(60_000, 64, 16),
        Stage(400_000, 128, 8),
        Stage(math.inf, 128, 8, 2e-4, relative=False),
    ],
}


def stage_at(plan, patches):
    "The stage that a training is in"
    return next(stage for stage in plan if patches < stage.until)


def examples(images, stage, seed, step, device):
    "Arguments of `sr3_loss` for one step; they depend on (seed, step) alone"
    first, second = np.random.SeedSequence((seed, step)).generate_state(2).tolist()
    places = torch.Generator().manual_seed(first)
    chance = torch.Generator(device).manual_seed(second)
    z = from_bytes(augment(crops(images, stage.batch, stage.size, places), places)).to(device)
    z = z.contiguous(memory_format=torch.channels_last)
    y_up = upsample(degrade(z, SCALE), SCALE)
    t = torch.randint(1, 1001, (len(z),), generator=chance, device=device)
    eps = torch.randn(z.shape, generator=chance, device=device)
    drop = torch.rand(len(z), generator=chance, device=device) < DROPPED
    return z, y_up, t, eps, drop


class Training:
    "Network, optimizer, averaged weights and how far they are"

    def __init__(self, layout, images, plan, seed=0, decay=0.999, bf16=False, device='cpu'):
        torch.manual_seed(seed)
        self.layout = layout
        self.images = images
        self.plan = plan
        self.seed = seed
        self.decay = decay
        self.bf16 = bf16
        self.device = torch.device(device)
        self.net = UNet(**LAYOUTS[layout]).to(self.device, memory_format=torch.channels_last)
        self.origin = None  # record of the weights that the training began with
        self.steps = 0
        self.patches = 0
        self.seconds = 0.0
        self.losses = []  # (patches, mean loss since the last entry)
        self.stores = {}  # path -> Store
        self.refresh()

    def refresh(self):
        "A fresh optimizer, and an average that begins with the weights of now"
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.0)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        self.warm = 0

    def begin_from(self, model):
        "Take another network's weights, as far as it goes; of its own kind, its history too"
        self.net.start_from(model.net)
        record = model.record
        if record.get('layout') == self.layout:
            self.origin = record['start']
            self.steps, self.patches = record['steps'], record['samples']
            self.seconds = 60 * record['minutes']
            self.losses = record['loss']
        else:
            self.origin = record
        self.refresh()

    def step(self):
        "One step; returns the loss as a tensor, which may still be on its way on a GPU"
        stage = stage_at(self.plan, self.patches)
        batch = examples(self.images, stage, self.seed, self.steps, self.device)
        for group in self.optimizer.param_groups:
            group['lr'] = stage.lr * min(1, (self.warm + 1) / WARMUP)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = sr3_loss(self.net, *batch)
        loss = (loss.log() if stage.relative else loss).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update_parameters(self.net)
        self.steps += 1
        self.warm += 1
        self.patches += stage.batch
        return loss.detach()

    @cached_property
    def task(self):
        "What it has in common with the checkpoint that it goes on from, and what is free"
        about = dict(layout=self.layout, seed=self.seed, decay=self.decay, bf16=self.bf16)
        plan = dict(plan=[asdict(stage) for stage in self.plan])
        return as_json(about | plan | self.net.config | facts_of_photographs(self.images))

    def store(self, path):
        "The checkpoint of this training"
        if path not in self.stores:
            how = dict(what='a training', outcome=FREE, read=self.read, pack=packed_by_torch)
            how['remedy'] = (
                'give another folder by --out (--start takes the weights of its model), '
                'or remove it to start anew'
            )
            self.stores[path] = Store(path, self.task, accept=None, **how)
        return self.stores[path]

    def read(self, path):
        "All that changes; earlier versions wrote no more of the task than these three facts"
        content = unpacked_by_torch(path, older=('layout', 'seed', 'plan'))
        for name in (*PARTS, *PROGRESS):
            content.notes[name]  # all is there, before anything is changed
        content.facts = self.task | content.facts
        return content

    def save(self, path):
        "Write the full checkpoint"
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        progress = {name: getattr(self, name) for name in PROGRESS}
        self.store(path).save({}, **parts, **progress)

    def load(self, path):
        "Go on where a checkpoint was written; False where there is none"
        content = self.store(path).load()
        if content is None:
            return False
        for name in PARTS:
            getattr(self, name).load_state_dict(content.notes[name])
        for name in PROGRESS:
            setattr(self, name, content.notes[name])
        return True

    def model(self):
        "The averaged network, with a record of how it came about"
        net = UNet(**LAYOUTS[self.layout])
        net.load_state_dict(self.ema.module.state_dict())
        record = dict(
            data='natural photographs, see DATA in the model card',
            steps=self.steps,
            samples=self.patches,
            minutes=round(self.seconds / 60, 1),
            layout=self.layout,
            plan=[asdict(s) | dict(until=min(s.until, 10**9)) for s in self.plan],
            decay=self.decay,
            torch=torch.__version__,
            loss=self.losses,
            start=self.origin,
        )
        net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        precision = 'bfloat16' if self.bf16 else 'float32'
        return SR3(net, SCALE, 256, record, precision).to(self.device)


def effects(D):
    "Parts of the variance of scores D (K × R): the starts', the images', and what is left"
    K, R = D.shape
    rows, columns = D.mean(1), D.mean(0)
    rest = D - rows[:, None] - columns + D.mean()
    ms_rest = rest.square().sum() / ((K - 1) * (R - 1))
    start = (R * rows.var() - ms_rest) / R
    image = (K * columns.var() - ms_rest) / K
    return start.item(), image.item(), ms_rest.item()


class Watch:
    "Samples on crops of photographs that are not in the training, and what x_T does to them"

    SAMPLERS = 'DDPM-100', 'DDIM-50', 'DPMS-20'

    def __init__(
        self,
        folder,
        crops=12,
        size=256,
        starts=16,
        pairs=8,
        label='DDIM-10',
        sampled=None,
        distance=lpips,
    ):
        images = list(image_folder(folder, size).values())
        z = tiles(images, crops, size, torch.Generator().manual_seed(0))
        self.z, self.y = z, degrade(z, SCALE)
        self.starts, self.pairs, self.label = starts, pairs, label
        self.sampled = sampled or crops  # of them, by each sampler
        self.distance = distance
        self.x_T = candidates(crops, z.shape[1:], seed=7)

    @torch.no_grad()
    def measure(self, model):
        "One line of the CSV"
        everything = self.z.to(model.device), self.y.to(model.device)
        z, y = (part[: self.sampled] for part in everything)
        bicubic = upsample(y, SCALE)
        base = self.distance(bicubic, z).mean().item()
        row = dict(bicubic_lpips=base, bicubic_psnr=psnr(bicubic, z).mean().item())
        for label in self.SAMPLERS:
            parts = tqdm(range(0, len(z), 4), desc=label)
            x = torch.cat([self.sample(model, label, i, y[i : i + 4]) for i in parts])
            row[f'{label}_lpips'] = self.distance(x, z).mean().item()
            row[f'{label}_of_bicubic'] = row[f'{label}_lpips'] / base
            row[f'{label}_psnr'] = psnr(x, z).mean().item()
            row[f'{label}_bias'] = (x - z).mean((2, 3)).square().mean().sqrt().item()
        z, y = (part[: self.pairs] for part in everything)
        x_T = candidates(self.starts, z.shape[1:])
        h = model.solution_map(self.label)
        D = score_matrix(h, x_T, z, y, self.distance, 4)
        start, image, rest = effects(D)
        row['rho'] = mean_correlation(D)
        row['start_share'] = max(start, 0) / (max(start, 0) + max(image, 0) + rest)
        row['start_sd_of_mean'] = max(start, 0) ** 0.5 / D.mean().item()
        row['best_of_mean'] = D.mean(1).min().item() / D.mean().item()
        return {name: round(value, 4) for name, value in row.items()}

    def sample(self, model, label, i, y):
        "Results on some of the crops, from number i on"
        generator = torch.Generator(model.device).manual_seed(i)
        return model.h(self.x_T[i : i + len(y)], y, label, generator)


def clock(device):
    "Seconds of all cores, which a busy machine does not make longer; on a GPU of the wall"
    if device.type == 'cuda':
        return time.monotonic()
    return time.process_time() / torch.get_num_threads()


def add_line(path, row):
    "Add a line to a CSV file; the first one writes the head"
    text = path.read_text(encoding='utf8') if path.exists() else ''
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(row), lineterminator='\n')
    if not text:
        writer.writeheader()
    writer.writerow(row)
    write_atomically(path, (text + buffer.getvalue()).encode())


def watched(training, watch, path):
    "Measure, and add the line"
    stage = stage_at(training.plan, max(training.patches - 1, 0))
    about = dict(
        patches=training.patches,
        minutes=round(training.seconds / 60, 1),
        layout=training.layout,
        size=stage.size,
        loss='log' if stage.relative else 'B.1',
    )
    row = about | watch.measure(training.model())
    add_line(path, row)
    print(json.dumps(row), flush=True)


def last_watched(path, layout):
    "Patches at the last line of a layout, 0 without one"
    if not path.exists():
        return 0
    with path.open(encoding='utf8', newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['layout'] == layout]
    return max((int(row['patches']) for row in rows), default=0)


def train(
    training, folder, limit, watch=None, log=None, every=50_000, minutes=5.0, seconds=math.inf
):
    "Until the limit of patches or seconds, or an interrupt"
    checkpoint = folder / 'checkpoint.pt'
    began = saved = time.monotonic()
    recent = []
    if watch and training.patches // every > last_watched(log, training.layout) // every:
        watched(training, watch, log)  # it was stopped while it was measured
    bar = tqdm(
        total=None if math.isinf(limit) else limit,
        initial=training.patches,
        unit='patch',
        desc='train',
        mininterval=2,
    )
    with interrupts() as asked, bar:
        while training.patches < limit and time.monotonic() - began < seconds and not asked:
            start = clock(training.device)
            before = training.patches
            recent.append(training.step())
            if len(recent) == 50:
                loss = torch.stack(recent).mean().item()
                recent.clear()
                if not math.isfinite(loss):
                    raise SystemExit(
                        f'the loss is {loss}: lower the learning rate; '
                        f'{checkpoint} is still good'
                    )
                training.losses.append([training.patches, round(loss, 5)])
                bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            training.seconds += clock(training.device) - start
            bar.update(training.patches - before)
            if watch and training.patches // every > before // every:
                training.save(checkpoint)
                watched(training, watch, log)
                training.model().save_pretrained(folder / 'model')
            if time.monotonic() - saved > 60 * minutes:
                training.save(checkpoint)
                saved = time.monotonic()
    training.save(checkpoint)
    training.model().save_pretrained(folder / 'model')
    return not asked


def arguments():
    "Of the command"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=Path, required=True, help='folder of photographs')
    parser.add_argument(
        '--watch', type=Path, help='folder of other photographs to watch it on'
    )
    parser.add_argument('--watch-every', type=int, default=50_000, help='patches')
    parser.add_argument('--sampled', type=int, help='crops that each sampler is watched on')
    parser.add_argument(
        '--out', type=Path, default=Path('runs/vanilla'), help='for the checkpoint'
    )
    parser.add_argument(
        '--log',
        type=Path,
        default=Path('data/vanilla/watch.csv'),
        help='CSV of what was watched',
    )
    parser.add_argument('--layout', choices=LAYOUTS, default='pixels')
    parser.add_argument('--plan', choices=PLANS, default='vanilla')
    parser.add_argument('--start', help='a shipped model, or a folder: weights to begin with')
    parser.add_argument('--patches', type=float, default=math.inf, help='stop after so many')
    parser.add_argument('--minutes', type=float, default=math.inf, help='stop after so many')
    parser.add_argument('--decay', type=float, default=0.999, help='of the average, per step')
    parser.add_argument(
        '--save-every', type=float, default=5, help='minutes between checkpoints'
    )
    parser.add_argument('--batch', type=int, help='patches per step; of the plan by default')
    parser.add_argument('--lr', type=float, help='learning rate; of the plan by default')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--bf16', action='store_true', help='bfloat16 in the network')
    parser.add_argument('--compile', action='store_true', help='compile the network: for GPUs')
    return parser.parse_args()


def run(args):
    "Train as the command says; False where it was interrupted"
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    asked = dict(batch=args.batch, lr=args.lr)
    changes = {name: value for name, value in asked.items() if value}
    plan = [replace(stage, **changes) for stage in PLANS[args.plan]]
    images = list(byte_folder(args.images, max(stage.size for stage in plan)).values())
    training = Training(args.layout, images, plan, args.seed, args.decay, args.bf16, device)
    if training.load(args.out / 'checkpoint.pt'):
        print(f'going on after {training.patches:,} patches', flush=True)
    elif args.start:
        training.begin_from(SR3.from_pretrained(args.start))
        print(f'beginning with the weights of {args.start}', flush=True)
    if args.compile:
        training.net.F.compile(dynamic=False)
    watch = Watch(args.watch, sampled=args.sampled) if args.watch else None
    if watch:
        lpips_model()  # refuses now, not after the training, where its weights are missing
    finished = train(
        training,
        args.out,
        args.patches,
        watch,
        args.log,
        args.watch_every,
        args.save_every,
        60 * args.minutes,
    )
    print(
        f'{training.patches:,} patches in {training.seconds / 60:.1f} minutes; '
        f'the model is in {args.out}/model'
    )
    return finished


def main():
    try:
        finished = run(arguments())
    except OdebcError as refusal:
        raise SystemExit(str(refusal)) from None
    if not finished:
        raise SystemExit(130)


if __name__ == '__main__':
    main()
