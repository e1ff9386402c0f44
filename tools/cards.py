"""Write a card beside each network that ships, `data/<name>/README.md`, from its records: what
it is, what it learnt from, what x_T does to it, and where it ends.
"""

import json
from itertools import takewhile
from pathlib import Path
from safetensors.torch import load_file
from odebc.sr3 import SR3
from odebc.variance import parts, worth, Worth

DATA = Path(__file__).parents[1] / 'data'
PHOTOGRAPHS = """| photographs | how many | terms |
| --- | --- | --- |
| BSDS500, train and test | 399 | for non-commercial research and education |
| CID22 and gb82 | 204 | CC BY-SA 4.0; CC0 |
| wallpapers of free software projects | 170 | CC0, CC BY, CC BY-SA, Unsplash |"""
FOR = {
    'small': 'Searches and figures that should be quick: the network of the course.',
    'small-mid': (
        'Seeing what $x_T$ can do: brightness, tint and grain of the result depend on it, in '
        "the same way for all pictures. It is the paper's mid-training case."
    ),
    'base': 'Enlarging pictures, from 64×64 to 256×256 and, tile by tile, of any size.',
    'vanilla': (
        "Seeing what a start does at the paper's own size, in a plain network as the paper's."
    ),
    'real': 'Seeing what a start does where pictures are blurred, noisy and compressed.',
    'grey': 'Seeing what a start does in another task: it colours a grey picture.',
    'dark': 'Seeing what a start does in another task: it brightens a dark, noisy picture.',
}
LIMITS = {
    'small': (
        'It saw patches of 64×64 pixels and nothing larger. It draws edges and texture, but '
        'faces and fine patterns are beyond it.'
    ),
    'small-mid': (
        'Do not enlarge pictures with it: its training was stopped early, and ODE solvers '
        'leave grain.'
    ),
    'base': (
        'Many-step ODE solvers are no better than DDIM-20. It makes detail up: do not use it '
        'where a picture is evidence.'
    ),
    'vanilla': (
        'Its training was short, and went on from `real`, so from `base`, which had learnt '
        'otherwise (residual, with LPIPS in its loss). Its results are grainy: multiply $x_T$ '
        'by .98, or take the Gaussian guess. To enlarge pictures, take `base`.'
    ),
    'real': (
        'It has barely begun to learn: results look painted. To enlarge pictures of cameras, '
        'take a network such as Real-ESRGAN.'
    ),
    'grey': (
        'It knows light and shapes, and next to nothing of which colour belongs where: the '
        'colours of a result are those of its start.'
    ),
    'dark': (
        'Fine detail goes with the noise, and the tint of a result is that of its start.'
    ),
}
REDUCED = (
    ' It was trained on bicubic reduction: noise, JPEG and blur of real cameras it does\n'
    'not know.'
)
MATRICES = {
    'small': 'results/small/matrix.safetensors',
    'small-mid': 'results/small-mid/matrix.safetensors',
    'base': 'base/matrix.safetensors',
}
CARD = """---
license: apache-2.0
library_name: odebc
pipeline_tag: image-to-image
tags: [super-resolution, diffusion, sr3]
---

# odebc {name}

{use} {task}

```py
from odebc.sr3 import SR3

model = SR3.from_pretrained('{name}')
x_0 = model.h(x_T, y, 'DDIM-20')  # images (B, 3, H, W) in [-1, 1]
```

## Form

{form} network of SR3's kind, {count:.2f} M parameters, on the {schedule} schedule.
Trained on {samples:,} patches, in {hours:.1f} hours{begun}; the loss was {loss}.

## Training photographs

{photographs}

{note}None of the photographs that come with odebc, of Set5, Set14, BSD100 and Urban100
was among them. The weights are given under Apache-2.0; whether terms of training
photographs reach weights is an open question, and who needs certainty for a product
should ask a lawyer, or train again (`odebc train`).

## What it can do

{quality}

## What x_T does

{starts}

## Limits

{limits}

## How to cite

As [odebc](https://github.com/odebc/odebc), see `CITATION.cff` there, and the paper: Ma et
al., *Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image
Super-Resolution*, ICLR 2024.
"""


def told(path):
    return json.loads((DATA / path).read_text(encoding='utf8'))


def sittings(record):
    return [*(sittings(record['start']) if record.get('start') else []), record]


def loss(recipe):
    terms = ['the log of each squared error' if recipe.get('relative') else 'squared error']
    terms += ['LPIPS'] if recipe.get('perceptual') else []
    terms += ['the same on its own path'] if recipe.get('own_path') else []
    return ', '.join(terms)


def begun(record, other):
    "How much of it was training for its own task, where it began with the weights of another"
    tasks = [one['recipe'].get('task', 'bicubic') for one in sittings(record)]
    if len(set(tasks)) == 1:
        return ''
    own = takewhile(lambda n: tasks[n] == tasks[-1], reversed(range(len(tasks))))
    own = [sittings(record)[n] for n in own]
    samples, minutes = (sum(one[what] for one in own) for what in ('samples', 'minutes'))
    return (
        f' (it began with the weights of `{other}`;\n'
        f'{samples:,} patches and {minutes:.0f} minutes of them were for its own task)'
    )


AGREE = """\
ρ = {rho.value:.2f} ({rho.low:.2f} … {rho.high:.2f}): how well two pictures agree about
starts ({K} starts on {R} crops, {sampler}). The best of 200, chosen by {by} pairs, should
take {gain.value:.0%} ({gain.low:.0%} … {gain.high:.0%}) from the LPIPS of random starts,
at {size}×{size} pixels."""


