"""The explorer: its functions against brute force, and every app driven by its controls. An
error that an app tells makes the test fail.
"""

import base64
import io
import itertools
import os
import re
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file
from waiting import LIMIT, finished, wait_until
from odebc.app import explore
from odebc.boundary import choose
from odebc.data import photographs
from odebc.identity import digest
from odebc.images import to_bytes, to_image, to_tensor
from odebc.app.explore import Job, noise_app, search_app, trajectory_app, upscale_app
from odebc.app.explore import Watched
from odebc.metrics import ALEX_VARIABLE, dssim, lpips
from odebc.experiments.lab import reference_and_test
from odebc.matrix import candidate
from odebc.runner import BoundaryCondition
from odebc.search import search
from odebc.sr3 import SR3
from odebc.app.views import all_winners, caches, expected_gain, outlook

ROOT = Path(__file__).parents[1]
K, R, U = 12, 5, 4


@pytest.fixture(scope='session')
def model():
    return SR3.from_pretrained()


def scores_file(folder, model, label, **changes):
    "Scores as the tool writes them, but drawn"
    pairs = reference_and_test(photographs(), R, U, model.size, model.scale, 0)
    facts = dict(
        sampler=label,
        seed='0',
        R=str(R),
        U=str(U),
        pairs=digest(torch.cat(pairs[::2]), torch.cat(pairs[1::2])),
        weights=model.solution_map(label).meta['weights'],
    )
    g = torch.Generator().manual_seed(len(label))
    D = {name: torch.rand(K, R + U, generator=g) for name in ('LPIPS', 'DSSIM', 'MSE')}
    save_file(D, folder / f'{label}.safetensors', facts | changes)
    return folder


@pytest.fixture(scope='session')
def shelf(model, tmp_path_factory):
    "Two small files of scores, for samplers that are quick"
    folder = tmp_path_factory.mktemp('shelf')
    for label in ('DDIM-2', 'DDIM-3'):
        scores_file(folder, model, label)
    return folder


def healthy(app):
    "Everything under way has ended, and nothing went wrong"
    for job in (app.job, getattr(app, 'live', app.job)):
        job.wait(LIMIT)
        assert not job.thread or not job.thread.is_alive()
    assert app.problem.value == ''
    return app


def found_in(text, name):
    "A number in a message"
    return re.search(f'class="odebc-{name}">(.*?)</b>', text)[1]


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


def test_what_is_cached_is_shipped_and_belongs_to_the_shipped_network(model):
    shelf = caches()
    assert {'DDIM-10', 'DPMS-10'} <= set(shelf)
    for label, c in shelf.items():
        assert c.complaint(model) == ''
        assert all(
            v.isfinite().all() and v.shape == c.scores['LPIPS'].shape
            for v in c.scores.values()
        )
        z, y, z_new, y_new = c.images(model)
        assert len(z) == c.R and len(z) + len(z_new) == c.scores['MSE'].shape[1]

        def kept(name):
            return pytest.approx(c.split(name)[0][1, :2].tolist(), abs=1e-3)

        x_0 = model.h(candidate(1, model.shape, c.seed)[None], y[:2], label)
        assert dssim(x_0, z[:2]).tolist() == kept('DSSIM')
        if os.environ.get(ALEX_VARIABLE):
            assert lpips(x_0, z[:2]).tolist() == kept('LPIPS')
        assert (x_0 - z[:2]).square().mean((1, 2, 3)).tolist() == kept('MSE')


def test_files_that_are_no_scores_are_refused(tmp_path, model):
    (tmp_path / 'DDIM-2.safetensors').write_bytes(b'no')
    with pytest.raises(ValueError, match='holds no scores'):
        caches(tmp_path)
    save_file({'LPIPS': torch.zeros(2, 2)}, tmp_path / 'DDIM-2.safetensors')
    with pytest.raises(ValueError, match='holds no scores'):
        caches(tmp_path)
    with pytest.raises(ValueError, match='no cached scores'):
        caches(tmp_path / 'empty')


# --- jobs


def test_a_dragged_slider_starts_one_job():
    started, problems = [], []
    job = Job(problems.append, pause=LIMIT)  # however slowly the slider is dragged
    for n in range(49):
        job.start(lambda check, n=n: started.append(n))
    job.cancel()
    job.pause = 0  # the hand rests
    job.start(lambda check: started.append(49))
    job.wait(LIMIT)
    assert started == [49] and not problems


