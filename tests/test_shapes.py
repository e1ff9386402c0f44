"Starts of any shape: images, vectors, packed latents. One that does not fit is told at once."

import functools
import itertools
import math
import pytest
import torch
from tiny import Z, mse
from odebc.maps import solution_map
from odebc.matrix import ScoreMatrix, candidate, candidates, mean_gradient, score_matrix
from odebc.search import search
from odebc.strategies import STRATEGIES, with_blocks

SHAPES = [(192,), (97,), (1,), (16, 12), (7, 5), (3, 8, 8), (4, 6, 4), (2, 3, 4, 4)]
COARSE = 'multifidelity', 'gradient'


def pictured(x_T, like, first=0):
    "The entries of a start, whatever its shape, as pictures of the shape of others"
    entries = x_T.flatten(1)
    n = like[0].numel()
    places = (torch.arange(n) + first) * entries.shape[1] // n % entries.shape[1]
    return entries[:, places].view(like.shape)


def map_for(shape, name='any', nfe=4, first=0):
    "A part of the start is left in the picture, more of it where y is bright"

    def fn(x_T, y):
        return y + (0.1 + 0.3 * y) * pictured(x_T, y, first)

    return solution_map(fn, name=name, nfe=nfe, shape=shape)


def maps_for(shape, strategy):
    cheap = map_for(shape, 'any, roughly', 1, 1)
    return map_for(shape), cheap if strategy in COARSE else None


def score(h, x_T):
    return mse(h(x_T[None], Z), Z).mean().item()


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_every_strategy_takes_starts_of_every_shape(shape, strategy, tmp_path):
    h, coarse = maps_for(shape, strategy)
    how = dict(strategy=strategy, budget=240, coarse=coarse, batch=4)
    found = search(h, Z, Z, 20, mse, **how)
    assert found.x_T.shape == shape
    assert found.score == pytest.approx(score(h, found.x_T), rel=1e-5)
    drawn = [score(h, x_T) for x_T in candidates(20, shape)]
    # what is made from candidates is better than most of them; the spectrum of a single number
    # is its size, which a recipe sets
    if (strategy, shape) != ('spectrum', (1,)):
        assert found.score < sorted(drawn)[10]
    # stopped and gone on with it finds the same
    path = tmp_path / 'x_T.safetensors'
    for n in (2, 5):
        asked = itertools.count(1)
        stop = functools.partial(lambda asked: next(asked) > n, asked)
        search(h, Z, Z, 20, mse, **how, path=path, stop=stop)
    again = search(h, Z, Z, 20, mse, **how, path=path)
    assert torch.equal(again.x_T, found.x_T) and again.nfe == found.nfe


@pytest.mark.parametrize('shape', [(192,), (16, 12), (3, 8, 8)], ids=str)
def test_evolution_and_gradient_improve_starts_of_every_shape(shape):
    h = map_for(shape)
    drawn = search(h, Z, Z, 50, mse, 'halving', 400)
    for strategy in ('evolution', 'gradient'):
        assert search(h, Z, Z, 50, mse, strategy, 400).score < 0.97 * drawn.score


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_a_gradient_against_a_difference_quotient(shape):
    h = map_for(shape)
    matrix = ScoreMatrix(h, Z, Z, mse, lambda k: candidate(k, shape))
    x, along = candidates(2, shape)
    slope = mean_gradient(matrix, x, range(8), 3)
    ends = (score_matrix(h, (x + a * along)[None].double(), Z, Z, mse) for a in (-1e-3, 1e-3))
    low, high = (D.mean().item() for D in ends)
    assert slope.shape == shape
    assert (slope * along).sum().item() == pytest.approx((high - low) / 2e-3, rel=1e-2)


def test_a_gradient_does_not_round_the_start_to_the_precision_of_the_pairs():
    low, shape = Z.bfloat16(), (12,)
    x = candidate(0, shape)
    seen = []

    def fn(x_T, y):
        seen.append(x_T.detach().flatten(1)[0].float())
        return y + 0.1 * pictured(x_T, y)

    matrix = ScoreMatrix(fn, low, low, mse, lambda k: candidate(k, shape))
    mean_gradient(matrix, x, [0, 1], 2)
    assert torch.equal(seen[0], x)


