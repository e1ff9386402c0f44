"""The samplers against diffusers, against themselves row by row and in float32, and what they
do with chance and memory.
"""

import weakref
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
)
from odebc.errors import OdebcError
from odebc.maps import solution_map
from odebc.metrics import Distance
from odebc.samplers import ddim, ddim_step, ddim_weights, ddpm, DDPM_SECTIONS, FAMILIES
from odebc.samplers import is_deterministic, is_ode, level, nfe, sampler, solve, to_zero
from odebc.schedule import Schedule
from odebc.search import candidates, search
from odebc.solvers import exponential_step, multistep, singlestep, Solver, stages
from odebc.sr3 import SR3
from odebc.toy import Gaussian, Mixture

pytestmark = pytest.mark.filterwarnings(
    'ignore::FutureWarning:diffusers', 'ignore:__array__:DeprecationWarning:diffusers'
)
sched = Schedule.linear()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=chance(seed), dtype=torch.float64)


A, B = normal(16, 5, seed=1), normal(5, 16, seed=2) / 4
mix = Mixture([0.3, 0.5, 0.2], [[-1, 0.5], [0.6, -0.2], [0.2, 1.1]], [0.25, 0.2, 0.3], sched)
STILL = [f'{family}-20' for family in FAMILIES if is_deterministic(f'{family}-20')]
IRREGULAR = [1000, 941, 850, 760, 640, 520, 400, 270, 150, 80, 40, 13, 1]  # 12 steps


def network(x, t):
    "Exact noise of N(0, I) and a random correction, so that x stays of size 1"
    return sched.sigma(t) * x + sched.alpha(t) * (x @ A + t / 100).tanh() @ B


def ours(solver):
    "All points of our trajectory, (n, 4, 16)"
    points = []
    solve(solver, network, normal(4, 16), sched, chance(7), lambda i, t, x: points.append(x))
    return torch.stack(points)


def theirs(kind, times, timesteps, solver_types=None, **config):
    """All points of theirs with ᾱ in double precision and the network called at `times`;
    `timesteps` may be a count
    """
    scheduler = kind(**config)
    x = normal(4, 16)
    points = []
    generator = chance(7)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas_cumprod = (1 - betas).cumprod(0)
    if isinstance(timesteps, int):
        scheduler.set_timesteps(timesteps)
    else:
        scheduler.set_timesteps(timesteps=timesteps)
    if kind is DPMSolverMultistepScheduler:
        scheduler.set_begin_index(0)  # on its grid two rounded timesteps may be the same
    if kind is DPMSolverSinglestepScheduler:
        # its own are rounded to float32
        scheduler.sigmas = (1 / scheduler.alphas_cumprod - 1).sqrt()[[*timesteps, 0]]
    drawn = {'generator': generator} if kind is DDPMScheduler else {}
    for i, (t, timestep) in enumerate(zip(times.tolist()[:-1], scheduler.timesteps)):
        if solver_types:
            scheduler.register_to_config(solver_type=solver_types[i % len(solver_types)])
        x = scheduler.step(network(x, t), timestep, x, **drawn).prev_sample
        points.append(x)
    return torch.stack(points)


def compare(name, expected, same, other):
    "Our trajectory is theirs to 1e-5; that of another method is not"

    def gap(solver):
        return (ours(solver)[: len(expected)] - expected).abs().max().item()

    assert 0.5 < expected.abs().max() < 10
    error, control = gap(same), gap(other)
    print(f'{name}: {error:.1e}, control {control:.1e}')
    assert error < 1e-5 and control > 1e-4


def test_ddim_is_diffusers():
    "DDIM-20, with the step to 0"
    solver = ddim(20, sched)
    how = dict(clip_sample=False, timestep_spacing='trailing')
    expected = theirs(DDIMScheduler, solver.times, 20, **how)
    compare('DDIM', expected, solver, Solver(solver.times, 20 * [ddim_step(0.05)]))


