"""The explorer in Python: numbers against brute force, answers against what the library gives,
and the protocol by which the browser asks. What the browser makes of it is in
`tests/test_browser.py`.
"""

import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file
from waiting import LIMIT, finished, wait_until
from odebc.app import explore
from odebc.app.explore import Explorer, explorer, search_app
from odebc.app.scores import live, matrix, start_of, verdict
from odebc.app.still import question, search_answers, still_page
from odebc.app.views import all_winners, caches, expected_gain, order, outlook, pick
from odebc.app.workshop import Job, Request, Workshop
from odebc.data import photographs, split
from odebc.errors import Stopped
from odebc.experiments.lab import reference_and_test
from odebc.identity import digest
from odebc.matrix import candidate
from odebc.metrics import ALEX_VARIABLE, dssim, lpips
from odebc.runner import BoundaryCondition
from odebc.search import search
from odebc.sr3 import SR3

ROOT = Path(__file__).parents[1]
K, R, U = 12, 5, 4
KEY = 'small-DDIM-2'


@pytest.fixture(scope='session')
def model():
    return SR3.from_pretrained()


def scores_file(folder, model, label, **changes):
    "Scores as the tool writes them, but drawn"
    pairs = reference_and_test(photographs(), R, U, model.size, model.scale, 0)
    facts = dict(
        model='small',
        sampler=label,
        seed='0',
        R=str(R),
        U=str(U),
        side=str(model.size),
        bf16='False',
        pairs=digest(torch.cat(pairs[::2]), torch.cat(pairs[1::2])),
        weights=model.solution_map(label).meta['weights'],
    )
    g = torch.Generator().manual_seed(len(label))
    names = 'LPIPS', 'DSSIM', 'MSE'
    D = {name: torch.rand(K, R + U, generator=g) for name in names}
    for what, name in itertools.product(('bicubic', 'random'), names):
        D[f'{what} {name}'] = torch.rand(U, generator=g)
    path = folder / f'small-{label}.safetensors'
    save_file(D | dict(shown=torch.tensor([0, 2])), path, facts | changes)
    path.with_suffix('.webp').write_bytes(b'a sheet')
    return folder


@pytest.fixture(scope='session')
def shelf(model, tmp_path_factory):
    "Two small files of scores, for samplers that are quick"
    folder = tmp_path_factory.mktemp('shelf')
    for label in ('DDIM-2', 'DDIM-3'):
        scores_file(folder, model, label)
    return folder


# --- the functions


def test_all_winners_are_those_of_every_single_search():
    g = torch.Generator().manual_seed(0)
    D = torch.rand(9, 6, generator=g)
    rows = torch.randint(9, (5, 7), generator=g)
    columns = torch.randint(6, (5, 4), generator=g)
    W = all_winners(D, rows, columns)
    for b, k, r in itertools.product(range(5), range(7), range(4)):
        part = D[rows[b, : k + 1]][:, columns[b, : r + 1]].double()
        best = D[W[b, k, r]][columns[b, : r + 1]].mean().item()
        assert best == pytest.approx(part.mean(1).min().item())
        assert W[b, k, r] in rows[b, : k + 1]


def test_the_outlook_is_a_bootstrap():
    g = torch.Generator().manual_seed(1)
    D = torch.rand(20, 1, generator=g) + 0.1 * torch.rand(20, 16, generator=g)
    D_new = D[:, :1].expand(-1, 5) + 0.01 * torch.rand(20, 5, generator=g)
    view = outlook(D, D_new, 400)
    singles = D_new.mean(1)
    # the pairs agree: Eq. 20 finds the best of 6 draws
    draws = singles[torch.randint(20, (20_000, 6), generator=g)].min(1).values
    assert view.mean[5, -1].item() == pytest.approx(draws.mean().item(), abs=0.03)
    assert view.low[5, -1].item() == pytest.approx(draws.quantile(0.1).item(), abs=0.05)
    assert view.mean[0, 0].item() == pytest.approx(singles.mean().item(), abs=0.05)
    gain, error = expected_gain(D_new, view.winners[:, -1, -1])
    assert gain > 5 * error > 0
    assert singles.mean().item() - gain == pytest.approx(view.mean[-1, -1].item(), abs=1e-6)


