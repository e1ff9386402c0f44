"The search where it hurts: killed, shared by processes, out of disk, against brute force."

import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tiny import Z, cheap, coarse_for, h, mse, slow_maps
from waiting import begin, ended, finished, wait_until
from odebc.metrics import lpips_model
from odebc.schedule import Schedule
from odebc.boundary import choose
from odebc.matrix import candidates, ScoreMatrix
from odebc.runner import BoundaryCondition
from odebc.runner import Starts
from odebc.search import search, SearchInterrupted
from odebc.strategies import affordable_rounds, cost, evolution, exhaustive, halving, rounds
from odebc.strategies import STRATEGIES
from odebc.toy import ToySR

TESTS = Path(__file__).parent
# every process of these tests is started fresh: a forked one shares locks with all that were
# forked beside it, and one that is killed takes its locks with it
FRESH = os.environ | dict(PYTHONPATH=str(TESTS), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')


# --- halving finds what exhaustive search finds


class Known(Scores):
    "Scores that are known beforehand"

    def __init__(self, D):
        self.D = torch.full_like(D, torch.nan)
        self.known = D
        self.R = D.shape[1]
        self.solves = 0
        self.facts = {}

    def fill(self, rows, columns):
        rows, columns = torch.tensor(list(rows))[:, None], torch.tensor(list(columns))
        self.solves += self.D[rows, columns].isnan().sum().item()
        self.D[rows, columns] = self.known[rows, columns]


@pytest.mark.parametrize('rho, budget, least', [(0.78, 5000, 0.97), (0.2, 15_000, 0.95)])
def test_halving_finds_the_exhaustive_winner_at_the_papers_size(rho, budget, least):
    hits = 0
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        common = torch.randn(1000, 1, generator=g)
        rest = torch.randn(1000, 300, generator=g)
        s = Known(rho**0.5 * common + (1 - rho) ** 0.5 * rest)
        halving(s, 1000, budget)
        assert s.solves <= budget
        hits += best(s.D) == s.known.mean(1).argmin().item()
    assert hits >= 200 * least


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 20_000))
@settings(max_examples=200, deadline=None)
def test_plans_keep_the_budget_and_end_where_they_should(K, R, budget):
    try:
        plan = affordable_rounds(K, R, budget)
    except ValueError:
        assert budget < cost(rounds(K, R, 1))
        return
    assert cost(plan) <= budget and plan[0][0] == K
    assert plan[-1][1] == R and plan[-1][0] >= 1
    if budget >= K * R:
        assert plan == [(K, R)]
    seen = {(j, i) for k, r in plan for i in range(r) for j in range(k)}
    assert len(seen) == cost(plan)


def test_with_enough_budget_halving_is_exhaustive():
    names = 'exhaustive', 'halving'
    full, half = (search(h, Z, Z, 30, mse, strategy, 30 * 8) for strategy in names)
    assert torch.equal(full.scores, half.scores) and full.index == half.index


