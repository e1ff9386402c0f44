"""The explorer in a real browser: JupyterLab and Voilà on this machine, Chromium at 1280×800;
screenshots go to runs/screenshots.
"""

import json
import os
import re
import shutil
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import TimeoutExpired
from urllib.error import URLError
from urllib.request import urlopen
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from safetensors import safe_open
from waiting import begin, end, wait_until
from odebc.data import photographs, upsample
from odebc.images import to_image, to_tensor
from odebc.metrics import psnr

ROOT = Path(__file__).parent.parent
SHOTS = ROOT / 'runs' / 'screenshots'
MINUTE = 60_000
expect.set_options(timeout=MINUTE)
pytestmark = pytest.mark.timeout(1800)  # a browser, two servers and a kernel


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def server(folder, command, cwd, path='/'):
    "A Jupyter application with settings of its own; it answers within the block"
    port = free_port()
    log = folder / 'server.log'
    names = [f'JUPYTER_{kind}' for kind in ('CONFIG', 'DATA', 'RUNTIME')]
    names += ['JUPYTERLAB_SETTINGS', 'JUPYTERLAB_WORKSPACES']
    private = {f'{name}_DIR': str(folder / name) for name in names}
    private['IPYTHONDIR'] = str(folder / 'IPYTHON')
    options = f'--port={port} --no-browser'
    with log.open('w') as out:
        streams = dict(stdout=out, stderr=out)
        process = begin(command(options), os.environ | private, cwd=cwd, **streams)

    def answers():
        assert process.poll() is None, log.read_text()
        try:
            urlopen(f'http://127.0.0.1:{port}{path}', timeout=300).close()
            return True
        except (URLError, ConnectionError):
            return False

    try:
        wait_until(answers, f'an answer of the server, whose log is {log}', seconds=600)
        yield f'http://127.0.0.1:{port}'
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(TimeoutExpired):
            process.wait(30)
        end(process)


@pytest.fixture(scope='module')
def browser():
    SHOTS.mkdir(parents=True, exist_ok=True)
    names = 'chromium', 'chromium-browser', 'google-chrome'
    path = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield chromium
        chromium.close()


def opened(browser, url):
    "A page, and the errors of its scripts"
    page = browser.new_page(viewport=dict(width=1280, height=800), accept_downloads=True)
    errors = []
    page.set_default_timeout(MINUTE)
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(url)
    return page, errors


@pytest.fixture(scope='module')
def lab(browser, tmp_path_factory):
    "The explorer page in JupyterLab, with all of its cells run"
    folder = tmp_path_factory.mktemp('lab')
    shutil.copy(ROOT / 'nbs' / '12_explore.ipynb', folder)
    settings = folder / 'JUPYTERLAB_SETTINGS' / '@jupyterlab'
    chosen = {
        'notebook-extension/tracker': dict(windowingMode='none'),
        'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
    }
    for name, values in chosen.items():
        path = settings / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    open_to_all = ['--ServerApp.ip=127.0.0.1', '--IdentityProvider.token=', '--allow-root']

    def command(options):
        return [sys.executable, '-m', 'jupyter', 'lab', *options.split(), *open_to_all]

    with server(folder, command, folder) as url:
        page, errors = opened(browser, f'{url}/lab/tree/12_explore.ipynb')
        free = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        free.wait_for()
        page.keyboard.press('Control+b')  # the side bar makes room
        run_all(page)
        last = page.locator('.jp-CodeCell').last.locator('.jp-InputPrompt')
        expect(last).to_have_text(re.compile(r'\[\d+\]:'), timeout=4 * MINUTE)
        free.wait_for()
        yield page, free
        assert not errors, errors
        page.close()


def run_all(page):
    "By the menu; while the page is still being set up it may close again"
    for _ in range(10):
        page.keyboard.press('Escape')
        page.locator('.lm-MenuBar-itemLabel', has_text=re.compile('^Run$')).click()
        page.locator('.lm-Menu-itemLabel', has_text=re.compile('^Run All Cells$')).click()
        page.wait_for_timeout(2000)
        if page.locator('.jp-InputPrompt', has_text=re.compile(r'\[[*\d]')).count():
            return
    raise AssertionError('the cells do not run')


