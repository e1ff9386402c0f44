"""The package alone: without the extras all of it works but what draws and the explorer, which
say what to install.
"""

import ast
import re
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions, requires
from pathlib import Path
import nbformat
import pytest
from packaging.requirements import Requirement
from waiting import finished

ROOT = Path(__file__).parents[1]
FILES = {
    path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.'): path
    for path in (ROOT / 'odebc').rglob('*.py')
}
COURSE = sorted((ROOT / 'nbs').glob('*.ipynb'))
OF_THE_LAB = {'odebc.app.explore', 'odebc.app.still'}
MODULES = [name for name in sorted(FILES) if name.split('.')[-1][0] != '_']


def listed(key):
    "Requirements in settings.ini"
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT / 'settings.ini', encoding='utf8')
    return [Requirement(word) for word in config['DEFAULT'][key].split()]


def plain(name):
    "As pip compares names of distributions"
    return re.sub('[-_.]+', '-', name).lower()


def installed_with(requirements):
    "Names of the distributions that pip installs for them"
    found, waiting = set(), list(requirements)
    while waiting:
        wanted = waiting.pop()
        of_an_extra = wanted.marker and not wanted.marker.evaluate({'extra': ''})
        if not of_an_extra and plain(wanted.name) not in found:
            found.add(plain(wanted.name))
            waiting += map(Requirement, requires(wanted.name) or [])
    return found


SOURCES = {
    package: {plain(name) for name in names}
    for package, names in packages_distributions().items()
}  # importable package -> distributions it may come from
ALONE = installed_with(listed('requirements')) | {'odebc'}
NOT_THERE = {package for package, names in SOURCES.items() if not names & ALONE}

# before a script: a Python in which only the requirements of the package can be found
BEGIN = f'''
import re, sys
from importlib.machinery import PathFinder

class Light(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition('.')[0] not in {NOT_THERE!r}:
            return super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):
        for found in super().find_distributions(*context):
            if re.sub('[-_.]+', '-', found.name).lower() in {ALONE!r}:
                yield found

sys.meta_path[sys.meta_path.index(PathFinder)] = Light
'''


def alone(code, **options):
    return finished([sys.executable, '-c', BEGIN + code], **options)


def test_the_extras_are_not_there():
    extras = {'matplotlib', 'ipywidgets', 'IPython', 'traitlets', 'skimage', 'sklearn'}
    assert extras | {'nbdev', 'fastcore', 'diffusers', 'tifffile', 'pytest'} <= NOT_THERE
    assert not NOT_THERE & {'torch', 'scipy', 'lpips', 'torchvision', 'numpy', 'PIL'}
    done = alone('import matplotlib')
    assert "ModuleNotFoundError: No module named 'matplotlib'" in done.stderr


def imported(tree, in_lab=False):
    "(package, whether inside `from_lab`) for each import, wherever it stands"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition('.')[0], in_lab
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition('.')[0], in_lab
        here = isinstance(node, ast.With) and 'from_lab' in ast.unparse(node.items[0])
        yield from imported(node, in_lab or here)


def test_requirements_are_what_the_modules_import():
    "No more, and no less"
    needed, in_lab = set(), set()
    for file in FILES.values():
        for package, lab in imported(ast.parse(file.read_text(encoding='utf8'))):
            if package not in sys.stdlib_module_names | {'odebc'}:
                (in_lab if lab else needed).update(SOURCES[package])
    needed -= {plain(wanted.name) for wanted in listed('hub_requirements')}  # odebc.hub
    assert needed == {plain(wanted.name) for wanted in listed('requirements')}
    assert in_lab == {'matplotlib', 'ipython', 'anywidget', 'traitlets'}
    assert in_lab <= installed_with(listed('lab_requirements')) - ALONE


