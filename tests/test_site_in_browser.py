"The pages of the site in a real browser, at the widths of a phone, a small screen and a desk."

import subprocess
import sys
from pathlib import Path
import pytest
from playwright.sync_api import expect

pytest.importorskip('myst_nb', reason='the extra `site` is not installed')
ROOT = Path(__file__).parents[1]
COURSE = sorted(path.stem for path in (ROOT / 'nbs').glob('[0-9]*.ipynb'))
PAGES = ['index', 'docs/symbols', 'docs/handout', 'modules/odebc.search', 'nbs/equations']
PAGES += [f'nbs/{name}' for name in COURSE] + ['nbs/hood/weights', 'nbs/hood/solvers']
LEFT = r"""() => {
  const walker = document.createTreeWalker(
    document.querySelector('article'), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode;
    if (text.parentElement.closest('pre, code, script, mjx-container')) continue;
    if (/\$[^$]+\$|\\\(|\\\[|\\tag|\\frac/.test(text.data)) found.push(text.data);
  }
  return found;
}"""  # formulas that nobody has typeset
CUT = """() => [...document.querySelectorAll('pre')].filter(
  (pre) => pre.scrollWidth > pre.clientWidth + 1
    && !['auto', 'scroll'].includes(getComputedStyle(pre).overflowX)).length"""

SCROLLED = """() => [...document.querySelectorAll('div.cell_input pre')].filter(
  (pre) => pre.scrollWidth > pre.clientWidth + 1).map((pre) => pre.textContent.slice(0, 60))"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, ROOT / 'tools/make_site.py', '--out', out]
    subprocess.run(command, check=True, timeout=1800)
    return out / 'html'


@pytest.fixture(params=[390, 1100, 1280])
def page(browser, request):
    size = dict(width=request.param, height=900)
    context = browser.new_context(viewport=size, color_scheme='dark')
    page = context.new_page()
    page.asked, page.errors = [], []
    page.on('request', lambda request: page.asked.append(request.url))
    page.on('pageerror', lambda error: page.errors.append(str(error)))
    yield page
    context.close()


@pytest.mark.parametrize('name', PAGES)
def test_formulas_are_typeset_and_nothing_is_cut(folder, page, name):
    page.goto((folder / f'{name}.html').as_uri())
    page.wait_for_function('!window.MathJax || !!MathJax.startup?.document?.state() > 0')
    page.evaluate('window.MathJax ? MathJax.startup.promise : null')
    assert page.evaluate(LEFT) == []
    assert page.locator('mjx-merror').count() == 0
    assert page.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0
    assert page.evaluate(CUT) == 0
    if page.viewport_size['width'] > 1000 and name.startswith('nbs/'):
        assert page.evaluate(SCROLLED) == []  # all of the code can be seen at once
    assert not [url for url in page.asked if not url.startswith(('file:', 'data:'))]
    assert not page.errors


def test_it_is_dark_where_the_reader_wishes(folder, page):
    page.goto((folder / 'index.html').as_uri())
    colour = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert sum(map(int, colour.strip('rgb()').split(','))) < 120


def test_the_search_finds_a_word_without_network(folder, page):
    page.goto((folder / 'search.html').as_uri() + '?q=halving')
    page.locator('ul.search li a').nth(3).wait_for()  # they come one by one


def test_sliders_move_without_a_kernel(folder, page):
    page.goto((folder / 'nbs/explore/search.html').as_uri())
    chosen = page.locator('.odebc-candidate').first
    chosen.wait_for()
    page.get_by_role('button', name='one pair, many candidates').click()
    expect(page.locator('input[type=range]').first).to_have_value('0')