@pytest.mark.parametrize('n', [20, 100, 250])
def test_ddpm_is_diffusers(n):
    "DDPM with the same draws, uniform and respaced as in the paper, with the step to 0"
    solver = ddpm(n, sched)
    timesteps = (solver.times[:-1] - 1).long().tolist()
    how = dict(clip_sample=False, variance_type='fixed_small')
    expected = theirs(DDPMScheduler, solver.times, timesteps, **how)
    compare(f'DDPM-{n}', expected, solver, Solver(solver.times, n * [ddim_step(0.99)]))


def test_weights_of_many_steps_at_once_are_those_of_each():
    "Training asks with tensors, a time and an η for each image; the samplers with floats"
    asked = [(1000.0, 970.5, 0.0), (500.0, 20.0, 1.0), (30.0, 1.0, 0.3), (7.0, 0.0, 1.0)]
    s, t, eta = torch.tensor(asked, dtype=torch.float64).T
    at_s, at_t = ((sched.alpha(u), sched.sigma(u)) for u in (s, t))
    together = torch.stack(ddim_weights(at_s, at_t, eta), 1)
    each = [ddim_weights(level(sched, s)[:2], level(sched, t)[:2], eta) for s, t, eta in asked]
    assert (together - torch.tensor(each, dtype=torch.float64)).abs().max() < 1e-14
    alpha, kept, fresh = together.T
    assert torch.equal(alpha, at_t[0])
    assert (kept**2 + fresh**2 - at_t[1] ** 2).abs().max() < 1e-14
    assert (fresh > 1e-3).tolist() == [False, True, True, False]


def exact_moments(predict):
    return lambda n, sched: to_zero(multistep(2, n - 1, sched, predict=predict))


EXACT = {'DPM-2M-exact': exact_moments('eps'), 'DPM++-2M-exact': exact_moments('x0')}
# their order and solver type, a method that differs
MULTISTEP = {
    '1': (1, 'midpoint', '2M'),
    '2M': (2, 'midpoint', '2M-exact'),
    '2M-exact': (2, 'heun', '2M'),
    '3M-damped': (3, 'heun', '3M'),
}


@pytest.mark.parametrize('method', MULTISTEP)
@pytest.mark.parametrize(
    'name, algorithm, final',
    [('DPM', 'dpmsolver', 'sigma_min'), ('DPM++', 'dpmsolver++', 'zero')],
)
def test_multistep_is_diffusers(method, name, algorithm, final):
    """The labels' methods and 2M with exact moments, on grids uniform in λ that each side
    makes; ++ with the step to 0, which dpmsolver lacks
    """
    order, solver_type, other = MULTISTEP[method]
    same, other = ((FAMILIES | EXACT)[f'{name}-{m}'](20, sched) for m in (method, other))
    how = dict(
        algorithm_type=algorithm,
        final_sigmas_type=final,
        solver_order=order,
        solver_type=solver_type,
        lower_order_final=False,
        use_lu_lambdas=True,
    )
    expected = theirs(DPMSolverMultistepScheduler, same.times, 20, **how)
    compare(f'{name}-{method}', expected if final == 'zero' else expected[:19], same, other)


# order, their solver types from stage to stage, whether our last stage goes through all nodes
# or is the published one
SINGLESTEP = {
    '2S': (2, ['midpoint'], False),
    '2S-exact': (2, ['heun'], True),
    # DPM-Solver-3's second stage is their 'heun', its third their 'midpoint'
    '3S': (3, ['midpoint', 'heun', 'midpoint'], False),
    '3S-exact': (3, ['heun'], True),
}