@pytest.mark.parametrize(
    'shape, means', [((7,), (3,)), ((6, 7), (2, 3)), ((3, 8, 12), (4, 4))]
)
def test_blocks_of_every_shape(shape, means):
    "Each block gets its mean, and keeps the rest"
    x = candidate(0, shape)
    wanted = candidate(1, (*shape[:-2], *means))
    made = with_blocks(x, wanted)
    change = made - x
    sides = shape[-2:]
    at = [torch.arange(n) * g // n for n, g in zip(sides, means)]
    for block in itertools.product(*map(range, means)):
        inside = functools.reduce(
            lambda a, b: a[..., None] & b, [a == number for a, number in zip(at, block)]
        )
        assert torch.allclose(made[..., inside].mean(-1), wanted[(..., *block)], atol=1e-5)
        parts = change[..., inside]
        assert torch.allclose(parts, parts[..., :1].expand_as(parts), atol=1e-5)


def test_packed_latents():
    "(N, D), as transformers take them: unpacked to a latent, decoded to a picture"

    def unpacked(x_T):  # 2×2 pixels of 3 channels make a token of 12 numbers
        tokens = x_T.view(len(x_T), 4, 4, 3, 2, 2)
        return tokens.permute(0, 3, 1, 4, 2, 5).reshape(len(x_T), 3, 8, 8)

    packed = solution_map(lambda x_T, y: y + 0.3 * y * unpacked(x_T), shape=(16, 12))
    plain = solution_map(lambda x_T, y: y + 0.3 * y * x_T, shape=(3, 8, 8))
    for strategy in ('gradient', 'refinement'):
        found = search(packed, Z, Z, 20, mse, strategy, 200)
        assert found.score == pytest.approx(
            score(plain, unpacked(found.x_T[None])[0]), rel=1e-5
        )
    assert math.prod(search(packed, Z, Z, 20, mse, 'evolution', 200).x_T.shape) == 192


@pytest.mark.parametrize('strategy', ['gradient'])
@pytest.mark.parametrize(
    'fault, says',
    [
        (lambda x_T, y: (y + x_T.mean())[..., :4], 'must return images of shape'),
        (lambda x_T, y: x_T @ y, 'failed on a start with gradient and pairs .*RuntimeError'),
    ],
)
def test_what_goes_wrong_under_a_gradient_is_said_as_clearly(fault, says, strategy):
    coarse = solution_map(fault, name='faulty')
    with pytest.raises(ValueError, match=says):
        search(map_for((12,)), Z, Z, 20, mse, strategy, 200, coarse=coarse)


# --- a shape that does not fit


def counted(fn, seen):
    def counting(x_T, y):
        seen.append(len(y))
        return fn(x_T, y)

    return counting


def of_nine(x_T, y):
    "A map that takes nine numbers, and does not say so"
    return y + 0.1 * pictured(x_T.view(-1, 9), y)


def of_none(x_T, y):
    return y[..., :4]


BOTH = [(strategy, 'the map') for strategy in STRATEGIES]
BOTH += [(strategy, 'the cheaper map') for strategy in COARSE]


@pytest.mark.parametrize('strategy, fault', BOTH)
def test_a_shape_that_does_not_fit_is_told_before_anything_is_done(strategy, fault, tmp_path):
    "Not after the half of a search that needs the other map alone"
    seen, path = [], tmp_path / 'x_T.safetensors'
    good = solution_map(counted(lambda x_T, y: y + 0.1 * pictured(x_T, y), seen), 'good')
    bad = solution_map(of_nine, 'of nine')
    h, coarse = (bad, good) if fault == 'the map' else (good, bad)
    coarse = coarse if strategy in COARSE else None
    how = dict(strategy=strategy, budget=240, coarse=coarse, path=path, shape=(3, 8, 7))
    says = r'a trial on one pair failed: .* map of nine .* x_T of the shape \(3, 8, 7\);'
    with pytest.raises(ValueError, match=says):
        search(h, Z, Z, 20, mse, **how)
    assert sum(seen) <= 2 and not path.exists()


def test_a_shape_that_mixes_the_starts_of_a_batch_is_found_by_the_trial():
    "(B, 8) is spread over (8, 3, 8, 8) without a word where the batch has eight of them"
    with pytest.raises(ValueError, match='a trial on one pair failed'):
        search(lambda x_T, y: y + 0.1 * x_T, Z, Z, 20, mse, shape=(8,), batch=8)


def test_the_trial_is_made_once_and_is_not_counted(tmp_path):
    seen = []
    h = solution_map(counted(lambda x_T, y: y + 0.1 * pictured(x_T, y), seen), 'any')
    how = dict(strategy='exhaustive', shape=(50,), path=tmp_path / 'x_T', batch=4)
    found = search(h, Z, Z, 10, mse, **how)
    assert found.solves == found.nfe == 80 and sum(seen) == 82
    search(h, Z, Z, 10, mse, **how)
    assert sum(seen) == 82
    said = solution_map(h.fn, 'any', shape=(50,))
    assert search(said, Z, Z, 10, mse, 'exhaustive', shape=(50,), batch=4).nfe == 80
    assert sum(seen) == 162, 'a map that says its shape needs no trial'


@pytest.mark.parametrize(
    'change, says',
    [
        (
            dict(shape=(3, 4, 4)),
            r'x_T of the shape \(3, 4, 4\) does not fit.* which takes \(12,\)',
        ),
        (dict(shape=()), 'the shape of x_T is given by whole numbers above 0'),
        (dict(shape=(3, -1)), 'the shape of x_T is given by whole numbers above 0'),
        (dict(shape=(3, 2.5)), 'the shape of x_T is given by whole numbers above 0'),
        (dict(shape=8), 'the shape of x_T is given by whole numbers above 0'),
        (dict(shape='12'), 'the shape of x_T is given by whole numbers above 0'),
        (
            dict(strategy='multifidelity', coarse=map_for((7,), 'seven')),
            r'x_T of the shape \(12,\) does not fit seven, which takes \(7,\)',
        ),
    ],
)
def test_shapes_that_contradict_each_other(change, says):
    with pytest.raises(ValueError, match=says):
        search(**(dict(h=map_for((12,)), z=Z, y=Z, K=20, distance=mse) | change))


def test_a_cheaper_map_may_say_the_shape_for_both():
    h = solution_map(map_for(None).fn)
    found = search(h, Z, Z, 20, mse, 'gradient', 200, coarse=map_for((12,)))
    assert found.x_T.shape == (12,)


def test_the_remedy_is_named_where_nobody_has_said_a_shape():
    says = r'failed on candidates .*it was given x_T of the shape \(3, 8, 8\).* shape='
    with pytest.raises(RuntimeError, match=says):
        search(of_nine, Z, Z, 20, mse)