@pytest.mark.parametrize('page', COURSE, ids=lambda page: page.stem)
def test_a_page_of_the_course_needs_no_more_than_the_lab(page):
    "What its first cell installs on Colab"
    there = ALONE | installed_with(listed('lab_requirements'))
    for cell in nbformat.read(page, as_version=4).cells:
        if cell.cell_type == 'code':
            source = re.sub(r'(?m)^( *)[%!].*', r'\1pass', cell.source)
            for package, _ in imported(ast.parse(source)):
                if package not in sys.stdlib_module_names | {'odebc'}:
                    assert SOURCES.get(package, set()) & there, package


def test_it_is_told_what_each_requirement_is_for():
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf8')
    rows = text.split('| package | what for |\n| --- | --- |\n')[1].split('\n\n')[0]
    names = [row.split('|')[1].strip() for row in rows.splitlines()]
    assert sorted(names) == sorted(plain(wanted.name) for wanted in listed('requirements'))


def test_all_modules_are_imported_without_the_extras():
    code = f'''
import importlib
for module in {[name for name in MODULES if name not in OF_THE_LAB]!r}:
    importlib.import_module(module)
    print(module)
# and what they import where it is used
from odebc.metrics import import_torchvision
import_torchvision()
import lpips, torchmetrics.functional.image, accelerate, pooch
import scipy.integrate, scipy.sparse.csgraph, scipy.special
'''
    done = alone(code)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == set(MODULES) - OF_THE_LAB


COMMANDS = {
    '--help': 'upscale',
    'demo --k 4 --r 2 --tests 2 --sampler DDIM-3': 'wrote demo/table.md, demo/x_T.safetensors',
    'search --k 4 --r 2 --unseen 2 --sampler DDIM-3 --images photos': '',
    'upscale --x-t x_T.safetensors photos/astronaut.png': '',
    'train --images photos --out run --batch 2 --size 32 --steps 1': 'the model is in run',
}
RUN = '''
from odebc.cli import main
for line in {lines!r}:
    sys.argv = ['odebc', *line.split()]
    try:
        main()
    except SystemExit as end:
        print(f'[{{end.code or 0}}]', file=sys.stderr)
'''


def test_commands_work_without_the_extras(photo_folder, tmp_path):
    "And a demo says before its work that there will be no picture"
    (tmp_path / 'photos').symlink_to(photo_folder)
    done = alone(RUN.format(lines=list(COMMANDS)), cwd=tmp_path)
    ends = [line for line in done.stderr.splitlines() if line.startswith('[')]
    assert ends == len(COMMANDS) * ['[0]'], done.stderr
    for line, says in COMMANDS.items():
        assert says in done.stdout, (line, done.stdout)
    note = (
        'odebc: note: there will be no picture: drawing needs matplotlib, '
        "which is not installed: pip install 'odebc[lab]'"
    )
    of_demo = done.stderr.split('[0]')[1]
    assert note in of_demo.partition('compare')[0]
    assert not (tmp_path / 'demo/picture.png').exists()
    for made in ('demo/table.md', 'demo/x_T.safetensors', 'x_T.safetensors'):
        assert (tmp_path / made).stat().st_size, made
    assert (tmp_path / 'upscaled/astronaut_x4.png').exists()


REFUSED = {
    'import odebc.app.explore': 'the explorer needs anywidget',
    'import odebc.explore; odebc.explore.search_app': 'the explorer needs anywidget',
    'import odebc.experiments.results as r; r.plot_agreement([])': 'drawing needs matplotlib',
    'import odebc.experiments.results as r; r.report(None, "")': 'drawing needs matplotlib',
    'import odebc.engine; odebc.engine.watch(0, 0)': 'watching a training needs matplotlib',
}


@pytest.mark.parametrize('code', REFUSED)
def test_what_needs_an_extra_says_what_to_install(code):
    done = alone(code)
    says = f"{REFUSED[code]}, which is not installed: pip install 'odebc[lab]'"
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f'odebc.errors.MissingExtra: {says}'


def test_results_are_refused_in_one_sentence(tmp_path):
    done = alone(RUN.format(lines=['results --quick']), cwd=tmp_path)
    says = "odebc: drawing needs matplotlib, which is not installed: pip install 'odebc[lab]'"
    assert done.stderr.splitlines()[-2:] == [says, '[2]'], done.stderr