def test_a_shuffled_choice_is_eq_20_on_the_shuffled_matrix():
    g = torch.Generator().manual_seed(2)
    D, D_new = torch.rand(30, 8, generator=g), torch.rand(30, 3, generator=g)
    chosen = set()
    for shuffle in range(12):
        rows, columns = order(30, shuffle)[:5], order(8, shuffle)[:2]
        means = D[rows][:, columns].mean(1)
        found = pick(D, D_new, 5, 2, shuffle)
        assert found.index == rows[means.argmin()]
        assert found.score == pytest.approx(means.min().item())
        assert found.random == pytest.approx(means.mean().item())
        assert found.unseen == pytest.approx(D_new[found.index].mean().item())
        chosen.add(found.index)
    assert len(chosen) > 4


def test_what_is_cached_is_shipped_and_belongs_to_the_shipped_networks():
    shelf = caches()
    assert {'small-mid-DDIM-10', 'small-DDIM-10', 'base-DDIM-10'} <= set(shelf)
    assert min(c.K for key, c in shelf.items() if key.startswith('small')) >= 200
    for key, c in shelf.items():
        model = SR3.from_pretrained(c.network, 'bfloat16' if c.bf16 else 'float32')
        assert key == f'{c.network}-{c.sampler}' and c.complaint(model) == ''
        shape = c.scores['LPIPS'].shape
        assert all(v.isfinite().all() and v.shape == shape for v in c.scores.values())
        z, y, z_new, y_new = c.images(model)
        assert len(z) == c.R and len(z_new) == c.U and c.sheet[8:12] == b'WEBP'
        if model.size > 64:
            continue  # ten calls at 256² take their time
        kept = {name: c.split(name)[0][1, :2].tolist() for name in c.scores}
        x_0 = model.h(candidate(1, model.shape, c.seed)[None], y[:2], c.sampler)
        # in bfloat16 machines round otherwise, and a plain network makes much of it
        near = 0.05 if c.network == 'small-mid' else 0.01
        assert dssim(x_0, z[:2]).tolist() == pytest.approx(kept['DSSIM'], abs=near)
        if os.environ.get(ALEX_VARIABLE):
            assert lpips(x_0, z[:2]).tolist() == pytest.approx(kept['LPIPS'], abs=near)
        error = (x_0 - z[:2]).square().mean((1, 2, 3)).tolist()
        assert error == pytest.approx(kept['MSE'], rel=5 * near)


