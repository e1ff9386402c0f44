"""Every way in: from any folder, by any command, on any terminal; what a mistake says, what a
bug says, and what an import costs.
"""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
import pytest
import torch
from PIL import Image
from odebc import cli
from odebc.errors import CannotWrite, MapFailed, OdebcError, writing

ROOT = Path(__file__).parents[1]
ODEBC = Path(sys.executable).with_name('odebc')
QUICK = '--k 4 --r 2 --tests 2 --sampler DDIM-2 --no-large'.split()
FOUR = 'search --k 4 --r 2 --unseen 2 --sampler DDIM-2'.split()
REPORT = 'Please report it, with the lines above'


def finished(command, timeout=300, cwd=None, **env):
    "A process that has ended, with its output as text"
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        encoding='utf8',
        errors='replace',
        cwd=cwd,
        env=os.environ | env,
        timeout=timeout,
    )


# --- 1. a clone named odebc


def listed(*args):
    "Names of files that git knows"
    command = ['git', 'ls-files', '-z', *args]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return [os.fsdecode(name) for name in done.stdout.split(b'\0')[:-1]]


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """The parent folder of a clone named odebc, installed by the Makefile's own command in an
    environment of its own
    """
    parent = tmp_path_factory.mktemp('parent')
    for name in listed('--cached', '--others', '--exclude-standard'):
        if not (ROOT / name).is_file():
            continue  # removed, and not yet committed
        (parent / 'odebc' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, parent / 'odebc' / name)
    make = [sys.executable, '-m', 'venv', '--without-pip', parent / 'venv']
    subprocess.run(make, check=True, timeout=120)
    packages = next((parent / 'venv').glob('[Ll]ib/**/site-packages'))
    others = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
    # a .pth file there is not read: only this clone is installed
    (packages / 'shared.pth').write_text('\n'.join(others), encoding='utf8')
    makefile = (ROOT / 'Makefile').read_text(encoding='utf8')
    install = re.search(r"^PIP := \$\(BIN\)/pip (.*)$", makefile, re.M)[1]
    assert "\t$(PIP) -e '.[lab]'\n" in makefile
    command = [parent / 'venv/bin/python', '-m', 'pip', *shlex.split(install)]
    command += ['--no-deps', '--no-build-isolation', '-e', '.[lab]']
    done = finished(command, cwd=parent / 'odebc')
    assert done.returncode == 0, done.stderr
    return parent


WHAT_A_READER_TYPES = '''
from importlib.resources import files
import odebc.sr3
from odebc.data import degrade
shipped = files('odebc.assets')
assert (shipped/'small'/'model.safetensors').is_file()
assert (shipped/'results/small/results.md').is_file()
assert {'base', 'small', 'lpips_lite'} <= {entry.name for entry in shipped.iterdir()}
assert odebc.sr3.SR3.from_pretrained().shape == (3, 64, 64)
print(odebc.__file__)
'''


@pytest.mark.parametrize('how', ['-c', 'script', 'IPython'])
@pytest.mark.parametrize('where', ['parent', 'clone', 'empty'])
def test_the_package_is_found_from_every_folder(clone, how, where, tmp_path):
    if how == 'IPython' and where != 'parent':
        pytest.skip('the kernel searches as -c does')
    folder = dict(parent=clone, clone=clone / 'odebc', empty=tmp_path)[where]
    command = {
        '-c': ['-c', WHAT_A_READER_TYPES],
        'script': ['script.py'],
        'IPython': ['-m', 'IPython', '-c', WHAT_A_READER_TYPES],
    }[how]
    if how == 'script':
        (folder / 'script.py').write_text(WHAT_A_READER_TYPES, encoding='utf8')
    command = [clone / 'venv/bin/python', *command]
    done = finished(command, cwd=folder, IPYTHONDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert str(clone / 'odebc' / 'odebc' / '__init__.py') in done.stdout


def test_commands_from_the_parent_of_a_clone(clone):
    for command in ([clone / 'venv/bin/odebc'], [clone / 'venv/bin/python', '-m', 'odebc']):
        done = finished([*command, 'demo', '--model', 'none'], cwd=clone)
        told = done.stderr.partition('the package ships ')[2].strip().split(', ')
        assert done.returncode == 2, done.stderr
        assert {'base', 'small', 'small-mid'} <= set(told), done.stderr


def test_data_is_no_package():
    assert not list((ROOT / 'data').rglob('*.py'))


def test_an_sdist_builds_a_wheel_with_all_data(clone, tmp_path):
    import tarfile

    make = 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])'
    done = finished([sys.executable, '-c', make, tmp_path], cwd=clone / 'odebc')
    (archive,) = tmp_path.glob('*.tar.gz')
    names = {name.partition('/')[2] for name in tarfile.open(archive).getnames()}
    there = [name for name in listed('data') if (ROOT / name).exists()]
    assert done.returncode == 0 and set(there) <= names and 'odebc/assets/__init__.py' in names


