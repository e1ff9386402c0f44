"""The explorer in a real browser, clicked as a visitor would: in JupyterLab and in Voilà on
this machine, wide and narrow, light and dark; and the pages that need no kernel. Screenshots
go to runs/screenshots.
"""

import re
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect
from serving import app, chromium, drag, in_lab, in_voila, MINUTE, opened, ROOT, said
from odebc.app.explore import browser_code, browser_style
from odebc.app.views import caches, expected_gain, order, outlook, pick
from odebc.app.walks import mixed
from odebc.data import photographs, upsample
from odebc.images import to_image, to_tensor
from odebc.matrix import candidate
from odebc.metrics import psnr
from odebc.runner import BoundaryCondition
from odebc.sr3 import SR3

SHOTS = ROOT / 'runs' / 'screenshots'
expect.set_options(timeout=MINUTE)
pytestmark = pytest.mark.timeout(1800)  # a browser, two servers and a kernel


@pytest.fixture(scope='module')
def browser():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with chromium() as found:
        yield found


WIDE, NARROW = dict(width=1280, height=800), dict(width=800, height=900)
PLACES = {
    'lab, light': (in_lab, 'light', WIDE),
    'lab, dark': (in_lab, 'dark', NARROW),
    'Voilà, light': (in_voila, 'light', WIDE),
    'Voilà, dark': (in_voila, 'dark', NARROW),
}


@pytest.fixture(scope='module', params=PLACES)
def place(request, browser, tmp_path_factory):
    "The explorer as a visitor finds it; no script may fail as long as it is open"
    begun, theme, size = PLACES[request.param]
    name = request.param.split(',')[0]
    with begun(browser, tmp_path_factory.mktemp('place'), theme) as (page, errors):
        page.set_viewport_size(size)
        yield SimpleNamespace(page=page, name=name, theme=theme, lab=begun is in_lab)
        assert not errors, errors
        page.close()


def number(text):
    return float(re.search(r'-?[\d.]+', text)[0])


def shot(box, place, name):
    box.scroll_into_view_if_needed()
    box.page.screenshot(path=SHOTS / f'{name}_{place.name}_{place.theme}.png')


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


def check_numbers(box, cache, name, K, R, shuffle):
    "What stands in the app, against the functions of Python"
    D, D_new = cache.split(name)
    found = pick(D, D_new, K, R, shuffle)
    random = D_new.mean().item()
    columns = order(cache.R, shuffle)[:R]
    random_score = D[:, columns].mean().item()
    gain, error = expected_gain(D_new, outlook(D, D_new).winners[:, K - 1, R - 1])
    others = torch.arange(cache.K) != found.index
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


def test_sliders_choose_what_the_matrix_says(place):
    box = app(place.page, 'Search')
    shot(box, place, 'search')
    shelf = caches()
    shuffle = 0
    for r, k, key, distance in (
        (0.3, 0.6, 'small-mid-DDIM-10', 'LPIPS'),
        (0.75, 0.25, 'small-DDIM-10', 'DSSIM'),
        (0.0, 1.0, 'base-DDIM-10', 'MSE'),
        (1.0, 0.4, 'small-mid-DDIM-10', 'LPIPS'),
    ):
        cache = shelf[key]
        title = f'{cache.network}, {cache.sampler}'
        box.get_by_label('network', exact=True).select_option(label=title)
        box.get_by_label('distance', exact=True).select_option(label=distance)
        box.get_by_role('button', name='shuffle').click()
        shuffle += 1
        R, K = (int(drag(box, *to)) for to in (('R, pairs', r), ('K, candidates', k)))
        check_numbers(box, cache, distance, K, R, shuffle)
    shot(box, place, 'search_moved')
    no_errors(place.page)


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
    cache = caches()['small-mid-DDIM-10']
    title = f'{cache.network}, {cache.sampler}'
    box.get_by_label('network', exact=True).select_option(label=title)
    box.get_by_label('distance', exact=True).select_option(label='LPIPS')
    box.get_by_label('candidate', exact=True).fill('17')
    box.get_by_label('candidate', exact=True).press('Enter')
    D_new = cache.split('LPIPS')[1]
    unseen = box.locator('.odebc-numbers .odebc-unseen')
    expect(unseen).to_have_text(f'{D_new[16].mean():.4f}')
    heat = box.locator('.odebc-heat')
    heat.scroll_into_view_if_needed()
    height = heat.bounding_box()['height']
    line = cache.K // 2
    heat.click(position=dict(x=20, y=height * (line + 0.5) / cache.K))
    row = order(cache.K, int(box.evaluate('e => e.odebc.state().shuffle')))[line]
    candidate = box.locator('.odebc-numbers .odebc-candidate')
    expect(candidate).to_have_text(f'{row + 1}')
    box.locator('.odebc-card').last.click()  # the worst
    worst = candidate.inner_text()
    expect(box.locator('.odebc-compare')).to_contain_text(f'candidate {worst}')
    box.get_by_role('button', name='back to the winner').click()
    expect(box.get_by_role('button', name='back to the winner')).to_be_disabled()