@pytest.mark.parametrize('method', SINGLESTEP)
@pytest.mark.parametrize(
    'name, algorithm, predict', [('DPM', 'dpmsolver', 'eps'), ('DPM++', 'dpmsolver++', 'x0')]
)
def test_singlestep_is_diffusers(method, name, algorithm, predict):
    "2S and 3S on whole times, with inner nodes wherever these fall, to t = 1"
    order, solver_types, exact = SINGLESTEP[method]
    times = torch.tensor(IRREGULAR, dtype=torch.float64)
    published = stages(order, (1 / 3, 2 / 3), predict)[1]
    through_all = published[:-1] + [exponential_step(tuple(range(-order, 0)), -order, predict)]
    both = (through_all, published) if exact else (published, through_all)
    same, other = (Solver(times, 12 // order * steps) for steps in both)
    how = dict(
        algorithm_type=algorithm,
        final_sigmas_type='sigma_min',
        solver_order=order,
        lower_order_final=False,
    )
    timesteps = [t - 1 for t in IRREGULAR[:-1]]
    expected = theirs(DPMSolverSinglestepScheduler, times, timesteps, solver_types, **how)
    compare(f'{name}-{method}', expected, same, other)


@pytest.mark.parametrize('label', STILL)
def test_rows_do_not_know_each_other(label):
    "A batch is solved as each of its rows alone"
    sample = sampler(label, sched)
    x_T = normal(6, 2)
    together = sample(mix.eps, x_T)
    alone = torch.cat([sample(mix.eps, x[None]) for x in x_T])
    assert (together - alone).abs().max() < 1e-12


@pytest.mark.parametrize('label', STILL)
def test_float32_is_enough(label):
    "float32 stays within 1e-4 of float64"
    x_T = normal(64, 2).float()
    sample = sampler(label, sched)
    x, exact = sample(mix.eps, x_T), sample(mix.eps, x_T.double())
    error = (x - exact).abs().max().item()
    print(f'{label}: {error:.1e}')
    assert x.dtype == torch.float32 and 0.5 < exact.abs().max() < 3 and error < 1e-4


@pytest.mark.parametrize('label', ['DDPM-20', 'DDIM(0.5)-20'])
def test_chance_comes_from_the_generator(label):
    "One seed, one result, whatever torch's global seed; the global state and x_T stay"
    sample = sampler(label, sched)
    x_T = normal(4, 2)
    before = x_T.clone()
    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        results.append(sample(mix.eps, x_T, chance(3)))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*results) and torch.equal(x_T, before)
    assert (sample(mix.eps, x_T, chance(4)) - results[0]).abs().max() > 0.01


@pytest.mark.parametrize('label', STILL)
def test_x_T_is_left_alone(label):
    "No deterministic sampler writes into x_T or draws from torch's global generator"
    x_T = normal(4, 2)
    state = torch.get_rng_state()
    before = x_T.clone()
    sampler(label, sched)(mix.eps, x_T)
    assert torch.equal(x_T, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('n', [10, 80])
def test_memory_does_not_grow(n):
    "A step is given at most three points, and no older noise is alive"
    lengths = []
    alive = []
    noises = []
    step = exponential_step((-1,))

    def record(past, t, *rest):
        lengths.append(len(past))
        return step(past, t, *rest)

    def eps(x, t):
        alive.append(sum(noise() is not None for noise in noises))
        noise = mix.eps(x, t)
        noises.append(weakref.ref(noise))
        return noise

    solve(Solver(multistep(1, n, sched).times, n * [record]), eps, normal(4, 2), sched)
    assert lengths == [1, 2] + (n - 2) * [3] and max(alive) == 3


@pytest.mark.parametrize('label', [*STILL, 'DDPM-20', 'DDIM(0.5)-20'])
def test_callback_sees_every_step(label):
    "i = 1 … n, the times that the network is asked at and 0, and at last the result"
    seen, asked = [], []

    def eps(x, t):
        asked.append(t)
        return mix.eps(x, t)

    x = sampler(label, sched)(eps, normal(4, 2), chance(), lambda *args: seen.append(args))
    i, t, points = zip(*seen)
    assert i == tuple(range(1, 21))
    assert [1000, *t] == [*asked, 0]
    assert torch.equal(points[-1], x)


@pytest.mark.parametrize('family', [*FAMILIES, 'DDIM(0.5)'])
def test_the_number_in_a_label_is_the_nfe(family):
    """For 1 to 60 calls, the first at T. On a point mass every place on the way is exact; on
    the mixture the result is finite
    """
    picture = torch.linspace(-1, 1, 12)
    mass = Gaussian(picture, torch.zeros(12, 12), sched)
    x_T, few = normal(1, 12, seed=3), normal(4, 2)
    for n in range(1, 61):
        label = f'{family}-{n}'
        sample = sampler(label, sched)
        asked, errors = [], []

        def eps(x, t):
            asked.append(t)
            return mass.eps(x, t)

        def compare_with_flow(i, t, x):
            errors.append((x - mass.flow(x_T, 1000, t)).abs().max())

        x0 = sample(eps, x_T, chance(), compare_with_flow)
        assert (len(asked), asked[0], nfe(label)) == (n, 1000, n)
        assert (x0 - picture).abs().max() < 1e-10
        assert not is_ode(label) or max(errors) < 1e-10
        if n % 7 == 1:
            assert sample(mix.eps, few, chance()).isfinite().all()


@pytest.mark.parametrize('n', [100, 250, 1000])
def test_ddpm_of_the_paper_has_as_many_steps(n):
    assert ddpm(n, sched).nfe == sum(DDPM_SECTIONS[n]) == n


def mean_by_ho(x, x0, t, s):
    """Mean of q(x_s | x_t, x_0), from ᾱ of each of the thousand steps (Ho et al., 2020, Eqs. 6
    and 7, for a step over several of them)
    """
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)])
    now, then = alpha_bar[t], alpha_bar[s]
    share = now / then  # Ho's α_t, of the whole step
    return (then.sqrt() * (1 - share) * x0 + share.sqrt() * (1 - then) * x) / (1 - now)


