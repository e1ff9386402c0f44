"Solution maps of the user's own on the command line: `--map FILE.py:NAME`."

import re
import subprocess
import sys
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from waiting import begin, end, finished, FRESH, TWO, written
from odebc.data import photographs, split
from odebc.images import byte_folder, to_image, to_tensor
from odebc.mapfile import read_map
from odebc.matrix import candidate
from odebc.runner import BoundaryCondition
from odebc.sr3 import SR3

ODEBC = Path(sys.executable).with_name('odebc')
SEARCH = '--k 12 --r 4 --unseen 2 --distance lpips-lite'.split()
SMALL = '''
from odebc.sr3 import SR3

model = SR3.from_pretrained('small', 'float32')


def h(x_T, y):
    return model.h(x_T, y, 'DDIM-3')
'''


def odebc(*args, **env):
    return finished([ODEBC, *args], env=FRESH | env)


def refused(*args, says):
    done = odebc(*args)
    assert done.returncode == 2, done
    assert 'Traceback' not in done.stderr and 'this is a bug' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('odebc: ') and says in last, done.stderr


@pytest.fixture
def my_py(tmp_path):
    file = tmp_path / 'my.py'
    file.write_text(SMALL)
    return file


def test_a_map_in_a_file_finds_what_the_model_finds(my_py, tmp_path):
    ways = dict(own=['--map', f'{my_py}:h'], model=['--sampler', 'DDIM-3'])
    for name, way in ways.items():
        done = odebc('search', *SEARCH, *way, '--out', tmp_path / name)
        assert done.returncode == 0, done.stderr
    own, model = (BoundaryCondition.load(tmp_path / name) for name in ways)
    assert own.index == model.index
    both = ~own.scores.isnan()
    assert both.equal(~model.scores.isnan())
    assert (own.scores - model.scores)[both].abs().max() < 1e-6
    again = odebc('search', *SEARCH, *ways['own'], '--out', tmp_path / 'own')
    assert again.returncode == 0, again.stderr
    my_py.write_text(SMALL.replace('DDIM-3', 'DDIM-2'))
    refused('search', *SEARCH, *ways['own'], '--out', tmp_path / 'own', says='another source')


def test_two_processes_killed_and_gone_on_with(my_py, tmp_path):
    my_py.write_text(
        SMALL + '\nimport time\n\n\ndef slow(x_T, y):\n'
        '    time.sleep(0.2)\n    return h(x_T, y)\n'
    )
    args = ['search', *SEARCH, '--k', 40, '--map', f'{my_py}:slow']
    args += ['--strategy', 'exhaustive', '--out']
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    process = begin([*TWO, '-m', '--', 'odebc', *args, tmp_path / 'killed'], FRESH, **pipes)
    written(process, b'best=')
    end(process)
    before = BoundaryCondition.load(tmp_path / 'killed')
    assert 0 < before.solves < 160
    for name in ('killed', 'whole'):
        done = finished([*TWO, '-m', '--', 'odebc', *args, tmp_path / name], env=FRESH)
        assert done.returncode == 0, done.stderr
    killed, whole = (BoundaryCondition.load(tmp_path / name) for name in ('killed', 'whole'))
    assert killed.solves == whole.solves == 160 and killed.index == whole.index
    assert (killed.scores - whole.scores).abs().max() < 1e-6


def test_diagnose_says_of_a_map_what_python_says(my_py, tmp_path):
    from odebc.diagnosis import diagnose, pairs_of
    from odebc.metrics import Distance, lite_model

    where = ['--map', f'{my_py}:h', '--k', 8, '--r', 4, '--out', tmp_path / 'corner']
    command = ['diagnose', *where, '--distance', 'lpips-lite', '--no-tricks']
    for _ in range(2):  # the second time everything is there
        done = odebc(*command)
        assert done.returncode == 0, done.stderr
    z, y, names = pairs_of(photographs(), 4)
    h = read_map(f'{my_py}:h')
    distance = Distance(lite_model(), 'lpips-lite')
    found = diagnose(h, z, y, names, distance, K=8, tricks={})
    kept = BoundaryCondition.load(tmp_path / 'corner' / 'random starts.safetensors')
    assert torch.allclose(kept.scores.double(), found.scores, atol=1e-6)
    assert found.sentence.partition('.')[0] in done.stdout


