"""Train LPIPS-lite, the stand-in for LPIPS: outputs of SR models at many qualities,
distortions, and real LPIPS as the teacher.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from scipy.stats import spearmanr
from torch import nn
from torch.nn.utils import parametrize
from tqdm import tqdm
from odebc import data
from odebc.data import augment, crops, degrade, upsample
from odebc.identity import digest
from odebc.images import from_bytes, image_folder, to_bytes
from odebc.store import write_atomically
from odebc.metrics import dssim, import_torchvision, LowRankAlexNet, LPIPS, lpips_model, psnr
from odebc.matrix import candidates
from odebc.sr3 import SR3

import_torchvision()
from torchvision.transforms.functional import gaussian_blur  # noqa: E402

LABELS = 'DDIM-4 DDIM-5 DDIM-6 DDIM-8 DDIM-10 DDIM-14 DDIM-20 DPMS-8 DPMS-12'.split()


def uniform(g, low, high):
    return low + (high - low) * torch.rand((), generator=g).item()


def log_uniform(g, low, high):
    return math.exp(uniform(g, math.log(low), math.log(high)))


def pick(g, options):
    return options[int(torch.randint(len(options), (), generator=g))]


# Distortions (B, 3, H, W) -> (B, 3, H, W); their strength is drawn anew for each batch


def blur(x, g):
    return gaussian_blur(x, 13, log_uniform(g, 0.4, 3))


def noise(x, g):
    return x + log_uniform(g, 0.01, 0.4) * torch.randn(x.shape, generator=g)


def patchy(x, g):
    strength = log_uniform(g, 0.02, 0.4)
    spots = torch.randn(*x.shape[:2], 6, 6, generator=g)
    return x + strength * F.interpolate(spots, size=x.shape[2:], mode='bicubic')


def colour(x, g):
    return x + log_uniform(g, 0.02, 0.5) * torch.randn(len(x), 3, 1, 1, generator=g)


def contrast(x, g):
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * log_uniform(g, 0.4, 2) + uniform(g, -0.3, 0.3)


def jpeg(x, g):
    return data.jpeg(x, int(log_uniform(g, 4, 95)))


def bicubic(x, g):
    side = round(x.shape[2] / log_uniform(g, 1.3, 8))
    small = F.interpolate(x, size=[side, side], mode='bicubic', antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode='bicubic')


def shift(x, g):
    i, j = (int(torch.randint(7, (), generator=g)) for _ in range(2))
    wide = F.pad(x, (3, 3, 3, 3), mode='replicate')
    return wide[..., i : i + x.shape[2], j : j + x.shape[3]]


def pixelate(x, g):
    k = pick(g, (2, 4, 8))
    return F.interpolate(F.avg_pool2d(x, k), scale_factor=k)


def posterise(x, g):
    n = pick(g, range(2, 9))
    return ((x + 1) / 2 * n).round() / n * 2 - 1


def pepper(x, g):
    chance = torch.rand(len(x), 1, *x.shape[2:], generator=g)
    hit = chance < log_uniform(g, 0.003, 0.1)
    return torch.where(hit, torch.randn(x.shape, generator=g).sign(), x)


SEEN = blur, noise, patchy, colour, contrast, jpeg, bicubic, shift
UNSEEN = pixelate, posterise, pepper


def blend(x, g):
    "Versions of one photograph (n, m, 3, H, W) mixed in pairs, with a weight for each place"
    middle = uniform(g, -1, 1)
    hills = torch.randn(1, 1, 4, 4, generator=g)
    w = (middle + 3 * F.interpolate(hills, size=x.shape[3:], mode='bicubic')).sigmoid()
    return w * x + (1 - w) * x[:, torch.randperm(x.shape[1], generator=g)]


# Images to compare


@torch.no_grad()
def sample(models, images, n, m, path):
    """n photographs and m outputs of each; a model, a sampler and starting noises for each
    batch, a quarter of them scaled by τ in 0 … 1.1
    """
    g = torch.Generator().manual_seed(0)
    parts = []
    for step in tqdm(range(n // 4), desc='sample', unit='batch'):
        model = pick(g, models)
        label = pick(g, LABELS)
        z = crops(images, 4, 64, g)
        scaled = torch.rand(4 * m, generator=g) < 0.25
        tau = torch.where(scaled, 1.1 * torch.rand(4 * m, generator=g), 1.0)
        x_T = candidates(4 * m, z.shape[1:], seed=10_000 + step) * tau.view(-1, 1, 1, 1)
        x = model.h(x_T, degrade(z).repeat_interleave(m, 0), label)
        parts.append(torch.cat([z[:, None], x.unflatten(0, (4, m))], 1))
    write_atomically(path, save(dict(groups=to_bytes(torch.cat(parts)))))


@torch.no_grad()
def sample_test(model, images, n, K, labels, path):
    "The use: K candidates on each of n photographs that no training has seen"
    z = crops(images, n, 64, torch.Generator().manual_seed(1))
    y = degrade(z)
    x_T = candidates(K, z.shape[1:], seed=3)

    def solve(y, label):
        parts = [model.h(x, y.expand(len(x), -1, -1, -1), label) for x in x_T.split(20)]
        return torch.cat(parts)

    kept = dict(z=z)
    for label in labels:
        kept[label] = torch.stack([solve(one, label) for one in tqdm(y, desc=label)])
    write_atomically(path, save({name: to_bytes(x) for name, x in kept.items()}))


def distort(x, kinds, g):
    return pick(g, kinds)(x, g).clamp(-1, 1)


def borrow(groups, images, g):
    "New photographs with what the models added to others: versions that no model made"
    size = groups.shape[-1]
    donors = groups[torch.randint(len(groups), (2,), generator=g)]
    z = crops(images, 2, size, g)
    add = from_bytes(donors[:, 1:]) - upsample(degrade(from_bytes(donors[:, 0])))[:, None]
    shifts = [int(torch.randint(size, (), generator=g)) for _ in range(2)]
    add = add.roll(shifts, (-2, -1)) * log_uniform(g, 0.4, 1.6)
    return torch.cat([z[:, None], upsample(degrade(z))[:, None] + add], 1)


def worsen(images, size, g):
    "Photographs, each distorted twice, eight times over"
    z = crops(images, 2, size, g)
    return torch.stack([z] + [distort(distort(z, SEEN, g), SEEN, g) for _ in range(8)], 1)


def batch(groups, images, g):
    """(n, m, 3, H, W), versions of n photographs: the photograph, model outputs or the like,
    their blends, and 5 distortions
    """
    chance = torch.rand((), generator=g)
    if chance < 0.4:
        x = from_bytes(groups[torch.randint(len(groups), (2,), generator=g)])
    elif chance < 0.85:
        x = borrow(groups, images, g)
    else:
        x = worsen(images, groups.shape[-1], g)
    # the same turn, colours and contrast for all versions
    x = augment(x.flatten(1, 2), g).unflatten(1, x.shape[1:3])
    x = x[:, :, torch.randperm(3, generator=g)] * uniform(g, 0.5, 1.1)
    x = (x + uniform(g, -0.2, 0.2)).clamp(-1, 1)
    x = torch.cat([x, blend(x[:, 1:], g)], 1)

    def worse():
        return distort(x[:, pick(g, (0, 0, 1, 2, 3, 4))], SEEN, g)

    return torch.cat([x] + [worse()[:, None] for _ in range(5)], 1)


# Training


class Whiten(nn.Module):
    """Weights, times the inverse root of the patches' second moments: where patches are round,
    descent is quick
    """

    def __init__(self, moments):
        super().__init__()
        values, axes = torch.linalg.eigh(moments / moments.diag().mean())
        self.register_buffer('root', axes / (values + 1e-4).sqrt() @ axes.T)

    def forward(self, weight):
        return (weight.flatten(1) @ self.root).view_as(weight)


@torch.no_grad()
def whiten(layer, inputs):
    "Give the first convolution of a layer whitened weights, by what it sees of inputs"
    i = next(i for i, m in enumerate(layer) if isinstance(m, nn.Conv2d))
    conv = layer[i]
    size = conv.kernel_size
    x = F.unfold(layer[:i](inputs), size, padding=size[0] // 2, stride=conv.stride)
    moments = torch.einsum('bpn,bqn->pq', x, x)
    parametrize.register_parametrization(conv, 'weight', Whiten(moments))
    return conv


@torch.no_grad()
def pool(groups, images, n, teacher):
    """Images of n batches, and the teacher's maps of them; a quarter of the batches has noise,
    which shows the filters everything
    """
    parts = []
    for i in tqdm(range(n), desc='maps', unit='batch'):
        g = torch.Generator().manual_seed(i)
        x = batch(groups, images, g).flatten(0, 1)
        if i % 4 == 0:
            x = (x + uniform(g, 0, 0.5) * torch.randn(x.shape, generator=g)).clamp(-1, 1)
        parts.append([x, *teacher.trunk(x)])
    return [torch.cat(p) for p in zip(*parts)]


def unlike(ours, aims):
    return F.mse_loss(ours, aims) / aims.var()


def learn(layer, x, y, weigh, steps, name):
    """A layer learns the teacher's map y, as it is and as it is weighed, from the teacher's
    map below, x; the losses of every 50 steps
    """
    conv = whiten(layer, x[:2000])
    g = torch.Generator().manual_seed(0)
    history = []

    def factor(k):
        return min((k + 1) / 20, (1 + math.cos(math.pi * k / steps)) / 2)

    def means(i):
        return [sum(t) / 50 for t in zip(*history[i : i + 50])]

    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    bar = tqdm(range(steps), desc=name, mininterval=5)
    for _ in bar:
        i = torch.randint(len(x), (64,), generator=g)
        ours, aim = layer(x[i]), y[i]
        terms = unlike(ours, aim), unlike(weigh(ours), weigh(aim))
        optimizer.zero_grad()
        sum(terms).backward()
        optimizer.step()
        schedule.step()
        history.append([t.item() for t in terms])
        if len(history) % 50 == 0:
            bar.set_postfix_str('{:.4f} {:.4f}'.format(*means(len(history) - 50)))
    parametrize.remove_parametrizations(conv, 'weight')
    return [[round(t, 5) for t in means(i)] for i in range(0, steps, 50)]


def train(groups, images, batches, steps):
    "Layer by layer, on the teacher's maps: minutes on one core"
    teacher = lpips_model()
    start = time.monotonic()
    student = LPIPS(LowRankAlexNet(), [r.detach() ** 2 for r in teacher.roots])
    x, *maps = pool(groups, images, batches, teacher)
    inputs = [(x - student.trunk.shift) / student.trunk.scale, *maps[:-1]]

    def weigh(r):
        weights = r.detach().view(-1, 1, 1)
        return lambda f: f * weights / (f.square().sum(1, keepdim=True) + 1e-10).sqrt()

    tasks = zip(student.trunk.layers, inputs, maps, teacher.roots)
    history = [
        learn(layer, a, b, weigh(r), steps, f'layer {i}')
        for i, (layer, a, b, r) in enumerate(tasks, 1)
    ]
    return student.eval().requires_grad_(False), history, time.monotonic() - start


# Agreement with LPIPS on photographs that no training has seen


def rank_correlation(a, b):
    return round(spearmanr(a, b).statistic.item(), 4)


@torch.no_grad()
def agreement(student, path):
    """Spearman's ρ with LPIPS for the student, for LPIPS of mirrored images, DSSIM and PSNR,
    and points to draw
    """
    data = {k: from_bytes(v) for k, v in load_file(path).items()}
    z = data.pop('z')
    g = torch.Generator().manual_seed(0)
    metrics = {
        'LPIPS': lpips_model(),
        'LPIPS-lite': student,
        'mirrored': lambda a, b: lpips_model()(a.flip(-1), b.flip(-1)),
        'DSSIM': dssim,
        'PSNR': lambda a, b: -psnr(a, b),
    }

    def scores(x, metric):
        pairs = zip(x, z)
        return torch.stack([metric(of_one, to.expand_as(of_one)) for of_one, to in pairs])

    versions = dict(data)
    for kind in SEEN + UNSEEN:
        six = [kind(z, g).clamp(-1, 1) for _ in range(6)]
        versions[kind.__name__] = torch.stack(six, 1)
    D = {}
    for name, metric in metrics.items():
        D[name] = {k: scores(x, metric) for k, x in versions.items()}
    real = D['LPIPS']
    table = {}

    def add(row, f):
        "f(scores) for each metric; scores are of photographs × versions, by kind of version"
        table[row] = {name: round(f(d), 4) for name, d in D.items() if name != 'LPIPS'}

    def within(d, label):
        values = [*map(rank_correlation, d[label], real[label])]
        return sum(values) / len(values)

    def all_images(d):
        return torch.cat([v[:, :6].flatten() for v in d.values()])

    def unseen(d):
        return torch.cat([d[kind.__name__].flatten() for kind in UNSEEN])

    def means(d, label):
        "Over photographs, for each x_T: what the search minimises"
        return d[label].mean(0), real[label].mean(0)

    def gain(ours, m):
        return ((m.mean() - m[ours.argmin()]) / (m.mean() - m.min())).item()

    for label in data:
        add(f'within a photograph, {label}', lambda d: within(d, label))
    add('over all images', lambda d: rank_correlation(all_images(d), all_images(real)))
    add('unseen distortions', lambda d: rank_correlation(unseen(d), unseen(real)))
    for label in data:
        add(f'mean over photographs, {label}', lambda d: rank_correlation(*means(d, label)))
    for label in data:
        add(f'gain of the choice, {label}', lambda d: gain(*means(d, label)))

    points = {}
    for k in versions:
        both = [D[name][k][:, :2].flatten() for name in ('LPIPS', 'LPIPS-lite')]
        pairs = torch.stack(both, 1).tolist()
        points[k] = [[round(v, 4) for v in pair] for pair in pairs]
    return table, points


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', required=True, help='folder of photographs to train on')
    parser.add_argument(
        '--test', help='folder of other photographs, to measure the agreement on'
    )
    parser.add_argument(
        '--models',
        nargs='+',
        default=['small', 'small-mid'],
        help='SR models whose outputs are compared',
    )
    parser.add_argument(
        '--photographs', type=int, default=480, help='whose outputs are sampled'
    )
    parser.add_argument('--batches', type=int, default=300, help='of images to learn from')
    parser.add_argument('--steps', type=int, default=1300, help='for each layer')
    parser.add_argument('--data', default='', help='what the photographs are, for the record')
    parser.add_argument(
        '--out', type=Path, default='data/lpips_lite', help='folder for the result'
    )
    parser.add_argument(
        '--work',
        type=Path,
        default='runs/lpips_lite',
        help='folder for samples; those in it are used again, whatever the models',
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    images = list(image_folder(args.images, 128).values())
    path = args.work / 'train.safetensors'
    if not path.exists():
        models = [SR3.from_pretrained(m) for m in args.models]
        sample(models, images, args.photographs, 8, path)
    groups = load_file(path)['groups']
    student, history, seconds = train(groups, images, args.batches, args.steps)
    record = dict(
        data=args.data,
        models=args.models,
        photographs=len(images),
        sampled=args.photographs,
        batches=args.batches,
        steps=args.steps,
        minutes=round(seconds / 60, 1),
        parameters=sum(p.numel() for p in student.parameters()),
        hardware=f'{platform.machine()} CPU, {torch.get_num_threads()} thread(s)',
        torch=torch.__version__,
        loss=history,
    )
    if args.test:
        path = args.work / 'test.safetensors'
        if not path.exists():
            model = SR3.from_pretrained(args.models[0])
            photos = list(image_folder(args.test).values())
            sample_test(model, photos, 24, 40, ['DDIM-10', 'DDIM-20'], path)
        # as it will be shipped
        student.load_state_dict({k: v.half().float() for k, v in student.state_dict().items()})
        record['agreement'], record['points'] = agreement(student, path)
        record['weights'] = digest(*student.state_dict().values())
        print(json.dumps(record['agreement'], indent=1))
    weights = {k: v.half().contiguous() for k, v in student.state_dict().items()}
    write_atomically(args.out / 'lpips_lite.safetensors', save(weights))
    write_atomically(args.out / 'config.json', json.dumps(dict(ranks=[96, 72, 72])).encode())
    write_atomically(args.out / 'record.json', json.dumps(record).encode())


if __name__ == '__main__':
    main()