def quality(name, model):
    rows = [r for r in told(f'{name}/evaluation.json') if r['images'] == 'BSD100']
    rows = [r for r in rows if r.get('weights') == model.fingerprint and not r.get('squares')]
    crops = max(r['crops'] for r in rows)
    rows = [r for r in rows if r['crops'] == crops and r['sampler'] != 'bicubic']
    shares = '; '.join(f'{r["sampler"]} {r["ratio"]:.2f}' for r in rows)
    return f"LPIPS on {crops} crops of BSD100, as a share of bicubic's: {shares}."


def agreement(name, model):
    D = load_file(DATA / MATRICES[name])['LPIPS']
    found = worth(parts(D), 200, 16)
    how = dict(K=D.shape[0], R=D.shape[1], sampler='DDIM-10', by=16, size=model.size)
    return AGREE.format(rho=found.rho, gain=found.share, **how)


def quality_of_task(name):
    rows = told('search/searches.json')['networks'][name]['rows']
    best = min(
        (label for label in rows if label.startswith('DDPM')), key=lambda x: mean(rows[x])
    )
    names = {
        'y': 'y as it is',
        'nothing': 'DDIM-20, random starts',
        'mean of x_T removed': 'the same, without the means of each start',
        'x̃_T, nothing': 'five starts found',
        best: best,
    }
    shares = '; '.join(f'{what} {mean(rows[row]):.3f}' for row, what in names.items())
    return f'LPIPS on a patch of each of 100 photographs of BSD100: {shares}.'


def quality_of_real():
    rows = told('results/real.json')
    bicubic = rows['others']['bicubic']
    own = rows['networks']['real']['rows']
    shares = '; '.join(
        f'{name} {mean_of(row):.3f}' for name, row in (dict(bicubic=bicubic) | own).items()
    )
    count = len(rows['photographs'])
    return f'LPIPS on {count} crops of BSD100 and Urban100: {shares}.'


def mean_of(row):
    "Over draws and crops"
    values = [value for draw in row['lpips'] for value in draw]
    return sum(values) / len(values)


def mean(row):
    return sum(row['lpips']) / len(row['lpips'])


def agreement_of_task(name, model):
    found = told('search/diagnoses.json')[name]
    forecast = Worth.of(found['worth'])
    how = dict(K=len(found['scores']), R=len(found['scores'][0]), sampler=found['sampler'])
    how |= dict(by=forecast.R, size=model.size)
    return AGREE.format(rho=forecast.rho, gain=forecast.share, **how)


CORNER = """\
{sampler}: ρ = {rho[0]:.2f} ({rho[1]:.2f} … {rho[2]:.2f}), {starts} starts on {pairs} training
photographs; a search should take {share[0]:.1%} ({share[1]:.1%} … {share[2]:.1%}) from the
LPIPS of random starts."""


def agreement_of_real():
    corners = told('results/real.json')['networks']['real']['corners']
    return '\n\n'.join(CORNER.format(sampler=label, **one) for label, one in corners.items())


def of_map(name):
    "The network at its own size, in the map of networks and sizes"
    place = told(f'search/map-{name}.json')['places'][-1]
    found = Worth.of(place['worth'])
    guess = place['tricks']['Gaussian guess'][0] / place['mean']
    how = dict(K=24, R=12, sampler='DDIM-10', by=found.R, size=place['size'])
    starts = AGREE.format(rho=found.rho, gain=found.share, **how)
    free = f'The Gaussian guess (`odebc.sr3.gaussian_first`), without a search: {guess:.0%}.'
    able = (
        f"LPIPS on 12 crops of the seven photographs that come with odebc: bicubic "
        f"{place['bicubic']:.3f}; DDIM-10, random starts {place['mean']:.3f}."
    )
    return able, f'{starts}\n\n{free}'


TINT = ' What differs is mostly brightness and tint: the three means of $x_T$ decide them.'


def evidence(name, model):
    "What it can do, and what x_T does"
    if name == 'vanilla':
        return of_map(name)
    if model.task.name == 'bicubic':
        return quality(name, model), agreement(name, model)
    if model.task.name == 'real':
        return quality_of_real(), agreement_of_real()
    return quality_of_task(name), agreement_of_task(name, model) + TINT


def card(name):
    model = SR3.from_pretrained(name)
    record = model.record
    size, bicubic = model.size, model.task.name == 'bicubic'
    able, starts = evidence(name, model)
    small = size // model.scale
    some = f'At last on {record["images"]} of them. ' if record['images'] < 773 else ''
    return CARD.format(
        name=name,
        use=FOR[name],
        task=f'From {small}×{small} to {size}×{size} pixels, of pictures '
        + ('reduced by bicubic.' if bicubic else f'{model.task.what}.'),
        form='A plain' if model.net.s is None else 'A residual',
        count=sum(p.numel() for p in model.net.parameters()) / 1e6,
        schedule=model.net.config['schedule'],
        samples=model.samples,
        hours=sum(s['minutes'] for s in sittings(record)) / 60,
        begun=begun(record, 'real' if name == 'vanilla' else 'base'),
        loss=loss(record['recipe']),
        photographs=PHOTOGRAPHS,
        note=some,
        quality=able,
        starts=starts,
        limits=LIMITS[name] + (REDUCED if bicubic else ''),
    )


if __name__ == '__main__':
    for name in FOR:
        (DATA / name / 'README.md').write_text(card(name), encoding='utf8')
