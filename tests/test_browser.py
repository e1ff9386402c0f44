"""The explorer in a real browser, clicked as a visitor would: in JupyterLab and in Voilà on
this machine, each light and dark, wide and narrow; and the pages that need no kernel. Each
host is opened once, and then shown in four ways. Screenshots go to runs/screenshots.
"""

import base64
import io
import json
import re
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
import numpy as np
import psutil
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect
from serving import (
    app,
    drag,
    in_lab,
    in_voila,
    MINUTE,
    opened,
    ROOT,
    said,
    themed,
)
from odebc.app.explore import browser_code, browser_style, explorer
from odebc.app.pictures import EXAMPLES
from odebc.app.views import caches, expected_gain, order, outlook, pick
from odebc.app.walks import mixed
from odebc.data import degrade, photographs, upsample
from odebc.enlarge import shipped_start
from odebc.images import to_image, to_tensor
from odebc.matrix import candidate
from odebc.metrics import default_distance, psnr
from odebc.runner import BoundaryCondition
from odebc.samplers import nfe, sampler
from odebc.sr3 import SR3

SHOTS = ROOT / 'runs' / 'screenshots'
expect.set_options(timeout=MINUTE)
pytestmark = pytest.mark.timeout(1800)  # a browser, two servers and a kernel


HOSTS = {'lab': in_lab, 'Voilà': in_voila}
WIDE, NARROW = dict(width=1280, height=800), dict(width=800, height=900)
LOOKS = {
    'light, wide': ('light', WIDE),
    'dark, narrow': ('dark', NARROW),
    'dark, wide': ('dark', WIDE),
    'light, narrow': ('light', NARROW),
}
# which controls were moved, filled or clicked since the look of the page was changed
LISTEN = """() => {
  window.touched = new WeakSet();
  if (window.listening) return;
  window.listening = true;
  for (const kind of ['input', 'change', 'click']) {
    const touch = ({ target }) => {
      const control = target.closest?.('input, select, button');
      if (control) window.touched.add(control);
    };
    document.addEventListener(kind, touch, true);
  }
}"""
# the cards of the gallery are made anew with every change, and tabs are opened by each test
UNTOUCHED = """panel => [...panel.querySelectorAll('input, select, button')]
  .filter((one) => !window.touched.has(one) && !one.disabled && !one.closest('.odebc-card'))
  .map((one) => one.ariaLabel || one.labels?.[0]?.textContent || one.textContent)"""


@pytest.fixture(scope='session', params=HOSTS)  # so that each is opened once, for all looks
def host(request, browser, tmp_path_factory):
    "The explorer as a visitor finds it; no script may fail as long as it is open"
    begun = HOSTS[request.param]
    SHOTS.mkdir(parents=True, exist_ok=True)
    with begun(browser, tmp_path_factory.mktemp('host'), 'light') as (page, errors):
        yield SimpleNamespace(page=page, name=request.param, lab=begun is in_lab)
        assert not errors, errors
        the_end_is_told(page)
        assert not errors, errors
        page.close()


def the_end_is_told(page):
    "A kernel that dies is told, before anybody asks it; so this comes last"
    lost = page.locator('.odebc-lost')
    expect(lost).to_be_hidden()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if any('ipykernel' in part for part in process.cmdline()):
                process.kill()
    expect(lost).to_contain_text('The kernel has ended')


@pytest.fixture(scope='module', params=LOOKS)
def place(request, host):
    "The same in one of its looks, and a list of what is touched there"
    page, (theme, size) = host.page, LOOKS[request.param]
    page.set_viewport_size(size)
    themed(page, host.lab, theme)
    page.evaluate(LISTEN)
    n = list(LOOKS).index(request.param)
    name = f'{host.name}_{request.param.replace(", ", "_")}'
    return SimpleNamespace(page=page, name=name, n=n, lab=host.lab)


@pytest.fixture(scope='module')
def distance():
    return default_distance()


@cache
def chosen_model(name):
    "In the precision that the apps take"
    return SR3.from_pretrained(name, 'auto')


@cache
def unseen_pairs(key):  # z and y
    kept = caches()[key]
    return kept.images(chosen_model(kept.network))[2:]


def number(text):
    return float(re.search(r'-?[\d.]+', text)[0])


def shot(box, place, name):
    box.scroll_into_view_if_needed()
    box.page.screenshot(path=SHOTS / f'{name}_{place.name}.png')


def no_errors(page):
    "Neither in a cell nor in an app"
    for kind in ('stderr', 'error'):
        outputs = page.locator(f'.jp-OutputArea-output[data-mime-type$="{kind}"]')
        assert outputs.all_inner_texts() == []
    assert page.get_by_text('javascript error').count() == 0
    assert ''.join(page.locator('.odebc-problem').all_inner_texts()).strip() == ''


