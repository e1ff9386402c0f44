"Servers of notebooks, a browser, and the explorer in it: for tests and for benchmarks."

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
from playwright.sync_api import expect, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from waiting import begin, end, wait_until

ROOT = Path(__file__).parent.parent
MINUTE = 60_000


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


@contextmanager
def chromium():
    "A browser of this machine"
    names = 'chromium', 'chromium-browser', 'google-chrome'
    path = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


def opened(browser, url, width=1280, height=800, scheme='light'):
    "A page, and the errors of its scripts"
    size = dict(width=width, height=height)
    page = browser.new_page(viewport=size, color_scheme=scheme, accept_downloads=True)
    errors = []
    page.set_default_timeout(MINUTE)
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(url)
    return page, errors


@contextmanager
def in_lab(browser, folder, theme):
    "The page of the apps in JupyterLab, with all of its cells run"
    shutil.copy(ROOT / 'nbs' / '12_explore.ipynb', folder)
    settings = folder / 'JUPYTERLAB_SETTINGS' / '@jupyterlab'
    chosen = {
        'notebook-extension/tracker': dict(windowingMode='none'),
        'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
        'apputils-extension/themes': dict(theme=f'JupyterLab {theme.title()}'),
    }
    for name, values in chosen.items():
        path = settings / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    open_to_all = ['--ServerApp.ip=127.0.0.1', '--IdentityProvider.token=', '--allow-root']
    open_to_all += ['--LabApp.expose_app_in_browser=True']  # for `themed`

    def command(options):
        return [sys.executable, '-m', 'jupyter', 'lab', *options.split(), *open_to_all]

    with server(folder, command, folder) as url:
        page, errors = opened(browser, f'{url}/lab/tree/12_explore.ipynb')
        free = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        free.wait_for()
        page.keyboard.press('Control+b')  # the side bar makes room
        shown(page)
        free.wait_for()
        yield page, errors


# what Voilà's template writes for another theme: the style sheet, and a word for the page
VOILA_THEME = """theme => {
  const links = [...document.querySelectorAll('link[href*="static/theme-"]')];
  if (links.length !== 1) throw Error(`${links.length} style sheets of themes`);
  const other = links[0].cloneNode();
  other.href = other.href.replace(/theme-\\w+\\.css/, `theme-${theme}.css`);
  const body = document.body;
  body.dataset.jpThemeLight = String(theme === 'light');
  body.dataset.jpThemeName = `JupyterLab ${theme[0].toUpperCase()}${theme.slice(1)}`;
  body.classList.remove('theme-light', 'theme-dark');
  body.classList.add(`theme-${theme}`);
  return new Promise((done, fail) => {
    other.onload = () => (links[0].remove(), done());
    other.onerror = fail;
    links[0].after(other);
  });
}"""
LAB_THEME = (
    "name => window.jupyterapp.commands.execute('apputils:change-theme', { theme: name })"
)


def themed(page, lab, theme):
    "Change the theme of an open page"
    page.emulate_media(color_scheme=theme)
    light = str(theme == 'light').lower()
    if page.locator(f'body[data-jp-theme-light="{light}"]').count():
        return
    if lab:
        page.evaluate(LAB_THEME, f'JupyterLab {theme.title()}')
    else:
        page.evaluate(VOILA_THEME, theme)
    page.locator(f'body[data-jp-theme-light="{light}"]').wait_for(state='attached')


def shown(page):
    "JupyterLab loses a widget that is made before its own manager of widgets is there"
    for patience in (1, 2, 4):
        run_all(page)
        with suppress(PlaywrightTimeout):
            return page.locator('.odebc').first.wait_for(timeout=patience * MINUTE)
    raise AssertionError('the cells have run, and no app is shown')


def run_all(page):
    "By the menu; while the page is still being set up it may close again, or ask something"
    for _ in range(10):
        question = page.locator('.jp-Dialog .jp-mod-accept')
        with suppress(PlaywrightTimeout):
            if question.count():
                question.last.click(timeout=5000)
            page.keyboard.press('Escape')
            for menu, name in (('MenuBar', 'Run'), ('Menu', 'Run All Cells')):
                item = page.locator(f'.lm-{menu}-itemLabel', has_text=re.compile(f'^{name}$'))
                item.click(timeout=5000)
        page.wait_for_timeout(2000)
        if page.locator('.jp-InputPrompt', has_text=re.compile(r'\[[*\d]')).count():
            return
    raise AssertionError('the cells do not run')


@contextmanager
def in_voila(browser, folder, theme):
    "The same by `make app`"

    def command(options):
        return ['make', 'app', f'OPTIONS={options}']

    with server(folder, command, ROOT, path='/voila/static/voila.js') as url:
        page, errors = opened(browser, f'{url}/?theme={theme}', 800, 900, theme)
        page.locator('.odebc').first.wait_for(timeout=5 * MINUTE)
        yield page, errors


def app(page, title):
    "One of the apps, with its tab opened"
    page.get_by_role('tab', name=title).click()
    panel = page.get_by_role('tabpanel', name=title)
    panel.wait_for()
    return panel


def drag(box, name, share):
    "Pull a slider to a share of its length, in small steps as a hand does; what it then says"
    one = box.get_by_role('slider', name=name, exact=True)
    expect(one).to_be_enabled(timeout=MINUTE)  # else it has no places yet
    one.scroll_into_view_if_needed()
    place = one.bounding_box()
    now = one.evaluate('s => (s.value - s.min) / (s.max - s.min)')
    y = place['y'] + place['height'] / 2
    handle = 8  # half of it, pixels: it does not leave the rail

    def x(share):
        return place['x'] + handle + share * (place['width'] - 2 * handle)

    mouse = box.page.mouse
    mouse.move(x(now), y)
    mouse.down()
    mouse.move(x(share), y, steps=12)
    mouse.up()
    return said(one)


def said(one):
    return one.get_attribute('aria-valuetext')