# --- 2. python -m


@pytest.mark.parametrize('module', ['odebc', 'odebc.cli'])
def test_run_as_a_module(module, tmp_path):
    usage = finished([sys.executable, '-m', module], cwd=tmp_path)
    assert usage.returncode == 0 and 'upscale' in usage.stdout
    command = [sys.executable, '-m', module, 'train', '--images', 'nowhere']
    refused = finished(command, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.endswith('odebc: there is no folder nowhere\n')


def test_a_module_trains(photo_folder, tmp_path):
    args = ['train', '--images', photo_folder, '--out', tmp_path]
    args += '--batch 2 --size 32 --steps 1'.split()
    done = finished([sys.executable, '-m', 'odebc.cli', *args])
    assert done.returncode == 0 and (tmp_path / 'model.safetensors').exists(), done.stderr


def test_files_of_the_user_do_not_stand_in_for_libraries(tmp_path):
    refusal = 'raise SystemExit("not this file")'
    for name in ('random', 'data', 'typing', 'torch', 'signal'):
        (tmp_path / f'{name}.py').write_text(refusal, encoding='utf8')
    done = finished([sys.executable, '-m', 'odebc', 'demo', '--model', 'none'], cwd=tmp_path)
    assert done.returncode == 2 and 'no model none' in done.stderr, done.stderr


def test_modules_written_by_hand_are_these():
    "All others come from a page; see also test_sync"

    def generated(path):
        return '# AUTOGENERATED' in path.read_text(encoding='utf8')[:600]

    package = ROOT / 'odebc'
    others = [path for path in package.rglob('*.py') if not generated(path)]
    made = {path.relative_to(package).as_posix() for path in others}
    # public names; a name no page can export; sub-packages; where names have moved from
    by_hand = {'__init__.py', '__main__.py'}
    by_hand |= {f'{folder}/__init__.py' for folder in ('app', 'assets', 'experiments')}
    by_hand |= {f'{name}.py' for name in ('explore', 'lab', 'results', 'scores', 'views')}
    assert made - {'_modidx.py'} == by_hand


# --- 3. terminals that lack letters

POSIX = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='')
TERMINALS = dict(
    ascii=POSIX,
    ascii_strict=dict(PYTHONIOENCODING='ascii:strict'),
    latin_1=dict(PYTHONIOENCODING='latin-1'),
    cp1252=dict(PYTHONIOENCODING='cp1252'),
)


@pytest.fixture(scope='module')
def x_T(tmp_path_factory):
    "A boundary condition of the shipped model"
    from odebc.matrix import candidate
    from odebc.runner import BoundaryCondition
    from odebc.sr3 import SR3

    path = tmp_path_factory.mktemp('x_T') / 'x_T.safetensors'
    start = candidate(0, (3, 64, 64))
    meta = SR3.from_pretrained().solution_map('DDIM-2').meta
    BoundaryCondition(start, 0, 0, torch.zeros(1, 1), 1, 2, 0.0, meta).save(path)
    return path


