"Traits of starts: closed forms, what explains scores, one property changed and no other."

import math
import pytest
import torch
from hypothesis import given, settings, strategies as st
from odebc.maps import solution_map
from odebc.matrix import candidates
from odebc.metrics import Distance
from odebc.runner import BoundaryCondition
from odebc.search import search
from odebc.traits import ALL, BANDS, EDGES, PARTS
from odebc.traits import ceiling, energies, energy, explained, flipped, recipe, rolled
from odebc.traits import shaped, shuffled, traits, with_energy, with_length

X = candidates(24, (3, 32, 32), seed=5)
TOLD = traits(X)


def wave(fy, fx, H, W, phase=0.3):
    "A grey wave with fy and fx periods in the picture"
    y, x = torch.arange(H)[:, None].double(), torch.arange(W).double()
    return (2 * math.pi * (fy * y / H + fx * x / W) + phase).cos().expand(3, H, W)


# --- spectra


@pytest.mark.parametrize('H, W', [(64, 64), (32, 48), (31, 17), (5, 4)])
def test_parseval(H, W):
    x = torch.randn(4, 3, H, W, generator=torch.Generator().manual_seed(H)).double()
    fy, fx = torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)
    radius = torch.hypot(fy, fx)
    counts = [((low <= radius) & (radius < high)).sum() for low, high in zip(EDGES, EDGES[1:])]
    assert sum(counts) == H * W
    weights = torch.stack([torch.tensor(counts), 2 * torch.tensor(counts)])
    total = (energies(x).nan_to_num() * weights).sum((1, 2))
    assert torch.allclose(total, x.square().sum((1, 2, 3)), rtol=1e-10)


@pytest.mark.parametrize('fy, fx', [(0, 3), (5, 0), (6, 8), (-4, 9), (20, 20)])
def test_a_planted_wave_is_in_its_band(fy, fx):
    H = W = 64
    found = energies(0.7 * wave(fy, fx, H, W))
    band = sum(math.hypot(fy, fx) / 64 >= edge for edge in EDGES[1:])
    assert (found > 1e-12).nonzero().tolist() == [[0, band]]
    # the wave's squares, 0.7²/2 in each entry, over the frequencies of its band
    radius = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W))
    count = ((EDGES[band] <= radius) & (radius < EDGES[band + 1])).sum()
    assert found[0, band].item() == pytest.approx(3 * H * W * 0.7**2 / 2 / count.item())


def test_a_coloured_wave_has_no_grey():
    x = wave(0, 9, 64, 64) * torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    found = energies(x)
    assert found[0].max() < 1e-20 and found[1].argmax() == 3


def test_white_noise_has_one_in_each():
    found = energies(candidates(200, (3, 64, 64), seed=1))
    error = found.std(0) / 200**0.5
    assert ((found.mean(0) - 1).abs() < 4.5 * error).all() and error.max() < 0.05


def test_traits_agree_with_each_other():
    square = TOLD['length'].square()
    both = TOLD['grey energy'] / 3 + TOLD['colour energy'] * 2 / 3
    assert torch.allclose(square, both, rtol=1e-10)
    assert torch.allclose(TOLD['grey energy'], energy(X, 'grey'), rtol=1e-10)
    assert torch.allclose(TOLD['mean'], X.double().mean((1, 2, 3)))


def test_neighbours_of_a_wave():
    "The mean of cos(2π f) over both directions"
    x = wave(4, 0, 64, 64)[None]
    expected = (math.cos(2 * math.pi * 4 / 64) + 1) / 2
    assert traits(x)['neighbours'].item() == pytest.approx(expected)


# --- what explains


def test_leave_one_out_is_what_it_says():
    "The closed form against K fits"
    g = torch.Generator().manual_seed(0)
    P = torch.randn(20, 3, generator=g).double()
    s = P[:, 0] + torch.randn(20, generator=g).double()
    left, whole = [], []
    for k in range(20):
        others = [j for j in range(20) if j != k]
        A = torch.cat([torch.ones(20, 1).double(), P], 1)
        b = torch.linalg.lstsq(A[others], s[others, None]).solution[:, 0]
        left.append((s[k] - A[k] @ b) ** 2)
        whole.append((s[k] - s[others].mean()) ** 2)
    brute = 1 - (sum(left) / sum(whole)).item()
    assert explained(P, s).value == pytest.approx(brute, abs=1e-5)