def test_diagnose_on_two_processes_killed_and_gone_on_with(my_py, tmp_path):
    more = '\nimport time\n\n\ndef slow(x_T, y):\n    time.sleep(0.2)\n    return h(x_T, y)\n'
    my_py.write_text(SMALL + more)
    how = ['--k', 24, '--r', 4, '--distance', 'lpips-lite', '--no-tricks']
    command = ['odebc', 'diagnose', '--map', f'{my_py}:slow', *how, '--out']
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    process = begin([*TWO, '-m', '--', *command, tmp_path / 'killed'], FRESH, **pipes)
    written(process, b'best=')
    end(process)
    for name in ('killed', 'whole'):
        done = finished([*TWO, '-m', '--', *command, tmp_path / name], env=FRESH)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('wrote') == 1  # one of the two speaks
    files = [tmp_path / name / 'random starts.safetensors' for name in ('killed', 'whole')]
    killed, whole = map(BoundaryCondition.load, files)
    assert whole.solves == 24 * 4 and (killed.scores - whole.scores).abs().max() < 1e-6


def test_with_tricks_of_any_map(my_py, tmp_path):
    done = odebc(
        'diagnose',
        '--map',
        f'{my_py}:h',
        '--k',
        8,
        '--r',
        2,
        '--distance',
        'lpips-lite',
        '--out',
        tmp_path / 'corner',
    )
    assert done.returncode == 0, done.stderr
    assert 'mean of x_T removed' in done.stdout and 'cosine' not in done.stdout


@pytest.mark.parametrize('command', ['search', 'diagnose'])
@pytest.mark.parametrize(
    'options, says',
    [
        (['--sampler', 'DDIM-5'], '--sampler is for --model'),
        (['--model', 'small'], '--model is for --model'),
        (['--precision', 'bfloat16'], '--precision is for --model'),
        (['--size', '30'], 'no y that is 4 times smaller'),
    ],
)
def test_what_does_not_go_together(command, options, says, my_py, tmp_path):
    refused(command, '--map', f'{my_py}:h', *options, '--out', tmp_path / 'out', says=says)


@pytest.mark.parametrize('option', ['size', 'scale'])
def test_a_model_knows_its_sizes(option, tmp_path):
    out = tmp_path / 'out'
    refused('search', f'--{option}', 32, '--out', out, says=f'--{option} is for --map')


@pytest.mark.parametrize(
    'text, says',
    [
        ('import nothing_of_this_name', "No module named 'nothing_of_this_name'"),
        ('def g(x_T, y): return x_T', 'has no h; it has g'),
        ('def h(x_T, y): return y.nothing', "no attribute 'nothing'"),
        ('def h(x_T, y): return y', 'must return images of shape'),
        ('def h(x_T, y): return x_T * float("nan")', 'NaN or infinite'),
    ],
)
def test_faults_of_the_file_are_told_as_such(text, says, tmp_path):
    file = tmp_path / 'my.py'
    file.write_text(text)
    out = tmp_path / 'out'
    refused('search', *SEARCH, '--map', f'{file}:h', '--out', out, says=says)


def test_debug_shows_the_line(tmp_path):
    file = tmp_path / 'my.py'
    file.write_text('def h(x_T, y):\n    return y.nothing\n')
    done = odebc('--debug', 'search', *SEARCH, '--map', file, '--out', tmp_path / 'out')
    assert done.returncode == 2 and 'return y.nothing' in done.stderr