def test_D_4_is_ddpm_without_its_noise():
    "The paper's sampler for DiffIR: an independent loop, and the mean of DDPM's first step"
    times, x = [1000, 750, 500, 250, 0], normal(6, 16)
    points = []
    sampler('D-4', sched)(network, x, callback=lambda i, t, x: points.append(x))
    for (t, s), point in zip(zip(times, times[1:]), points):
        x0 = (x - sched.sigma(t) * network(x, t)) / sched.alpha(t)
        x = mean_by_ho(x, x0, t, s)
        assert (point - x).abs().max() < 1e-6
    control = sampler('DDIM-4', sched)(network, normal(6, 16))
    assert (points[-1] - control).abs().max() > 0.1
    # DDPM's own first step, of very many
    many, seen = normal(1, 16).expand(40_000, 16), []
    sampler('DDPM-4', sched)(network, many, chance(), lambda i, t, x: seen.append(x.mean(0)))
    first = [normal(1, 16)]
    sampler('D-4', sched)(network, first[0], callback=lambda i, t, x: first.append(x))
    assert (seen[0] - first[1][0]).abs().max() < 0.03 and sched.sigma(750) > 0.9


@pytest.mark.parametrize('n', [1, 4, 20, 100])
def test_of_gaussian_pictures_D_returns_their_mean_given_x_T(n):
    "E[x_0 | x_T] in closed form, with any number of calls; DDIM comes to a picture instead"
    S = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)
    mean = torch.tensor([0.4, -0.1], dtype=torch.float64)
    pictures, x_T = Gaussian(mean, S, sched), normal(30, 2)
    alpha, sigma = sched.alpha(1000), sched.sigma(1000)
    gain = alpha * S @ torch.linalg.inv(alpha**2 * S + sigma**2 * torch.eye(2).double())
    expected = mean + (x_T - alpha * mean) @ gain.T
    x_0 = sampler(f'D-{n}', sched)(pictures.eps, x_T)
    assert (x_0 - expected).abs().max() < 1e-10
    assert (x_0 - mean).abs().max() < 0.01 < sampler('DDIM-20', sched)(pictures.eps, x_T).std()