@pytest.mark.parametrize('terminal', TERMINALS)
def test_upscale_prints_on_every_terminal(terminal, x_T, tmp_path):
    names = ['ünï.png', '写真 ±.png', 'one.png']
    for name in names:
        Image.new('RGB', (6, 5), 'teal').save(tmp_path / name)
    command = [ODEBC, 'upscale', '--x-t', x_T, '--out', tmp_path / 'out']
    done = finished([*command, *(tmp_path / name for name in names)], **TERMINALS[terminal])
    assert done.returncode == 0, done.stderr
    made = {name.replace('.png', '_x4.png') for name in names}
    assert set(os.listdir(tmp_path / 'out')) == made
    assert done.stdout.count('wrote ') == 3


def test_a_name_that_is_no_text(x_T, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b'\xff\xfe.png')
    Image.new('RGB', (6, 5), 'teal').save(os.fsdecode(tmp_path / 'plain.png'))
    try:
        os.rename(tmp_path / 'plain.png', path)
    except OSError:
        pytest.skip('this file system knows text only')
    command = [ODEBC, 'upscale', '--x-t', x_T, '--out', tmp_path / 'out', path]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert os.listdir(os.fsencode(tmp_path / 'out')) == [b'\xff\xfe_x4.png'], done.stderr


@pytest.mark.parametrize('terminal', ['ascii', 'latin_1'])
def test_search_prints_on_every_terminal(terminal, photo_folder, tmp_path):
    out = tmp_path / 'é.safetensors'
    command = [ODEBC, *FOUR, '--images', photo_folder, '--out', out]
    done = finished(command, **TERMINALS[terminal])
    assert done.returncode == 0 and 'unseen ones' in done.stdout, done.stderr
    assert out.exists()


def test_demo_prints_without_letters_and_without_a_window(photo_folder, tmp_path):
    out = tmp_path / 'démo'
    command = [ODEBC, 'demo', *QUICK, '--images', photo_folder, '--out', out]
    done = finished(command, MPLBACKEND='module://no_such_backend', **POSIX)
    assert done.returncode == 0 and 'DDIM-2 + x' in done.stdout, done.stderr
    assert ' + x̃_T' in (out / 'table.md').read_text(encoding='utf8')
    assert (out / 'picture.png').exists()


def test_training_tells_its_story_on_every_terminal(photo_folder, tmp_path):
    shutil.copytree(photo_folder, tmp_path / 'été')
    args = ['train', '--images', tmp_path / 'été', '--out', tmp_path / 'modèle']
    args += ['--batch', 2, '--size', 32, '--about', 'photos d’été']
    for steps in (1, 50):  # the second one resumes, and writes the log
        done = finished([ODEBC, *args, '--steps', steps], **POSIX)
        assert done.returncode == 0 and f'{steps} steps' in done.stdout, done.stderr


TINY_RESULTS = '''
import sys
from odebc.experiments import lab
matrix = 40, 4, 'DDIM-2'
lab.PROTOCOLS['quick'] = lab.Protocol(6, 2, 4, 4, ['DDIM-4'], ['DDPM-6'], 2, matrix, 2)
from odebc.cli import main
sys.argv = ['odebc', 'results', '--quick', *sys.argv[1:]]
main()
'''


def test_results_are_told_on_every_terminal(photo_folder, tmp_path):
    from odebc.data import photographs
    from odebc.images import to_image

    sets, out = tmp_path / 'sets', tmp_path / 'out'
    (sets / 'été').mkdir(parents=True)
    to_image(photographs()['flower'][:, :160, :160]).save(sets / 'été' / 'flower.png')
    command = [sys.executable, '-c', TINY_RESULTS]
    command += ['--out', out, '--tests', sets, '--references', photo_folder]
    done = finished(command, **POSIX)
    assert done.returncode == 0 and 'Figure 3' in done.stdout, done.stderr[-2000:]
    assert '± ' in (out / 'results.md').read_text(encoding='utf8')


