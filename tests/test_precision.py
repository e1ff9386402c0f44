"One precision: chosen once, said, written down, kept; in real processes, with a real network."

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from statistics import median
import pytest
import torch
from waiting import TWO
from odebc import precision
from odebc.data import degrade, photographs, tiles
from odebc.enlarge import kept_facts
from odebc.metrics import ALEX_VARIABLE, default_distance
from odebc.precision import by_cpu, by_gpu, by_time, Choice, cpu_features, found_out
from odebc.matrix import candidates
from odebc.runner import BoundaryCondition
from odebc.sr3 import SR3
from odebc.store import read_facts

ROOT = Path(__file__).parents[1]
ODEBC = Path(sys.executable).with_name('odebc')
SEARCH = '--k 4 --r 2 --unseen 2 --sampler DDIM-2 --strategy exhaustive'.split()
LIMIT = 300  # seconds for a process


@pytest.fixture
def free(monkeypatch):
    "Nothing is said beforehand, nothing was measured before"
    monkeypatch.delenv('ODEBC_PRECISION', raising=False)
    monkeypatch.setattr(precision, 'TIMED', {})


@pytest.fixture(scope='module')
def small():
    return SR3.from_pretrained('small')


def odebc(*args, says='', status=0, **env):
    "A command in a process of its own; ODEBC_PRECISION is `says`, by default nothing"
    done = run([ODEBC, *map(str, args)], ODEBC_PRECISION=says, **env)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def run(command, **env):
    text = dict(capture_output=True, encoding='utf8')
    return subprocess.run(command, env=os.environ | env, timeout=LIMIT, **text)


def started(*args, **env):
    "A command that will be ended, and says nothing"
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.Popen([ODEBC, *map(str, args)], env=os.environ | env, **silent)


# --- by capability


@pytest.mark.parametrize(
    'features, limited, expected',
    [
        ('sse2 avx2', False, 'float32'),
        ('sse2 avx512_f', False, 'float32'),
        ('sse2 avx2', True, 'float32'),
        ('sse2 avx_ne_convert', False, 'float32'),
        ('neon', False, 'float32'),
        ('asimd', False, 'float32'),
        ('sse2 avx512_bf16 amx_tile amx_bf16', False, 'bfloat16'),
        ('sse2 avx512_bf16 amx_tile amx_bf16', True, None),
        ('sse2 amx_tile amx_int8', False, 'float32'),
        ('sse2 avx512_bf16', False, None),
        ('sse2 avx10_2', False, None),
        ('neon bf16', False, None),
        ('asimd svebf16', False, None),
    ],
)
def test_a_cpu_by_its_instructions(features, limited, expected):
    choice = by_cpu(frozenset(features.split()), limited)
    assert (choice and choice.precision) == expected


def test_an_unknown_cpu_is_measured():
    assert by_cpu(None) is None


@pytest.mark.parametrize(
    'kind, capability, expected',
    [
        ('cuda', (7, 5), 'float32'),
        ('cuda', (8, 0), 'bfloat16'),
        ('cuda', (8, 9), 'bfloat16'),
        ('cuda', (9, 0), 'bfloat16'),
        ('cuda', (10, 3), 'bfloat16'),
        ('mps', (0, 0), 'float32'),
        ('xpu', (0, 0), 'float32'),
    ],
)
def test_a_gpu_by_its_kind(kind, capability, expected):
    choice = by_gpu(kind, 'the card', capability)
    assert choice.precision == expected
    assert str(choice).startswith(f'precision: {expected}, as ')


def test_an_older_torch_reads_what_linux_says(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, 'cpu', object())
    info = tmp_path / 'cpuinfo'
    info.write_text(
        'processor\t: 0\nflags\t\t: fpu sse2 avx512_bf16\n'
        'bugs\t\t: spectre\nflags\t\t: other\n'
    )
    assert cpu_features(info) == {'fpu', 'sse2', 'avx512_bf16'}
    info.write_text('processor\t: 0\nFeatures\t: fp asimd bf16\n')
    assert cpu_features(info) == {'fp', 'asimd', 'bf16'}
    info.write_text('cpu\t\t: POWER9\n')
    assert cpu_features(info) is None
    assert cpu_features(tmp_path / 'none') is None