def test_two_jobs_never_run_at_once():
    running, most, problems = [], [], []
    job = Job(problems.append, pause=0)

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
        job.start(work)  # while the one before runs
        wait_until(lambda: len(most) == n + 1, 'the next job')
    job.cancel()
    job.wait(LIMIT)
    assert most == 6 * [1] and not problems


# --- search app


def test_every_place_of_the_sliders_shows_what_the_file_says(shelf):
    app = healthy(search_app(folder=shelf))
    assert app.K.options == tuple(range(1, K + 1)) and app.R.options == tuple(range(1, R + 1))
    labels, names = ('DDIM-2', 'DDIM-3'), ('LPIPS', 'DSSIM', 'MSE')
    for label, name, k, r in itertools.product(labels, names, (1, 4, K), (1, R)):
        app.sampler.value = label
        app.distance.value = name
        app.K.value = k
        app.R.value = r
        D = load_file(shelf / f'{label}.safetensors')[name].astype(float)
        best = D[:k, :r].mean(1).argmin()
        assert int(found_in(app.numbers.value, 'candidate')) == best
        assert found_in(app.numbers.value, 'score') == f'{D[best, :r].mean():.4f}'
        assert found_in(app.numbers.value, 'unseen') == f'{D[best, R:].mean():.4f}'
        assert found_in(app.numbers.value, 'random') == f'{D[:, R:].mean():.4f}'
        old, new = caches(shelf)[label].split(name)
        gain, error = expected_gain(new, outlook(old, new).winners[:, k - 1, r - 1])
        assert found_in(app.numbers.value, 'gain') == f'{gain:.4f} ± {error:.4f}'
        assert Image.open(io.BytesIO(app.curves.value)).size == (880, 230)
    healthy(app)


def test_pictures_follow_the_choice_and_are_kept(shelf, monkeypatch):
    app = healthy(search_app(folder=shelf))
    seen = {(app.K.value, app.R.value): app.images.value}
    app.K.value, app.R.value = 1, 1
    seen[1, 1] = healthy(app).images.value
    assert seen[1, 1] != seen[K, R]
    monkeypatch.setattr(SR3, 'h', lambda *args, **kw: pytest.fail('solved again'))
    app.K.value, app.R.value = K, R
    assert app.images.value == seen[K, R] and healthy(app).images.value == seen[K, R]


def test_resampling_chooses_among_others(shelf):
    app = healthy(search_app(folder=shelf))
    app.K.value, app.R.value = 3, 1
    chosen = set()
    for _ in range(10):
        app.resample.click()
        chosen.add(found_in(app.numbers.value, 'candidate'))
    assert len(chosen) > 3
    app.K.value, app.R.value = K, R
    best = choose(caches(shelf)['DDIM-2'].split('LPIPS')[0])
    assert int(found_in(healthy(app).numbers.value, 'candidate')) == best


def test_scores_of_another_network_are_flagged(tmp_path, model):
    other = '0123456789abcdef'
    app = search_app(folder=scores_file(tmp_path, model, 'DDIM-2', weights=other))
    assert f'another network ({other})' in app.warning.value
    app = trajectory_app(folder=scores_file(tmp_path, model, 'DDIM-2', pairs=other))
    app.job.wait(LIMIT)
    assert 'photographs here are not those' in app.problem.value and app.note.value == ''


def test_an_error_in_a_callback_is_told(shelf, monkeypatch):
    app = healthy(search_app(folder=shelf))
    monkeypatch.setattr(explore, 'pick', lambda *args: 1 / 0)
    app.K.value = 2
    assert 'division by zero' in app.problem.value
    with pytest.raises(AssertionError):
        healthy(app)


def test_an_error_in_the_network_is_told(shelf, monkeypatch):
    app = healthy(search_app(folder=shelf))

    def broken(*args, **kw):
        raise RuntimeError('<out of memory>')

    monkeypatch.setattr(SR3, 'h', broken)
    app.K.value = 1
    app.job.wait(LIMIT)
    assert '&lt;out of memory&gt;' in app.problem.value
    app.go.click()
    app.live.wait(LIMIT)
    assert 'out of memory' in app.problem.value and app.cancel.disabled and not app.go.disabled