def test_several_processes_on_a_terminal_without_letters(photo_folder, tmp_path):
    launch = '-m torch.distributed.run --nproc-per-node 2 --standalone -m -- odebc'.split()
    search = [*FOUR, '--images', photo_folder, '--out', tmp_path / 'x']
    done = finished([sys.executable, *launch, *search], OMP_NUM_THREADS='1', **POSIX)
    assert done.returncode == 0 and 'written to' in done.stdout, done.stderr


def test_shipped_texts_are_read_alike_everywhere():
    "results.md holds letters beyond ASCII"
    code = (
        'from odebc.experiments.results import section, table\n'
        "assert '\\u00b1' in section('Searches') and table()"
    )
    done = finished([sys.executable, '-c', code], **POSIX)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_utf_8_from_every_terminal():
    command = [sys.executable, ROOT / 'tools' / 'readme.py']
    env = os.environ | POSIX
    done = subprocess.run(command, capture_output=True, env=env, timeout=120)
    assert done.stdout.decode() == (ROOT / 'README.md').read_text(encoding='utf8'), done.stderr


HELLO = '''
import sys
from odebc import cli
@cli.app.command()
def hello(n: int): print('x'*n)
sys.argv = ['odebc', 'hello', sys.argv[1]]
cli.main()
'''


@pytest.mark.parametrize('n', [1, 10**6])
def test_nobody_listens(n):
    "odebc … | head: silent, before and after Python's buffer is full"
    command = [sys.executable, '-c', HELLO, str(n)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and said == b''


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no device that is always full')
@pytest.mark.parametrize('n', [1, 10**6])
def test_the_output_is_a_full_disk(n):
    command = [sys.executable, '-c', HELLO, str(n)]
    with open('/dev/full', 'w', encoding='utf8') as full:
        streams = dict(stdout=full, stderr=subprocess.PIPE, encoding='utf8')
        done = subprocess.run(command, **streams, timeout=60)
    assert done.returncode == 2
    says = 'odebc: cannot write the output (No space left on device): make room\n'
    assert done.stderr == says


@pytest.mark.skipif(os.name == 'nt', reason='a POSIX shell closes the streams')
@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&-'])
def test_closed_streams(closed, x_T, tmp_path):
    # more than one batch of tiles: with a progress bar
    Image.new('RGB', (80, 80), 'teal').save(tmp_path / 'one.png')
    out = tmp_path / 'out'
    words = [ODEBC, 'upscale', '--x-t', x_T, '--out', out, tmp_path / 'one.png']
    command = shlex.join(map(str, words))
    assert subprocess.run(['sh', '-c', f'{command} {closed}'], timeout=300).returncode == 0
    assert (tmp_path / 'out' / 'one_x4.png').exists()


# --- 4. what a mistake says, and what a bug says


@pytest.fixture
def command(monkeypatch, capsys):
    "A command in this process: exit status, and what it wrote to the error stream"
    # main changes both: they are put back afterwards
    monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning)
    monkeypatch.setenv('MPLBACKEND', 'agg')

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['odebc', *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().err

    return run


def raising(error):
    def fail(*args, **how):
        raise error

    return fail


@pytest.mark.parametrize(
    'error',
    [
        ValueError('a bug'),
        RuntimeError('a bug'),
        OSError(errno.ENOENT, 'a bug', 'file'),
        KeyError('a bug'),
        AssertionError('a bug'),
        RecursionError('a bug'),
    ],
)
def test_a_bug_shows_its_traceback_and_asks_for_a_report(error, command, monkeypatch):
    monkeypatch.setattr('odebc.sr3.SR3.from_pretrained', raising(error))
    status, said = command('demo')
    assert status == 1
    assert said.startswith('Traceback')
    assert 'a bug' in said
    assert REPORT in said.splitlines()[-1]


def test_a_bug_in_the_network_is_a_bug(command, monkeypatch, photo_folder, tmp_path):
    "The search reports what a map raised as MapFailed; a command's own map has no excuse"
    monkeypatch.setattr('odebc.sr3.SR3.h', raising(RuntimeError('shapes do not fit')))
    status, said = command('demo', *QUICK, '--images', photo_folder, '--out', tmp_path)
    assert status == 1
    assert 'shapes do not fit' in said
    assert 'Traceback' in said
    assert REPORT in said
    monkeypatch.setattr('odebc.sr3.SR3.h', raising(OdebcError('not with this sampler')))
    status, said = command('demo', *QUICK, '--images', photo_folder, '--out', tmp_path)
    assert status == 2
    assert said.endswith('odebc: not with this sampler\n')
    assert 'Traceback' not in said


@pytest.mark.parametrize('error', [OdebcError('no'), CannotWrite('no'), MapFailed('no')])
def test_a_refusal_is_one_line_and_a_traceback_when_asked_for(error, command, monkeypatch):
    monkeypatch.setattr('odebc.sr3.SR3.from_pretrained', raising(error))
    assert command('demo') == (2, 'odebc: no\n')
    asked = command('--debug', 'demo')
    monkeypatch.setenv('ODEBC_DEBUG', '1')
    for status, said in (asked, command('demo')):
        assert status == 2
        assert said.startswith('Traceback')
        assert said.endswith('\nodebc: no\n')
        assert REPORT not in said
    monkeypatch.setenv('ODEBC_DEBUG', '0')
    assert command('demo') == (2, 'odebc: no\n')


# torch's words, of two versions
CPU_FULL = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory:"
    ' you tried to allocate 4096000000000 bytes. Error code 12'
)
NOT_ENOUGH = (
    '[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.'
)


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
        RuntimeError(CPU_FULL),
        RuntimeError(NOT_ENOUGH),
        RuntimeError('No executable batch size found, reached zero.'),
    ],
)
@pytest.mark.parametrize('where', ['odebc.sr3.SR3.from_pretrained', 'odebc.sr3.SR3.h'])
def test_too_little_memory_is_told_with_a_remedy(
    error, where, command, monkeypatch, photo_folder, tmp_path
):
    monkeypatch.setattr(where, raising(error))
    status, said = command('demo', *QUICK, '--images', photo_folder, '--out', tmp_path)
    assert status == 2 and 'Traceback' not in said
    last = said.splitlines()[-1]
    assert last.startswith('odebc: there is not enough memory: close other programs')


