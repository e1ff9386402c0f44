"The search where it hurts: killed, shared by processes, out of disk, against brute force."

import functools
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from functools import partial
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from tiny import Z, as_h, cheap, coarse_for, h, mse, rough, slow_maps, squares
from waiting import FRESH, TESTS, begin, ended, finished, told_by_two, wait_until
from odebc.metrics import lpips_model
from odebc.schedule import Schedule
from odebc.boundary import choose
from odebc.maps import solution_map
from odebc.matrix import ScoreMatrix, candidates
from odebc.metrics import Distance
from odebc.runner import BoundaryCondition, Runner, Starts
from odebc.search import search, SearchInterrupted
from odebc.store import packed, unpacked
from odebc.strategies import (
    BUILT_IN,
    STRATEGIES,
    Cells,
    CheapCells,
    Gradient,
    Problem,
    Start,
    affordable_rounds,
    cost,
)
from odebc.strategies import evolution, exhaustive, halving, on_matrix, rounds
from odebc.toy import ToySR

# every process of these tests is started fresh: a forked one shares locks with all that were
# forked beside it, and one that is killed takes its locks with it


# --- halving finds what exhaustive search finds


@pytest.mark.parametrize('rho, budget, least', [(0.78, 5000, 0.97), (0.2, 15_000, 0.95)])
def test_halving_finds_the_exhaustive_winner_at_the_papers_size(rho, budget, least):
    hits = 0
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        common = torch.randn(1000, 1, generator=g)
        rest = torch.randn(1000, 300, generator=g)
        D = rho**0.5 * common + (1 - rho) ** 0.5 * rest
        winner, cells = on_matrix(halving, D, budget)
        assert cells.sum() <= budget
        hits += winner == D.mean(1).argmin().item()
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
        def fn(x_T, y):
            nonlocal calls
            calls += f.nfe * len(y) * (4 if x_T.requires_grad else 1)
            return f(x_T, y)

        return solution_map(fn, nfe=f.nfe)

    how = dict(coarse=counted(cheap) if coarse_for(strategy) else None, batch=1)
    try:
        found = search(counted(h), Z[:R], Z[:R], K, mse, strategy, budget, **how)
    except ValueError as e:
        assert 'budget' in str(e)
        return
    source = how['coarse'] or h
    trial = 4 * source.nfe if strategy == 'gradient' else 0  # whether there is a gradient
    assert calls - trial == found.nfe <= budget * h.nfe
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
    trials = kills if strategy == 'gradient' else 0  # whether there is a gradient
    assert again - trials <= 4 * kills, 'more was solved twice than was in flight'


# --- several processes