def app(page, control):
    "The box of widgets that holds a control"
    boxes = page.locator('.jp-OutputArea-output .widget-vbox', has=label_of(page, control))
    return boxes.first


def label_of(page, name):
    return page.locator('.widget-label', has_text=re.compile(f'^{name}$'))


def slider(box, name):
    return box.locator('.widget-hslider', has=label_of(box.page, name))


def drag(box, name, share):
    "Pull the handle to a share of the slider's length, in small steps as a hand does"
    one = slider(box, name)
    mouse = box.page.mouse
    grip(one, mouse)
    rail = one.locator('.noUi-base').bounding_box()
    mouse.move(rail['x'] + share * rail['width'], rail['y'] + rail['height'] / 2, steps=12)
    mouse.up()
    return float(one.locator('.widget-readout').inner_text())


def grip(one, mouse):
    "Press on the handle of a slider, again where the page scrolled away under the mouse"
    handle = one.locator('.noUi-handle')
    for _ in range(20):
        handle.hover()
        mouse.down()
        if 'noUi-active' in handle.get_attribute('class'):
            return
        mouse.up()
    raise AssertionError('the handle of the slider cannot be gripped')


def shot(box, name):
    box.scroll_into_view_if_needed()
    box.page.screenshot(path=SHOTS / f'{name}.png')


def no_errors(page):
    "Neither in a cell nor in an app"
    for kind in ('stderr', 'error'):
        outputs = page.locator(f'.jp-OutputArea-output[data-mime-type$="{kind}"]')
        assert outputs.all_inner_texts() == []
    assert page.get_by_text('javascript error').count() == 0
    told = page.locator('.odebc-problem, .odebc-warning').all_inner_texts()
    assert ''.join(told).strip() == ''


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


def test_all_cells_run(lab):
    page, _ = lab
    no_errors(page)
    assert page.locator('.jp-OutputArea-output .widget-vbox .widget-hslider').count() == 8


def test_sliders_choose_what_the_matrix_says(lab):
    page, _ = lab
    box = app(page, 'R, pairs')
    sampler = box.locator('.widget-dropdown', has_text='sampler').locator('select')
    shot(box, 'search')
    for r, k, label, distance in (
        (0.3, 0.6, None, None),
        (0.75, 0.25, 'DPMS-10', 'DSSIM'),
        (0.0, 1.0, 'DDIM-10', 'MSE'),
        (1.0, 0.4, None, 'LPIPS'),
    ):
        if label:
            sampler.select_option(label=label)
        if distance:
            distances = box.locator('.widget-dropdown', has_text='distance').locator('select')
            distances.select_option(label=distance)
        R, K = int(drag(box, 'R, pairs', r)), int(drag(box, 'K, candidates', k))
        chosen = sampler.evaluate('s => s.selectedOptions[0].label')
        D, unseen = scores(chosen, distance or 'LPIPS')
        means = D[:K, :R].mean(1)
        index = means.argmin().item()
        expect(box.locator('.odebc-candidate')).to_have_text(str(index))
        expect(box.locator('.odebc-score')).to_have_text(f'{means[index]:.4f}')
        expect(box.locator('.odebc-unseen')).to_have_text(f'{unseen[index].mean():.4f}')
        expect(box.locator('.odebc-random')).to_have_text(f'{unseen.mean():.4f}')
        told = re.compile(rf'of\s+{K}:.* on\s+{R}\s+reference pairs', re.DOTALL)
        expect(box.locator('.odebc-numbers')).to_contain_text(told)
    shot(box, 'search_moved')
    no_errors(page)


def scores(label, distance):
    "The cached matrix, read without odebc"
    for path in (ROOT / 'data' / 'explore').glob('*.safetensors'):
        with safe_open(path, 'pt') as f:
            if f.metadata()['sampler'] == label:
                R = int(f.metadata()['R'])
                return f.get_tensor(distance).double().tensor_split([R], 1)
    raise AssertionError(f'no scores for {label}')


def test_keys_move_a_slider(lab):
    page, _ = lab
    box = app(page, 'R, pairs')
    drag(box, 'K, candidates', 0.5)
    before = slider(box, 'K, candidates').locator('.widget-readout').inner_text()
    slider(box, 'K, candidates').locator('.noUi-handle').focus()
    page.keyboard.press('ArrowRight')
    readout = slider(box, 'K, candidates').locator('.widget-readout')
    expect(readout).not_to_have_text(before)
    expect(box.locator('.odebc-numbers')).to_contain_text(f'of {readout.inner_text()}:')