def run_cell(page, source):
    "A new cell at the end, and what it prints: proof that the kernel answers"
    page.locator('.jp-Notebook').press('Escape')
    last = page.locator('.jp-Cell').last
    last.locator('.jp-Cell-inputWrapper').click(position=dict(x=20, y=8))
    page.keyboard.press('Escape')
    page.keyboard.press('b')
    page.keyboard.press('Enter')
    page.keyboard.insert_text(source)
    page.keyboard.press('Shift+Enter')
    cell = page.locator('.jp-CodeCell').filter(has_text=source).last
    expect(cell.locator('.jp-OutputArea-output')).to_be_visible()
    return cell.locator('.jp-OutputArea-output').inner_text()


# --- search


def check_numbers(box, kept, name, K, R, shuffle):
    "What stands in the app, against the functions of Python"
    D, D_new = kept.split(name)
    found = pick(D, D_new, K, R, shuffle)
    random = D_new.mean().item()
    columns = order(kept.R, shuffle)[:R]
    random_score = D[:, columns].mean().item()
    gain, error = expected_gain(D_new, outlook(D, D_new).winners[:, K - 1, R - 1])
    others = torch.arange(kept.K) != found.index
    wins = (D_new[found.index] < D_new[others]).double().mean().item()
    expected = dict(
        candidate=f'{found.index + 1}',
        score=f'{found.score:.4f}',
        unseen=f'{found.unseen:.4f}',
        random=f'{random:.4f}',
    )
    expected['random-score'] = f'{random_score:.4f}'
    for kind, text in expected.items():
        expect(box.locator(f'.odebc-numbers .odebc-{kind}')).to_have_text(text)
    shares = {
        'gain-score': 1 - found.score / random_score,
        'gain-unseen': 1 - found.unseen / random,
        'wins': wins,
        'gain': gain / random,
        'gain-error': error / random,
    }
    for kind, share in shares.items():
        text = box.locator(f'b.odebc-{kind}').inner_text()
        assert number(text) == pytest.approx(100 * share, abs=0.51), kind


CHOICES = (
    (0.3, 0.6, 'small-mid-DDIM-10', 'LPIPS'),
    (0.75, 0.25, 'small-DDIM-10', 'DSSIM'),
    (0.0, 1.0, 'base-DDIM-10', 'MSE'),
    (1.0, 0.4, 'small-mid-DDIM-10', 'LPIPS'),
)


def test_sliders_choose_what_the_matrix_says(place):
    box = app(place.page, 'Search')
    shot(box, place, 'search')
    for r, k, key, distance in (CHOICES[place.n], CHOICES[place.n - 1]):
        choose_scores(box, key, distance)
        box.get_by_role('button', name='shuffle').click()
        shuffle = box.evaluate('e => e.odebc.state().shuffle')
        R, K = (int(drag(box, *to)) for to in (('R, pairs', r), ('K, candidates', k)))
        check_numbers(box, caches()[key], distance, K, R, shuffle)
    shot(box, place, 'search_moved')
    no_errors(place.page)


def choose_scores(box, key, distance):
    kept = caches()[key]
    title = f'{kept.network}, {kept.sampler}'
    box.get_by_label('network', exact=True).select_option(label=title)
    wait_for(box.page, lambda: box.evaluate('e => e.odebc.state().key') == key)
    box.get_by_label('distance', exact=True).select_option(label=distance)


def test_keys_move_a_slider(place):
    box = app(place.page, 'Search')
    before = drag(box, 'K, candidates', 0.5)
    one = box.get_by_role('slider', name='K, candidates')
    one.focus()
    place.page.keyboard.press('ArrowRight')
    expect(one).not_to_have_attribute('aria-valuetext', before)
    expect(box.locator('.odebc-middle svg').first).to_contain_text(f'K = {said(one)}')


def test_a_clicked_candidate_is_shown_and_taken_everywhere(place):
    box = app(place.page, 'Search')
    kept = caches()['small-mid-DDIM-10']
    choose_scores(box, 'small-mid-DDIM-10', 'LPIPS')
    box.get_by_label('candidate', exact=True).fill('17')
    box.get_by_label('candidate', exact=True).press('Enter')
    D_new = kept.split('LPIPS')[1]
    unseen = box.locator('.odebc-numbers .odebc-unseen')
    expect(unseen).to_have_text(f'{D_new[16].mean():.4f}')
    heat = box.locator('.odebc-heat')
    heat.scroll_into_view_if_needed()
    height = heat.bounding_box()['height']
    line = kept.K // 2
    heat.click(position=dict(x=20, y=height * (line + 0.5) / kept.K))
    row = order(kept.K, int(box.evaluate('e => e.odebc.state().shuffle')))[line]
    candidate = box.locator('.odebc-numbers .odebc-candidate')
    expect(candidate).to_have_text(f'{row + 1}')
    box.locator('.odebc-card').last.click()  # the worst
    worst = candidate.inner_text()
    expect(box.locator('.odebc-compare')).to_contain_text(f'candidate {worst}')
    box.get_by_role('button', name='back to the winner').click()
    expect(box.get_by_role('button', name='back to the winner')).to_be_disabled()