@given(
    st.sampled_from(list(STRATEGIES)),
    st.integers(1, 60),
    st.integers(1, 500),
    st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_no_strategy_exceeds_its_budget(strategy, K, budget, R):
    calls = 0

    def counted(f):
        def map(x_T, y):
            nonlocal calls
            calls += f.nfe * len(y) * (4 if x_T.requires_grad else 1)
            return f(x_T, y)

        map.nfe = f.nfe
        return map

    how = dict(coarse=counted(cheap) if coarse_for(strategy) else None, batch=1)
    try:
        found = search(counted(h), Z[:R], Z[:R], K, mse, strategy, budget, **how)
    except ValueError as e:
        assert 'budget' in str(e)
        return
    assert calls == found.nfe <= budget * h.nfe
    assert not found.scores[found.index].isnan().any()


# --- against brute force and closed forms


def test_exhaustive_search_on_the_conditional_gaussian():
    world = ToySR(Schedule.linear())
    z, y = world.pairs(12, torch.Generator().manual_seed(1))

    def image(v):
        return v.view(len(v), 1, int(v.shape[1] ** 0.5), -1)

    def exact(x_T, y):
        return image(world.h(x_T.flatten(1).double(), y.flatten(1)))

    found = search(exact, image(z), image(y), 50, mse, 'exhaustive')
    x_T = candidates(50, (1, 4, 4)).flatten(1).double()

    def errors(x):
        results = [world.h(x[None], y_i[None])[0] for y_i in y]
        return torch.stack([(x_0 - z_i).square().mean() for x_0, z_i in zip(results, z)])

    brute = torch.stack([errors(x) for x in x_T])
    assert (found.scores - brute).abs().max() < 1e-10
    assert found.index == brute.mean(1).argmin().item()


# --- kill -9

SLOWLY = '''
import sys
from odebc.search import search
from tiny import Z, mse, slow_maps
log, path, strategy, budget, delay = sys.argv[1:]
h, coarse = slow_maps(log, strategy, float(delay))
search(h, Z, Z, 40, mse, strategy, int(budget), path=path, coarse=coarse, batch=4)
'''


def killed(log, batches, seconds, *args):
    """Kill -9 for a search in a process of its own, so many seconds after it began so many
    batches: its exit status
    """

    def lines():
        return len(log.read_bytes().splitlines())

    before = lines()
    process = begin([sys.executable, '-c', SLOWLY, log, *args], FRESH)

    def there():
        return process.poll() is not None or lines() >= before + batches

    wait_until(there, f'{batches} batches')
    time.sleep(seconds)
    process.kill()
    ended(process)
    return process.returncode


def cells(log):
    "How often each cell was begun, padding left out"
    counts = Counter()
    for line in log.read_text().splitlines():
        nfe, x, y, gradient = json.loads(line)
        counts.update({(nfe, gradient, *a, b) for a, b in zip(x, y)})
    return counts


@pytest.mark.parametrize(
    'strategy, kills',
    [
        ('halving', 10),
        ('exhaustive', 2),
        ('multifidelity', 3),
        ('refinement', 3),
        ('evolution', 3),
        ('gradient', 3),
    ],
)
def test_killed_at_random_moments_and_resumed(strategy, kills, tmp_path):
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(3)
    budget = 240
    delay = 0.04
    batches = torch.randint(1, 50 // kills, (kills,), generator=g).tolist()
    seconds = (1.5 * delay * torch.rand(kills, generator=g)).tolist()
    whole = search(h, Z, Z, 40, mse, strategy, budget, coarse=coarse_for(strategy), batch=4)
    log, path = tmp_path / 'log', tmp_path / 'x_T.safetensors'
    log.touch()
    args = path, strategy, budget, delay
    ends = [killed(log, *moment, *args) for moment in zip(batches, seconds)]
    assert set(ends) == {-signal.SIGKILL}
    watched, coarse = slow_maps(log, strategy)
    for _ in range(2):
        # the second time there is nothing left to do
        search(watched, Z, Z, 40, mse, strategy, budget, path=path, coarse=coarse, batch=4)
    found = BoundaryCondition.load(path)
    assert found.index == whole.index
    assert found.nfe == whole.nfe
    assert found.solves == whole.solves
    assert torch.equal(found.x_T, whole.x_T)
    assert torch.equal(found.scores.isnan(), whole.scores.isnan())
    assert torch.allclose(found.scores, whole.scores, atol=1e-6, equal_nan=True)
    again = sum(n - 1 for n in cells(log).values())
    assert again <= 4 * ends.count(-signal.SIGKILL), 'more was solved twice than was in flight'


# --- several processes

SCRIPT = '''
import sys, torch
from odebc.scores import processes
from odebc.search import search
from tiny import Z, coarse_for, h, mse
strategy, path, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
class Stop(Exception): pass
def watch(found):
    if stop and found.solves >= stop: raise Stop
how = dict(path=path, coarse=coarse_for(strategy), batch=4, watch=watch)
try: search(h, Z, Z, 40, mse, strategy, 240, **how)
except Stop: pass
processes().destroy_process_group()
'''


def launch(n, *args):
    how = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', n]
    finished([sys.executable, *how, *args], env=FRESH, check=True)


@pytest.mark.parametrize('strategy', ['halving', 'gradient'])
def test_two_processes_find_what_one_finds_and_one_goes_on_where_two_stopped(
    strategy, tmp_path
):
    (tmp_path / 'script.py').write_text(SCRIPT)
    how = dict(coarse=coarse_for(strategy), batch=4)
    one = search(h, Z, Z, 40, mse, strategy, 240, **how)
    launch(2, tmp_path / 'script.py', strategy, tmp_path / 'two', 0)
    launch(2, tmp_path / 'script.py', strategy, tmp_path / 'changed', 60)
    half = BoundaryCondition.load(tmp_path / 'changed')
    assert 60 <= half.solves < one.solves
    resumed = search(h, Z, Z, 40, mse, strategy, 240, path=tmp_path / 'changed', **how)
    for found in (BoundaryCondition.load(tmp_path / 'two'), resumed):
        assert torch.allclose(found.scores, one.scores, atol=1e-6, equal_nan=True)
        assert found.index == one.index
        assert torch.allclose(found.x_T, one.x_T, atol=1e-5) and found.nfe == one.nfe


# --- faults

FULL = '''
import resource, sys
from odebc.search import search
from tiny import Z, h, mse
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try: search(h, Z, Z, 40, mse, 'exhaustive', path=sys.argv[1], batch=4)
except OSError as e: print(e)
'''


def test_a_full_disk_keeps_what_was_finished(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    with pytest.raises(RuntimeError):
        search(failing_after(5), Z, Z, 40, mse, 'exhaustive', path=path, batch=4)
    before = path.read_bytes()
    told = finished([sys.executable, '-c', FULL, path], env=FRESH, check=True).stdout
    assert 'cannot write' in told and 'Make room' in told
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    assert search(h, Z, Z, 40, mse, 'exhaustive', path=path, batch=4).solves == 320


def failing_after(n):
    "A map that fails in its n-th batch"
    count = itertools.count(1)

    def map(x_T, y):
        if next(count) == n:
            raise ZeroDivisionError('in the middle')
        return h(x_T, y)

    map.nfe = h.nfe
    return map


def test_a_failing_map_is_named_and_what_was_finished_is_kept(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    says = 'failed on candidates .*ZeroDivisionError: in the middle'
    with pytest.raises(RuntimeError, match=says) as error:
        search(failing_after(5), Z, Z, 40, mse, 'exhaustive', path=path, batch=4)
    assert error.value.found.solves == 16 == BoundaryCondition.load(path).solves
    # 76 batches were left
    found = search(failing_after(77), Z, Z, 40, mse, 'exhaustive', path=path, batch=4)
    assert found.solves == 320


@pytest.mark.parametrize(
    'bad, says',
    [
        (dict(z=Z[:0], y=Z[:0]), 'at least one'),
        (dict(y=Z[:3]), 'as many HR as LR'),
        (dict(y=Z[..., :3]), 'do not belong'),
        (dict(z=Z.where(Z < 0.99, torch.nan)), 'holds NaN'),
        (dict(z=Z[0], y=Z[0]), 'need batches'),
        (dict(distance=lambda a, b: mse(a, b).mean()), 'one value per image'),
        (dict(distance=lambda a, b: mse(a, b) / 0), 'is not finite'),
        (dict(K=0), 'K must be at least 1'),
        (dict(K=-3), 'K must be at least 1'),
        (dict(seed=-1), 'must not be negative'),
        (dict(strategy='magic'), 'known are halving'),
        (dict(budget=3), 'budget of 3'),
        (dict(batch=0), 'at least one cell'),
        (dict(unseen=(Z[..., :4], Z[..., :4])), 'x_T fits one size'),
        (dict(strategy='multifidelity'), 'needs `coarse`'),
        (dict(coarse=cheap), 'no use for a cheaper map'),
        (dict(h=lambda x_T, y: h(x_T, y)[:1]), 'must return images of shape'),
        (dict(h=lambda x_T, y: h(x_T, y).mean(1, True)), 'must return images of shape'),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(ValueError, match=says):
        search(**(dict(h=h, z=Z, y=Z, K=20, distance=mse, budget=160) | bad))


def test_without_lpips_the_search_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv('ODEBC_LPIPS_ALEX', '')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    lpips_model.cache_clear()
    z = torch.nn.functional.interpolate(Z, scale_factor=8)
    with pytest.warns(UserWarning, match="LPIPS-lite instead: .*ODEBC_LPIPS_ALEX"):
        search(lambda x_T, y: y, z, z, 1)


def test_a_map_without_gradient_is_refused_by_the_gradient_strategy():
    with pytest.raises(ValueError, match='has no gradient'):
        search(lambda x_T, y: h(x_T, y).detach(), Z, Z, 20, mse, 'gradient', 160)


def test_a_file_of_another_task_is_refused(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    search(h, Z, Z, 10, mse, path=path)

    def named(name):
        def other(x_T, y):
            return h(x_T, y)

        other.meta = dict(sampler=name)
        return other

    changes = [
        (dict(distance=lambda a, b: (a - b).abs().mean((1, 2, 3))), 'another distance'),
        (dict(z=Z + 0.1), 'another pairs'),
        (dict(seed=1), 'another seed'),
        (dict(shape=(3, 4, 4)), 'another shape'),
        (dict(strategy='evolution'), 'another rows'),
        (dict(h=named('DDIM-7')), r'another sampler \(None, not DDIM-7\)'),
        (dict(meta=dict(model='b')), 'another model'),
    ]
    for change, says in changes:
        with pytest.raises(ValueError, match=says):
            search(**(dict(h=h, z=Z, y=Z, K=10, distance=mse, path=path) | change))

    def bound(**how):
        return partial(lambda a, b, weight=1.0: weight * mse(a, b), **how)

    search(h, Z, Z, 10, bound(weight=2.0), path=tmp_path / 'bound')
    says = r'another distance \(.* with weight=2.0, not .* with weight=-1.0\)'
    with pytest.raises(ValueError, match=says):
        search(h, Z, Z, 10, bound(weight=-1.0), path=tmp_path / 'bound')
    how = dict(path=tmp_path / 'other', meta=dict(size=(8, 8), where=tmp_path))
    search(named('DDIM-7'), Z, Z, 10, mse, **how)
    search(named('DDIM-7'), Z, Z, 10, mse, **how)
    with pytest.raises(ValueError, match=r'another sampler \(DDIM-7, not DDIM-8\)'):
        search(named('DDIM-8'), Z, Z, 10, mse, **how)
    with pytest.raises(ValueError, match=r'another sampler \(DDIM-7, not None\)'):
        search(h, Z, Z, 10, mse, **how)


def test_another_cheaper_map_does_not_use_the_scores_of_the_first(tmp_path):
    path = tmp_path / 'x_T.safetensors'

    def upside_down(x_T, y):
        return h(-x_T.flip(0), y)

    upside_down.nfe = 1
    upside_down.meta = dict(sampler='other')
    for coarse in (cheap, upside_down):
        found = search(h, Z, Z, 20, mse, 'multifidelity', 60, path=path, coarse=coarse)
    assert len(found.kept) == 2 and not torch.equal(*found.kept.values())


def test_drawing_strategies_share_a_file_and_the_winner_is_among_the_candidates(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    half = search(h, Z, Z, 40, mse, 'halving', 160, path=path)
    full = search(h, Z, Z, 40, mse, 'exhaustive', path=path)
    assert half.solves < full.solves == 320 and full.scores.isfinite().all()
    few = search(h, Z, Z, 5, mse, 'exhaustive', path=path)
    assert few.index == full.scores[:5].mean(1).argmin() and few.solves == 320


def test_unseen_scores_survive_and_an_interrupt_while_they_are_made_keeps_the_search(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    unseen = (Z + 0.01, Z + 0.01)
    first = search(h, Z, Z, 10, mse, path=path, unseen=unseen)
    assert torch.equal(search(h, Z, Z, 10, mse, path=path).unseen, first.unseen)
    before = path.stat().st_mtime_ns
    search(h, Z, Z, 10, mse, path=path)
    assert path.stat().st_mtime_ns == before, 'a finished file is only read'

    def stopped(x_T, y):
        if y.max() > Z.max():
            raise KeyboardInterrupt
        return h(x_T, y)

    stopped.nfe = h.nfe
    with pytest.raises(SearchInterrupted) as error:
        search(stopped, Z, Z, 10, mse, unseen=unseen)
    assert error.value.found.index == first.index


@pytest.mark.parametrize('strategy', ['refinement', 'evolution', 'gradient'])
def test_a_finished_search_that_is_interrupted_at_once_has_the_same_result(
    strategy, tmp_path, monkeypatch
):
    "Its x_T is no candidate: before the strategy has made it again, it comes from the file"
    args = (h, Z, Z, 30, mse, strategy, 400.0)  # a budget may be a float, as K may
    first = search(*args, path=tmp_path / 'x_T.safetensors')
    assert not torch.equal(first.x_T, candidates(first.index + 1, Z.shape[1:])[-1])

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(STRATEGIES, strategy, stopped)
    with pytest.raises(SearchInterrupted) as error:
        search(*args, path=tmp_path / 'x_T.safetensors')
    assert torch.equal(error.value.found.x_T, first.x_T)


def test_a_gradient_keeps_its_last_point(tmp_path):
    seen = {}
    for budget in (400, 800):
        search(h, Z, Z, 30, mse, 'gradient', budget, path=tmp_path / f'{budget}')
        seen[budget] = (tmp_path / f'{budget}').stat().st_size
    assert seen[800] < seen[400] + 400  # a few digits, not 192 numbers for every step


def test_the_bar_knows_the_end(capsys):
    search(h, Z, Z, 30, mse)
    assert '100%' in capsys.readouterr().err


def test_flat_pictures_and_flat_slopes_do_no_harm():
    def flat(x_T, y):
        # some pictures look the same from every start
        return torch.where(y.mean((1, 2, 3), keepdim=True) > 0, y, h(x_T, y))

    assert search(flat, Z, Z, 30, mse).solves
    with pytest.raises(ValueError, match='at least'):
        search(h, Z, Z, 30, mse, 'gradient', 17)
    still = search(lambda x_T, y: y + 5 * (x_T * 0), Z, Z, 30, mse, 'gradient', 200)
    assert still.x_T.isfinite().all()


def test_low_precision_and_devices():
    low = Z.bfloat16()
    found = search(h, low, low, 10, lambda a, b: mse(a.float(), b.float()))
    assert found.x_T.dtype == torch.float32
    with pytest.raises(ValueError, match='is on cpu and y on meta'):
        search(h, Z, Z.to('meta'), 10, mse)


def test_memory_does_not_grow_with_the_candidates():
    "The largest batch of x_T alive at a time, counted by the map"
    sizes = []

    def map(x_T, y):
        sizes.append(x_T.numel())
        return h(x_T, y)

    for K in (20, 200):
        search(map, Z, Z, K, mse, 'exhaustive', batch=4)
    assert set(sizes) == {4 * 3 * 8 * 8}
    points = Points((3, 8, 8))
    s = Scores(h, Z, Z, mse, points)
    exhaustive(s, 20)
    assert not points.made
    s.coarse = None
    evolution(s, 20, 200)
    # made again when asked for
    older = [x_T for row, x_T in points.made.items() if row < len(s.D) - 1]
    assert not any(isinstance(x_T, torch.Tensor) for x_T in older)


def test_what_is_finished_asks_for_no_batch():
    "On a GPU its size is found by trial"
    s = Scores(h, Z, Z, mse, Points((3, 8, 8)))
    s.D = torch.zeros(4, 8, dtype=torch.float64)
    exhaustive(s, 4)
    assert 'batch' not in vars(s)
