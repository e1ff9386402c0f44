"Flow matching: diffusers' schedulers, orders on a Gaussian, what a map promises."

import math
import pytest
import torch
from odebc.metrics import import_torchvision

# ruff: noqa: E402 (diffusers may import torchvision, which may have to be repaired before)
import_torchvision()
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from odebc.flow import flow_map, flow_nfe, flow_sigmas, solve_flow
from odebc.maps import SolutionMap
from odebc.matrix import candidates, score_matrix
from odebc.metrics import Distance


def normal(*shape, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=chance, dtype=torch.float64)


def gap(a, b):
    return (a - b).abs().max().item()


def bent(x, sigma):
    return torch.sin(3 * x + sigma)


KINDS = {'Euler': FlowMatchEulerDiscreteScheduler, 'Heun': FlowMatchHeunDiscreteScheduler}


@pytest.mark.parametrize('shift', [1.0, 3.0])
@pytest.mark.parametrize('method', KINDS)
def test_diffusers_takes_the_same_steps(method, shift):
    "In double precision, on its own levels; asked about another level, it does not"
    scheduler = KINDS[method](shift=shift)
    scheduler.set_timesteps(10)
    levels = torch.tensor(list(dict.fromkeys(scheduler.sigmas.tolist())), dtype=torch.float64)
    x_T = normal(2, 3, 4, 4).float()
    x = x_T
    for t in scheduler.timesteps:
        x = scheduler.step(bent(x, t.item() / 1000), t, x).prev_sample
    assert flow_nfe(len(levels) - 1, method) == len(scheduler.timesteps)
    assert gap(solve_flow(bent, x_T, levels, method), x) < 1e-5
    late = solve_flow(lambda x, sigma: bent(x, sigma - 1e-3), x_T, levels, method)
    other = solve_flow(bent, x_T, levels, 'Heun' if method == 'Euler' else 'Euler')
    assert gap(late, x) > 1e-4 and gap(other, x) > 1e-3


def test_levels_are_those_of_flux_and_of_stable_diffusion_3():
    given = [1 - k / 7 for k in range(7)]
    for how, shift in (
        (dict(shift=3.0), 3.0),
        (dict(use_dynamic_shifting=True), math.exp(0.8)),
    ):
        scheduler = FlowMatchEulerDiscreteScheduler(**how)
        scheduler.set_timesteps(sigmas=given, mu=0.8)
        assert gap(flow_sigmas(7, shift), scheduler.sigmas) < 1e-6
        assert gap(flow_sigmas(7), scheduler.sigmas) > 0.1


def test_orders_on_a_gaussian():
    x_T = normal(100)

    def v(x, sigma):
        d = (1 - sigma) ** 2 * 0.04 + sigma**2
        u = x - (1 - sigma) * 0.3
        return sigma * u / d - 0.3 - (1 - sigma) * 0.04 * u / d

    def error(n, method):
        return gap(solve_flow(v, x_T, flow_sigmas(n), method), 0.3 + 0.2 * x_T)

    for method, order in (('Euler', 1), ('Heun', 2)):
        found = math.log2(error(80, method) / error(160, method))
        assert abs(found - order) < 0.1


def towards(x, sigma, y):
    "Ends near the enlarged y, differently for every start"
    y_up = y.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (x - 0.9 * y_up + 0.1 * torch.sin(x)) / max(sigma, 0.2)


def test_what_a_map_promises():
    h = flow_map(towards, 5, 'Heun', 3.0, name='towards y', shape=(3, 16, 16))
    assert isinstance(h, SolutionMap) and h.nfe == 9
    y = torch.rand(3, 3, 4, 4) * 2 - 1
    x_T = candidates(2, (3, 16, 16))
    D = score_matrix(h, x_T, y.repeat_interleave(4, 2).repeat_interleave(4, 3), y, MSE)
    assert D.shape == (2, 3) and D.isfinite().all() and gap(D[0], D[1]) > 0
    facts = [h.facts, flow_map(towards, 5, 'Heun', name='towards y').facts]
    assert facts[0] != facts[1] and flow_map(towards).facts is None
    start = x_T[:1].clone().requires_grad_()
    h(start, y).square().sum().backward()
    assert start.grad.abs().max() > 1e-6
    doubled = flow_map(towards, 5, 'Heun', 3.0, decode=lambda x, y: 2 * x)
    assert torch.equal(doubled(x_T[:1], y), 2 * h(x_T[:1], y))


MSE = Distance(lambda a, b: (a - b).square().mean((1, 2, 3)), name='MSE')


def test_what_is_refused():
    with pytest.raises(ValueError, match='known are Euler and Heun'):
        flow_map(towards, method='euler')
    with pytest.raises(ValueError, match='at least 1'):
        flow_map(towards, 0)
    y = torch.zeros(1, 3, 4, 4)
    x_T = candidates(1, (3, 16, 16))
    with pytest.raises(ValueError, match='v_fn returned shape'):
        flow_map(lambda x, sigma, y: x[:, :1], 2)(x_T, y)
    with pytest.raises(ValueError, match='NaN'):
        flow_map(lambda x, sigma, y: x / 0, 2)(x_T, y)
    with pytest.raises(ValueError, match='must lie in'):
        flow_map(towards, 2)(x_T, y + 2)
