"The plan of the house: who may know whom, what others build on, and where older names are."

import ast
import importlib
import json
import re
import sys
import warnings
from pathlib import Path
import pytest
from waiting import finished
import odebc
from odebc.moved import MOVED, new_place

PACKAGE = Path(__file__).parents[1] / 'odebc'
sys.path.insert(0, str(PACKAGE.parent / 'tools'))
from checks import checks_in_bodies, shares  # noqa: E402

FILES = {
    file.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.'): file
    for file in PACKAGE.rglob('*.py')
    if '__pycache__' not in file.parts and file.name != '_modidx.py'
}
MATHEMATICS = 'schedule toy solvers samplers boundary'
CORE = f'{MATHEMATICS} maps metrics matrix strategies runner search'.split()
FOR_MEASUREMENTS_AND_APPS = 'experiments', 'app', 'cli'


def imports(name):
    "(module, name in it) for all that a module imports from the package, wherever it stands"
    found = []
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding='utf8'))):
        if not isinstance(node, ast.ImportFrom):
            continue
        target = node.module or ''
        if node.level:  # nbdev writes the imports of a page relative to its module
            parts = name.split('.')[: -node.level]
            target = '.'.join([*parts, target]).strip('.')
        elif target.startswith('odebc.'):
            target = target.removeprefix('odebc.')
        else:
            continue
        found += [(target, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize('name', sorted(FILES))
def test_arrows_point_one_way(name):
    room = name.split('.')[0]
    known = {target.split('.')[0] for target, _ in imports(name)}
    if room == 'cli' or name.startswith('__'):
        return
    assert 'cli' not in known
    if room != 'app':
        assert 'app' not in known
    if room not in ('app', 'experiments'):
        assert 'experiments' not in known


@pytest.mark.parametrize('name', CORE)
def test_the_core_is_apart_from_the_rest(name):
    "All that it knows, and all that those know"
    seen, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one in seen or one not in FILES:
            continue
        seen.add(one)
        waiting += [target for target, _ in imports(one)]
    assert not [m for m in seen if m.split('.')[0] in FOR_MEASUREMENTS_AND_APPS]
    assert not seen & {'engine', 'train', 'downloads', 'degradations', 'adapters'}


@pytest.mark.parametrize('name', sorted(FILES))
def test_nobody_takes_private_names_of_others(name):
    assert not [f'{target}.{n}' for target, n in imports(name) if n.startswith('_')]


@pytest.mark.parametrize('name', sorted(FILES))
def test_what_others_take_is_exported(name):
    "Names that a module does not export are its own business"
    for target, n in imports(name):
        if target not in FILES or f'{target}.{n}' in FILES:
            continue
        exported = getattr(importlib.import_module(f'odebc.{target}'), '__all__', None)
        assert exported is None or n in exported, f'odebc.{target}.{n}'


OUTSIDE = [PACKAGE.parent / folder for folder in ('nbs', 'tests', 'tools', 'benchmarks')]
BY_OTHER_WAYS = """demo train upscale results
gradient multifidelity spectrum
NotYet Stage down_and_up zero""".split()  # commands, STRATEGIES, and what pages say


def imported(text):
    "Names that a text of Python imports from the package"
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('odebc'):
            found |= {alias.name for alias in node.names}
    return found


def test_what_is_exported_is_for_others():
    "A name that nobody else takes is a module's own business: `#| exporti`"
    taken = set(BY_OTHER_WAYS)
    for name in FILES:
        taken |= {n for _, n in imports(name)}
    for file in [file for folder in OUTSIDE for file in folder.rglob('*.py')]:
        taken |= imported(file.read_text(encoding='utf8'))
    for file in OUTSIDE[0].rglob('*.ipynb'):
        for cell in json.loads(file.read_text(encoding='utf8'))['cells']:
            if cell['cell_type'] == 'code':
                source = re.sub(r'(?m)^( *)[%!].*', r'\1pass', ''.join(cell['source']))
                taken |= imported(source)
    exported = set()
    for name in FILES:
        exported |= set(getattr(importlib.import_module(f'odebc.{name}'), '__all__', []))
    unused = exported - taken - set(odebc.__all__)
    assert not unused, ' '.join(sorted(unused))


def test_arguments_are_checked_by_functions_that_do_nothing_else():
    "A body that does work begins with the work"
    found = {name: part / whole for name, (part, whole) in shares().items() if part}
    most = {name: share for name, share in found.items() if share > 0.04}
    assert found['total'] < 0.02 and not most, most


CHECKS = """
def check_side(n):
    if n < 1:
        raise OdebcError('none')
def work(n, kind):
    check_side(n)
    low = n < 3
    if low:
        raise OdebcError(f'{n} is low')
    if kind == 'a':
        n += 1
    else:
        raise ValueError
    try:
        return 1 / n
    except ZeroDivisionError:
        if kind:
            raise OdebcError('failed') from None
    if n == 7:
        raise Stopped
    n += 1
    if n > 9:
        raise OdebcError(n)
    return n
"""


def test_what_counts_as_a_check_in_a_body():
    "Not what tells of a failure, and not a signal; with it what only prepares it"
    assert checks_in_bodies(CHECKS) == [(7, 63), (13, 16), (22, 37)]


@pytest.mark.parametrize('name', [*sorted(FILES), '_modidx'])
def test_modules_have_short_lines(name):
    file = PACKAGE / f"{name.replace('.', '/')}.py"
    long = [line for line in file.read_text(encoding='utf8').splitlines() if len(line) > 100]
    assert not long, long


def test_what_runs_in_the_browser_has_short_lines():
    "Formatted by prettier, with 100 letters a line"
    files = sorted((PACKAGE / 'app/browser').iterdir())
    assert len(files) > 8
    for file in files:
        lines = file.read_text(encoding='utf8').splitlines()
        assert max(map(len, lines)) <= 100, file.name


USER = '''
import torch
from odebc import Schedule, sampler, SR3, SolutionMap, solution_map, candidates, score_matrix
from odebc import BoundaryCondition
from odebc.schedule import Schedule
from odebc.samplers import sampler
from odebc.metrics import psnr, ssim, lpips, dists, lpips_lite
from odebc.unet import UNet
from odebc.train import SR3
from odebc.search import candidates, score_matrix, search, BoundaryCondition
from odebc.data import degrade, photographs, tiles

sched = Schedule.linear()
assert abs(sched.t_of_lam(sched.lam(500.)) - 500) < 1e-6
assert sched.alpha(0) == 1 and sched.sigma(0) == 0 and sched.T == 1000
sched.f(10.), sched.g2(10.), Schedule.cosine()
x_T = candidates(3, (3, 64, 64), seed=0)
assert torch.equal(candidates(2, (3, 64, 64)), x_T[:2])
zero = sampler('DDIM-5', sched)(lambda x, t: x, x_T, generator=None, callback=None)
assert zero.shape == x_T.shape
z = tiles(list(photographs().values()), 2, 64, torch.Generator().manual_seed(0))
y = degrade(z)
model = SR3.from_pretrained('small')
h = model.solution_map('DDIM-2')
assert isinstance(h, SolutionMap) and h.nfe == 2 and h.shape(y) == (3, 64, 64) and h.facts
assert torch.equal(h(x_T[:1], y), model.h(x_T[:1], y, sampler='DDIM-2', generator=None))
assert model.upscale(y[0], x_T[0], 'DDIM-2').shape == (3, 64, 64)
assert psnr(z, z).shape == ssim(z, z).shape == lpips_lite(z, z).shape == (2,)
D = score_matrix(h, x_T, z, y, lpips_lite)
assert D.shape == (3, 2)
mine = solution_map(lambda x_T, y: h(x_T, y), name='mine', nfe=2, shape=(3, 64, 64))
how = dict(strategy='exhaustive', budget=None, seed=0, shape=None, path='x_T.safetensors')
found = search(mine, z, y, K=3, distance=lpips_lite, **how)
assert found.index == D.mean(1).argmin() and found.seed == 0 and found.nfe == found.solves*2
found.save('again.safetensors')
assert torch.equal(BoundaryCondition.load('again.safetensors').x_T, found.x_T)
assert torch.equal(BoundaryCondition.load('x_T.safetensors').scores, found.scores)
UNet.small(), UNet.base()
print('fine')
'''


def test_what_others_build_on(tmp_path):
    "A user's script, without a word of what is older"
    (tmp_path / 'script.py').write_text(USER)
    command = [sys.executable, '-W', 'error::DeprecationWarning:__main__', 'script.py']
    done = finished(command, cwd=tmp_path)
    assert done.stdout == 'fine\n', done.stderr


@pytest.mark.parametrize('module', sorted(MOVED))
def test_older_names_are_found(module):
    older = importlib.import_module(f'odebc.{module}')
    names = [
        entry.partition('=')[0] for text in MOVED[module].values() for entry in text.split()
    ]
    for name in names:
        target, new = new_place(module, name)
        if name in vars(older):
            continue  # it is imported there, and needs no forwarding
        with pytest.warns(DeprecationWarning, match=f'is now odebc.{target}.{new}'):
            found = getattr(older, name)
        assert found is getattr(importlib.import_module(f'odebc.{target}'), new)
    with pytest.raises(AttributeError, match='no attribute'):
        older.never_was_there


def test_the_package_says_its_names():
    import odebc

    assert {'SR3', 'solution_map', '__version__'} <= set(dir(odebc))
    with warnings.catch_warnings(action='error'):
        assert odebc.SR3.__module__ == 'odebc.sr3'
    with pytest.raises(AttributeError, match="no attribute 'SR4'"):
        odebc.SR4
    assert (PACKAGE / 'py.typed').exists()