@pytest.mark.skipif(not Path('/proc/cpuinfo').exists(), reason='needs Linux')
def test_both_sources_agree_about_this_machine(monkeypatch):
    by_torch = by_cpu(cpu_features())
    monkeypatch.setattr(torch, 'cpu', object())
    assert by_cpu(cpu_features()) == by_torch


# --- by the clock


def never(*args, **how):
    pytest.fail('there was nothing to measure')


@pytest.mark.parametrize(
    'features, expected', [('sse2 avx2', 'float32'), ('sse2 amx_bf16', 'bfloat16')]
)
def test_what_capability_tells_is_not_measured(features, expected, free, small, monkeypatch):
    monkeypatch.delenv('ONEDNN_MAX_CPU_ISA', raising=False)
    monkeypatch.setattr(precision, 'cpu_features', lambda: frozenset(features.split()))
    monkeypatch.setattr(precision, 'race', never)
    assert found_out(small.net, 64).precision == expected


@pytest.mark.parametrize('features', [None, 'sse2 avx512_bf16', 'neon bf16', 'sse2 amx_bf16'])
@pytest.mark.parametrize(
    'times, expected',
    [
        ((2, 1), 'bfloat16'),
        ((1.16, 1), 'bfloat16'),
        ((1.1, 1), 'float32'),
        ((1, 1), 'float32'),
        ((1, 5), 'float32'),
    ],
)
def test_in_doubt_the_clock_decides(features, times, expected, free, small, monkeypatch):
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', 'AVX2')  # so that not even AMX tells
    known = features and frozenset(features.split())
    monkeypatch.setattr(precision, 'cpu_features', lambda: known)
    monkeypatch.setattr(precision, 'race', lambda call: times)
    choice = found_out(small.net, 64)
    assert (choice.precision, choice.ratio) == (expected, times[0] / times[1])


def test_scattered_times_do_not_flip_a_draw():
    g = random.Random(0)

    def chosen(ratio):
        return by_time(ratio * g.uniform(0.94, 1.06), g.uniform(0.94, 1.06)).precision

    assert {chosen(1) for _ in range(1000)} == {'float32'}
    assert {chosen(1.4) for _ in range(1000)} == {'bfloat16'}


def test_measured_once_in_a_process(free, small, monkeypatch):
    times = iter([(2, 1), (1, 2)])
    monkeypatch.setattr(precision, 'cpu_features', lambda: None)
    monkeypatch.setattr(precision, 'race', lambda call: next(times))
    assert [found_out(small.net, 64).precision for _ in range(3)] == 3 * ['bfloat16']
    # the same network, loaded again
    assert SR3.from_pretrained('small', 'auto').precision == 'bfloat16'
    assert found_out(small.net, 128).precision == 'float32'  # another size is another question