@pytest.mark.parametrize('name', ['grey 1/8–3/16', 'colour energy', 'length'])
def test_a_planted_property_is_found(name):
    x = candidates(160, (3, 32, 32), seed=9)
    told = traits(x)
    g = torch.Generator().manual_seed(1)
    z = (told[name] - told[name].mean()) / told[name].std()
    scores = 0.2 + 0.01 * z + 0.01 * torch.randn(160, generator=g)
    found = explained(told[name][:, None], scores)
    assert abs(found.value - 0.5) < 3 * found.error < 0.25
    other = next(n for n in ('neighbours', 'mean') if n != name)
    assert explained(told[other][:, None], scores).value < 0.1


def test_chance_explains_nothing():
    values = []
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        P = torch.stack([*TOLD.values()], 1)[:, :5]
        values.append(explained(P, torch.randn(24, generator=g)).value)
    assert sum(values) / 20 < 0.02 and max(values) < 0.5


def test_the_error_of_a_share_is_that_of_many_draws():
    shares, errors = [], []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        P = torch.randn(80, 2, generator=g)
        found = explained(P, P[:, 0] + torch.randn(80, generator=g))
        shares.append(found.value)
        errors.append(found.error)
    spread, told = torch.tensor(shares).std(), torch.tensor(errors).mean()
    assert 0.75 * spread < told < 1.35 * spread


def test_the_ceiling():
    g = torch.Generator().manual_seed(0)
    D = torch.randn(300, 1, generator=g) + 2 * torch.randn(300, 16, generator=g)
    assert ceiling(D).value == pytest.approx(1 / (1 + 4 / 16), abs=0.06)
    assert abs(ceiling(torch.randn(300, 16, generator=g)).value) < 0.2


@pytest.mark.parametrize(
    'P, s, says',
    [
        (torch.rand(5, 3), torch.rand(5), 'at least 6 are needed'),
        (torch.rand(5, 1), torch.rand(6), 'belong to the same starts'),
        (torch.rand(5), torch.rand(5), 'belong to the same starts'),
    ],
)
def test_fits_that_cannot_be(P, s, says):
    with pytest.raises(ValueError, match=says):
        explained(P, s)


# --- one property and no other


@given(
    st.sampled_from(PARTS),
    st.sets(st.sampled_from(ALL[1:]), min_size=1).map(tuple),
    st.floats(0.2, 3.0),
)
@settings(max_examples=40, deadline=None)
def test_only_that_energy_changes(part, bands, value):
    changed = with_energy(X[:4], value, part, bands)
    assert torch.allclose(
        energy(changed, part, bands), torch.tensor(value).double(), rtol=1e-4
    )
    before, after = energies(X[:4]), energies(changed)
    i = PARTS.index(part)
    others = [band for band in ALL if band not in bands]
    assert torch.allclose(before[:, i, others], after[:, i, others], rtol=1e-4, atol=1e-9)
    assert torch.allclose(before[:, 1 - i], after[:, 1 - i], rtol=1e-4)
    # the proportions inside: every wave of these bands by the same factor, phases kept
    waves = [torch.fft.fft2(x.double()) for x in (X[:4], changed)]
    split = [(w.mean(1, keepdim=True), w - w.mean(1, keepdim=True)) for w in waves]
    ratio = (split[1][i] * split[0][i].conj()).real / split[0][i].abs().square()
    off = (split[1][i] - ratio * split[0][i]).abs().max()
    factors = ratio.flatten(1)
    assert off < 1e-3 and ((factors > -1e-3).all())
    for row, own in zip(factors, (value / energy(X[:4], part, bands)).sqrt()):
        near = ((row - 1).abs() < 2e-2) | ((row - own).abs() < 2e-2 * own)
        assert near.float().mean() > 0.99


def test_a_length_is_set():
    changed = with_length(X, 0.97)
    assert torch.allclose(traits(changed)['length'], torch.tensor(0.97).double(), rtol=1e-6)
    assert torch.allclose(changed / X, (changed / X).mean((1, 2, 3), keepdim=True), rtol=1e-4)