def test_a_search_for_D_4():
    "On tensors, with the winner counted by hand; the map says four calls and draws nothing"
    asked = []

    def eps(x, t, y):
        asked.append(t)
        shift = sched.alpha(t) * y
        return mix.eps((x - shift).reshape(-1, 2), t).view_as(x)

    def fn(x_T, y):
        return sampler('D-4', sched)(lambda x, t: eps(x, t, y), x_T)

    h = solution_map(fn, name='D-4 of clouds', nfe=nfe('D-4'))
    squares = Distance(lambda a, b: (a - b).square().mean((1, 2, 3)), name='squares')
    z = torch.rand(5, 1, 2, 2, generator=chance(1))
    y, x_T = 0.5 * z, candidates(12, (1, 2, 2))
    found = search(h, z, y, K=12, distance=squares, strategy='exhaustive')
    assert set(asked) == {1000, 750, 500, 250} and found.nfe == 4 * 12 * 5
    D = torch.stack([squares(h(x.expand(5, -1, -1, -1), y), z) for x in x_T])
    assert found.index == D.mean(1).argmin() and D.mean(1).std() > 0
    assert torch.equal(h(x_T, y[:1].expand(12, -1, -1, -1)), fn(x_T, y[:1]))


def test_D_4_of_a_network():
    h = SR3.from_pretrained('small').solution_map('D-4')
    x_T = candidates(2, (3, 64, 64))
    y = torch.zeros(2, 3, 16, 16)
    one, other = h(x_T, y), h(x_T, y)
    assert h.nfe == 4 and torch.equal(one, other) and (one[0] - one[1]).abs().max() > 1e-4
    assert is_deterministic('D-4') and not is_ode('D-4') and is_ode('DDIM-4')
    assert not is_deterministic('DDPM-4') and not is_deterministic('DDIM(0.5)-4')


BROKEN = 'DDIM 50 DDIM-5.5 DDIM(2)-50 DPMS(0.5)-20 DPMS)-20 DDIM()-50 DDIM(0.5-50'.split()


@pytest.mark.parametrize('label', ['', 'D', 'D(0.5)-4', *BROKEN])
def test_broken_labels_are_refused(label):
    with pytest.raises(OdebcError, match='unknown sampler'):
        sampler(label, sched)


@pytest.mark.parametrize(
    'label, told',
    [
        ('DDMI-50', r'DDIM-50\?'),
        ('DPM+-2M-20', r'did you mean DPM\+\+-2M-20'),
        ('DDIM-0', 'at least 1 call'),
        ('DDIM-2000', 'no more than 1000'),
    ],
)
def test_a_refusal_says_what_would_do(label, told):
    with pytest.raises(OdebcError, match=told):
        sampler(label, sched)


@pytest.mark.parametrize('label', ['DDPM-250', 'DDIM(0.5)-10'])
def test_chance_needs_a_generator(label):
    with pytest.raises(OdebcError, match='pass a torch.Generator'):
        sampler(label, sched)(mix.eps, normal(4, 2))
    with pytest.raises(OdebcError, match='needs a torch.Generator'):
        solve(ddim(5, sched, 1.0), mix.eps, normal(4, 2), sched)


def test_bad_arguments_get_one_sentence():
    with pytest.raises(OdebcError, match='must lie in 0 … 1'):
        ddim(10, sched, 1.5)
    for build in (multistep, singlestep):
        with pytest.raises(OdebcError, match='must be 1, 2 or 3'):
            build(4, 10, sched)
    sample = sampler('DDIM-5', sched)
    with pytest.raises(OdebcError, match='x_T holds NaN'):
        sample(mix.eps, normal(4, 2) * torch.nan)
    with pytest.raises(OdebcError, match='eps_fn returned shape'):
        sample(lambda x, t: x[..., :1], normal(4, 2))