def test_presets_set_the_sliders(place):
    box = app(place.page, 'Search')
    box.get_by_role('button', name='one pair, many candidates').click()
    assert said(box.get_by_role('slider', name='R, pairs')) == '1'
    box.get_by_role('button', name='the network that does not care').click()
    expect(box.locator('.odebc-verdict')).to_contain_text('odebc diagnose')
    expect(box.get_by_label('network', exact=True)).to_have_value('base, DDIM-10')
    no_errors(place.page)


def test_live_search_is_cancelled_and_keeps_its_best(place, tmp_path):
    page = place.page
    box = app(page, 'Search')
    box.get_by_label('network', exact=True).select_option(label='small, DDIM-10')
    box.get_by_label('distance', exact=True).select_option(label='DSSIM')
    drag(box, 'R, pairs', 1.0)
    drag(box, 'K, candidates', 0.7)
    box.get_by_role('button', name='search live').click()
    status = box.locator('.odebc-status')
    expect(status).to_contain_text('best so far', timeout=4 * MINUTE)
    expect(box.get_by_role('button', name='search live')).to_be_disabled()
    if place.lab:
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
    if place.lab:
        told = run_cell(page, 'print(explore.found.index)').strip()
        assert int(told) == found.index
    starts = app(page, 'Enlarge').get_by_label('start', exact=True)
    expect(starts).to_contain_text("the live search's x_T")
    no_errors(page)


# --- trajectory


def test_the_trajectory_stops_where_the_solver_does(place):
    box = app(place.page, 'Trajectory')
    box.get_by_label('network and sampler').select_option(label='small, DDIM-10')
    box.get_by_label('start', exact=True).select_option(index=1)
    ends = box.locator('.odebc-result')
    expect(ends).to_contain_text('At the end', timeout=4 * MINUTE)
    t = box.get_by_role('slider', name='t', exact=True)
    for solver in ('DDIM-20', 'DPMS-20'):
        box.get_by_label('ODE solver').select_option(label=solver)
        expect(box.locator('.odebc-walks')).to_contain_text(f'ODE, {solver}')
        wait_for(place.page, lambda: len(walked(box)['stops']) == 21)
        assert int(t.get_attribute('max')) == 20
    drag(box, 't', 0.0)
    assert said(t).startswith('1000')
    box.get_by_role('button', name='play').click()
    expect(t).to_have_attribute('aria-valuetext', re.compile('^0 '))
    expect(box.get_by_role('button', name='play')).to_be_visible()  # it stops at the end
    before = walked(box)['ends']
    box.get_by_role('button', name="draw the SDE's noise anew").click()
    wait_for(place.page, lambda: walked(box)['ends']['sde'] not in ([], before['sde']))
    assert walked(box)['ends']['ode'] == before['ode']
    shot(box, place, 'trajectory')
    ends.evaluate('e => e.dataset.before = e.textContent')
    picture = box.get_by_label('picture', exact=True)
    picture.select_option(index=picture.evaluate('s => (s.selectedIndex + 1) % s.length'))
    other = 'e => e.textContent.includes("At the end") && e.textContent !== e.dataset.before'
    wait_for(place.page, lambda: ends.evaluate(other))
    no_errors(place.page)


def walked(box):
    "What the app holds of the walk: stops of the ODE, and numbers at the ends"
    numbers = box.locator('.odebc-result b').all_inner_texts()
    half = len(numbers) // 2
    stops = box.evaluate('e => e.odebc.walk()?.stops ?? e.odebc.walk()?.steps?.ode ?? []')
    return dict(stops=stops, ends=dict(ode=numbers[:half], sde=numbers[half:]))


def wait_for(page, condition, seconds=240):
    for _ in range(4 * seconds):
        if condition():
            return
        page.wait_for_timeout(250)
    raise AssertionError('waited in vain')


# --- noise