def test_results_on_test_sets(my_py, photo_folder, tmp_path):
    from odebc.diagnosis import pairs_of
    from odebc.experiments.on_tests import on_tests, table_of

    (tmp_path / 'tests').mkdir()
    (tmp_path / 'tests' / 'mine').symlink_to(photo_folder)
    x_t = tmp_path / 'x_T'
    own = ['--map', f'{my_py}:h']
    assert odebc('search', *SEARCH, *own, '--out', x_t).returncode == 0
    where = ['--tests', tmp_path / 'tests', '--x-t', x_t, '--patches', 4]
    command = ['results', *own, *where, '--out', tmp_path / 'out']
    done = odebc(*command)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / 'out' / 'results.md').read_text()
    assert table in done.stdout
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / 'out').glob('*.safe*')}
    assert odebc(*command).returncode == 0  # all is known
    assert before == {file: file.stat().st_mtime_ns for file in before} and len(before) == 2
    z, y, names = pairs_of(byte_folder(photo_folder), 4)
    found = BoundaryCondition.load(x_t)
    (mine,) = on_tests(read_map(f'{my_py}:h'), found.x_T, dict(mine=(z, y, names))).values()
    assert table_of(dict(mine=mine)).splitlines()[2] in table
    my_py.write_text(SMALL.replace('DDIM-3', 'DDIM-2'))
    done = odebc(*command[:-1], tmp_path / 'other')
    (told,) = [line for line in done.stderr.splitlines() if 'another map' in line]
    assert told.startswith('odebc: note: ') and 'mine random' in done.stderr
    refused(*command, says='another source')
    refused('results', *own, says='say by --x-t which x_T')
    refused('results', *own, '--quick', says='--quick is for --model')
    refused('results', '--x-t', x_t, says='--x-t is for --map')


def test_upscale_from_a_start_of_its_own(my_py, tmp_path):
    x_t, own = tmp_path / 'x_T', ['--map', f'{my_py}:h']
    start = candidate(3, (3, 64, 64), 5)
    facts = read_map(f'{my_py}:h').facts
    BoundaryCondition(start, 5, 3, torch.zeros(1, 1), 1, 3, 0.0, facts).save(x_t)
    levels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / 'y.png')
    command = ['upscale', tmp_path / 'y.png', '--out', tmp_path / 'out']
    done = odebc(*command, *own, '--x-t', x_t)
    assert done.returncode == 0 and 'another map' not in done.stderr, done.stderr
    large = to_tensor(Image.open(tmp_path / 'out' / 'y_x4.png'))
    y = to_tensor(Image.fromarray(levels))
    x_0 = SR3.from_pretrained('small', 'float32').h(start[None], y[None], 'DDIM-3')[0]
    assert (large - x_0.clamp(-1, 1)).abs().max() < 1 / 127
    refused(*command, *own, says='needs either --x-t')
    refused(*command, *own, '--seed', 1, '--model', 'base', says='--model is for --model')
    facts['source'] = 'else'
    BoundaryCondition(start, 5, 3, torch.zeros(1, 1), 1, 3, 0.0, facts).save(x_t)
    command[-1] = tmp_path / 'again'
    assert 'found with another map' in odebc(*command, *own, '--x-t', x_t).stderr


def test_photographs_that_were_searched_on_are_left_out(my_py, tmp_path):
    x_t, own = tmp_path / 'x_T', ['--map', f'{my_py}:h']
    done = odebc('search', *SEARCH, *own, '--out', x_t)
    searched, judged = split(photographs())
    assert f"searched on {', '.join(searched)}; judged on {', '.join(judged)}" in done.stdout
    folder = tmp_path / 'tests' / 'mixed'
    folder.mkdir(parents=True)
    leak, *_ = searched
    for name in (leak, *judged):
        to_image(photographs()[name]).save(folder / f'{name}.png')
    command = ['results', *own, '--x-t', x_t, '--patches', 3, '--out', tmp_path / 'out']
    done = odebc(*command, '--tests', folder.parent)
    assert done.returncode == 0, done.stderr
    assert f'left out of mixed, as they were searched on: {leak}.png' in done.stdout
    assert f'odebc: note: mixed has {len(judged)} photographs' in done.stderr
    kept = BoundaryCondition.load(tmp_path / 'out' / 'mixed random.safetensors')
    assert kept.scores.shape == (8, 3)
    for name in judged:
        (folder / f'{name}.png').unlink()
    refused(*command, '--tests', folder.parent, says='mixed has 0 photographs')