def test_torch_says_so_in_these_words():
    with pytest.raises(RuntimeError) as real:
        torch.empty(10**15)
    assert 'not enough memory' in cli.sentence(real.value)


def test_ctrl_c_stops_without_a_traceback(command, monkeypatch):
    monkeypatch.setattr('odebc.sr3.SR3.from_pretrained', raising(KeyboardInterrupt()))
    assert command('--debug', 'demo') == (130, 'odebc: stopped\n')


def test_writing():
    says = r'cannot write here \(Permission denied\): make room, mind the permissions'
    with pytest.raises(CannotWrite, match=says) as refused:
        with writing('here'):
            raise PermissionError(errno.EACCES, 'Permission denied', 'there')
    assert isinstance(refused.value, OSError)
    assert isinstance(refused.value.__cause__, PermissionError)
    with pytest.raises(CannotWrite, match='^inner$'):
        with writing('outer'):
            raise CannotWrite('inner')
    with pytest.raises(KeyError):
        with writing('here'):
            raise KeyError


def test_a_full_disk_in_the_middle(command, monkeypatch, x_T, tmp_path):
    Image.new('RGB', (6, 5), 'teal').save(tmp_path / 'ok.png')
    full = OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('odebc.enlarge.write_png', raising(full))
    out = tmp_path / 'out'
    status, said = command('upscale', '--x-t', x_T, '--out', out, tmp_path / 'ok.png')
    target = out / 'ok_x4.png'
    assert status == 2
    assert f'odebc: cannot write {target} (No space left on device): make room' in said


LONG = 'a' * 300