def test_live_search_finds_what_search_finds(shelf, model):
    app = healthy(search_app(folder=shelf))
    app.distance.value = 'DSSIM'
    app.K.value = 6
    app.R.value = 4
    app.go.click()
    assert app.go.disabled and not app.cancel.disabled
    healthy(app)
    z, y, *unseen = caches(shelf)['DDIM-2'].images(model)
    h = model.solution_map('DDIM-2')
    direct = search(h, z[:4], y[:4], 6, dssim, budget=11, unseen=unseen)
    assert app.found.index == direct.index == int(found_in(app.status.value, 'found'))
    assert app.found.unseen.tolist() == pytest.approx(direct.unseen.tolist(), abs=1e-5)
    assert app.status.value.startswith('found')
    assert app.progress.value > 0
    assert app.best.value
    assert app.cancel.disabled
    assert not app.go.disabled


def test_live_search_is_cancelled_and_keeps_the_best(shelf, tmp_path):
    app = healthy(search_app(folder=shelf))
    cancelled = threading.Event()

    def eps(self, y):
        if app.found is not None:
            cancelled.wait(LIMIT)  # goes no further until the button is pressed
        return original(self, y)

    original = Watched.eps
    Watched.eps = eps
    try:
        app.go.click()
        wait_until(lambda: app.found is not None, 'the first candidate')
        progress = app.progress.value
        app.cancel.click()
        app.R.value = 2  # nothing is blocked meanwhile
        cancelled.set()
        healthy(app)
    finally:
        Watched.eps = original
    assert 0 < progress < app.progress.max
    assert app.status.value.startswith('cancelled')
    assert app.cancel.disabled
    assert not app.go.disabled
    app.found.save(tmp_path / 'x_T.safetensors')
    assert BoundaryCondition.load(tmp_path / 'x_T.safetensors').index == app.found.index
    app.live.pause = LIMIT
    app.go.click()
    app.cancel.click()
    healthy(app)
    assert app.found is None
    assert app.status.value == 'stopped before anything was found'
    assert not app.go.disabled


# --- the other apps


def test_trajectory_goes_along_every_process(shelf):
    app = healthy(trajectory_app(folder=shelf))
    calls = {'DDIM-20': 21, 'DPMS-20': 21, 'DDPM-50': 51}
    for _, label in app.process.options:
        app.process.value = label
        healthy(app)
        assert len(app.view.way) == calls[label]
        pictures = set()
        for t in range(0, 1001, 200):
            app.t.value = t
            pictures.add(app.picture.value)
            nearest = min((s.t for s in app.view.way), key=lambda at: abs(at - t))
            assert app.view.at.get_xdata()[0] == max(1, nearest)
        assert len(pictures) == 6
    app.start.value = app.start.options[1][1]
    assert healthy(app).picture.value not in pictures


def test_noise_app_follows_every_control(shelf):
    app = healthy(noise_app(folder=shelf))
    texts = {app.numbers.value}
    for control, value in (
        (app.share, 0.5),
        (app.tau, 0.5),
        (app.grid, 8),
        (app.a, 3),
        (app.b, 4),
        (app.pair, app.pair.options[-1][1]),
        (app.tau, 0.0),
    ):
        control.value = value
        texts.add(healthy(app).numbers.value)
    assert len(texts) == 8 and found_in(app.numbers.value, 'norm') == '0.00'


def upload(app, content, name='my <photo>.png'):
    file = {
        'name': name,
        'type': 'image/png',
        'size': len(content),
        'content': memoryview(content),
        'last_modified': datetime.now(timezone.utc),
    }
    app.upload.value = (file,)


def downloaded(app):
    content = re.search('base64,(.*?)"', app.download.value)[1]
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_upscale_app_gives_what_upscale_gives(shelf, model):
    x_T = candidate(5, model.shape)
    app = healthy(upscale_app(folder=shelf, starts={'mine': x_T}))
    # 33×21 pixels, no multiple of anything
    photo = photographs()['astronaut'][:, 50:83, 200:221]
    upload(app, explore.image_png(to_image(photo)))
    app.n.value = 2
    app.go.click()
    healthy(app)
    assert 'download="my &lt;photo&gt;_x4.png"' in app.download.value
    expected = to_bytes(model.upscale(to_tensor(to_image(photo)), x_T, 'DDIM-2'))
    assert downloaded(app).size == (84, 132)
    found = np.asarray(downloaded(app), int)
    assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() <= 1
    assert 0.5 < float(found_in(app.note.value, 'seams')) < 2
    app.family.value = 'DPMS'
    app.go.click()
    healthy(app)