SCRIPT = '''
import sys, torch
from odebc.matrix import processes
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


STOPPED = '''
import itertools, os
from odebc.matrix import processes
from odebc.search import search
from tiny import Z, h, mse, tell
asked = itertools.count(1)
def stop(): return os.environ['RANK'] == '1' and next(asked) > 30  # one of them alone
found = search(h, Z, Z, 30, mse, 'gradient', 2000, batch=4, stop=stop)
tell(found.finished, found.nfe)
processes().destroy_process_group()
'''


def test_when_one_process_is_asked_to_stop_all_do_so_also_between_gradients(tmp_path):
    (zero,), (one,) = told_by_two(tmp_path, STOPPED)
    assert zero == one and zero.startswith('False')


FAILING = """
import os
from odebc.maps import solution_map
from odebc.matrix import processes
from odebc.search import search
from tiny import Z, h, mse, rougher, tell
def fails(x_T, y):
    if os.environ['RANK'] == '1' and x_T.requires_grad: raise ArithmeticError('here alone')
    return rougher(x_T, y)
try: search(h, Z, Z, 30, mse, 'gradient', 2000, batch=4, coarse=solution_map(fails, nfe=1))
except ValueError as e: tell(e)
processes().destroy_process_group()
"""


def test_when_a_gradient_fails_in_one_process_all_are_told(tmp_path):
    zero, one = map('\n'.join, told_by_two(tmp_path, FAILING))
    assert zero.startswith('the gradient holds NaN or infinite values')
    assert 'another process failed: see what it says' in zero
    assert one.startswith('the solution map fails failed on a start with gradient')


@pytest.mark.parametrize('strategy', ['halving', 'gradient'])
def test_two_processes_find_what_one_finds_and_one_goes_on_where_two_stopped(
    strategy, tmp_path
):
    how = dict(coarse=coarse_for(strategy), batch=4)
    one = search(h, Z, Z, 40, mse, strategy, 240, **how)
    told_by_two(tmp_path, SCRIPT, strategy, tmp_path / 'two', 0)
    told_by_two(tmp_path, SCRIPT, strategy, tmp_path / 'changed', 60)
    half = BoundaryCondition.load(tmp_path / 'changed')
    assert 60 <= half.solves < one.solves
    resumed = search(h, Z, Z, 40, mse, strategy, 240, path=tmp_path / 'changed', **how)
    for found in (BoundaryCondition.load(tmp_path / 'two'), resumed):
        assert torch.allclose(found.scores, one.scores, atol=1e-6, equal_nan=True)
        assert found.index == one.index
        assert torch.allclose(found.x_T, one.x_T, atol=1e-5) and found.nfe == one.nfe


ACCEPTED = """
import sys
from odebc.matrix import processes
from odebc.search import search
from tiny import Z, h, mse, tell
strategy, path = sys.argv[1:]
how = dict(path=path, accept='pairs', batch=4)
found = search(h, Z + 0.05, Z + 0.05, 30, mse, strategy, 300, **how)
facts = sorted((name, fact) for name, fact in found.meta.items() if name != 'unseen')
tell(facts)
processes().destroy_process_group()
"""


@pytest.mark.parametrize('strategy', ['exhaustive', 'refinement'])
@pytest.mark.parametrize('begun', ['stopped', 'finished'])
def test_what_was_accepted_stands_in_the_result_of_every_process(begun, strategy, tmp_path):
    path = tmp_path / 'x_T.safetensors'
    stop = functools.partial(lambda asked: next(asked) > 3, itertools.count(1))
    how = dict(stop=stop) if begun == 'stopped' else {}
    first = search(h, Z, Z, 30, mse, strategy, 300, batch=4, path=path, **how)
    (zero,), (one,) = told_by_two(tmp_path, ACCEPTED, strategy, path)
    assert zero == one and "('accepted', ['pairs'])" in zero
    kept = BoundaryCondition.load(path).meta
    assert kept['accepted'] == ['pairs'] and kept['pairs'] != first.meta['pairs']
    assert str(kept['pairs']) in zero


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
    assert f'cannot write {path}' in told and 'make room' in told
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    assert search(h, Z, Z, 40, mse, 'exhaustive', path=path, batch=4).solves == 320


def failing_after(n):
    "A map that fails in its n-th batch"
    count = itertools.count(1)

    def fn(x_T, y):
        if next(count) == n:
            raise ZeroDivisionError('in the middle')
        return rough(x_T, y)

    return as_h(fn)


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
        (dict(z=Z.where(Z < 0.8, torch.nan)), 'holds NaN'),
        (dict(z=Z[0], y=Z[0]), 'need batches'),
        (dict(z=(127 * Z).char()), 'HR images are floats in'),
        (dict(z=127 * Z), r'HR images must lie in \[-1, 1\], but one reaches 114'),
        (dict(distance=lambda a, b: 1.0), 'one value per image'),
        (dict(distance=lambda a, b: None), 'one value per image'),
        (dict(distance=lambda a, b: mse(a, b).mean()), 'one value per image'),
        (dict(distance=lambda a, b: mse(a, b) / 0), 'is not finite'),
        (dict(K=0), 'K must be at least 1'),
        (dict(K=-3), 'K must be at least 1'),
        (dict(seed=-1), 'must not be negative'),
        (dict(strategy='magic'), 'known are halving'),
        (dict(budget=3), 'budget of 3'),
        (dict(batch=0), 'at least one cell'),
        (dict(unseen=(Z[..., :4], Z[..., :4])), 'x_T fits one size'),
        (dict(unseen=(Z, Z[..., ::2, ::2])), r'their y \(3, 4, 4\) .* x_T fits one size'),
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


def test_a_map_without_gradient_is_refused_before_the_search_begins():
    called = []

    def without_gradient(x_T, y):
        called.append(len(x_T))
        return h(x_T, y).detach()

    with pytest.raises(ValueError, match='has no gradient'):
        search(without_gradient, Z, Z, 20, mse, 'gradient', 160)
    assert called == [1]


def test_a_file_of_another_task_is_refused(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    search(h, Z, Z, 10, mse, path=path)

    def named(name):
        def other(x_T, y):
            return h(x_T, y)

        other.meta = dict(sampler=name)  # the older way to name a map
        return other

    changes = [
        (dict(distance=Distance(squares, name='SSE')), 'another distance'),
        (dict(z=Z + 0.05), 'another pairs'),
        (dict(seed=1), 'another seed'),
        (dict(shape=(3, 4, 4)), 'another shape'),
        (dict(strategy='evolution'), 'another rows'),
        (dict(h=named('DDIM-7')), 'another (map|sampler)'),
        (dict(meta=dict(model='b')), 'another model'),
    ]
    for change, says in changes:
        with pytest.raises(ValueError, match=says):
            search(**(dict(h=h, z=Z, y=Z, K=10, distance=mse, path=path) | change))

    how = dict(path=tmp_path / 'other', meta=dict(size=(8, 8), where=tmp_path))
    search(named('DDIM-7'), Z, Z, 10, mse, **how)
    search(named('DDIM-7'), Z, Z, 10, mse, **how)
    with pytest.raises(ValueError, match=r'another sampler \(DDIM-7, not DDIM-8\)'):
        search(named('DDIM-8'), Z, Z, 10, mse, **how)
    with pytest.raises(ValueError, match=r'another (sampler \(DDIM-7, not None\)|map)'):
        search(h, Z, Z, 10, mse, **how)


def test_what_cannot_say_what_it_is_is_not_kept(tmp_path):
    "Two functions of one name would be taken for each other"
    path = tmp_path / 'x_T.safetensors'
    nameless = [
        dict(h=lambda x_T, y: h(x_T, y)),
        dict(h=rough),
        dict(distance=squares),
        dict(distance=lambda a, b: -squares(a, b)),
        dict(distance=partial(squares)),
        dict(strategy='multifidelity', coarse=rough, budget=160),
    ]
    for change in nameless:
        with pytest.raises(ValueError, match='Name it, odebc.*another name for every'):
            search(**(dict(h=h, z=Z, y=Z, K=10, distance=mse, path=path) | change))
        search(**(dict(h=h, z=Z, y=Z, K=10, distance=mse) | change))  # kept nowhere: fine
    assert not path.exists()


def test_another_cheaper_map_does_not_use_the_scores_of_the_first(tmp_path):
    path = tmp_path / 'x_T.safetensors'

    def upside_down(x_T, y):
        return h(-x_T.flip(0), y)

    for coarse in (cheap, solution_map(upside_down, name='upside down')):
        search(h, Z, Z, 20, mse, 'multifidelity', 60, path=path, coarse=coarse)
    tensors = unpacked(path).tensors
    kept = [x for name, x in tensors.items() if name.startswith('kept.coarse')]
    assert len(kept) == 2 and not torch.equal(*kept)


def test_drawing_strategies_share_a_file_and_the_winner_is_among_the_candidates(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    half = search(h, Z, Z, 40, mse, 'halving', 160, path=path)
    full = search(h, Z, Z, 40, mse, 'exhaustive', path=path)
    assert half.solves < full.solves == 320 and full.scores.isfinite().all()
    few = search(h, Z, Z, 5, mse, 'exhaustive', path=path)
    assert few.index == full.scores[:5].mean(1).argmin() and few.solves == 320


def test_unseen_scores_survive_and_an_interrupt_while_they_are_made_keeps_the_search(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    unseen = (Z + 0.05, Z + 0.05)
    first = search(h, Z, Z, 10, mse, path=path, unseen=unseen)
    assert torch.equal(search(h, Z, Z, 10, mse, path=path).unseen, first.unseen)
    before = path.stat().st_mtime_ns
    search(h, Z, Z, 10, mse, path=path)
    assert path.stat().st_mtime_ns == before, 'a finished file is only read'

    def stopped(x_T, y):
        if y.max() > Z.max():
            raise KeyboardInterrupt
        return h(x_T, y)

    with pytest.raises(SearchInterrupted) as error:
        search(as_h(stopped), Z, Z, 10, mse, unseen=unseen)
    assert error.value.found.index == first.index


def judged(log):
    "The map, and how many unseen pictures it was asked for, those of UNSEEN"

    def fn(x_T, y):
        log.append((y.flatten(1)[:, None] == UNSEEN[0].flatten(1)).all(2).any(1).sum().item())
        return rough(x_T, y)

    return as_h(fn)


UNSEEN = Z[:4] + 0.05, Z[:4] + 0.05


def stopping_after(n):
    asked = itertools.count(1)
    return lambda: next(asked) > n


@pytest.mark.parametrize('more', [dict(K=40), dict(K=10, budget=60)])
@pytest.mark.parametrize('n', [0, 3, 30])
def test_more_work_that_is_stopped_keeps_the_unseen_scores(more, n, tmp_path):
    "The file of a finished search has them, and is written anew with every batch"
    log, path = [], tmp_path / 'x_T.safetensors'
    more = dict(K=10) | more
    first = search(judged(log), Z, Z, 10, mse, budget=30, path=path, unseen=UNSEEN)
    assert first.unseen is not None and sum(log) == 4
    how = dict(distance=mse, path=path, batch=2)
    half = search(judged(log), Z, Z, **more, **how, stop=stopping_after(n))
    kept = BoundaryCondition.load(path)
    for found in (half, kept):
        assert not found.finished or n == 30
        if torch.equal(found.x_T, first.x_T):
            assert torch.equal(found.unseen, first.unseen)
            assert found.meta['unseen'] == first.meta['unseen']
        else:  # those are the scores of another start
            assert found.unseen is None and 'unseen' not in found.meta
    # the first winner is known, whatever came between
    again = search(judged(log), Z, Z, 10, mse, budget=30, path=path, unseen=UNSEEN)
    if torch.equal(again.x_T, first.x_T):
        assert torch.equal(again.unseen, first.unseen) and sum(log) == 4
    whole = search(judged(log), Z, Z, **more, **how, unseen=UNSEEN)
    assert whole.finished and len(whole.unseen) == 4
    assert torch.allclose(
        whole.unseen, mse(rough(whole.x_T[None], UNSEEN[1]), UNSEEN[0]).double()
    )
    assert sum(log) == (4 if torch.equal(whole.x_T, first.x_T) else 8)


@pytest.mark.parametrize('ends', ['stopped', 'finished'])
def test_the_unseen_scores_of_the_winner_before_are_kept_beside_another(ends, tmp_path):
    log, path = [], tmp_path / 'x_T.safetensors'
    how = dict(distance=mse, strategy='exhaustive', path=path, batch=8)
    first = search(judged(log), Z, Z, 10, **how, unseen=UNSEEN)
    stop = stopping_after(170 if ends == 'stopped' else 1000)
    other = search(judged(log), Z, Z, 200, **how, stop=stop)
    kept = BoundaryCondition.load(path)
    assert other.finished == (ends == 'finished') and other.index != first.index
    for found in (other, kept):
        assert found.unseen is None and 'unseen' not in found.meta
    for unseen in (UNSEEN, None):
        again = search(judged(log), Z, Z, 10, **how, unseen=unseen)
        assert torch.equal(again.unseen, first.unseen)
        assert again.meta['unseen'] == first.meta['unseen']
    assert sum(log) == 4


def test_unseen_scores_on_other_pairs_are_not_taken_for_those_asked_for(tmp_path):
    log, path = [], tmp_path / 'x_T.safetensors'
    search(judged(log), Z, Z, 10, mse, path=path, unseen=UNSEEN)
    others = Z[5:] - 0.05, Z[5:] - 0.05
    again = search(judged(log), Z, Z, 10, mse, path=path, unseen=others)
    assert len(again.unseen) == 3
    assert torch.allclose(
        again.unseen, mse(rough(again.x_T[None], others[1]), others[0]).double()
    )
    kept = BoundaryCondition.load(path)
    assert (
        torch.equal(kept.unseen, again.unseen) and kept.meta['unseen'] == again.meta['unseen']
    )


@pytest.mark.parametrize('strategy', ['refinement', 'evolution', 'gradient'])
def test_interrupted_at_once_a_search_still_has_what_its_file_holds(
    strategy, tmp_path, monkeypatch
):
    "Its x_T is no candidate: before the strategy has made it again, it comes from the file"
    path = tmp_path / 'x_T.safetensors'
    args = (Z, Z, 30, mse, strategy, 400.0)  # a budget may be a float, as K may

    def stops_at_unseen(x_T, y):
        if y.max() > Z.max():
            raise KeyboardInterrupt
        return rough(x_T, y)

    with pytest.raises(SearchInterrupted):
        search(as_h(stops_at_unseen), *args, path=path, unseen=(Z + 0.05, Z + 0.05))
    first = BoundaryCondition.load(path)
    assert not first.finished
    assert not torch.equal(first.x_T, candidates(first.index + 1, Z.shape[1:])[-1])

    def stopped(*args):
        raise KeyboardInterrupt

    for known in (STRATEGIES, BUILT_IN):
        monkeypatch.setitem(known, strategy, stopped)
    with pytest.raises(SearchInterrupted) as error:
        search(h, *args, path=path)
    assert torch.equal(error.value.found.x_T, first.x_T)


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_a_finished_search_solves_nothing_again(strategy, tmp_path):
    "Not even gradients, which its file does not hold any more"
    how = dict(path=tmp_path / 'x_T.safetensors', coarse=coarse_for(strategy))
    first = search(h, Z, Z, 30, mse, strategy, 400, **how)
    never = failing_after(1)
    how['coarse'] = solution_map(never.fn, name='tiny, roughly') if how['coarse'] else None
    again = search(never, Z, Z, 30, mse, strategy, 400, **how)
    assert torch.equal(again.x_T, first.x_T) and again.nfe == first.nfe
    names = unpacked(how['path']).tensors
    assert 'kept.gradients' not in names


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

    def fn(x_T, y):
        sizes.append(x_T.numel())
        return h(x_T, y)

    for K in (20, 200):
        search(fn, Z, Z, K, mse, 'exhaustive', batch=4)
    assert set(sizes) == {4 * 3 * 8 * 8}
    # what a strategy makes is made again when it is asked for, but for the last one
    asking = evolution(Problem(20, 8, 200, (3, 8, 8)))
    wish, made = next(asking), []
    while True:
        if isinstance(wish, Start):
            made.append(wish.x_T)
        answer = torch.rand(200, 8) if isinstance(wish, Cells) else None
        try:
            wish = asking.send(answer)
        except StopIteration:
            break
    assert all(map(callable, made[:-1])) and len(made) > 16


def test_what_is_finished_asks_for_no_batch():
    "On a GPU its size is found by trial"
    problem = Problem(4, 8, shape=(3, 8, 8))
    matrix = ScoreMatrix(h, Z, Z, mse, Starts(problem))
    matrix.D = torch.zeros(4, 8, dtype=torch.float64)
    Runner(problem, matrix).run(exhaustive)
    assert 'batch' not in vars(matrix)


# --- the same results as ever

GOLDEN = load_file(TESTS / 'golden/search.safetensors')


def golden_toy():
    "A search whose every number is a short sum: the same on every machine to 1e-6"
    i, j = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing='ij')

    def pairs(R, seed):
        g = torch.Generator().manual_seed(seed)
        phase, pace = 6 * torch.rand(2, R, 3, 1, 1, generator=g)
        z = 0.8 * torch.sin(pace * (i + 2 * j) / 8 + phase)
        return z, torch.nn.functional.avg_pool2d(z, 4)

    def toy(steps):
        def fn(x_T, y):
            base = y.repeat_interleave(4, 2).repeat_interleave(4, 3)
            x = x_T
            for _ in range(steps):
                x = x - (x - base) * (0.5 + 0.3 * base.sin()) / steps
            return x.clamp(-1, 1)

        return solution_map(fn, name=f'toy {steps}', nfe=steps)

    return toy(4), toy(2), pairs(8, 0), pairs(6, 1)


def compare_with_golden(found, key):
    counts = torch.tensor([found.index, found.solves, found.nfe])
    assert torch.equal(counts, GOLDEN[f'{key}/counts'])
    for name in ('x_T', 'scores', 'unseen'):
        was, now = GOLDEN[f'{key}/{name}'], getattr(found, name)
        assert torch.equal(was.isnan(), now.isnan())
        assert (was - now).nan_to_num().abs().max() < 1e-6


@pytest.mark.parametrize('key', sorted({name.split('/')[0] for name in GOLDEN}))
def test_results_are_those_of_the_first_version(key, tmp_path):
    "In one go, and interrupted at three points"
    strategy, budget = key.split()
    budget = None if budget == 'None' else int(budget)
    h, cheaper, (z, y), unseen = golden_toy()
    with_coarse = strategy == 'multifidelity' or (strategy == 'gradient' and budget)
    coarse = cheaper if with_coarse else None
    how = dict(unseen=unseen, coarse=coarse)
    compare_with_golden(search(h, z, y, 20, mse, strategy, budget, **how), key)
    path = tmp_path / 'x_T.safetensors'
    for stop_after in (1, 2, 3):
        batches = itertools.count(1)
        stop = functools.partial(lambda n: next(batches) > n, stop_after)
        search(h, z, y, 20, mse, strategy, budget, **how, path=path, batch=4, stop=stop)
    compare_with_golden(search(h, z, y, 20, mse, strategy, budget, **how, path=path), key)


def test_a_strategy_that_changed_its_mind_is_played_anew(tmp_path, monkeypatch):
    "Its name is the same, its starts are not: what is known of the others is forgotten"
    path = tmp_path / 'x_T.safetensors'

    def mine(sign):
        def strategy(problem):
            yield Start(0, sign * problem.start(7))
            yield Start(1, problem.start(8))
            slope = yield Gradient(sign * problem.start(7), [0, 1])
            yield Start(2, problem.start(9) - sign * slope)
            D = yield Cells(range(3), range(problem.R))
            return choose(D)

        return strategy

    monkeypatch.setitem(STRATEGIES, 'mine', mine(1))
    first = search(h, Z, Z, 5, mse, 'mine', path=path)
    assert torch.equal(search(h, Z, Z, 5, mse, 'mine', path=path).scores, first.scores)
    monkeypatch.setitem(STRATEGIES, 'mine', mine(-1))
    fresh = search(h, Z, Z, 5, mse, 'mine')
    with pytest.warns(UserWarning, match='row 0 begins elsewhere'):
        again = search(h, Z, Z, 5, mse, 'mine', path=path)
    assert torch.equal(again.scores, fresh.scores) and torch.equal(again.x_T, fresh.x_T)
    assert torch.equal(first.scores[1], fresh.scores[1])


def test_stop_is_a_request_that_returns_the_best_so_far(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    asked = itertools.count(1)
    how = dict(path=path, batch=4)
    found = search(h, Z, Z, 40, mse, 'exhaustive', stop=lambda: next(asked) > 3, **how)
    assert found.solves == 16 and not found.finished
    assert BoundaryCondition.load(path).index == found.index
    assert search(h, Z, Z, 40, mse, 'exhaustive', **how).finished


def test_two_searches_of_one_file_are_told(tmp_path):
    "The second to write finds another task's file, and leaves it"
    path = tmp_path / 'x_T.safetensors'

    first = iter([None])

    def watch(found):
        if next(first, 'again') is None:
            search(h, Z, Z, 5, mse, 'exhaustive', seed=1, path=tmp_path / 'theirs')
            os.replace(tmp_path / 'theirs', path)

    with pytest.raises(ValueError, match='another seed') as error:
        search(h, Z, Z, 40, mse, 'exhaustive', path=path, batch=4, watch=watch)
    assert error.value.found.solves >= 4, 'what was found is not lost'
    assert BoundaryCondition.load(path).seed == 1


# --- what was found by trying to break it


def known_score(found, rows=slice(None)):
    "What the found start scores, computed again"
    x_T = found.x_T.expand(len(Z), -1, -1, -1)
    return squares(rough(x_T, Z), Z).mean().item()


def own(*wishes, winner=0):
    "A strategy that asks for these in turn"

    def strategy(problem):
        for wish in wishes:
            wish = wish(problem) if callable(wish) else wish
            yield wish
        return winner

    return strategy


def searched(monkeypatch, strategy, **how):
    monkeypatch.setitem(STRATEGIES, 'own', strategy)
    return search(h, Z, Z, 5, mse, 'own', **how)


def test_a_start_on_a_row_that_has_scores_forgets_them(monkeypatch):
    everything = Cells([0], range(8))
    moved = own(everything, lambda p: Start(0, 3 * p.start(0)), everything)
    found = searched(monkeypatch, moved)
    assert found.score == pytest.approx(known_score(found), rel=1e-5)


def test_a_strategy_cannot_change_what_is_known(monkeypatch):
    def cheat(problem):
        x = problem.start(3)
        yield Start(1, x)
        x += 100
        D = yield Cells([0, 1], range(8))
        D -= 5
        D[D.isnan()] = 9.0
        D = yield Cells([2], range(8))
        assert D[:2].min() > 0 and not D.isnan().any()
        return 1

    found = searched(monkeypatch, cheat)
    assert found.score == pytest.approx(known_score(found), rel=1e-5)

    def watch(found):
        found.x_T.zero_()
        found.scores.zero_()

    seen = search(h, Z, Z, 20, mse, 'refinement', 200, watch=watch)
    assert torch.equal(seen.x_T, search(h, Z, Z, 20, mse, 'refinement', 200).x_T)


@pytest.mark.parametrize(
    'strategy, says',
    [
        (own(Cells([0], range(8)), winner=None), 'returns the row of its winner'),
        (own(Cells([0], range(8)), winner=3), 'returns the row of its winner'),
        (own(Cells([0], range(8)), winner='best'), 'returns the row of its winner'),
        (own(), 'returns the row of its winner'),
        (lambda problem: 0, 'a strategy is a generator'),
        (own(Cells([0], [99])), 'no row or pair 99: pairs are 0 … 7'),
        (own(Cells([-1], [0])), 'no row or pair -1'),
        (own(CheapCells([0], [0])), 'needs `coarse`'),
        (own('what'), 'cannot ask for str'),
    ],
)
def test_a_strategy_that_misbehaves_is_told(monkeypatch, strategy, says):
    with pytest.raises(ValueError, match=says):
        searched(monkeypatch, strategy)


def test_facts_of_the_caller_do_not_replace_those_of_the_search(tmp_path):
    for name in ('strategy', 'pairs', 'seed', 'accepted', 'unseen'):
        with pytest.raises(ValueError, match=f"writes '{name}' itself"):
            search(h, Z, Z, 5, mse, path=tmp_path / 'x_T', meta={name: 'mine'})
    with pytest.raises(ValueError, match='does not say what it is'):
        nothing = solution_map(rough, facts={})
        search(nothing, Z, Z, 5, mse, path=tmp_path / 'x_T')


def test_a_map_whose_weights_change_is_another_map(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.share = torch.nn.Parameter(torch.tensor(0.1))

        def forward(self, x_T, y):
            return y + self.share * x_T

    net = Net().requires_grad_(False)
    changing = solution_map(net, name='net')
    search(changing, Z, Z, 5, mse, path=tmp_path / 'x_T')
    net.share += 1
    with pytest.raises(ValueError, match='another weights'):
        search(changing, Z, Z, 5, mse, path=tmp_path / 'x_T')


def test_what_cannot_be_accepted(tmp_path):
    path = tmp_path / 'x_T'
    search(h, Z, Z, 5, mse, path=path)
    for name in ('seed', 'shape', 'rows'):
        with pytest.raises(ValueError, match='cannot be accepted'):
            search(h, Z, Z, 5, mse, path=path, accept=[name])
    with pytest.raises(ValueError, match='holds scores on 8 pairs, and here are 4'):
        search(h, Z[:4], Z[:4], 5, mse, path=path, accept='pairs')
    assert search(h, Z + 0.05, Z + 0.05, 5, mse, path=path, accept='pairs').finished


def test_a_stop_keeps_the_batch_that_was_solved(tmp_path):
    found = search(h, Z, Z, 40, mse, 'exhaustive', batch=4, stop=lambda: True)
    assert found.solves == 4, 'the batch that was under way is not thrown away'


def test_two_searches_of_one_task_do_not_lose_each_others_work(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    first = iter([None])

    def watch(found):
        if next(first, 'again') is None:
            path.rename(tmp_path / 'ours')
            search(h, Z, Z, 40, mse, 'exhaustive', path=path)

    with pytest.raises(ValueError, match='was written by another process meanwhile'):
        search(h, Z, Z, 40, mse, 'halving', 160, path=path, batch=4, watch=watch)
    assert BoundaryCondition.load(path).solves == 320


def test_a_descent_begun_by_an_earlier_version_says_that_it_begins_anew(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    whole = search(h, Z, Z, 30, mse, 'gradient', 400)
    asked = itertools.count(1)
    stop = functools.partial(lambda: next(asked) > 20)
    search(h, Z, Z, 30, mse, 'gradient', 400, path=path, batch=4, stop=stop)
    content = unpacked(path)
    content.tensors.pop('kept.gradients', None)
    content.tensors |= {'kept.x': Z[0], 'kept.steps': torch.tensor(3)}
    path.write_bytes(packed(content))
    with pytest.warns(UserWarning, match='the scores are used, the descent begins anew'):
        found = search(h, Z, Z, 30, mse, 'gradient', 400, path=path)
    assert torch.allclose(found.x_T, whole.x_T, atol=1e-5)