@pytest.fixture(scope='module')
def mistakes(tmp_path_factory, photo_folder, x_T):
    "A folder with all that a user may point at by mistake"
    import json
    from odebc.sr3 import SR3

    folder = tmp_path_factory.mktemp('mistakes')
    (folder / 'file').write_text('x', encoding='utf8')
    (folder / 'folder').mkdir()
    Image.new('RGB', (6, 5), 'teal').save(folder / 'ok.png')
    (folder / 'taken' / 'ok_x4.png').mkdir(parents=True)
    shutil.copy(x_T, folder / 'x_T')
    shutil.copytree(photo_folder, folder / 'photos')
    (folder / 'run' / 'checkpoint.pt').mkdir(parents=True)
    for name, content in dict(list=b'[1]', nonsense=b'nonsense', latin=b'\xff').items():
        (folder / f'lab-{name}').mkdir()
        (folder / f'lab-{name}' / 'lab.json').write_bytes(content)
    (folder / 'lab-folder' / 'lab.json').mkdir(parents=True)
    SR3.from_pretrained().save_pretrained(folder / 'whole')
    config = json.loads((folder / 'whole' / 'config.json').read_text(encoding='utf8'))

    def damaged(name, file, content):
        shutil.copytree(folder / 'whole', folder / name)
        (folder / name / file).unlink()
        if content is None:
            (folder / name / file).mkdir()
        else:
            (folder / name / file).write_bytes(content)

    many = config | dict(size='many')
    zero = config | dict(net=config['net'] | dict(channels=0))
    damaged('text', 'config.json', b'nonsense')
    damaged('list', 'config.json', b'[]')
    damaged('size', 'config.json', json.dumps(many).encode())
    damaged('zero', 'config.json', json.dumps(zero).encode())
    damaged('weightless', 'model.safetensors', None)
    damaged('latin', 'record.json', b'\xff\xfe')
    damaged('record', 'record.json', b'[1]')
    return folder


TRAIN = 'train --images photos --steps 1 --batch 2 --size 32'
SEARCH = ' '.join(FOUR) + ' --images photos'
UPSCALE = 'upscale --x-t x_T'
MISTAKES = {
    'demo --model file': 'no model file',
    'demo --model folder': 'is missing',
    'demo --model text': 'damaged',
    'demo --model list': 'damaged',
    'demo --model size': 'damaged',
    'demo --model zero': 'damaged',
    'demo --model latin': 'damaged',
    'demo --model record': 'damaged',
    'demo --model weightless': 'is missing',
    f'demo --model {LONG}': 'no model aaa',
    f'demo --images {LONG}': 'there is no folder aaa',
    'demo --images file': 'there is no folder file',
    'demo --images folder': 'no usable image',
    'demo --out file': 'cannot write file (File exists)',
    'demo --out file/x': 'cannot write file/x (Not a directory)',
    f'demo --out {LONG}': 'File name too long',
    'demo --out /proc/x': 'cannot write /proc/x',
    'demo --seed 99999999999999999999999': "Invalid value for '--seed'",
    SEARCH + ' --out folder': 'is not a boundary condition',
    SEARCH + ' --out file/x': 'cannot write file/x',
    SEARCH + f' --out {LONG}': 'File name too long',
    SEARCH + f' --out folder/{LONG}': 'File name too long',
    SEARCH + ' --out ok.png': 'is not a boundary condition',
    SEARCH + ' --k 1000000000000': 'ten million at most',
    SEARCH + ' extra': 'extra',
    'searhc': 'searhc',
    'train': "Missing option '--images'",
    TRAIN + ' --out file': 'cannot write file',
    TRAIN + ' --lr nan': "Invalid value for '--lr'",
    TRAIN + ' --lr inf': 'lr must be a finite number',
    TRAIN + ' --steps 99999999999999999999': "Invalid value for '--steps'",
    TRAIN + ' --seed 99999999999999999999': "Invalid value for '--seed'",
    TRAIN + ' --size 17': 'must be divisible by the scale',
    TRAIN + ' --size 100000': 'no usable image',
    TRAIN + ' --start text': 'damaged',
    TRAIN + ' --out run': 'cannot resume',
    'upscale --x-t file ok.png': 'boundary condition',
    'upscale --x-t folder ok.png': 'boundary condition',
    'upscale --x-t none ok.png': 'boundary condition',
    f'upscale --x-t {LONG} ok.png': 'boundary condition',
    'upscale --x-t ok.png ok.png': 'boundary condition',
    'upscale --x-t whole/model.safetensors ok.png': 'boundary condition',
    UPSCALE + ' file': 'as an image',
    UPSCALE + ' folder': 'no image file',
    UPSCALE + f' {LONG}': 'no image file',
    UPSCALE + ' none.png': 'no image file',
    UPSCALE + ' x_T': 'as an image',
    UPSCALE + ' ok.png --out file': 'cannot write file',
    UPSCALE + ' ok.png --out taken': 'taken/ok_x4.png is a folder',
    UPSCALE + ' ok.png --model base': 'shape',
    'results --tests file': 'there is no folder file',
    'results --tests none': 'there is no folder none',
    f'results --tests {LONG}': 'there is no folder aaa',
    'results --tests folder': 'holds no folders',
    'results --references file': 'there is no folder file',
    'results --quick --out file': 'cannot write file',
    'results --others none': 'no model none',
    'results --quick --out lab-list': 'is damaged',
    'results --quick --out lab-nonsense': 'is damaged',
    'results --quick --out lab-latin': 'is damaged',
    'results --quick --out lab-folder': 'is damaged',
}