@pytest.fixture
def crowded():
    """One core for this thread and for four processes that are always busy, so that they take
    most of it, however many cores there are and whatever else the machine has to do
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    command = [sys.executable, '-c', 'print(flush=True)\nwhile True: pass']
    others = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    try:
        assert all(other.stdout.readline() for other in others)  # they are at it
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate(timeout=60)
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='cannot stay on one core')
def test_the_clock_does_not_count_what_others_take(free, small, crowded, monkeypatch):
    """A stopwatch at the same calls shows at least twice as much. (How much two ratios differ
    says little: on a busy machine caches are shared, too)
    """
    counted, passed = [], []

    def watched(*args):
        start = time.perf_counter()
        counted.append(seconds(*args))
        passed.append(time.perf_counter() - start)
        return counted[-1]

    seconds = precision.seconds
    monkeypatch.setattr(precision, 'seconds', watched)
    monkeypatch.setattr(precision, 'cpu_features', lambda: None)
    ratio = found_out(small.net, 64).ratio
    assert min(counted) > 0
    assert sum(counted) < sum(passed) / 2, (counted, passed)
    # what was counted decides; the first call of each is to warm up
    assert ratio == median(counted[2::2]) / median(counted[3::2])


def test_the_threads_of_torch_are_given_back(free, small, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(precision, 'cpu_features', lambda: None)
    monkeypatch.setattr(precision, 'race', lambda call: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found_out(small.net, 64)
    assert torch.get_num_threads() == before


# --- a model


def test_the_environment_decides(free, monkeypatch):
    monkeypatch.setattr(precision, 'cpu_features', never)
    for name in ('float32', 'bfloat16'):
        monkeypatch.setenv('ODEBC_PRECISION', name)
        choice = SR3.from_pretrained('small', 'auto').choice
        assert str(choice) == f'precision: {name}, as ODEBC_PRECISION says'
        assert SR3.from_pretrained('small').precision == 'float32'  # which does not ask
    monkeypatch.setenv('ODEBC_PRECISION', 'half')
    with pytest.raises(ValueError, match="ODEBC_PRECISION is 'half': set it to float32"):
        SR3.from_pretrained('small', 'auto').precision


def test_a_model_finds_out_once_where_it_is_used(free, monkeypatch):
    asked = []

    def found(net, size):
        asked.append(next(net.parameters()).dtype)
        return Choice('bfloat16', 'as the test wants')

    monkeypatch.setattr(precision, 'found_out', found)
    model = SR3.from_pretrained('small', 'auto').to('cpu').to(torch.float64)
    assert not asked  # it may still be moved
    h = model.to(torch.float32).solution_map('DDIM-2')
    assert (h.meta['bf16'], model.bf16, model.precision) == (True, True, 'bfloat16')
    assert model.on('cosine').precision == 'bfloat16'
    assert asked == [torch.float32]


def test_the_older_argument_works_and_says_so(small):
    for make in (
        lambda: SR3.from_pretrained('small', True),
        lambda: SR3.from_pretrained('small', bf16=True),
        lambda: SR3(small.net, bf16=True),
        lambda: SR3(small.net, 4, 64, {}, True),
    ):
        with pytest.warns(DeprecationWarning, match="precision='bfloat16'") as told:
            model = make()
        assert (model.bf16, model.precision, told[0].filename) == (True, 'bfloat16', __file__)
    with pytest.warns(DeprecationWarning):
        assert SR3.from_pretrained('small', bf16=False).precision == 'float32'
    with warnings.catch_warnings(action='error'):
        assert SR3.from_pretrained('small').bf16 is False
    says = "unknown precision 'half': it is float32, bfloat16 or auto"
    with pytest.raises(ValueError, match=says):
        SR3.from_pretrained('small', 'half')


def test_what_wraps_a_model_computes_in_its_precision():
    "The explorer's wrapper once forgot it"
    from odebc.app.workshop import Watched
    from odebc.experiments.results import scaled

    model = SR3.from_pretrained('small', 'bfloat16')
    x_T, y = candidates(2, model.shape), torch.zeros(2, 3, 16, 16)
    watched = Watched(model, lambda n: None)
    assert watched.precision == 'bfloat16'
    assert torch.equal(watched.h(x_T, y, 'DDIM-2'), model.h(x_T, y, 'DDIM-2'))
    assert scaled(model, 0.99).solution_map('DDIM-2').meta['bf16'] is True


def test_on_this_machine(free):
    """One of the two, for good; and its results are those of float32 within what
    benchmarks/precision.py found
    """
    model = SR3.from_pretrained('small', 'auto')
    assert model.precision in ('float32', 'bfloat16')
    assert model.precision == SR3.from_pretrained('small', 'auto').precision
    z = tiles(list(photographs().values()), 8, 64, torch.Generator().manual_seed(0))
    x_T, y = candidates(8, model.shape, seed=7), degrade(z)
    fixed = [SR3.from_pretrained('small', name) for name in ('float32', 'bfloat16')]
    a, b, low = (m.h(x_T, y, 'DDIM-10') for m in (fixed[0], model, fixed[1]))
    assert a.dtype == b.dtype == low.dtype == torch.float32
    assert torch.equal(a, b) == (model.precision == 'float32')
    distance = default_distance()
    for other in (b, low):
        change = distance(other, z) - distance(a, z)
        assert change.abs().max() < 0.005 and change.mean().abs() < 0.001
        assert (other - a).abs().mean() * 127.5 < 0.5
    assert 0 < (low - a).abs().max()


# --- several processes

TOGETHER = '''
import os, sys, torch
from odebc import precision
from odebc.train import SR3
rank = int(os.environ['RANK'])
precision.cpu_features = lambda: None
# they disagree about the time
precision.race = lambda call: (2., 1.) if rank == {fast} else (1., 2.)
if rank == {wrong}: os.environ['ODEBC_PRECISION'] = 'half'
model = SR3.from_pretrained('small', 'auto')
try: told = str(model.choice)
except ValueError as refusal: told = str(refusal)
with open(os.path.join(sys.argv[1], str(rank)), 'w') as file: file.write(told)
torch.distributed.destroy_process_group()
'''


@pytest.mark.parametrize(
    'fast, wrong, expected',
    [
        (0, None, 'precision: bfloat16, 2.00 times as fast as float32 here'),
        (1, None, 'precision: float32, 2.00 times as fast as bfloat16 here'),
        (0, 0, "ODEBC_PRECISION is 'half': set it to float32, bfloat16 or auto"),
        (0, 1, 'precision: bfloat16, 2.00 times as fast as float32 here'),
    ],
)
def test_two_processes_agree(fast, wrong, expected, tmp_path):
    (tmp_path / 'script.py').write_text(TOGETHER.format(fast=fast, wrong=wrong))
    done = run([*TWO, tmp_path / 'script.py', tmp_path], ODEBC_PRECISION='')
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in '01'] == [expected, expected]


def test_two_processes_search_in_one_precision_and_say_it_once(tmp_path):
    command = [*TWO, '--', ODEBC, 'search', *SEARCH, '--out', tmp_path / 'x_T']
    for says, why in (('bfloat16', 'as ODEBC_PRECISION says'), ('float32', 'as in x_T')):
        done = run(command, ODEBC_PRECISION=says)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('precision:') == 1
        assert f'precision: bfloat16, {why}' in done.stdout.splitlines()
        assert done.stderr.count('odebc: note') <= 1
        assert done.stdout.count('Downloading') <= 1


# --- gone on with


def test_a_search_goes_on_in_its_precision(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    first = odebc('search', *SEARCH, '--out', path, '--precision', 'bfloat16')
    assert 'precision: bfloat16, as asked' in first.stdout
    assert BoundaryCondition.load(path).meta['bf16'] is True
    again = odebc('search', *SEARCH, '--out', path, says='float32')
    assert again.stdout.splitlines()[0] == 'precision: bfloat16, as in x_T.safetensors'
    more = odebc('search', *SEARCH, '--out', path, '--k', 6, says='float32')
    assert more.stdout.splitlines()[0] == 'precision: bfloat16, as in x_T.safetensors'
    found = BoundaryCondition.load(path)
    assert found.meta['bf16'] is True and found.scores.shape == (6, 2) and found.solves == 12
    refused = odebc('search', *SEARCH, '--out', path, '--precision', 'float32', status=2)
    says = 'holds a search with another precision (bfloat16, not float32): give another file'
    assert says in refused.stderr


def test_a_killed_search_of_earlier_days_goes_on_in_float32(tmp_path):
    "Its file says bf16: false, as all files did"
    path = tmp_path / 'x_T.safetensors'
    args = [*SEARCH, '--k', '60', '--r', '4']
    killed = started('search', *args, '--out', path, '--precision', 'float32')
    wait_for(path.exists, killed)  # after the first of fifteen batches
    before = BoundaryCondition.load(path)
    assert before.meta['bf16'] is False and 0 < before.solves < 240
    done = odebc('search', *args, '--out', path, says='bfloat16')
    assert done.stdout.splitlines()[0] == 'precision: float32, as in x_T.safetensors'
    found = BoundaryCondition.load(path)
    assert found.meta['bf16'] is False and found.solves == 240


def wait_for(there, process, number=signal.SIGKILL):
    "Until it is there, then end the process; one that ends before, or a limit, is a failure"
    start = time.monotonic()
    try:
        while not there():
            assert process.poll() is None, 'it ended by itself'
            assert time.monotonic() - start < LIMIT, 'it takes too long'
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(LIMIT)
    finally:
        process.kill()
        process.wait(60)


def test_results_go_on_in_their_precision(tmp_path):
    "Killed, run again, killed again: the folder belongs to bfloat16"
    args = ['results', '--quick', '--out', tmp_path]
    path = tmp_path / 'x_T-DDIM-10.safetensors'
    env = dict(ODEBC_PRECISION='float32', PYTHONUNBUFFERED='1')
    first = started(*args, '--precision', 'bfloat16', **env)
    wait_for(path.exists, first)
    before = BoundaryCondition.load(path)
    assert before.meta['bf16'] is True
    assert read_facts(tmp_path / 'measured.safetensors')['bf16'] is True
    with open(tmp_path / 'said', 'w') as said:
        streams = dict(stdout=said, stderr=said)
        second = subprocess.Popen([ODEBC, *args], env=os.environ | env, **streams)
        wait_for(lambda: BoundaryCondition.load(path).solves > before.solves, second)
    assert BoundaryCondition.load(path).meta['bf16'] is True
    assert 'precision: bfloat16, as in measured.safetensors' in (tmp_path / 'said').read_text()
    refused = odebc(*args, '--precision', 'float32', status=2)
    says = 'holds results with another precision (bfloat16, not float32): give another file'
    assert says in refused.stderr


def test_an_enlargement_goes_on_in_its_precision(photo_folder, tmp_path):
    "A half picture, and a finished one"
    source = sorted(photo_folder.iterdir())[0]
    args = ['upscale', '--seed', 0, '--sampler', 'DDIM-5', '--out', tmp_path, source]
    part = tmp_path / f'{source.stem}_x4.png.part'
    half = started(*args, '--precision', 'bfloat16')
    wait_for((part / 'rows.raw').exists, half, signal.SIGINT)
    assert kept_facts(part)['bf16'] is True
    refused = odebc(*args, '--precision', 'float32', status=2)
    says = 'half of an enlargement with another precision (bfloat16, not float32)'
    assert says in refused.stderr
    done = odebc(*args, says='float32')
    assert f'precision: bfloat16, as in {part.name}' in done.stdout
    assert kept_facts(tmp_path / f'{source.stem}_x4.png')['bf16'] is True
    again = odebc(*args, says='float32')
    assert f'precision: bfloat16, as in {source.stem}_x4.png' in again.stdout
    assert 'is there already' in again.stdout


def test_a_training_goes_on_in_its_precision(photo_folder, tmp_path):
    args = ['train', '--images', photo_folder, '--out', tmp_path, '--batch', 2, '--size', 32]

    def record():
        return json.loads((tmp_path / 'record.json').read_text())

    done = odebc(*args, '--steps', 2, '--precision', 'bfloat16')
    assert 'precision: bfloat16, as asked' in done.stdout
    assert record()['recipe']['bf16'] is True
    done = odebc(*args, '--steps', 3, says='float32')
    assert 'precision: bfloat16, as in checkpoint.pt' in done.stdout
    assert (record()['steps'], record()['recipe']['bf16']) == (3, True)
    # it is free to change
    done = odebc(*args, '--steps', 4, '--precision', 'float32')
    assert 'precision: float32, as asked' in done.stdout
    assert (record()['steps'], record()['recipe']['bf16']) == (4, False)
    (tmp_path / 'checkpoint.pt').write_bytes(b'half a file')
    assert 'cannot resume' in odebc(*args, '--steps', 5, status=2).stderr


# --- what is said


def test_demo_and_upscale_say_it(photo_folder, tmp_path):
    quick = '--k 2 --r 2 --tests 2 --sampler DDIM-2'.split()
    demo = odebc('demo', *quick, '--images', photo_folder, '--out', tmp_path / 'demo')
    line = next(line for line in demo.stdout.splitlines() if line.startswith('precision: '))
    name = line.split(',')[0].removeprefix('precision: ')
    assert name in ('float32', 'bfloat16')
    assert f'Precision: {name}.' in (tmp_path / 'demo/table.md').read_text(encoding='utf8')
    x_T = tmp_path / 'demo/x_T.safetensors'
    assert BoundaryCondition.load(x_T).meta['bf16'] is (name == 'bfloat16')
    args = ['--x-t', x_T, '--out', tmp_path, '--precision', 'bfloat16']
    done = odebc('upscale', *args, next(photo_folder.iterdir()))
    assert 'precision: bfloat16, as asked' in done.stdout


def test_the_report_says_it(tmp_path):
    from odebc.experiments.lab import Lab, Protocol
    from odebc.experiments.results import write

    photos = list(photographs().values())
    tiny = Protocol(
        K=2,
        R=2,
        n=2,
        few=2,
        ode=['DDIM-2'],
        ddpm=[],
        draws=1,
        matrix=(2, 2, 'DDIM-1'),
        blocks=1,
    )
    tests = dict(photographs=photos[3:])
    for folder, name in (('a', 'float32'), ('b', 'bfloat16')):
        model = SR3.from_pretrained('small', name)
        lab = Lab(model, tiny, photos[:3], tests, tmp_path / folder)
        assert f'\nPrecision: {name}. Distance: ' in write(lab, {}, {})


def test_the_older_options(monkeypatch, capsys):
    from odebc import cli

    assert cli.in_older_words('auto', None) == 'auto'
    for asked, given in (('auto', True), ('bfloat16', True), ('auto', False)):
        name, means = ('--bf16', 'bfloat16') if given else ('--no-bf16', 'float32')
        with pytest.warns(UserWarning, match=f'{name} is now called --precision {means}'):
            assert cli.in_older_words(asked, given) == means
    says = '--bf16 means --precision bfloat16: do not ask for float32'
    with pytest.raises(ValueError, match=says):
        cli.in_older_words('float32', True)
    for command in ('train', 'results'):
        monkeypatch.setattr(sys, 'argv', ['odebc', command, '--help'])
        with pytest.raises(SystemExit):
            cli.main()
        out = capsys.readouterr().out
        assert '--precision' in out and '--bf16' not in out


@pytest.mark.parametrize('command', ['demo', 'search', 'results', 'upscale', 'train'])
def test_an_unknown_precision_is_refused(command, photo_folder, tmp_path, monkeypatch, capsys):
    from odebc import cli

    needed = dict(upscale=['--x-t', 'x', 'y'], train=['--images', str(photo_folder)])
    args = needed.get(command, [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['odebc', command, *args, '--precision', 'half'])
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit):
            cli.main()
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)
    says = "odebc: unknown precision 'half': it is float32, bfloat16 or auto"
    assert says in capsys.readouterr().err


def test_an_app_takes_what_is_faster_and_says_it(free, monkeypatch):
    from odebc.app.scores import live
    from odebc.app.workshop import Request, Workshop

    choice = Choice('bfloat16', 'as the test wants')
    monkeypatch.setattr(precision, 'found_out', lambda net, size: choice)
    room, told = Workshop(), []
    args = dict(key='small-DDIM-10', distance='MSE', K=1, R=1, columns=[0], shuffle=0)
    live(room, Request(args, tell=told.append))
    assert room.model('small').precision == 'bfloat16'
    assert told[0]['precision'] == 'precision: bfloat16, as the test wants'


@pytest.mark.skipif(not os.environ.get(ALEX_VARIABLE), reason=f'needs {ALEX_VARIABLE}')
def test_a_tool_keeps_the_fact(photo_folder, tmp_path, monkeypatch):
    rows = tmp_path / 'rows.json'
    monkeypatch.setenv('ODEBC_PRECISION', 'float32')
    args = ['evaluate.py', 'DDIM-1', '--images', str(photo_folder), '--out', str(rows)]
    args += '--crops 2 --size 32'.split()
    for how in (['--bf16'], ['--precision', 'auto']):
        monkeypatch.setattr(sys, 'argv', [*args, *how])
        runpy.run_path(str(ROOT / 'tools/evaluate.py'), run_name='__main__')
    assert [row['bf16'] for row in json.loads(rows.read_text())] == [True, True, False, False]


def test_the_benchmark_prints_its_table(free, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['precision.py', 'small', '--images', '2'])
    runpy.run_path(str(ROOT / 'benchmarks/precision.py'), run_name='__main__')
    line = capsys.readouterr().out.splitlines()[-1]
    row = [part.strip() for part in line.strip('|').split('|')]
    assert row[0] == 'small' and row[2] in ('float32', 'bfloat16')
    # the ratio, and how far LPIPS moves at most
    assert float(row[3]) > 0
    assert 0 < float(row[8]) < 0.02
