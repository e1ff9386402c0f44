"""The degradation of Real-ESRGAN: what is drawn, and in which order, beside what is published
(Wang et al., 2021; the configuration of x4plus). Many histories are written down as they
happen; the numbers below are typed in, not imported.
"""

import math
import re
from dataclasses import dataclass
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare, kstest
from odebc import degradations
from odebc.data import photographs
from odebc.degradations import blur, degradation_stages, realistic

HISTORIES = 800
# with the seed below the least of all p is .066
LEAST = 1e-3
# long and low: its width tells factors to a thousandth, and it has few pixels
SHAPE = 8, 1024
BLUR = 'gaussian', 'plateau', 'sinc'
ROUNDS = [0, 1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass
class Event:
    "A step, as the picture met it"

    kind: str  # blur, resize, noise or jpeg
    how: dict


def on_record(events, patch):
    "Every step from now on is written down, before it is done"

    def wrap(name, kind, read):
        inner = getattr(degradations, name)

        def recorded(*args, **options):
            events.append(Event(kind, read(*args, **options)))
            return inner(*args, **options)

        patch.setattr(degradations, name, recorded)
        return recorded

    def shape(name):
        def read(sigma, angle=0.0, size=21, beta=1.0):
            return dict(profile=name, sigma=sigma, angle=angle, size=size, beta=beta)

        return read

    kernels = {
        degradations.gaussian_kernel: wrap('gaussian_kernel', 'blur', shape('gaussian')),
        degradations.plateau_kernel: wrap('plateau_kernel', 'blur', shape('plateau')),
    }
    profiles = tuple((c, kernels[f], *rest) for c, f, *rest in degradations.PROFILES)
    patch.setattr(degradations, 'PROFILES', profiles)

    def sinc(cutoff, size=21):
        return dict(profile='sinc', cutoff=cutoff, size=size)

    def gaussian(x, sigma, generator, channels=3):
        return dict(law='gaussian', strength=sigma, channels=channels)

    def poisson(x, photons, generator, channels=3):
        # published as a factor to the noise of 256 photons
        return dict(law='poisson', strength=(256 / photons) ** 0.5, channels=channels)

    wrap('sinc_kernel', 'blur', sinc)
    wrap('resize', 'resize', lambda x, size, mode='bicubic': dict(size=size, mode=mode))
    wrap('gaussian_noise', 'noise', gaussian)
    wrap('poisson_noise', 'noise', poisson)
    wrap('jpeg', 'jpeg', lambda x, quality: dict(quality=quality))


def histories_of(z, scale, n, generator):
    "What happens to z, n times"
    events, all_of_them = [], []
    with pytest.MonkeyPatch.context() as patch:
        on_record(events, patch)
        for _ in range(n):
            events.clear()
            degradation_stages(z, scale, generator)
            all_of_them.append(list(events))
    return all_of_them


@pytest.fixture(scope='module')
def histories():
    z = photographs()['coffee'][None, :, :8, :].repeat(1, 1, 1, 4)[..., :1024]
    assert z.shape[-2:] == SHAPE
    return histories_of(z, 4, HISTORIES, seeded(11))


def nth(histories, kind, n):
    "The step of a kind in the first or the second round, where there is one"
    found = ([e.how for e in history if e.kind == kind] for history in histories)
    return [steps[n] for steps in found if len(steps) > n]


def blurs(histories, n):
    "Of the first or the second round; the second is left out one time in five"
    found = []
    for history in histories:
        kinds = [event.kind for event in history]
        place = 0 if n == 0 else kinds.index('jpeg') + 1
        if kinds[place] == 'blur':
            found.append(history[place].how)
    return found


def last_blurs(histories):
    "The sharpening"
    ends = [history[second_noise(history) + 1 :] for history in histories]
    return [e.how for end in ends for e in end if e.kind == 'blur']


def second_noise(history):
    return [i for i, event in enumerate(history) if event.kind == 'noise'][1]


def is_uniform(values, low, high):
    values = torch.tensor(values, dtype=torch.float64)
    assert len(values) > 60
    assert values.min() >= low and values.max() <= high
    p = kstest(values.numpy(), 'uniform', (low, high - low)).pvalue
    print(f'{len(values)} values in {low:.3f} … {high:.3f}: p = {p:.3g}')
    assert p > LEAST, (low, high, p)


def has_shares(found, shares):
    "How often what occurs"
    assert set(found) <= set(shares)
    counts = [found.count(name) for name in shares]
    p = chisquare(counts, [share * len(found) for share in shares.values()]).pvalue
    print(f'{dict(zip(shares, counts))}: p = {p:.3g}')
    assert p > LEAST, (counts, p)


# blur (always the first time), resize, noise, JPEG; a second time; then one of the two ends
ORDER = re.compile('(BRNJ)(B?RN)(RB?J|JRB?)')


def letters(history):
    return ''.join({'jpeg': 'J'}.get(e.kind, e.kind[0].upper()) for e in history)


def test_the_steps_come_in_the_published_order(histories):
    matches = [ORDER.fullmatch(letters(history)) for history in histories]
    assert all(matches), {letters(h) for h, m in zip(histories, matches) if not m}
    has_shares([m[2] for m in matches], {'BRN': 0.8, 'RN': 0.2})
    ends = {'RBJ': 0.4, 'RJ': 0.1, 'JRB': 0.4, 'JR': 0.1}
    has_shares([m[3] for m in matches], ends)


@pytest.mark.parametrize('n, widest', [(0, 3.0), (1, 1.5)])
def test_widths_of_the_blur(histories, n, widest):
    found = [b for b in blurs(histories, n) if b['profile'] != 'sinc']
    is_uniform([b['sigma'][0] for b in found], 0.2, widest)
    turned = [b for b in found if b['sigma'][0] != b['sigma'][1]]
    is_uniform([b['sigma'][1] for b in turned], 0.2, widest)
    is_uniform([b['angle'] for b in turned], -math.pi, math.pi)


@pytest.mark.parametrize('n', ROUNDS)
def test_kinds_and_sizes_of_the_blur(histories, n):
    found = blurs(histories, n)
    has_shares([b['profile'] == 'sinc' for b in found], {True: 0.1, False: 0.9})
    has_shares([b['size'] for b in found], {size: 1 / 8 for size in range(7, 22, 2)})

    def kind(b):
        name = 'plain' if b['beta'] == 1 else 'generalised'
        name = name if b['profile'] == 'gaussian' else 'plateau'
        return name, b['sigma'][0] == b['sigma'][1]

    shares = {
        ('plain', True): 0.45,
        ('plain', False): 0.25,
        ('generalised', True): 0.12,
        ('generalised', False): 0.03,
        ('plateau', True): 0.12,
        ('plateau', False): 0.03,
    }
    has_shares([kind(b) for b in found if b['profile'] != 'sinc'], shares)


def test_shapes_of_the_blur(histories):
    "β is below 1 in one half of the cases, above it in the other; a plateau's is not below"
    found = [b for n in ROUNDS for b in blurs(histories, n)]
    bent = [b['beta'] for b in found if b['profile'] == 'gaussian' and b['beta'] != 1]
    has_shares([beta < 1 for beta in bent], {True: 0.5, False: 0.5})
    is_uniform([beta for beta in bent if beta < 1], 0.5, 1)
    is_uniform([beta for beta in bent if beta > 1], 1, 4)
    flat = [b['beta'] for b in found if b['profile'] == 'plateau']
    has_shares([beta == 1 for beta in flat], {True: 0.5, False: 0.5})
    is_uniform([beta for beta in flat if beta > 1], 1, 2)


def test_frequencies_that_ring(histories):
    found = [b for n in ROUNDS for b in blurs(histories, n) if b['profile'] == 'sinc']
    for small in (True, False):
        cutoffs = [b['cutoff'] for b in found if (b['size'] < 13) == small]
        assert min(cutoffs) < math.pi / 2
        # few: as shares of their range
        low = math.pi / (3 if small else 5)
        assert all(low <= cutoff <= math.pi for cutoff in cutoffs)
    ranges = [math.pi / (3 if b['size'] < 13 else 5) for b in found]
    shares = [(b['cutoff'] - low) / (math.pi - low) for b, low in zip(found, ranges)]
    is_uniform(shares, 0, 1)
    sharp = last_blurs(histories)
    assert {b['profile'] for b in sharp} == {'sinc'}
    is_uniform([b['cutoff'] for b in sharp], math.pi / 3, math.pi)
    has_shares([b['size'] for b in sharp], {size: 1 / 8 for size in range(7, 22, 2)})


@pytest.mark.parametrize(
    'n, side, low, high, shares',
    [
        (0, SHAPE[1], 0.15, 1.5, dict(up=0.2, down=0.7, same=0.1)),
        (1, SHAPE[1] // 4, 0.3, 1.2, dict(up=0.3, down=0.4, same=0.3)),
    ],
)
def test_sizes_between(histories, n, side, low, high, shares):
    found = nth(histories, 'resize', n)
    factors = [step['size'][1] / side for step in found]

    def way(factor):
        return 'same' if factor == 1 else 'up' if factor > 1 else 'down'

    has_shares([way(factor) for factor in factors], shares)
    rounding = 0.5 / side
    is_uniform([f for f in factors if f < 1], low - rounding, 1)
    is_uniform([f for f in factors if f > 1], 1, high + rounding)
    for step, factor in zip(found, factors):  # both sides by the same factor, but for rounding
        assert abs(step['size'][0] - factor * side * SHAPE[0] / SHAPE[1]) <= 0.51 + rounding
    modes = dict.fromkeys(('bicubic', 'bilinear', 'area'), 1 / 3)
    has_shares([step['mode'] for step in found], modes)


def test_the_last_size_is_that_of_y(histories):
    last = nth(histories, 'resize', 2)
    assert len(last) == HISTORIES
    assert {tuple(step['size']) for step in last} == {(SHAPE[0] // 4, SHAPE[1] // 4)}
    modes = dict.fromkeys(('bicubic', 'bilinear', 'area'), 1 / 3)
    has_shares([step['mode'] for step in last], modes)


@pytest.mark.parametrize('n, strongest, factor', [(0, 30, 3), (1, 25, 2.5)])
def test_levels_of_the_noise(histories, n, strongest, factor):
    found = nth(histories, 'noise', n)
    has_shares([e['law'] for e in found], dict(gaussian=0.5, poisson=0.5))
    for law, low, high in (('gaussian', 1, strongest), ('poisson', 0.05, factor)):
        mine = [e for e in found if e['law'] == law]
        is_uniform([e['strength'] for e in mine], low, high)
        has_shares([e['channels'] for e in mine], {1: 0.4, 3: 0.6})


@pytest.mark.parametrize('n', ROUNDS)
def test_qualities_of_jpeg(histories, n):
    found = nth(histories, 'jpeg', n)
    assert len(found) == HISTORIES
    is_uniform([e['quality'] for e in found], 30, 95)


def test_draws_do_not_hang_together(histories):
    "What is strong in one step is not strong in another, nor in the next history"
    columns = torch.tensor(
        [
            [h['quality'] for h in nth(histories, 'jpeg', 0)],
            [h['quality'] for h in nth(histories, 'jpeg', 1)],
            [h['size'][1] for h in nth(histories, 'resize', 0)],
            [h['size'][1] for h in nth(histories, 'resize', 1)],
            [h['size'] for h in blurs(histories, 0)],
        ]
    ).double()
    both = torch.cat([columns[:, 1:], columns[:, :-1]])
    off = torch.corrcoef(both) - torch.eye(10, dtype=torch.float64)
    assert off.abs().max() < 4 / HISTORIES**0.5


def test_seeds_reproduce():
    z = photographs()['chelsea'][None, :, :64, :64]
    one, again, other = (histories_of(z, 4, 5, seeded(seed)) for seed in (3, 3, 4))
    assert one == again and one != other
    y, same, different = (realistic(z.expand(3, -1, -1, -1), 4, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(y, same) and not torch.equal(y, different)
    assert not torch.equal(y[0], y[1])  # each has a history of its own
    # what the patches behind it are, and how many, does not matter
    assert torch.equal(y[:1], realistic(z, 4, seeded(3)))
    state = torch.get_rng_state()
    realistic(z, 4, seeded(3))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('scale', [2, 4])
def test_stages_are_those_of_the_whole(scale):
    z = photographs()['chelsea'][None, :, :64, :96]
    for seed in range(8):
        stages = degradation_stages(z, scale, seeded(seed))
        assert list(stages)[:4] == ['blur', 'resize', 'noise', 'JPEG']
        assert list(stages)[4:7] == ['blur 2', 'resize 2', 'noise 2']
        *_, last = stages.values()
        assert last.shape == (1, 3, 64 // scale, 96 // scale)
        assert torch.equal(last, realistic(z, scale, seeded(seed)))


@pytest.mark.parametrize('size', [7, 13, 21])
@pytest.mark.parametrize('sides', [(24, 24), (33, 48), (5, 40)])
def test_spectra_blur_like_a_sum_over_neighbours(size, sides):
    "Also with a kernel that has no symmetry, and a picture that is smaller than it"
    chance = torch.Generator().manual_seed(size)
    x = 2 * torch.rand(2, 3, *sides, generator=chance) - 1
    kernel = torch.rand(size, size, generator=chance)
    kernel /= kernel.sum()
    half = size // 2
    mode = 'reflect' if min(sides) > half else 'replicate'
    padded = F.pad(x, (half,) * 4, mode=mode)
    sums = F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)
    assert (blur(x, kernel) - sums).abs().max() < 1e-5


STAGES = {  # all that draw
    'blur': lambda x, g: degradations.random_blur(x, 3.0, g),
    'resize': lambda x, g: degradations.random_resize(x, (32, 32), 0.2, 0.7, (0.5, 1.5), g),
    'Gaussian noise': lambda x, g: degradations.gaussian_noise(x, 10.0, g),
    'Poisson noise': lambda x, g: degradations.poisson_noise(x, 100.0, g),
    'noise': lambda x, g: degradations.random_noise(x, 30.0, g),
    'JPEG': degradations.random_jpeg,
    'degradations.sharpen': lambda x, g: degradations.sharpen(x, (16, 16), g),
    'all': lambda x, g: realistic(x, 2, g),
}


@pytest.mark.parametrize('name', STAGES)
def test_a_picture_does_not_change_what_is_drawn_after_it(name):
    "Rounding differs from machine to machine; the chance of later stages must not follow it"
    pictures = torch.full((1, 3, 32, 32), -0.9), torch.full((1, 3, 32, 32), 0.7)
    for seed in range(8):
        generators = seeded(seed), seeded(seed)
        for picture, generator in zip(pictures, generators):
            STAGES[name](picture, generator)
        first, second = (torch.rand(4, generator=g) for g in generators)
        assert torch.equal(first, second)