@pytest.mark.parametrize('line', MISTAKES, ids=lambda line: line.replace(LONG, 'LONG'))
def test_a_mistake_is_one_sentence(line, command, mistakes, monkeypatch):
    if '/proc' in line and not os.path.exists('/proc'):
        pytest.skip('no /proc here')
    monkeypatch.chdir(mistakes)
    status, said = command(*line.split())
    assert status == 2 and 'Traceback' not in said, said
    last = said.splitlines()[-1]
    assert last.startswith('odebc: ') and MISTAKES[line] in last, said


# --- 5. what an import costs

HEAVY = (
    'torchvision torchmetrics lpips scipy sklearn skimage accelerate matplotlib pooch '
    'transformers diffusers IPython ipywidgets pandas sympy huggingface_hub requests '
    'torch._dynamo torch._inductor'.split()
)
WIDGETS = {'IPython', 'ipywidgets'}
MODULES = sorted(p.stem for p in (ROOT / 'odebc').glob('*.py') if not p.stem.startswith('_'))


def loaded(code, names):
    "Which of the names a fresh process has imported after some code"
    asked = f'import sys\nprint(*[n for n in {names!r} if n in sys.modules])'
    done = finished([sys.executable, '-c', f'{code}\n{asked}'])
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_heavy_libraries_are_imported_where_they_are_used():
    "All in one fresh process: what they have not imported together, none has imported alone"
    core = [module for module in MODULES if module not in ('explore', 'hub')]
    code = f'''
import importlib, sys
for module in {core!r}:
    importlib.import_module('odebc.' + module)
    print(module, [n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)
'''
    done = finished([sys.executable, '-c', code])
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f'{module} []' for module in core], done.stderr


def test_the_explorer_needs_widgets_and_no_more():
    assert loaded('import odebc.app.explore', HEAVY) <= WIDGETS


HELP = '''
import sys
sys.argv = ['odebc', '--help']
import odebc.cli
try: odebc.cli.main()
except SystemExit: pass
'''


@pytest.mark.parametrize('code', ['import odebc.errors', HELP], ids=['errors', 'help'])
def test_help_needs_no_torch(code):
    assert not loaded(code, [*HEAVY, 'torch', 'numpy', 'PIL'])


def test_the_heavy_ones_are_found_when_they_are_used():
    "The list of names is not out of date"
    code = '''
import torch
from odebc.metrics import psnr, lite_model
x = torch.zeros(1, 3, 32, 32)
psnr(x, x)
import odebc.matrix
odebc.matrix.processes()
'''
    assert {'torchvision', 'torchmetrics', 'accelerate'} <= loaded(code, HEAVY)
