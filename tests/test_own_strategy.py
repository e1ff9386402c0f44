"A strategy of a reader's own: on a tensor, on a map, on the network; killed, gone on with."

import functools
import itertools
import re
import signal
import sys
import numpy as np
import pytest
import torch
from tiny import Z, as_h, cheap, h, mse, rough
from waiting import FRESH, begin, ended, finished, told_by_two, wait_until, written
from odebc.boundary import choose
from odebc.matrix import candidate
from odebc.runner import BoundaryCondition
from odebc.search import search
from odebc.store import unpacked
from odebc.strategies import (
    STRATEGIES,
    Cells,
    CheapCells,
    Fact,
    Forecast,
    Gradient,
    Start,
    evolution,
    halving,
    on_matrix,
    refinement,
    rotate,
)


def knockout(problem):
    "All candidates on one pair, the better half of them on all pairs"
    K, R = problem.K, problem.R
    yield Forecast(K + K // 2 * (R - 1))
    D = yield Cells(range(K), [0])
    best = D[:, 0].argsort()[: K // 2]
    D = yield Cells(best, range(R))
    return choose(D)


def walk(problem):
    "From the best on one pair, three steps that may fail"
    R, row = problem.R, problem.K
    D = yield Cells(range(problem.K), 0)
    now = D[:, 0].argmin()
    D = yield Cells(now, range(R))
    x = problem.start(now)
    for row in range(row, row + 3):
        yield Start(row, rotate(x, problem.start(row), 0.3))
        D = yield Cells(row, range(R))
    return D[:, 1:].mean(1).nan_to_num(torch.inf).argmin()


def test_on_a_tensor():
    D = torch.rand(40, 8, generator=torch.Generator().manual_seed(0))
    winner, asked = on_matrix(knockout, D)
    half = D[:, 0].argsort()[:20]
    assert winner == half[D[half].mean(1).argmin()] and asked.sum() == 40 + 20 * 7
    assert type(winner) is int


@pytest.mark.parametrize(
    'wish, says',
    [
        (Gradient(Z[0], [0]), 'a matrix alone knows no gradient'),
        (Start(0, Z[0]), 'a matrix alone knows no start'),
        (CheapCells([0], [0]), 'a matrix alone knows no cheaper map'),
        (Cells([40], [0]), 'there is no row 40: the matrix has 40'),
        (Cells([0], [-1]), 'there is no pair -1: the matrix has 8'),
        ('all', 'a strategy cannot ask for str'),
    ],
)
def test_what_a_tensor_cannot_answer(wish, says):
    def strategy(problem):
        yield wish
        return 0

    with pytest.raises(ValueError, match=says):
        on_matrix(strategy, torch.rand(40, 8))


def test_a_tensor_and_a_map_give_the_same():
    found = search(h, Z, Z, 40, mse, knockout)
    D = search(h, Z, Z, 40, mse, 'exhaustive').scores
    winner, asked = on_matrix(knockout, D)
    assert (found.index, found.solves) == (winner, asked.sum())
    assert found.meta['strategy'] == 'knockout' and found.finished


@pytest.mark.parametrize('strategy', [knockout, walk], ids=lambda s: s.__name__)
def test_a_function_is_a_strategy_stopped_and_gone_on_with(strategy, tmp_path):
    "No registration: the function is the argument"
    path = tmp_path / 'x_T.safetensors'
    how = dict(K=20, distance=mse, strategy=strategy, batch=4)
    whole = search(h, Z, Z, **how)
    solved = []

    def counted(x_T, y):
        solved.append(len(y))
        return rough(x_T, y)

    for n in (2, 3, 2):
        asked = itertools.count(1)
        stop = functools.partial(lambda asked: next(asked) > n, asked)
        half = search(as_h(counted), Z, Z, **how, path=path, stop=stop)
        assert not half.finished
    again = search(as_h(counted), Z, Z, **how, path=path)
    assert torch.equal(again.x_T, whole.x_T) and again.solves == whole.solves
    assert torch.allclose(again.scores, whole.scores, atol=1e-6, equal_nan=True)
    n = len(solved)
    search(as_h(counted), Z, Z, **how, path=path)
    assert len(solved) == n, 'a finished search is only read'


def test_the_answer_holds_what_was_asked_for_and_no_more(tmp_path):
    "Also where a file knows more already: else a search that is gone on with takes other ways"
    path, seen = tmp_path / 'x_T.safetensors', []

    def curious(problem):
        D = yield Cells(range(10), [0])
        seen.append(D.isnan().sum().item())
        best = D.nanmean(1).argsort()[:3]
        D = yield Cells(best, range(problem.R))
        return choose(D)

    how = dict(K=10, distance=mse, strategy=curious, path=path)
    first = search(h, Z, Z, **how)
    again = search(h, Z, Z, **how)
    assert seen == [70, 70] and again.index == first.index and again.solves == first.solves


@pytest.mark.parametrize(
    'rows', [[3], range(3, 4), (3,), 3, torch.tensor([3]), torch.tensor(3), np.array([3]), {3}]
)
@pytest.mark.parametrize('winner', [3, torch.tensor(3), np.int64(3)], ids=repr)
def test_rows_and_winners_are_taken_as_they_come(rows, winner):
    def strategy(problem):
        D = yield Cells(rows, range(problem.R))
        assert not D[3].isnan().any()
        return winner

    assert search(h, Z, Z, 5, mse, strategy).index == 3
    assert on_matrix(strategy, torch.rand(5, 8))[0] == 3


@pytest.mark.parametrize('rows', [[1.5], 'all', None, [[0]], torch.tensor([0.5])])
def test_rows_that_are_none(rows):
    def strategy(problem):
        yield Cells(rows, [0])
        return 0

    says = 'rows and pairs are whole numbers'
    with pytest.raises(ValueError, match=says):
        search(h, Z, Z, 5, mse, strategy)
    with pytest.raises(ValueError, match=says):
        on_matrix(strategy, torch.rand(5, 8))


@pytest.mark.parametrize(
    'strategy, says',
    [
        (3, 'a strategy is the name of one, or a function of a problem'),
        (None, 'a strategy is the name of one, or a function of a problem'),
        (lambda problem: 0, 'a strategy is a generator'),
        ('magic', 'known are halving'),
    ],
)
def test_what_is_no_strategy(strategy, says):
    with pytest.raises(ValueError, match=says):
        search(h, Z, Z, 5, mse, strategy)


def test_a_built_in_one_may_be_given_as_a_function(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    by_name = search(h, Z, Z, 20, mse, 'halving', path=path)
    assert search(h, Z, Z, 20, mse, halving, path=path).solves == by_name.solves
    finer = functools.partial(evolution, grid=4)
    found = search(h, Z, Z, 20, mse, finer, 300, path=tmp_path / 'finer')
    assert found.meta['strategy'] == 'evolution with grid=4'
    assert not torch.equal(found.x_T, search(h, Z, Z, 20, mse, 'evolution', 300).x_T)
    with pytest.raises(ValueError, match='another rows'):
        search(h, Z, Z, 20, mse, 'evolution', 300, path=tmp_path / 'finer')
    again = search(h, Z, Z, 20, mse, functools.partial(refinement, angle=0.5), 300)
    assert torch.equal(again.x_T, search(h, Z, Z, 20, mse, 'refinement', 300).x_T)


def test_one_of_a_built_in_name_is_not_taken_for_it(tmp_path, monkeypatch):
    "A reader who writes halving anew calls it halving"
    path = tmp_path / 'x_T.safetensors'

    def halving(problem):
        yield Start(0, 9 * problem.start(0))
        D = yield Cells([0, 1], range(problem.R))
        return choose(D)

    mine = search(h, Z, Z, 5, mse, halving, path=path)
    assert mine.meta['strategy'] == 'own halving'
    with pytest.raises(ValueError, match='another rows'):
        search(h, Z, Z, 5, mse, 'halving', path=path)
    monkeypatch.setitem(STRATEGIES, 'halving', halving)  # the older way
    assert search(h, Z, Z, 5, mse, 'halving', path=path).solves == mine.solves


def test_one_may_ask_a_cheaper_map_and_tell_facts(tmp_path):
    def twofold(problem):
        D = yield CheapCells(range(problem.K), range(problem.R))
        best = D.mean(1).argsort()[:2]
        yield Fact('best', best.tolist())
        D = yield Cells(best, range(problem.R))
        return choose(D)

    found = search(h, Z, Z, 20, mse, twofold, coarse=cheap, path=tmp_path / 'x_T')
    assert found.solves == 16 and found.nfe == 16 * h.nfe + 160 * cheap.nfe
    assert found.index in found.meta['best']
    again = search(h, Z, Z, 20, mse, twofold, coarse=cheap, path=tmp_path / 'x_T')
    assert again.meta == found.meta and again.nfe == found.nfe
    loaded = BoundaryCondition.load(tmp_path / 'x_T')
    assert loaded.meta == found.meta and loaded.meta['told'] == ['best']


@pytest.mark.parametrize(
    'name', ['seed', 'map', 'strategy', 'K', 'unseen', 'accepted', 'told']
)
def test_a_fact_of_a_strategy_does_not_replace_one_of_the_search(name):
    def strategy(problem):
        yield Fact(name, 3)
        return 0

    with pytest.raises(ValueError, match=f"writes '{name}' itself"):
        search(h, Z, Z, 5, mse, strategy)


@pytest.mark.parametrize(
    'wish, says',
    [
        (Start(-1, Z[0]), 'no row or pair -1'),
        (Start('a', Z[0]), 'rows and pairs are whole numbers'),
        (
            Start(1, Z[0, 0]),
            r'row 1 must begin at a tensor of shape \(3, 8, 8\), not \(8, 8\)',
        ),
        (Start(1, Z[0].numpy()), r'must begin at a tensor of shape \(3, 8, 8\), not ndarray'),
        (Start(1, lambda: 3), r'must begin at a tensor of shape \(3, 8, 8\), not int'),
        (Gradient(Z[0], [8]), 'no row or pair 8: pairs are 0 … 7'),
        (Gradient(3, [0]), 'a gradient is that at a tensor, not at 3'),
    ],
)
def test_starts_and_gradients_that_cannot_be(wish, says):
    def strategy(problem):
        yield wish
        return 0

    with pytest.raises(ValueError, match=says):
        search(h, Z, Z, 5, mse, strategy)


def test_a_start_of_double_precision_is_a_start():
    def strategy(problem):
        yield Start(1, problem.start(1).double())
        yield Cells([0, 1], range(problem.R))
        return 1

    assert torch.equal(search(h, Z, Z, 5, mse, strategy).x_T, candidate(1, (3, 8, 8)))


def test_a_row_that_has_two_starts_is_played_alike_again(tmp_path):
    "It is scored as a candidate first, and begins elsewhere then"
    path, answers = tmp_path / 'x_T.safetensors', []

    def twice(problem):
        D = yield Cells([0], range(problem.R))
        answers.append(D[0].mean().item())
        D = yield CheapCells([0], range(problem.R))
        answers.append(D[0].mean().item())
        yield Start(0, 3 * problem.start(0))
        D = yield CheapCells([0], range(problem.R))
        answers.append(D[0].mean().item())
        D = yield Cells([0], range(problem.R))
        answers.append(D[0].mean().item())
        return 0

    how = dict(K=5, distance=mse, strategy=twice, coarse=cheap, path=path)
    first = search(h, Z, Z, **how)
    again = search(h, Z, Z, **how)
    assert len(set(answers[:4])) == 4
    assert answers[:4] == pytest.approx(answers[4:], rel=1e-6)
    assert torch.equal(first.x_T, again.x_T)


def test_gradients_of_an_own_strategy_are_kept_when_it_has_ended(tmp_path):
    "It is played again to see what it returns: what it asked for must be known"
    path, asked = tmp_path / 'x_T.safetensors', []

    def counted(x_T, y):
        asked.append(x_T.requires_grad)
        return rough(x_T, y)

    def downhill(problem):
        x = problem.start(0)
        for n in range(3):
            slope = yield Gradient(x, range(problem.R))
            x = rotate(x, -slope, 0.2)
        yield Start(0, x)
        yield Cells([0], range(problem.R))
        return 0

    how = dict(K=3, distance=mse, strategy=downhill, path=path)
    first = search(as_h(counted), Z, Z, **how)
    n = len(asked)
    again = search(as_h(counted), Z, Z, **how)
    assert len(asked) == n and again.nfe == first.nfe
    assert torch.equal(again.x_T, first.x_T)


def test_chance_without_a_seed_is_told(tmp_path):
    "It begins anew, and hours are lost: not without a word"
    path, g = tmp_path / 'x_T.safetensors', torch.Generator()

    def random(problem):
        for row in range(3):
            yield Start(row, torch.randn(problem.shape, generator=g))
            yield Cells([row], range(problem.R))
        return 0

    how = dict(K=3, distance=mse, strategy=random, path=path)
    g.manual_seed(0)
    search(h, Z, Z, **how)
    with pytest.warns(UserWarning, match=r'row 0 begins elsewhere .* problem\.start') as told:
        search(h, Z, Z, **how)
    assert len(told) == 1


# --- several processes

RANDOM = """
import os, torch
from odebc.matrix import processes
from odebc.search import search
from odebc.strategies import Cells
from tiny import Z, h, mse, tell
def strategy(problem):
    rank = int(os.environ['RANK'])
    D = yield Cells(range(10), [0])
    yield Cells(range(10 - rank), range(problem.R))  # each of them wants something else
    return 0
try: search(h, Z, Z, 10, mse, strategy, batch=4)
except ValueError as e: tell(e)
processes().destroy_process_group()
"""


def test_processes_that_want_different_things_do_not_wait_for_each_other(tmp_path):
    for (told,) in told_by_two(tmp_path, RANDOM):
        assert told.startswith('the strategy asks for other things in other processes')


TOGETHER = """
import sys
from odebc.matrix import processes
from odebc.search import search
from test_own_strategy import Z, h, mse, walk
from tiny import tell
found = search(h, Z, Z, 20, mse, walk, batch=4, path=sys.argv[1])
tell(found.index, found.solves)
processes().destroy_process_group()
"""


def test_two_processes_find_what_one_finds(tmp_path):
    told = told_by_two(tmp_path, TOGETHER, tmp_path / 'x_T')
    one = search(h, Z, Z, 20, mse, walk)
    assert told == [[f'{one.index} {one.solves}']] * 2
    two = BoundaryCondition.load(tmp_path / 'x_T')
    assert torch.equal(two.x_T, one.x_T)
    assert torch.allclose(two.scores, one.scores, atol=1e-6, equal_nan=True)


# --- the real network

NETWORK = """
import sys
from odebc.data import degrade, photographs, tiles
from odebc.metrics import Distance, lpips_lite
from odebc.search import search
from odebc.sr3 import SR3
import torch
from test_own_strategy import knockout, walk
strategy, path = sys.argv[1:]
z = tiles(list(photographs().values()), 3, 64, torch.Generator().manual_seed(0))
h = SR3.from_pretrained('small').solution_map('DDIM-2')
how = dict(strategy=dict(knockout=knockout, walk=walk)[strategy], path=path, batch=2)
found = search(h, z, degrade(z), 6, Distance(lpips_lite), **how)
print(found.index, found.solves, found.nfe, f'{found.score:.4f}')
"""


def on_the_network(*args):
    command = [sys.executable, '-c', NETWORK, *args]
    return begin(command, FRESH, stdout=-1, stderr=-1, bufsize=0)


@pytest.mark.parametrize('strategy, solves', [('knockout', 12), ('walk', 17)])
def test_on_the_network_killed_and_gone_on_with(strategy, solves, tmp_path):
    whole, path = tmp_path / 'whole', tmp_path / 'x_T.safetensors'
    told, shown = map(bytes.decode, ended(on_the_network(strategy, whole)))
    index, n, nfe, score = told.split()
    assert int(n) == solves and int(nfe) == 2 * solves
    assert f'| {solves}/' in shown and 'solve' in shown and f'best={score}' in shown
    process = on_the_network(strategy, path)
    wait_until(lambda: path.exists() and known(path) >= 4, 'two batches')
    process.kill()
    ended(process)
    assert process.returncode == -signal.SIGKILL
    before = known(path)
    assert 4 <= before < solves and not BoundaryCondition.load(path).finished
    process = on_the_network(strategy, path)
    seen = written(process, f' {before}solve'.encode())  # the bar begins where the file is
    rest, more = ended(process)
    assert rest.decode().split() == [index, n, nfe, score], (seen + more).decode()
    one, two = (unpacked(file).tensors for file in (whole, path))
    assert torch.equal(one['x_T'], two['x_T'])
    assert torch.allclose(one['scores'], two['scores'], atol=1e-5, equal_nan=True)


def known(path):
    return BoundaryCondition.load(path).solves


def test_the_bar_of_one_that_makes_no_forecast(monkeypatch, capfd):
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    code = (
        'from test_own_strategy import *\n'
        'search(h, Z, Z, 20, mse, walk, budget=60, batch=4)\n'
        'search(h, Z, Z, 20, mse, walk, batch=4)'
    )
    shown = finished([sys.executable, '-c', code], env=FRESH, check=True).stderr
    assert re.search(r'\d+/60 ', shown), 'a budget is a forecast'
    assert shown.count('| 51/51 ') == 2
    assert candidate(torch.tensor(3), (4,)).equal(candidate(3, (4,)))