def test_pictures_carry_their_scores(place):
    "The typical random start is the one in the middle; the others are as the matrix says"
    box = app(place.page, 'Search')
    kept = caches()['small-mid-DDIM-10']
    choose_scores(box, 'small-mid-DDIM-10', 'LPIPS')
    D_new = kept.split('LPIPS')[1]
    box.get_by_label('candidate', exact=True).fill('5')
    for i in (1, 2, 0):
        box.get_by_label('picture', exact=True).select_option(index=i)
        u = kept.shown[i]
        middle = D_new[:, u].sort().indices[kept.K // 2].item()
        notes = box.locator('.odebc-compare-thumbs .note')
        expect(notes.nth(0)).to_contain_text(f'LPIPS {kept.beside["bicubic"][0, u]:.3f}')
        expect(notes.nth(1)).to_contain_text(f'no. {middle + 1}, LPIPS')
        for k, note in ((middle, notes.nth(1)), (4, notes.nth(2))):
            told = number(note.inner_text().split('LPIPS')[1])
            assert told == pytest.approx(D_new[k, u].item(), abs=0.00051)
            mse = kept.split('MSE')[1][k, u].item()
            told = number(note.inner_text().split(',')[-1])
            assert told == pytest.approx(10 * np.log10(4 / mse), abs=0.051)


def test_presets_set_the_sliders(place):
    box = app(place.page, 'Search')
    choose_scores(box, 'small-mid-DDIM-10', 'LPIPS')
    kept = caches()['small-mid-DDIM-10']
    R, K = (box.get_by_role('slider', name=name) for name in ('R, pairs', 'K, candidates'))
    for name, places in {
        'one pair, many candidates': (1, kept.K),
        'many pairs, few candidates': (kept.R, 4),
        'all of both': (kept.R, kept.K),
    }.items():
        box.get_by_role('button', name=name).click()
        assert (said(R), said(K)) == tuple(map(str, places))
    box.get_by_role('button', name='the network that does not care').click()
    expect(box.locator('.odebc-verdict')).to_contain_text('odebc diagnose')
    expect(box.get_by_label('network', exact=True)).to_have_value('base, DDIM-10')
    no_errors(place.page)


def test_a_start_and_settings_are_taken_away(place, tmp_path):
    box = app(place.page, 'Search')
    choose_scores(box, 'small-DDIM-10', 'LPIPS')
    box.get_by_label('candidate', exact=True).fill('7')
    with place.page.expect_download() as download:
        box.get_by_role('button', name='save this x_T').click()
    download.value.save_as(tmp_path / 'x_T.safetensors')
    found = BoundaryCondition.load(tmp_path / 'x_T.safetensors')
    kept = caches()['small-DDIM-10']
    assert found.index == 6 and found.seed == kept.seed
    assert torch.equal(found.x_T, candidate(6, found.x_T.shape, kept.seed))
    with place.page.expect_download() as download:
        box.get_by_role('button', name='save these settings').click()
    download.value.save_as(tmp_path / 'explorer.json')
    settings = json.loads((tmp_path / 'explorer.json').read_text())
    assert explorer(**settings).facts['state'] == settings
    search = settings['search']
    assert (search['key'], search['index']) == ('small-DDIM-10', 6)


def test_live_search_is_cancelled_and_keeps_its_best(place, tmp_path):
    page = place.page
    box = app(page, 'Search')
    choose_scores(box, 'small-DDIM-10', 'DSSIM')
    drag(box, 'R, pairs', 1.0)
    drag(box, 'K, candidates', 0.7)
    box.get_by_role('button', name='search live').click()
    status = box.locator('.odebc-status')
    expect(status).to_contain_text('best so far', timeout=4 * MINUTE)
    expect(box.get_by_role('button', name='search live')).to_be_disabled()
    first = place.n == 0
    if place.lab and first:
        assert run_cell(page, 'print(6*7)').strip() == '42'  # the page is not blocked
    R = int(drag(box, 'R, pairs', 0.5))  # nor are its sliders
    expect(box.locator('.odebc-middle svg').last).to_contain_text(f'R = {R}')
    expect(box.get_by_role('img', name='cells of the matrix are known')).to_be_visible()
    share = box.get_by_role('progressbar').first.evaluate('b => b.value')
    assert 0 < share < 1
    shot(box, place, 'search_live')
    box.get_by_role('button', name='cancel').first.click()
    expect(status).to_contain_text('cancelled; the best so far is')
    expect(box.get_by_role('button', name='search live')).to_be_enabled()
    with page.expect_download() as download:
        box.get_by_role('button', name='save what it found').click()
    download.value.save_as(tmp_path / 'x_T.safetensors')
    found = BoundaryCondition.load(tmp_path / 'x_T.safetensors')
    assert re.search(rf'candidate {found.index + 1}\b', status.inner_text())
    if place.lab and first:
        told = run_cell(page, 'print(explore.found.index)').strip()
        assert int(told) == found.index
    starts = app(page, 'Enlarge').get_by_label('start', exact=True)
    expect(starts).to_contain_text("the live search's x_T")
    no_errors(page)


# --- trajectory


def test_the_trajectory_stops_where_the_solver_does(place, distance):
    page = place.page
    box = app(page, 'Trajectory')
    key = box.get_by_label('network, and sampler of its scores')
    key.select_option(label='small, DDIM-10')
    expect(box).to_contain_text('The scores in Search are of DDIM-10')
    box.get_by_label('start', exact=True).select_option(index=1)
    picture = box.get_by_label('picture', exact=True)
    expect(picture).to_have_value(re.compile('unseen'))
    picture.select_option(index=place.n % 3)
    t = box.get_by_role('slider', name='t', exact=True)
    solver = ('DDIM-20', 'DPMS-20')[place.n % 2]
    box.get_by_label('ODE solver').select_option(label=solver)
    expect(box.locator('.odebc-walks')).to_contain_text(f'ODE, {solver}')
    wait_for(page, lambda: len(walked(box)['stops']) == 21)
    expect(box.locator('.odebc-result')).to_contain_text('At the end')
    assert int(t.get_attribute('max')) == 20
    drag(box, 't', 0.0)
    assert said(t).startswith('1000')
    drag(box, 't', 0.9)
    box.get_by_role('button', name='play').click()
    expect(t).to_have_attribute('aria-valuetext', re.compile('^0 '))
    expect(box.get_by_role('button', name='play')).to_be_visible()  # it stops at the end
    before = walked(box)['ends']
    box.get_by_role('button', name="draw the SDE's noise anew").click()
    wait_for(page, lambda: walked(box)['ends']['sde'] not in ([], before['sde']))
    assert walked(box)['ends']['ode'] == before['ode']
    if place.n < 2:
        check_ends(box, distance)
    shot(box, place, 'trajectory')
    no_errors(page)


def check_ends(box, distance):
    "The numbers at the ends, against the samplers of the library"
    state = box.evaluate('e => e.odebc.state()')
    kept = caches()[state['key']]
    model = chosen_model(kept.network)
    z, y = (v[state['picture'] : state['picture'] + 1] for v in unseen_pairs(state['key']))
    seed, index = map(int, state['start'].split(','))
    x_T = candidate(index, model.shape, seed)[None]
    told = walked(box)['ends']
    for name, label in dict(ode=state['solver'], sde=f'DDPM-{nfe(state["solver"])}').items():
        generator = torch.Generator().manual_seed(state['noise'])
        with torch.no_grad():
            x_0 = sampler(label, model.sched, clip=True)(model.eps(y), x_T, generator)
        check_scores(told[name], x_0, z, distance)


def check_scores(told, x_0, z, distance):
    "LPIPS and PSNR as an app tells them; bfloat16 rounds otherwise with other threads"
    of_app = [number(text) for text in told]
    mine = distance(x_0, z).item(), psnr(x_0, z).item()
    assert of_app[0] == pytest.approx(mine[0], abs=0.004)
    assert of_app[1] == pytest.approx(mine[1], abs=0.1)


def walked(box):
    "What the app holds of the walk: stops of the ODE, and numbers at the ends"
    numbers = box.locator('.odebc-result b').all_inner_texts()
    half = len(numbers) // 2
    stops = box.evaluate('e => e.odebc.walk()?.stops ?? e.odebc.walk()?.steps?.ode ?? []')
    return dict(stops=stops, ends=dict(ode=numbers[:half], sde=numbers[half:]))


def wait_for(page, condition, seconds=240):
    for _ in range(20 * seconds):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError('waited in vain')


# --- noise


def test_noise_is_mixed_as_python_mixes_it(place, distance):
    page = place.page
    box = app(page, 'Noise')
    box.get_by_label('network and sampler').select_option(label='small, DDIM-10')
    wait_for(page, lambda: box.evaluate('e => e.odebc.noise()?.length > 0'))
    kept = caches()['small-DDIM-10']
    model = chosen_model('small')
    box.get_by_label('picture', exact=True).select_option(index=place.n % 3)
    for name, share in (
        ('candidate a', 0.3),
        ('candidate b', 0.8),
        ('angle φ', 0.15),
        ('length τ', 0.7),
        ('grey part ×', 0.2),
        ('roll', 0.4),
    ):
        drag(box, name, share + 0.05 * place.n)
    state = box.evaluate('e => e.odebc.state()')
    expect(box).to_have_attribute('aria-busy', 'false', timeout=4 * MINUTE)
    a, b = (candidate(state[name], model.shape, kept.seed) for name in 'ab')
    how = {name: state[name] for name in ('phi', 'tau', 'grid', 'grey', 'roll')}
    x_T = mixed(a, b, **how)
    wait_for(page, lambda: np.allclose(noise_of(box), x_T.flatten(), atol=1e-5))
    z, y = (v[state['picture'] : state['picture'] + 1] for v in unseen_pairs(state['key']))
    with torch.no_grad():
        x_0 = model.h(x_T[None], y, kept.sampler)
    expect(box.locator('.odebc-numbers')).to_contain_text(re.compile('^x_0: LPIPS'))
    told = [box.locator(f'.odebc-numbers .{kind}').inner_text() for kind in ('lpips', 'psnr')]
    check_scores(told, x_0, z, distance)
    length = number(box.locator('.odebc-start .length').inner_text())
    assert length == pytest.approx(x_T.square().mean().sqrt().item(), abs=0.00051)
    deviation = number(box.locator('.odebc-start .deviation').inner_text())
    assert deviation == pytest.approx(x_T.mean(0).std(correction=0).item(), abs=0.00051)
    shot(box, place, 'noise')
    box.get_by_label('take out').select_option(index=2)
    wait_for(page, lambda: box.evaluate('e => e.odebc.state().grid') == 8)
    how['grid'] = 8
    x_T = mixed(a, b, **how)
    wait_for(page, lambda: np.allclose(noise_of(box), x_T.flatten(), atol=1e-5))
    box.get_by_label('take out').select_option(index=0)
    box.get_by_role('button', name='go round the circle').click()
    circle = box.locator('.odebc-circle')
    expect(circle).to_contain_text('Best', timeout=4 * MINUTE)  # three points are there
    box.get_by_role('button', name=re.compile('^stop')).click()  # and that is enough
    expect(box.get_by_role('button', name='go round the circle')).to_be_visible()
    box.get_by_role('button', name='back to plain').click()
    assert said(box.get_by_role('slider', name='length τ')).startswith('1.00')
    no_errors(page)


def noise_of(box):
    return np.array(box.evaluate('e => Array.from(e.odebc.noise() ?? [])'), np.float32)


# --- enlarge


def test_upload_enlarge_download(place, tmp_path):
    page = place.page
    box = app(page, 'Enlarge')
    box.get_by_label('network', exact=True).select_option(label='small')
    box.get_by_label('random starts beside').select_option('1')
    image = to_image(photographs()['chelsea'][:, 100:140, 100:148])
    image.putalpha(Image.linear_gradient('L').resize(image.size))
    image.save(tmp_path / 'cat.png')
    file = box.locator('.odebc-enlarge-file input')
    file.set_input_files(tmp_path / 'cat.png')
    expect(box).to_contain_text('48×40')
    crop = box.locator('.odebc-enlarge-crop')
    crop.get_by_label('width').fill('24')
    crop.get_by_label('width').blur()
    drag(box, 'steps', 0.1)
    expect(box.locator('.odebc-enlarge-cost')).to_contain_text('about', timeout=4 * MINUTE)
    box.get_by_role('button', name='enlarge', exact=True).click()
    expect(box.locator('.odebc-enlarge-said')).to_contain_text('Took', timeout=4 * MINUTE)
    with page.expect_download() as download:
        box.get_by_role('button', name='download').click()
    download.value.save_as(tmp_path / 'large.png')
    shot(box, place, 'enlarge')
    large = Image.open(tmp_path / 'large.png')
    assert download.value.suggested_filename == 'cat_x4.png'
    assert large.size == (96, 160) and large.mode == 'RGBA'
    assert np.ptp(np.asarray(large)[..., 3]) > 200
    y = to_tensor(image.convert('RGB'))[None, ..., 0:24]
    x = to_tensor(large.convert('RGB'))[None]
    assert 15 < psnr(x, upsample(y, 4)) < 45  # the same picture, and not bicubic's
    (tmp_path / 'no.png').write_text('not an image')
    file.set_input_files(tmp_path / 'no.png')
    problem = box.locator('.odebc-enlarge-controls .odebc-problem')
    expect(problem).to_contain_text('no.png')
    assert 'BytesIO' not in problem.inner_text()
    box.get_by_label('picture', exact=True).select_option(label='coffee')
    expect(problem).to_have_text('')
    no_errors(page)


def test_enlarged_pictures_score_as_they_do_in_python(place, distance):
    "A picture with a known original, against `SR3.upscale`; and what it costs"
    page = place.page
    box = app(page, 'Enlarge')
    name = ('coffee', 'flower', 'rocket', 'china')[place.n]
    family = ('DDIM', 'DPMS')[place.n % 2]
    box.get_by_label('network', exact=True).select_option(label='small')
    box.get_by_label('picture', exact=True).select_option(label=name)
    box.get_by_label('sampler', exact=True).select_option(label=family)
    label = f'{family}-{drag(box, "steps", 0.0)}'
    start = box.get_by_label('start', exact=True)
    expect(start).to_contain_text('the shipped x̃_T')
    start.select_option(label='the shipped x̃_T')
    draws = (3, 1, 1, 1)[place.n]
    box.get_by_label('random starts beside').select_option(str(draws))
    cost = box.locator('.odebc-enlarge-cost')
    expect(cost).to_contain_text(f'from {1 + draws} starts', timeout=4 * MINUTE)
    expect(cost).to_contain_text('To 256×256 pixels', timeout=4 * MINUTE)
    tiles = int(re.search(r'in (\d+) tiles', cost.inner_text())[1])
    model = chosen_model('small')
    calls = tiles * nfe(label) * (1 + draws)
    expect(cost).to_contain_text(f'{calls:,} solver steps')
    if place.n > 1:
        return  # it was seen wide and narrow, light and dark what comes of it
    box.get_by_role('button', name='enlarge', exact=True).click()
    expect(box.locator('.odebc-enlarge-said')).to_contain_text('Took', timeout=4 * MINUTE)
    row, column = EXAMPLES[name]
    z = photographs()[name][None, :, row : row + 256, column : column + 256]
    y = degrade(z)[0]
    x_Ts = [shipped_start(model.fingerprint, label).x_T]
    x_Ts += [candidate(k, model.shape, 10**6) for k in range(1, 1 + draws)]
    counted = CountedCalls(model)
    with torch.no_grad():
        results = [counted.upscale(y, x_T, label)[None] for x_T in x_Ts]
    assert counted.calls == calls
    results = [as_file(x) for x in results]
    notes = box.locator('.odebc-compare-thumbs .note').all_inner_texts()
    for note, x in zip(notes, [as_file(upsample(y[None])), results[1], results[0]]):
        check_scores(note.split(','), x, z, distance)
    no_errors(page)
    if draws < 2:
        return
    told = box.locator('.odebc-enlarge-scores').inner_text()
    told = re.findall(r'\d\.\d+', told)
    mine = [distance(x, z).item() for x in results[1:]]
    expected = [np.mean(mine), min(mine), max(mine)]
    assert [float(x) for x in told] == pytest.approx(expected, abs=0.004)


class CountedCalls(SR3):
    "A model that counts what its network is asked: images, not batches"

    def __init__(self, model):
        super().__init__(model.net, model.scale, model.size, model.record, model.precision)
        self.calls = 0

    def eps(self, y):
        eps_fn = super().eps(y)

        def counted(x, t):
            self.calls += len(x)
            return eps_fn(x, t)

        return counted


def as_file(x):
    "With 8 bits a colour"
    return to_tensor(to_image(x[0]))[None]


def test_enlarging_is_cancelled(place):
    page = place.page
    box = app(page, 'Enlarge')
    slow_run(box)
    file = base64.b64encode(picture_file()).decode()
    problem = box.locator('.odebc-enlarge-controls .odebc-problem')
    drop(box, {'late.png': file})
    expect(problem).to_contain_text('late.png was not taken: an enlargement is running')
    box.get_by_role('button', name='cancel').click()
    said_ = box.locator('.odebc-enlarge-said')
    expect(said_).to_contain_text('Cancelled', timeout=MINUTE)
    expect(box.locator('.odebc-compare-thumbs')).to_contain_text('unfinished')
    expect(box.get_by_role('button', name='enlarge', exact=True)).to_be_enabled()
    slow_run(box)
    box.get_by_label('picture', exact=True).select_option(label='coffee')
    expect(said_).to_contain_text('Cancelled, as another picture was chosen')
    drop(box, {'one.png': file, 'other.png': file})
    expect(box).to_contain_text('one, 60×50 pixels')
    expect(box).to_contain_text('one picture at a time: without other.png')
    box.get_by_label('picture', exact=True).select_option(label='coffee')
    expect(problem).to_have_text('')
    expect(box).to_contain_text('coffee, 64×64 pixels')


def slow_run(box):
    "An enlargement that takes long enough to be disturbed"
    box.get_by_label('network', exact=True).select_option(label='small-mid')
    box.get_by_label('picture', exact=True).select_option(label='china')
    drag(box, 'steps', 1.0)
    cost = box.locator('.odebc-enlarge-cost')
    expect(cost).to_contain_text('about', timeout=4 * MINUTE)
    box.get_by_role('button', name='enlarge', exact=True).click()
    expect(box.get_by_role('button', name='cancel')).to_be_enabled()


def picture_file(height=50, width=60):
    file = io.BytesIO()
    to_image(photographs()['chelsea'][:, 100 : 100 + height, 100 : 100 + width]).save(
        file, 'PNG'
    )
    return file.getvalue()


def drop(box, files):
    "As from the desktop: files are content by name, in base64"
    dropped = """files => {
      const carried = new DataTransfer();
      for (const [name, content] of Object.entries(files)) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        carried.items.add(new File([bytes], name, { type: 'image/png' }));
      }
      return carried;
    }"""
    carried = box.page.evaluate_handle(dropped, files)
    box.dispatch_event('drop', dict(dataTransfer=carried))


def test_a_crop_is_drawn_by_hand(place):
    page = place.page
    box = app(page, 'Enlarge')
    box.get_by_label('network', exact=True).select_option(label='small')
    file = base64.b64encode(picture_file(160, 200)).decode()
    drop(box, {'cat.png': file})
    expect(box).to_contain_text('cat, 200×160 pixels')
    preview = box.locator('.odebc-enlarge-preview canvas')
    preview.scroll_into_view_if_needed()
    crop = box.locator('.odebc-enlarge-crop')
    fields = [crop.get_by_label(name, exact=True) for name in ('x', 'y', 'width', 'height')]

    def pull(start, end):
        area = preview.bounding_box()
        mouse = page.mouse
        for i, (x, y) in enumerate((start, end)):
            x = area['x'] + x / 200 * area['width']
            y = area['y'] + y / 160 * area['height']
            mouse.move(x, y, steps=1 + 7 * i)
            mouse.down() if i == 0 else mouse.up()
        return [int(field.input_value()) for field in fields]

    # the usual crop, 128 × 128, lies in the middle: this begins outside of it
    slack = 200 / preview.bounding_box()['width'] + 1  # a pixel of the screen, and rounding
    drawn = pull((8, 10), (60, 90))
    assert drawn == pytest.approx([8, 10, 52, 80], abs=slack)
    expect(box.locator('.odebc-enlarge-cost')).to_contain_text('To 2', timeout=4 * MINUTE)
    moved = pull((30, 40), (70, 60))  # from inside: the rectangle comes along
    assert moved[2:] == drawn[2:]
    shift = moved[0] - drawn[0], moved[1] - drawn[1]
    assert shift == pytest.approx((40, 20), abs=2 * slack)
    width, height = moved[2:]
    told = f'To {4 * width}×{4 * height} pixels'
    expect(box.locator('.odebc-enlarge-cost')).to_contain_text(told, timeout=4 * MINUTE)
    for field, value in zip(fields, (5, 6, 30, 20)):
        field.fill(str(value))
        field.blur()
    cost = box.locator('.odebc-enlarge-cost')
    expect(cost).to_contain_text('To 120×80 pixels in 6 tiles')
    expect(cost).to_contain_text('of memory')
    box.get_by_label('network', exact=True).select_option(label='base')  # its tiles have 64
    expect(cost).to_contain_text('To 120×80 pixels in 1 tile,', timeout=4 * MINUTE)
    fields[2].fill('70')
    fields[2].blur()
    expect(cost).to_contain_text('To 280×80 pixels at once', timeout=4 * MINUTE)
    no_errors(page)


# --- everyone


@pytest.mark.parametrize('title', ['Search', 'Noise', 'Enlarge'])
def test_pictures_are_compared(place, title):
    "Wipe, zoom, and each picture on each side"
    page = place.page
    box = app(page, title)
    if title == 'Enlarge':  # bicubic and the photograph
        box.get_by_label('picture', exact=True).select_option(label='coffee')
    seen = box.locator('.odebc-compare')
    lefts = seen.get_by_role('button', name=re.compile('to the left$'))
    expect(lefts.first).to_be_visible()
    wipe = seen.get_by_label('wipe')
    wipe.fill('30')
    assert said(wipe).startswith('30 %')
    for name, zoom in (('closer', '2'), ('closer', '4'), ('farther', '2')):
        seen.get_by_role('button', name=name).click()
        expect(seen).to_have_attribute('data-zoom', zoom)
    seen.get_by_role('group').press('ArrowLeft')
    seen.get_by_role('button', name='the whole picture').click()
    expect(seen).to_have_attribute('data-zoom', '1')
    exact = seen.get_by_role('button', name='one pixel of the picture')
    if exact.is_enabled():
        exact.click()
        seen.get_by_role('button', name='the whole picture').click()
    rights = seen.get_by_role('button', name=re.compile('to the right$'))
    for side, buttons in dict(left=lefts, right=rights).items():
        for i in (*range(1, buttons.count()), 0):
            buttons.nth(i).click()
            expect(seen).to_have_attribute(f'data-{side}', str(i))
    no_errors(page)


def test_tabs_follow_the_arrows(place):
    app(place.page, 'Search')
    titles = ['Search', 'Trajectory', 'Noise', 'Enlarge', 'Search']
    for title, following in zip(titles, titles[1:]):
        place.page.get_by_role('tab', name=title).press('ArrowRight')
        tab = place.page.get_by_role('tab', name=following)
        expect(tab).to_have_attribute('aria-selected', 'true')
        expect(place.page.get_by_role('tabpanel', name=following)).to_be_visible()


@pytest.mark.parametrize('title', ['Search', 'Trajectory', 'Noise', 'Enlarge'])
def test_everyone_can_use_it(place, title):
    "axe-core finds nothing serious, and nothing is wider than its place"
    page = place.page
    size = page.viewport_size
    box = app(page, title)
    for width, height in ((1920, 1000), tuple(size.values())):
        page.set_viewport_size(dict(width=width, height=height))
        page.wait_for_timeout(200)
        wider = box.evaluate('b => b.scrollWidth - b.clientWidth')
        assert wider <= 1, f'{wider} pixels too wide at {width}'
    shot(box, place, title)
    found = Axe().run(page, context='.odebc').response['violations']
    serious = [
        (v['id'], v['nodes'][0]['html'][:200], v['nodes'][0]['failureSummary'])
        for v in found
        if v['impact'] in ('serious', 'critical')
    ]
    assert not serious, serious


def test_sliders_and_pictures_share_a_screen(place):
    page = place.page
    size = page.viewport_size
    page.set_viewport_size(dict(width=1280, height=800))
    box = app(page, 'Search')
    top = box.get_by_role('slider', name='R, pairs').bounding_box()['y']
    for part in ('.odebc-heat', '.odebc-gallery', '.odebc-compare'):
        last = box.locator(part).bounding_box()
        assert last['y'] + last['height'] - top < 720, part
    page.set_viewport_size(size)


def test_every_control_was_touched(place, request):
    "By the tests before; those that are switched off just now were clicked all the same"
    module = request.node.module
    tests = {name for name in vars(module) if name.startswith('test_')}
    run = {item.function.__name__ for item in request.session.items if item.module is module}
    if run != tests:
        pytest.skip('only some of the tests are run')
    for title in ('Search', 'Trajectory', 'Noise', 'Enlarge'):
        assert app(place.page, title).evaluate(UNTOUCHED) == [], title


# --- without a kernel


def test_the_still_search_says_what_python_says(browser, tmp_path):
    page, errors = opened(browser, (ROOT / 'nbs/explore/search.html').as_uri())
    box = page.locator('.odebc-search')
    kept = caches()['small-mid-DDIM-10']
    for r, k, name in ((0.2, 0.8, 'LPIPS'), (0.9, 0.3, 'MSE'), (0.5, 1.0, 'DSSIM')):
        box.get_by_label('distance', exact=True).select_option(label=name)
        R, K = (int(drag(box, *to)) for to in (('R, pairs', r), ('K, candidates', k)))
        check_numbers(box, kept, name, K, R, 0)
    box.get_by_role('button', name='link to this').click()
    again, _ = opened(browser, page.url)
    other = again.locator('.odebc-search')
    slider = other.get_by_role('slider', name='R, pairs')
    expect(slider).to_have_attribute('aria-valuetext', str(R))
    expect(other.locator('.odebc-candidate')).to_have_text(
        box.locator('.odebc-candidate').inner_text()
    )
    page.screenshot(path=SHOTS / 'still_search.png')
    assert not errors, errors


SLOW = '''
const atOnce = createImageBitmap;
window.createImageBitmap = async (...given) => {
  await new Promise((go) => (window.arrive = go));
  return atOnce(...given);
};
'''


def test_a_slider_cannot_be_moved_before_its_scores_are_there(browser):
    page = browser.new_page()
    page.add_init_script(SLOW)
    page.goto((ROOT / 'nbs/explore/search.html').as_uri())
    one = page.get_by_role('slider', name='K, candidates', exact=True)
    expect(one).to_be_disabled()
    page.wait_for_function('Boolean(window.arrive)')
    expect(one).to_be_disabled()
    page.evaluate('arrive()')
    expect(one).to_be_enabled()
    page.close()


@pytest.mark.parametrize('name', ['trajectory', 'noise'])
def test_other_still_pages_move(browser, name):
    "Nothing is asked that was not stored, and what is drawn follows the slider"
    path = ROOT / f'nbs/explore/{name}.html'
    page, errors = opened(browser, path.as_uri(), 800, 900, 'dark')
    box = page.locator(f'.odebc-{name}')
    one = box.get_by_role('slider', name={'trajectory': 't', 'noise': 'angle φ'}[name])
    expect(one).to_have_attribute('aria-valuetext', re.compile('.'))
    canvas = box.locator('canvas').first
    expect(canvas).to_be_visible()
    seen = set()
    for share in (0.1, 0.5, 0.9):
        drag(box, {'trajectory': 't', 'noise': 'angle φ'}[name], share)
        page.wait_for_timeout(200)
        seen.add(canvas.evaluate('c => c.toDataURL()'))
    assert len(seen) == 3
    assert page.locator('.odebc-problem').last.inner_text() == ''
    page.screenshot(path=SHOTS / f'still_{name}.png')
    assert not errors, errors


def test_still_pages_are_of_this_code():
    "Else: python tools/still.py"
    for name in ('search', 'trajectory', 'noise'):
        page = (ROOT / f'nbs/explore/{name}.html').read_text(encoding='utf8')
        assert browser_code(name, still=True) in page, name
        assert browser_style(name) in page, name