@pytest.mark.parametrize('command', ['search', 'diagnose'])
def test_a_map_that_draws_noise_is_refused(command, tmp_path):
    file = tmp_path / 'my.py'
    file.write_text('import torch\n\n\ndef h(x_T, y):\n    return torch.rand_like(x_T)\n')
    says = 'gave two different pictures for the same x_T and y'
    refused(command, '--map', file, '--out', tmp_path / 'out', says=says)


def test_a_first_look_before_the_work(tmp_path):
    file = tmp_path / 'my.py'
    file.write_text('def h(x_T, y):\n    return 0 * x_T - y.mean()\n')
    command = ['diagnose', '--map', file, '--k', 8, '--r', 2, '--no-tricks', '--out']
    done = odebc(*command, tmp_path / 'out', '--distance', 'dssim')
    assert done.returncode == 0, done.stderr
    assert 'odebc: note: that is worse than bicubic' in done.stderr
    assert 'tricks' not in done.stdout
    file.write_text('def h(x_T, y):\n    return 0 * x_T + 1.31\n')
    says = 'returned values up to 1.31, and pictures lie in [-1, 1]'
    refused(*command, tmp_path / 'other', says=says)


def test_a_search_that_saves_nothing_says_so(my_py, tmp_path):
    own = ['--map', f'{my_py}:h', '--out', tmp_path / 'x_T']
    done = odebc('search', *SEARCH, *own)
    assert 'halving saved nothing here: all 12 × 4 cells were solved' in done.stdout
    assert '24 starts on 12 pairs' in done.stdout
    assert 'the search was' in done.stdout and 'worth a search' not in done.stdout.lower()
    assert 'search was' not in done.stderr  # it is said once
    assert f"next, beside random starts: odebc results {own[0]} {own[1]} --x-t" in done.stdout
    larger = ['--k', 40, '--r', 4, '--unseen', 2, '--distance', 'dssim']
    done = odebc('search', *larger, *own[:2], '--out', tmp_path / 'larger')
    assert done.returncode == 0 and 'saved nothing' not in done.stdout, done.stderr


def test_bars_say_what_they_count(my_py, tmp_path):
    where = ['--map', f'{my_py}:h', '--k', 8, '--r', 2, '--distance', 'dssim']
    done = odebc('diagnose', *where, '--no-tricks', '--out', tmp_path / 'corner')
    assert 'random starts: ' in done.stderr and 'search: ' not in done.stderr


def test_black_is_not_0(my_py, tmp_path):
    "And a folder of another map is refused as a whole"
    where = ['--k', 8, '--r', 2, '--distance', 'dssim', '--out', tmp_path / 'corner']
    command = ['diagnose', '--map', f'{my_py}:h', *where]
    says = 'returned nothing darker than 0, and here black is -1: if its pictures lie in'
    assert says not in odebc(*command).stderr
    my_py.write_text(SMALL + '\n\ndef light(x_T, y):\n    return (h(x_T, y) + 1) / 2\n')
    command[2] = f'{my_py}:light'
    done = odebc(*command)
    assert f'odebc: note: my.py:light {says}' in done.stderr
    says = f"with another source .* give another folder, or remove {tmp_path / 'corner'} to"
    assert done.returncode == 2 and re.search(says, done.stderr), done.stderr


def test_help_of_x_t_tells_of_maps():
    for command in ('upscale', 'results'):
        words = ' '.join(odebc(command, '--help').stdout.split())
        assert ('With --map there is none' in words) == (command == 'upscale')


def test_of_two_processes_one_gives_notes(monkeypatch, capsys):
    from odebc.cli import note

    for rank, said in (('0', 'odebc: note: the disk is slow\n'), ('1', '')):
        monkeypatch.setenv('RANK', rank)
        note(UserWarning('the disk is slow'), UserWarning, 'a file', 7)
        assert capsys.readouterr().err == said
