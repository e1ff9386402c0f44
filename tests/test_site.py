"The site is built from this repository, and all of its links lead somewhere."

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag
import pytest

pytest.importorskip('myst_nb', reason='the extra `site` is not installed')
ROOT = Path(__file__).parents[1]
OURS = 'https://odebc.github.io/odebc/'
HOSTS = {  # others are read by nobody here: a new one is looked at once, and put here
    'arxiv.org': r'/(abs|pdf)/\d{4}\.\d{4,5}(v\d+)?',
    'colab.research.google.com': r'/github/odebc/odebc/blob/main/nbs/(hood/)?\w+\.ipynb',
    'github.com': r'/[\w.-]+/[\w.-]+(/.*)?',
}


class Page(HTMLParser):
    "Addresses that a page names, places that it has, and its text"

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.places, self.text = [], [], set(), []
        self.feed(path.read_text(encoding='utf8'))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found.get('id'), found.get('name')}
        if tag == 'a' and found.get('href'):
            self.links.append(found['href'])
        elif tag in ('img', 'script', 'link', 'source', 'iframe', 'video'):
            kept = tag != 'link' or found.get('rel') not in ('canonical', 'author')
            self.loads += [v for k, v in found.items() if k in ('src', 'href') and kept and v]


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "Name -> page"
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, ROOT / 'tools/make_site.py', '--out', out]
    done = subprocess.run(command, capture_output=True, encoding='utf8', timeout=1800)
    assert done.returncode == 0, done.stderr
    folder = out / 'html'
    return folder, {path: Page(path) for path in folder.rglob('*.html')}


def test_all_pages_are_there(site):
    folder, pages = site
    names = {path.relative_to(folder).as_posix() for path in pages}
    for page in (ROOT / 'nbs').rglob('*.ipynb'):
        name = page.relative_to(ROOT).with_suffix('.html').as_posix()
        assert name in names or name == 'nbs/index.html', name
    modules = {p.stem for p in (ROOT / 'odebc').glob('*.py') if p.stem[0] != '_'}
    shown = {name.split('.')[1] for name in names if name.startswith('modules/odebc.')}
    assert len(shown & modules) > 30
    assert {'index.html', 'search.html', 'nbs/explore/search.html'} <= names
    assert (folder / '_static/mathjax/tex-chtml.js').exists()


def leads_somewhere(folder, pages, path, address):
    "A file of the site, and in it the place"
    target, place = urldefrag(unquote(address))
    target = target.partition('?')[0]
    file = (path.parent / target).resolve() if target else path
    if file.is_dir():
        file = file / 'index.html'
    inside = file.is_relative_to(folder) and file.is_file()
    return inside and (not place or file not in pages or place in pages[file].places)


def test_links_lead_somewhere(site):
    folder, pages = site
    wrong = []
    for path, page in pages.items():
        for address in page.links:
            if address.startswith(OURS):
                address = '/'.join(
                    ['..'] * (len(path.relative_to(folder).parts) - 1) + ['']
                ) + (address.removeprefix(OURS))
            if re.match(r'\w+:', address):
                continue
            if not leads_somewhere(folder, pages, path, address):
                wrong.append(f'{path.relative_to(folder)}: {address}')
    assert not wrong, wrong


def test_links_to_others_have_the_form_of_addresses(site):
    _, pages = site
    links = {link for page in pages.values() for link in page.links if ':' in link[:9]}
    assert len(links) > 30
    for link in links:
        host = re.fullmatch(r'https?://([\w.-]+\.[a-z]{2,})(?::\d+)?(/\S*)?', link)
        assert host, link
        form = HOSTS.get(host[1])
        assert form is None or re.fullmatch(form, host[2] or ''), link
        if host[1] == 'colab.research.google.com':
            assert (ROOT / link.split('/blob/main/')[1]).exists(), link


def test_nothing_is_loaded_from_elsewhere(site):
    folder, pages = site
    for path, page in pages.items():
        for address in page.loads:
            if address.startswith('data:'):
                continue
            assert not re.match(r'(\w+:)?//', address), (path.name, address)
            assert leads_somewhere(folder, {}, path, address), (path.name, address)


def test_hidden_cells_stay_hidden_and_formulas_are_marked(site):
    folder, _ = site
    text = (folder / 'nbs/01_schedule.html').read_text(encoding='utf8')
    assert '#| ' not in text and 'find_spec' not in text
    article = text[text.index('<article') :]
    plain = re.sub(
        r'<(pre|script|style)\b.*?</\1>|<span class="math.*?</span>', '', article, flags=re.S
    )
    plain = re.sub(r'<div class="math.*?</div>|<code.*?</code>', '', plain, flags=re.S)
    assert article.count('class="math') > 50
    assert '$' not in re.sub(r'<[^>]+>', '', plain)


def test_modules_are_told_from_their_docments(site):
    folder, _ = site
    text = re.sub(r'<[^>]+>', '', (folder / 'modules/odebc.search.html').read_text('utf8'))
    assert '# (R, 3, H, W) reference HR images in [-1, 1]' in text