def test_live_search_is_cancelled_and_keeps_its_best(lab):
    page, free = lab
    box = app(page, 'R, pairs')
    drag(box, 'R, pairs', 1.0)
    drag(box, 'K, candidates', 1.0)
    box.get_by_role('button', name='search live').click()
    status = box.locator('.odebc-status')
    expect(status).to_contain_text('best so far', timeout=2 * MINUTE)
    expect(box.get_by_role('button', name='search live')).to_be_disabled()
    assert run_cell(page, 'print(6*7)').strip() == '42'  # the page is not blocked
    R = int(drag(box, 'R, pairs', 0.5))  # nor are its sliders
    expect(box.locator('.odebc-numbers')).to_contain_text(f'on {R} reference pairs')
    expect(box.get_by_title('best noise so far')).to_be_visible()
    width = box.locator('.progress-bar').evaluate('b => parseFloat(b.style.width)')
    assert 0 < width < 100
    shot(box, 'search_live')
    box.get_by_role('button', name='cancel').click()
    expect(status).to_contain_text('cancelled; the best so far is')
    expect(box.get_by_role('button', name='search live')).to_be_enabled()
    free.wait_for()
    found = status.locator('.odebc-found').inner_text()
    assert run_cell(page, 'print(explorer.found.index)').strip() == found
    no_errors(page)


def test_trajectory_and_noise(lab):
    page, _ = lab
    for control, name in (('t', 'trajectory'), ('norm τ', 'noise')):
        box = app(page, control)
        picture = box.locator('img').first
        before = picture.get_attribute('src')
        value = drag(box, control, 0.3)
        expect(picture).not_to_have_attribute('src', before)
        if name == 'noise':
            expect(box.locator('.odebc-norm')).to_have_text(f'{value:.2f}')
        shot(box, name)
    no_errors(page)


def choose_file(box, path):
    with box.page.expect_file_chooser() as chooser:
        box.locator('.jupyter-button', has_text='upload').click()
    chooser.value.set_files(path)


def test_upload_enlarge_download(lab, tmp_path):
    page, _ = lab
    box = app(page, 'steps')
    image = to_image(photographs()['chelsea'][:, 100:140, 100:148])
    image.save(tmp_path / 'cat.png')
    choose_file(box, tmp_path / 'cat.png')
    expect(box.locator('.odebc-note')).to_contain_text('cat: 48×40 pixels')
    box.get_by_role('button', name='enlarge').click()
    with page.expect_download(timeout=3 * MINUTE) as download:
        box.locator('.odebc-download a').click(timeout=3 * MINUTE)
    download.value.save_as(tmp_path / 'large.png')
    shot(box, 'upscale')
    large, y = to_tensor(Image.open(tmp_path / 'large.png')), to_tensor(image)
    assert download.value.suggested_filename == 'cat_x4.png' and large.shape == (3, 160, 192)
    # the same picture, and not bicubic's
    assert 18 < psnr(large[None], upsample(y[None], 4)) < 40
    (tmp_path / 'no.png').write_text('not an image')
    choose_file(box, tmp_path / 'no.png')
    expect(box.locator('.odebc-problem')).to_contain_text('cannot be read as an image')
    box.locator('.widget-dropdown', has_text='image').locator('select').select_option(index=1)
    expect(box.locator('.odebc-problem')).to_have_text('')
    no_errors(page)


def test_make_app_serves_the_page(browser, tmp_path):
    def command(options):
        return ['make', 'app', f'OPTIONS={options}']

    with server(tmp_path, command, ROOT, path='/voila/static/voila.js') as url:
        page, errors = opened(browser, url)
        box = app(page, 'R, pairs')
        box.wait_for(timeout=5 * MINUTE)
        R, K = int(drag(box, 'R, pairs', 0.5)), int(drag(box, 'K, candidates', 0.5))
        means = scores('DDIM-10', 'LPIPS')[0][:K, :R].mean(1)
        expect(box.locator('.odebc-candidate')).to_have_text(str(means.argmin().item()))
        shot(box, 'voila')
        assert page.locator('.jp-InputArea-editor').count() == 0 and not errors
        no_errors(page)