def test_noise_is_mixed_as_python_mixes_it(place):
    page = place.page
    box = app(page, 'Noise')
    box.get_by_label('network and sampler').select_option(label='small, DDIM-10')
    wait_for(page, lambda: box.evaluate('e => e.odebc.noise()?.length > 0'))
    cache = caches()['small-DDIM-10']
    model = SR3.from_pretrained('small')
    for name, share in (
        ('candidate a', 0.3),
        ('candidate b', 0.8),
        ('angle φ', 0.15),
        ('length τ', 0.7),
        ('grey part ×', 0.2),
        ('roll', 0.4),
    ):
        drag(box, name, share)
    state = box.evaluate('e => e.odebc.state()')
    expect(box).to_have_attribute('aria-busy', 'false', timeout=4 * MINUTE)
    a, b = (candidate(state[name], model.shape, cache.seed) for name in 'ab')
    how = {name: state[name] for name in ('phi', 'tau', 'grid', 'grey', 'roll')}
    x_T = mixed(a, b, **how)
    wait_for(page, lambda: np.allclose(noise_of(box), x_T.flatten(), atol=1e-5))
    z, y = (v[state['picture'] : state['picture'] + 1] for v in cache.images(model)[2:])
    x_0 = model.h(x_T[None], y, cache.sampler)
    wait_for(page, lambda: box.locator('.odebc-numbers .psnr').count() == 1)
    told = number(box.locator('.odebc-numbers .psnr').inner_text())
    assert told == pytest.approx(psnr(x_0, z).item(), abs=0.1)
    shot(box, place, 'noise')
    box.get_by_label('take out').select_option(index=2)
    wait_for(page, lambda: box.evaluate('e => e.odebc.state().grid') == 8)
    how['grid'] = 8
    x_T = mixed(a, b, **how)
    wait_for(page, lambda: np.allclose(noise_of(box), x_T.flatten(), atol=1e-5))
    box.get_by_role('button', name='go round the circle').click()
    circle = box.locator('.odebc-circle')
    expect(circle).to_contain_text('Best', timeout=4 * MINUTE)  # three points are there
    box.locator('.odebc-controls button').last.click()  # and that is enough
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
    y = to_tensor(image.convert('RGB'))[None, ..., :24]
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


def test_enlarging_is_cancelled(place):
    page = place.page
    box = app(page, 'Enlarge')
    box.get_by_label('network', exact=True).select_option(label='small-mid')
    box.get_by_label('picture', exact=True).select_option(label='china')
    drag(box, 'steps', 1.0)
    expect(box.locator('.odebc-enlarge-cost')).to_contain_text('about', timeout=4 * MINUTE)
    box.get_by_role('button', name='enlarge', exact=True).click()
    box.get_by_role('button', name='cancel').click()
    said_ = box.locator('.odebc-enlarge-said')
    expect(said_).to_contain_text('Cancelled', timeout=MINUTE)
    expect(box.locator('.odebc-compare-thumbs')).to_contain_text('unfinished')
    expect(box.get_by_role('button', name='enlarge', exact=True)).to_be_enabled()
    no_errors(page)


# --- everyone


SIZES = (1280, 800), (800, 900), (1920, 1000)


@pytest.mark.parametrize('title', ['Search', 'Trajectory', 'Noise', 'Enlarge'])
def test_everyone_can_use_it(place, title):
    "axe-core finds nothing serious, and nothing is wider than its place"
    page = place.page
    size = page.viewport_size
    box = app(page, title)
    for width, height in SIZES:
        page.set_viewport_size(dict(width=width, height=height))
        page.wait_for_timeout(500)
        shot(box, place, f'{title}_{width}')
        wider = box.evaluate('b => b.scrollWidth - b.clientWidth')
        assert wider <= 1, f'{wider} pixels too wide at {width}'
    page.set_viewport_size(size)
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


# --- without a kernel


def test_the_still_search_says_what_python_says(browser, tmp_path):
    page, errors = opened(browser, (ROOT / 'nbs/explore/search.html').as_uri())
    box = page.locator('.odebc-search')
    cache = caches()['small-mid-DDIM-10']
    for r, k, name in ((0.2, 0.8, 'LPIPS'), (0.9, 0.3, 'MSE'), (0.5, 1.0, 'DSSIM')):
        box.get_by_label('distance', exact=True).select_option(label=name)
        R, K = (int(drag(box, *to)) for to in (('R, pairs', r), ('K, candidates', k)))
        check_numbers(box, cache, name, K, R, 0)
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