def test_a_bad_upload_is_told_and_the_next_is_fine(shelf):
    app = healthy(upscale_app(folder=shelf))
    upload(app, b'no image')
    assert 'cannot be read as an image' in app.problem.value
    upload(app, explore.image_png(Image.new('L', (5, 3), 99)))
    assert healthy(app).note.value.startswith('my &lt;photo&gt;: 5×3 pixels, in 1 tile(s)')


def test_after_an_upload_every_image_of_the_list_can_be_chosen(shelf):
    app = healthy(upscale_app(folder=shelf))
    photo = explore.image_png(Image.new('RGB', (8, 8)))
    first, listed = app.example.value, app.note.value
    upload(app, photo)
    assert healthy(app).note.value != listed
    app.example.value = first
    assert healthy(app).note.value == listed
    upload(app, photo)  # the same file once more
    assert healthy(app).note.value != listed


@contextmanager
def halted():
    "The network stands still after each call until the end of the block"
    original = Watched.eps
    over = threading.Event()

    def eps(self, y):
        eps_fn = original(self, y)

        def waiting(x, t):
            found = eps_fn(x, t)
            over.wait(LIMIT)
            return found

        return waiting

    Watched.eps = eps
    try:
        yield
    finally:
        over.set()
        Watched.eps = original


def test_upscaling_is_cancelled(shelf):
    app = healthy(upscale_app(folder=shelf))
    app.n.value = 2
    app.go.click()
    assert healthy(app).after.value and app.download.value
    app.n.value = 50
    with halted():
        app.go.click()
        # not the picture of other settings
        assert app.after.value == b''
        assert app.download.value == ''
        wait_until(lambda: app.progress.value > 0, 'the first call')
        app.cancel.click()
    healthy(app)
    assert app.note.value == 'cancelled'
    assert app.after.value == b''
    assert app.cancel.disabled
    assert not app.go.disabled
    app.go.click()
    app.cancel.click()
    healthy(app)  # before it has begun
    assert app.cancel.disabled and not app.go.disabled
    with halted():
        app.go.click()
        wait_until(lambda: app.progress.value > 0, 'the first call')
        app.example.index = 1  # another image is chosen meanwhile
        note = app.note.value
    assert healthy(app).note.value == note and app.after.value == b'' and not app.go.disabled


@pytest.mark.parametrize('app', [search_app, trajectory_app, noise_app, upscale_app])
def test_every_control_has_a_label(shelf, app):
    def walk(widget):
        yield widget
        for child in getattr(widget, 'children', ()):
            yield from walk(child)

    shown = explore.widgets.HTML, explore.widgets.Image
    made = healthy(app(folder=shelf))
    described = [w for w in walk(made) if hasattr(w, 'description')]
    controls = [w for w in described if not isinstance(w, shown)]
    assert len(controls) >= 4 and all(w.description for w in controls)
    assert all(w.tooltip for w in walk(made) if isinstance(w, explore.widgets.Image))


# --- the tool that makes the cache


@pytest.mark.skipif(not os.environ.get(ALEX_VARIABLE), reason=f'needs {ALEX_VARIABLE}')
def test_the_tool_writes_resumes_and_renews(tmp_path, model):
    def run(*args):
        command = [sys.executable, ROOT / 'tools/explore_cache.py', '--out', tmp_path]
        quick = '--samplers DDIM-1 --r 2 --u 2'.split()
        return finished([*command, *quick, *args], check=True)

    run('--k', '2')
    first = load_file(tmp_path / 'DDIM-1.safetensors')
    run('--k', '3')
    second = load_file(tmp_path / 'DDIM-1.safetensors')
    assert all(
        len(v) == 3 and np.array_equal(v[:2], first[name]) for name, v in second.items()
    )
    c = caches(tmp_path)['DDIM-1']
    assert c.complaint(model) == '' and len(c.images(model)[0]) == 2
    assert 'made anew' in run('--k', '2', '--u', '3').stdout
    assert len(load_file(tmp_path / 'DDIM-1.old')['MSE']) == 3
    with safe_open(tmp_path / 'DDIM-1.safetensors', 'np') as f:
        assert f.metadata()['U'] == '3' and f.get_tensor('MSE').shape == (2, 5)


def test_nothing_else_needs_the_widgets():
    code = (
        'import sys, odebc.cli, odebc.experiments.results, odebc.search\n'
        "sys.exit('odebc.app.explore' in sys.modules or 'ipywidgets' in sys.modules)"
    )
    finished([sys.executable, '-c', code], check=True)
