"The noise schedule and the times of samplers: what holds, what is refused, known steps."

import math
import pytest
import torch
from odebc.schedule import lam_times, respaced_times, Schedule, uniform_times

SCHEDULES = Schedule.linear(), Schedule.cosine()

# guided-diffusion's steps, plus one
# fmt: off
DDPM_100_FIRST = [
    1000, 978, 956, 934, 912, 889, 867, 845, 823, 801,
]
DDPM_100_LAST = [
    200, 195, 191, 186, 182, 177, 173, 168, 164, 159, 155, 150, 146, 141, 137, 132, 128,
    123, 119, 114, 110, 105, 100, 96, 91, 87, 82, 78, 73, 69, 64, 60, 55, 51, 46, 42, 37,
    33, 28, 24, 19, 15, 10, 6, 1, 0,
]
DDPM_250_FIRST = [
    1000, 990, 979, 969, 958, 948, 937, 927, 916, 906, 895, 885, 874, 864, 853, 843, 832,
    822, 811, 801,
]
DDPM_250_LAST = [
    200, 198, 196, 193, 191, 189, 187, 184, 182, 180, 178, 175, 173, 171, 169, 166, 164,
    162, 160, 158, 155, 153, 151, 149, 146, 144, 142, 140, 137, 135, 133, 131, 128, 126,
    124, 122, 120, 117, 115, 113, 111, 108, 106, 104, 102, 99, 97, 95, 93, 90, 88, 86, 84,
    81, 79, 77, 75, 73, 70, 68, 66, 64, 61, 59, 57, 55, 52, 50, 48, 46, 43, 41, 39, 37,
    35, 32, 30, 28, 26, 23, 21, 19, 17, 14, 12, 10, 8, 5, 3, 1, 0,
]
# fmt: on


def gap(a, b):
    "The largest difference"
    return (torch.as_tensor(a) - torch.as_tensor(b)).abs().max().item()


def test_the_table_is_ddpms():
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert gap(Schedule.linear().alpha(torch.arange(1, 1001)) ** 2, alpha_bar) < 1e-12


@pytest.mark.parametrize('sched', SCHEDULES, ids=lambda s: s.name)
def test_variances_add_up_and_lambda_has_an_inverse(sched):
    t = torch.linspace(0.01, 1000, 7777, dtype=torch.float64)
    assert gap(sched.alpha(t) ** 2 + sched.sigma(t) ** 2, 1.0) < 1e-12
    assert gap(sched.lam(sched.t_of_lam(sched.lam(t))), sched.lam(t)) < 1e-12
    assert gap(sched.t_of_lam(sched.lam(t)), t) < 1e-9


@pytest.mark.parametrize('sched', SCHEDULES, ids=lambda s: s.name)
def test_f_and_g2_are_the_derivatives_of_equation_3(sched):
    middle, e = torch.arange(0.0, 999, dtype=torch.float64) + 0.5, 1e-3

    def derivative(fn):
        return (fn(middle + e) - fn(middle - e)) / (2 * e)

    growth = derivative(lambda t: sched.sigma(t) ** 2)
    refund = 2 * sched.f(middle) * sched.sigma(middle) ** 2
    assert gap(derivative(sched.log_alpha), sched.f(middle)) < 1e-8
    assert gap(growth - refund, sched.g2(middle)) < 1e-8
    assert gap(growth, sched.g2(middle)) > 1e-3  # the second half of Eq. 3 left out


def test_a_plain_number_is_not_rounded_to_float32():
    sched = Schedule.linear()
    assert sched.alpha(0.1) == sched.alpha(torch.tensor(0.1, dtype=torch.float64))


@pytest.mark.parametrize('t', [-0.5, 1001, math.nan])
@pytest.mark.parametrize('name', ['alpha', 'sigma', 'lam', 'log_alpha', 'f', 'g2'])
def test_times_outside_are_refused(name, t):
    with pytest.raises(ValueError, match=r't must lie in \[0, 1000\]'):
        getattr(Schedule.linear(), name)(t)


@pytest.mark.parametrize('lam', [-9.0, math.nan])
def test_noise_beyond_the_last_is_refused(lam):
    with pytest.raises(ValueError, match='λ must not be below'):
        Schedule.linear().t_of_lam(lam)


@pytest.mark.parametrize('betas', [[0.1, 1.5], [0.0, 0.1], [[0.1, 0.2]], [math.nan]])
def test_betas_that_are_none_are_refused(betas):
    with pytest.raises(ValueError, match=r'every β in \(0, 1\)'):
        Schedule(torch.tensor(betas))


def test_facts():
    assert Schedule.linear(10).facts == dict(schedule='linear', T=10, beta_1=1e-4, beta_T=0.02)
    assert Schedule.cosine().facts == dict(schedule='cosine', T=1000, s=0.008, beta_max=0.999)
    own = Schedule(torch.tensor([0.25, 0.5])).facts
    assert own == dict(schedule='custom', T=2, betas=[0.25, 0.5])


def test_grids():
    sched = Schedule.linear()
    equal = lam_times(50, sched)
    steps = sched.lam(equal).diff()
    assert gap(steps, steps[0]) < 1e-12
    assert equal[0] == 1000 and equal[-1] == 1 and len(equal) == 51
    assert gap(lam_times(50, sched, 1, 1000).flip(0), equal) < 1e-9  # from the other end
    assert uniform_times(4).tolist() == [1000, 750, 500, 250, 0]
    with pytest.raises(ValueError, match='at least 1'):
        uniform_times(0)
    with pytest.raises(ValueError, match='must not be negative'):
        lam_times(-1, sched)
    with pytest.raises(ValueError, match='above 0'):
        lam_times(10, sched, end=0)


def test_respaced_steps_are_guided_diffusions():
    ddpm_100 = respaced_times([45, 20, 15, 10, 10]).int().tolist()
    ddpm_250 = respaced_times([90, 60, 60, 20, 20]).int().tolist()
    assert len(ddpm_100) == 101 and len(ddpm_250) == 251
    assert ddpm_100[:10] == DDPM_100_FIRST and ddpm_100[55:] == DDPM_100_LAST
    assert ddpm_250[:20] == DDPM_250_FIRST and ddpm_250[160:] == DDPM_250_LAST
    assert respaced_times([1000]).tolist() == list(range(1000, -1, -1))


def test_sections_that_cannot_give_so_many_are_refused():
    with pytest.raises(ValueError, match='cannot give 500'):
        respaced_times([500, 1, 2])
    with pytest.raises(ValueError, match='at least 2 steps'):
        respaced_times([10, 1])