def test_files_that_are_no_scores_are_refused(tmp_path):
    path = tmp_path / 'small-DDIM-2.safetensors'
    path.write_bytes(b'no')
    with pytest.raises(ValueError, match='holds no scores'):
        caches(tmp_path)
    save_file({'LPIPS': torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match='holds no scores'):
        caches(tmp_path)
    with pytest.raises(ValueError, match='no cached scores'):
        caches(tmp_path / 'empty')


# --- jobs


def test_a_dragged_slider_starts_one_job():
    started, dropped, problems = [], [], []
    job = Job(pause=LIMIT)  # however slowly the slider is dragged
    for n in range(49):
        job.start(
            lambda check, n=n: started.append(n),
            lambda n=n: dropped.append(n),
            problems.append,
        )
    job.cancel()
    job.pause = 0  # the hand rests
    job.start(lambda check: started.append(49), fail=problems.append)
    job.wait(LIMIT)
    wait_until(lambda: len(dropped) == 49, 'the others to be dropped')
    assert started == [49] and not problems


def test_two_jobs_never_run_at_once():
    running, most, problems = [], [], []
    job = Job()

    def work(check):
        running.append(1)
        most.append(len(running))
        try:
            while True:
                time.sleep(0.005)
                check()
        finally:
            running.pop()

    for n in range(6):
        job.start(work, fail=problems.append)  # while the one before runs
        wait_until(lambda: len(most) == n + 1, 'the next job')
    job.cancel()
    job.wait(LIMIT)
    assert most == 6 * [1] and not problems


# --- answers


def asked(**args):
    return Request(args)


def test_a_matrix_is_what_the_file_says(shelf):
    room = Workshop(shelf)
    answer = matrix(room, asked(key=KEY))
    file = load_file(shelf / f'{KEY}.safetensors')
    assert answer['distances'] == ['LPIPS', 'DSSIM', 'MSE'] and answer['shown'] == [0, 2]
    for name in answer['distances']:
        D = np.frombuffer(answer[name], np.float32).reshape(K, R + U)
        assert np.array_equal(D, file[name])
    random = np.frombuffer(answer['random'], np.float32).reshape(3, U)
    assert np.array_equal(random[1], file['random DSSIM']) and answer['sheet'] == b'a sheet'
    draws = np.frombuffer(answer['draws'], np.int16).reshape(100, K + R)
    assert draws[:, :K].max() == K - 1 and draws[:, K:].max() == R - 1 and draws.min() == 0
    json.dumps([v for v in answer.values() if not isinstance(v, bytes)])
    with pytest.raises(ValueError, match='no scores for .none., there are small-DDIM-2'):
        matrix(room, asked(key='none'))


def test_the_verdict_is_that_of_diagnose(shelf):
    from odebc.variance import parts, worth

    D = caches(shelf)[KEY].split('LPIPS')[0]
    # patches come from one photograph after the other
    n = len(split(photographs())[0])
    found = worth(parts(D, [i % n for i in range(R)]), K, R)
    sentence = verdict(Workshop(shelf), asked(key=KEY))['sentence']
    assert f'{found.rho.value:.2f}' in sentence and f'{found.share[2]:.0%}' in sentence
    words = dict(yes=': worth', no=': not worth', unclear=': not clear')
    assert words[found.verdict] in sentence


HOW = dict(key=KEY, distance='DSSIM', K=6, R=4, columns=[0, 1, 2, 3], shuffle=0)


def test_live_search_finds_what_search_finds(shelf):
    room, told = Workshop(shelf), []
    model = room.model('small')
    found = live(room, Request(HOW, tell=told.append))
    z, y, *unseen = caches(shelf)[KEY].images(model)
    h = model.solution_map('DDIM-2')
    direct = search(h, z[:4], y[:4], 6, dssim, budget=11, unseen=unseen)
    assert found['index'] == direct.index == room.found.index and found['finished']
    assert found['unseen'] == pytest.approx(direct.unseen_score, abs=1e-5)
    assert found['score'] == pytest.approx(direct.score, abs=1e-5)
    known = np.frombuffer(found['scores'], np.float32).reshape(found['rows'], -1)
    assert np.isfinite(known).sum() == found['solves'] == direct.solves
    shares = [t['share'] for t in told if 'share' in t]
    assert shares == sorted(shares) and 0 < shares[0] < 1 and shares[-1] == 1
    best = [t for t in told if 'index' in t]
    assert best and all(t['measure'] == 'DSSIM' for t in best)
    json.dumps([{n: v for n, v in t.items() if not isinstance(v, bytes)} for t in told])


def test_live_search_is_cancelled_and_keeps_the_best(shelf, tmp_path):
    room = Workshop(shelf)
    gone = threading.Event()

    def check():
        if gone.is_set():
            raise Stopped

    def tell(told):
        if 'index' in told:
            gone.set()

    found = live(
        room, Request(HOW | dict(K=12, R=5, columns=[0, 1, 2, 3, 4]), [], check, tell)
    )
    assert not found['finished'] and found['index'] == room.found.index
    taken = start_of(room, asked(found=True))
    (tmp_path / taken['name']).write_bytes(taken['file'])
    again = BoundaryCondition.load(tmp_path / taken['name'])
    assert torch.equal(again.x_T, room.found.x_T)

    assert live(room, Request(HOW, check=check)) == dict(nothing=True)  # before it begins


def test_a_chosen_start_can_be_taken_away(shelf, tmp_path, model):
    room = Workshop(shelf)
    with pytest.raises(ValueError, match='found anything yet'):
        start_of(room, asked(found=True))
    taken = start_of(room, asked(key=KEY, index=7))
    path = tmp_path / taken['name']
    path.write_bytes(taken['file'])
    found = BoundaryCondition.load(path)
    assert taken['name'] == 'x_T-8.safetensors' and (found.index, found.seed) == (7, 0)
    assert torch.equal(found.x_T, candidate(7, model.shape, 0))
    h = model.solution_map('DDIM-2')
    assert found.meta['weights'] == h.meta['weights'] and found.meta['sampler'] == 'DDIM-2'


# --- the protocol


@pytest.fixture
def sent(monkeypatch):
    "What a widget sends to its browser"
    messages = []
    monkeypatch.setattr(
        Explorer, 'send', lambda self, content, buffers=(): messages.append((content, buffers))
    )
    return messages


def ask(widget, number, question, /, **args):
    widget.asked(widget, dict(id=number, name=question, args=args), [])


def test_a_question_gets_its_answer(shelf, sent):
    widget = search_app(folder=shelf)
    assert widget.facts['apps'] == ['search']
    assert widget.facts['shelf'][KEY]['K'] == K
    ask(widget, 3, 'matrix', key=KEY)
    widget.wait(LIMIT)
    ((message, buffers),) = sent
    assert (message['id'], message['kind']) == (3, 'answer')
    value = message['value'] | dict(zip(message['names'], buffers))
    assert value == matrix(widget.workshop, asked(key=KEY))
    json.dumps(message)


def test_errors_are_told_and_older_questions_dropped(shelf, sent, monkeypatch):
    widget = explorer(folder=shelf)
    ask(widget, 1, 'matrix', key='none')
    widget.wait(LIMIT)
    assert sent[0][0]['kind'] == 'error' and 'no scores for' in sent[0][0]['why']
    gate = threading.Event()

    def slow(room, request):
        gate.wait(LIMIT)
        request.check()
        return dict(asked=request.args['n'])

    monkeypatch.setitem(explore.ANSWERS, 'matrix', slow)
    for n in range(3):
        ask(widget, 10 + n, 'matrix', n=n)
    gate.set()
    widget.wait(LIMIT)
    wait_until(lambda: len(sent) == 4, 'all of them to be answered')
    kinds = {message['id']: message['kind'] for message, _ in sent[1:]}
    assert kinds == {10: 'dropped', 11: 'dropped', 12: 'answer'}


def test_cancelling_stops_a_question(shelf, sent, monkeypatch):
    begun = threading.Event()

    def endless(room, request):
        begun.set()
        while True:
            time.sleep(0.005)
            request.check()

    monkeypatch.setitem(explore.ANSWERS, 'live', endless)
    widget = search_app(folder=shelf)
    ask(widget, 1, 'live')
    assert begun.wait(LIMIT)
    ask(widget, 2, 'cancel', name='live')
    widget.wait(LIMIT)
    wait_until(lambda: sent, 'the word that it was dropped')
    assert [message['kind'] for message, _ in sent] == ['dropped']


def test_unknown_apps_are_refused():
    with pytest.raises(ValueError, match='there is no app .serch., only search'):
        explorer('serch')
    with pytest.raises(ValueError, match='there is no app .sound.'):
        explorer(sound=dict(R=1))


# --- without a kernel


def test_a_still_page_needs_nothing_else(shelf):
    room = Workshop(shelf)
    page = still_page('search', room, search_answers(room, KEY), [KEY])
    assert '://' not in page.replace('http://www.w3.org/2000/svg', '')
    facts = json.loads(page.split('id="facts">')[1].split('</script>')[0])
    kept = facts['answers'][question('matrix', key=KEY)]
    assert kept['shown'] == [0, 2] and set(kept['sheet']) == {'base64'}


def test_the_tool_writes_resumes_and_renews(tmp_path, model):
    def run(*args):
        command = [sys.executable, ROOT / 'tools/explore_cache.py', '--out', tmp_path]
        quick = '--model small --samplers DDIM-1 --r 2 --u 2'.split()
        return finished([*command, *quick, *args], check=True)

    path = tmp_path / 'small-DDIM-1.safetensors'
    run('--k', '2')
    first = load_file(path)
    run('--k', '3')
    second = load_file(path)
    for name in ('LPIPS', 'DSSIM', 'MSE'):
        assert len(second[name]) == 3 and np.array_equal(second[name][:2], first[name])
    c = caches(tmp_path)['small-DDIM-1']
    assert c.complaint(model) == '' and len(c.images(model)[0]) == 2
    assert (
        c.sheet[8:12] == b'WEBP' and len(c.shown) == 2 and c.beside['random'].shape == (3, 2)
    )
    assert 'made anew' in run('--k', '2', '--u', '3').stdout
    assert len(load_file(path.with_suffix('.old'))['MSE']) == 3
    with safe_open(path, 'np') as f:
        assert f.metadata()['U'] == '3' and f.get_tensor('MSE').shape == (2, 5)


def test_nothing_else_needs_the_widgets():
    code = (
        'import sys, odebc.cli, odebc.experiments.results, odebc.search\n'
        "sys.exit('odebc.app.explore' in sys.modules or 'ipywidgets' in sys.modules)"
    )
    finished([sys.executable, '-c', code], check=True)


def test_each_app_can_be_had_alone(shelf):
    from odebc.app.explore import noise_app, trajectory_app, upscale_app

    for alone, app in (
        (search_app, 'search'),
        (trajectory_app, 'trajectory'),
        (noise_app, 'noise'),
        (upscale_app, 'enlarge'),
    ):
        assert alone(folder=shelf).facts['apps'] == [app]
    assert len(explorer(folder=shelf, search=dict(R=3)).facts['apps']) == 4
