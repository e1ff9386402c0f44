"The notebooks are clean, small and executed, and module and README are in sync with them."

import filecmp
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
import nbformat
import pytest
from waiting import finished

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'nbs').rglob('*.ipynb'))


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "The project after nbdev_clean and nbdev_export"
    folder = tmp_path_factory.mktemp('copy')
    caches = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for name in ('nbs', 'odebc'):
        shutil.copytree(ROOT / name, folder / name, ignore=caches)
    for name in ('settings.ini', 'pyproject.toml'):
        shutil.copy(ROOT / name, folder / name)
    for command in ('nbdev_clean', 'nbdev_export'):
        finished([Path(sys.executable).with_name(command)], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_page(page, copy):
    assert filecmp.cmp(page, copy / 'nbs' / page.name, shallow=False), (
        f'run nbdev_clean: {page.name} changes'
    )
    assert page.stat().st_size < 300_000
    assert not re.search('/(tmp|home|root)/|site-packages', page.read_text(encoding='utf8')), (
        'a path of the machine it was executed on'
    )
    nb = nbformat.read(page, as_version=4)
    assert 'widgets' not in nb.metadata
    for cell in nb.cells:
        if cell.cell_type == 'code':
            assert not [o for o in cell.outputs if o.output_type == 'error']
        else:
            assert not re.search('^# #', cell.source, re.M), 'a heading within a heading'
    assert nb.cells[0].source.startswith('# ')
    assert any(c.get('outputs') for c in nb.cells), 'the page is not executed'


def test_export_changes_nothing(copy):
    modules = sorted(p.name for p in (ROOT / 'odebc').glob('*.py'))
    assert modules == sorted(p.name for p in (copy / 'odebc').glob('*.py'))
    different = filecmp.cmpfiles(ROOT / 'odebc', copy / 'odebc', modules, shallow=False)[1]
    assert not different, f'run nbdev_export: {different} change'


def test_every_module_has_its_page():
    modules = {m.stem for m in (ROOT / 'odebc').glob('*.py') if not m.stem.startswith('_')}
    pages = [page for page in PAGES if '#| default_exp' in page.read_text(encoding='utf8')]
    assert modules == {page.stem[3:] for page in pages}


@pytest.mark.parametrize('module', sorted((ROOT / 'odebc').glob('*.py')), ids=lambda p: p.stem)
def test_modules_compile_without_warnings(module):
    with warnings.catch_warnings(action='error'):
        compile(module.read_text(encoding='utf8'), module.name, 'exec')


EQUATIONS = json.loads((ROOT / 'nbs/equations.json').read_text(encoding='utf8'))


def test_every_equation_is_listed():
    assert list(EQUATIONS) == [*map(str, range(1, 22)), 'A.1', 'A.2', 'A.3', 'A.4', 'B.1']


@pytest.mark.parametrize('number', EQUATIONS)
def test_equation_is_derived_checked_and_drawn(number):
    "Its cells exist: text that derives it, code that asserts, a figure where one is named"
    equation = EQUATIONS[number]
    page = nbformat.read(ROOT / f"nbs/{equation['page']}.ipynb", as_version=4)
    cells = {cell.id: cell for cell in page.cells}
    derivation, check = cells[equation['derivation']], cells[equation['check']]
    assert derivation.cell_type == 'markdown' and '$' in derivation.source
    assert check.cell_type == 'code'
    assert re.search(r'\b(test_(close|eq|ne)|assert)\b', check.source)
    if equation['figure']:
        assert any('image/png' in o.get('data', {}) for o in cells[equation['figure']].outputs)


def test_readme_is_the_index_page():
    text = finished([sys.executable, ROOT / 'tools/readme.py'], check=True).stdout
    assert (ROOT / 'README.md').read_text(encoding='utf8') == text, 'run make notebooks'