def test_moved_starts():
    x = X[0]
    for moved in (rolled(x, 3), flipped(x), shuffled(x, 3)):
        assert not torch.equal(moved, x)
        assert torch.equal(moved.flatten(1).sort().values, x.flatten(1).sort().values)
        assert torch.allclose(energy(moved, 'grey'), energy(x, 'grey'), rtol=1e-5)
    assert torch.allclose(energies(rolled(x, 3)), energies(x), rtol=1e-4)
    assert torch.allclose(energies(flipped(x)), energies(x), rtol=1e-4)
    assert not torch.allclose(energies(shuffled(x)), energies(x), rtol=1e-2)
    assert torch.equal(rolled(x, 3), rolled(x, 3))
    assert not torch.equal(shuffled(x, 3), shuffled(x, 4))


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: with_energy(X, -1.0), 'at least 0'),
        (lambda: with_energy(X, math.nan), 'at least 0'),
        (lambda: with_energy(X, 1.0, 'red'), 'grey and colour'),
        (lambda: with_energy(X, 1.0, 'grey', (8,)), '0 … 7'),
        (lambda: with_energy(X, 1.0, 'grey', ()), '0 … 7'),
        (lambda: recipe(torch.ones(8), 0, (3, 8, 8)), '2 × 8 gains'),
        (lambda: recipe(-torch.ones(2, 8), 0, (3, 8, 8)), 'at least 0 and finite'),
    ],
)
def test_what_cannot_be_set(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# --- recipes


@given(
    st.sampled_from([(3, 64, 64), (3, 16, 40), (4, 33, 31), (1, 16, 16), (20, 12), (50,)]),
    st.integers(0, 5),
)
@settings(max_examples=25, deadline=None)
def test_a_recipe_makes_starts_of_any_size(shape, seed):
    g = torch.Generator().manual_seed(seed)
    gains = 1 + 0.2 * torch.rand(2, 8, generator=g)
    made = recipe(gains, seed, shape)
    assert made.shape == shape and made.dtype == torch.float32 and made.isfinite().all()
    assert torch.equal(made, recipe(gains, seed, shape))
    if len(shape) == 3:
        found = energies(made).sqrt()
        there = found.isfinite() & (found > 1e-3)
        assert torch.allclose(found[there], gains.double()[there], rtol=1e-4)


def test_a_start_with_its_own_gains_is_itself():
    x = X[0]
    gains = energies(x).sqrt().nan_to_num(1.0)
    assert torch.allclose(shaped(x, gains), x, atol=1e-5)
    copy = shaped(X[1], gains)
    assert torch.allclose(energies(copy), energies(x), rtol=1e-4, equal_nan=True)
    assert len(BANDS) == len(EDGES) - 1 == gains.shape[1]


# --- the search for a recipe


def liking(part, bands, wanted):
    "A map whose pictures are the better, the nearer an energy of the start is to a value"

    def fn(x_T, y):
        off = energy(x_T, part, bands) - wanted
        return y + 0.5 * off.to(y)[:, None, None, None] + 0.01 * x_T

    return solution_map(fn, name=f'likes {part} {bands} {wanted}', nfe=2)


def squares(a, b):
    return (a - b).square().mean((1, 2, 3))


Z = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.6
mse = Distance(squares, name='MSE')


@pytest.mark.parametrize('part, band, wanted', [('grey', 4, 1.15), ('colour', 6, 0.88)])
def test_a_spectrum_is_found_and_its_recipe_tells_all(part, band, wanted, tmp_path):
    h, path = liking(part, (band,), wanted), tmp_path / 'x_T.safetensors'
    found = search(h, Z, Z, 50, mse, 'spectrum', 1500, path=path)
    assert found.solves <= 1500 and found.nfe == 2 * found.solves
    facts = found.meta['recipe']
    assert torch.equal(recipe(**facts, shape=(3, 32, 32)), found.x_T)
    gain = facts['gains'][PARTS.index(part)][band]
    # half of the way at least, from 1 on
    assert (gain - 1) / (wanted**0.5 - 1) > 0.5
    random = [h(x[None], Z) for x in candidates(20, (3, 32, 32), seed=77)]
    scores = torch.stack([squares(x_0, Z).mean() for x_0 in random])
    assert found.score < scores.mean()
    loaded = BoundaryCondition.load(path)
    assert loaded.meta['recipe'] == facts and torch.equal(loaded.x_T, found.x_T)
    large = recipe(**facts, shape=(3, 64, 96))
    assert energies(large).sqrt()[PARTS.index(part), band].item() == pytest.approx(gain, 1e-4)
    again = search(h, Z, Z, 50, mse, 'spectrum', 1500, path=path)
    assert again.index == found.index and again.meta == found.meta
