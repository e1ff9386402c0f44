"How far runs differ, searches for one picture that are judged by y, and what was measured."

import numpy as np
import pytest
import torch
from odebc.data import degrade
from odebc.errors import OdebcError
from odebc.stability import best_of, g_std, l_std, misfit, neighbour, zero_order


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bumps(x_T, y):
    "A map: a part of the start on y"
    return y.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.1 * x_T


Y = 0.3 * noise(3, 3, 8, 8, seed=5).clamp(-1, 1)
STARTS = noise(12, 3, 3, 32, 32, seed=6)


def test_deviations_are_numpys():
    pictures = noise(10, 4, 3, 16, 12)
    every = np.std(pictures.double().numpy(), axis=0, ddof=1)
    assert l_std(pictures).numpy() == pytest.approx(127.5 * every.mean((1, 2, 3)), rel=1e-12)
    scores = noise(10, 4)
    assert g_std(scores).numpy() == pytest.approx(np.std(scores.double().numpy(), 0, ddof=1))


def test_runs_that_are_the_same_do_not_deviate_and_an_offset_does():
    pictures = noise(1, 2, 3, 8, 8).repeat(5, 1, 1, 1, 1)
    assert l_std(pictures).tolist() == [0, 0]
    pictures[:, 1] += torch.tensor([0.0, 0, 0, 0, 1])[:, None, None, None]
    assert l_std(pictures)[0] == 0
    assert l_std(pictures)[1] == pytest.approx(127.5 * 0.2**0.5, rel=1e-6)


@pytest.mark.parametrize('measure', [g_std, l_std])
@pytest.mark.parametrize('shape', [(1, 4), (4,)])
def test_one_run_has_no_deviation(measure, shape):
    with pytest.raises(OdebcError, match='two runs or more'):
        measure(torch.zeros(shape))


def test_the_misfit_is_that_of_the_reduced_result():
    z = noise(2, 3, 32, 32).clamp(-1, 1)
    y = degrade(z)
    assert misfit(z, y).tolist() == [0, 0]
    assert torch.allclose(misfit(z, y + 0.1), torch.full((2,), 0.01), rtol=1e-4)
    # what the reduction does not see is no misfit
    checks = 0.05 * (-1.0) ** (torch.arange(32)[:, None] + torch.arange(32))
    assert misfit(0.9 * z + checks, degrade(0.9 * z)).max() < 1e-4


def test_the_best_of_n_is_the_best():
    scores = torch.stack([misfit(bumps(x_T, Y), Y) for x_T in STARTS])
    found = best_of(bumps, STARTS, Y)
    assert torch.equal(found.score, scores.min(0).values)
    for i, k in enumerate(scores.argmin(0)):
        assert torch.equal(found.x_T[i], STARTS[k, i])
        assert torch.equal(found.x_0[i], bumps(STARTS[k], Y)[i])


def test_starts_may_be_shared_and_another_judge_may_judge():
    starts = STARTS[:, :1]
    found = best_of(bumps, starts, Y, lambda x_0, y: -x_0.mean((1, 2, 3)))
    k = starts.mean((1, 2, 3, 4)).argmax()
    assert torch.equal(found.x_T, starts[k].expand(3, -1, -1, -1))


@pytest.mark.parametrize('closeness', [0.95, 0.5, 0.0])
def test_neighbours_lie_at_their_angle_on_the_sphere(closeness):
    near = neighbour(STARTS[0], 7, closeness)
    assert torch.allclose(near.flatten(1).norm(dim=1), STARTS[0].flatten(1).norm(dim=1))
    cosine = torch.cosine_similarity(near.flatten(1), STARTS[0].flatten(1))
    assert (cosine - closeness).abs().max() < 1e-5
    other = neighbour(STARTS[0], 8, closeness)
    steps = [x - closeness * STARTS[0] for x in (near, other)]
    assert torch.cosine_similarity(*(x.flatten(1) for x in steps)).abs().max() < 0.1
    assert torch.cosine_similarity(steps[0][0].flatten(), steps[0][1].flatten(), 0).abs() < 0.1


def test_the_climb_never_gets_worse_and_a_longer_one_begins_alike():
    seen = []

    def h(x_T, y):
        seen.append(x_T)
        return bumps(x_T, y)

    scores, before = [], []
    for n in (1, 2, 4, 8, 16):
        seen.clear()
        scores.append(zero_order(h, STARTS[0], Y, n).score)
        assert len(seen) == n
        assert all(torch.equal(a, b) for a, b in zip(seen, before))
        before = list(seen)
    assert torch.equal(scores[0], misfit(bumps(STARTS[0], Y), Y))
    assert all((b <= a).all() for a, b in zip(scores, scores[1:]))
    assert (scores[-1] < scores[0]).all()


def test_the_middle_moves_after_a_crowd():
    seen = []

    def h(x_T, y):
        seen.append(x_T)
        return bumps(x_T, y)

    zero_order(h, STARTS[0], Y, 8, crowd=4)
    scores = torch.stack([misfit(bumps(x_T, Y), Y) for x_T in seen])
    for i in range(3):
        first = seen[scores[:4, i].argmin()][i].flatten()
        for x_T in seen[1:4]:
            assert torch.cosine_similarity(x_T[i].flatten(), STARTS[0, i].flatten(), 0) > 0.949
        for x_T in seen[4:]:
            cosine = torch.cosine_similarity(x_T[i].flatten(), first, 0)
            assert cosine == pytest.approx(0.95, abs=1e-4)


def test_at_least_one_start_is_solved():
    with pytest.raises(OdebcError, match='at least one start'):
        best_of(bumps, STARTS[:0], Y)
    with pytest.raises(OdebcError, match='at least one start'):
        zero_order(bumps, STARTS[0], Y, 0)
