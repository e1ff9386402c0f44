"The command line as a user meets it, in processes of its own."

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from waiting import begin, end, ended, finished, written

ODEBC = Path(sys.executable).with_name('odebc')
QUICK = '--k 4 --r 2 --tests 2 --sampler DDIM-3 --no-large'.split()


def odebc(*args, **env):
    return finished([ODEBC, *args], env=os.environ | env)


def refused(*args, says, **env):
    "One clear line, no traceback, a non-zero status"
    done = odebc(*args, **env)
    assert done.returncode == 2, done
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('odebc: ') and says in last, done.stderr


def test_demo_on_a_folder(photo_folder, tmp_path):
    done = odebc('demo', *QUICK, '--images', photo_folder, '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / 'table.md').read_text().splitlines()
    names = [r.split('|')[1].strip() for r in rows[2:6]]
    assert names == ['bicubic', 'DDPM-100', 'DDIM-3', 'DDIM-3 + x̃_T']
    with safe_open(tmp_path / 'x_T.safetensors', 'pt') as f:
        assert f.get_tensor('x_T').shape == (3, 64, 64)
    assert Image.open(tmp_path / 'picture.png').size[0] > 500


def test_demo_ends_with_a_photograph_at_the_papers_size(tmp_path):
    small = [x for x in QUICK if x != '--no-large']
    done = odebc('demo', *small, '--k', 20, '--r', 4, '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'search was' in done.stdout
    assert 'enlarging one photograph from 64 to 256 pixels' in done.stdout
    width, height = Image.open(tmp_path / 'picture.png').size
    assert width > 1000 and height > 500
    assert 'search was' in (tmp_path / 'table.md').read_text(encoding='utf8')


def test_without_alexnet_the_demo_says_so(photo_folder, tmp_path):
    "An empty home and a proxy that nobody answers: LPIPS cannot be had"
    env = dict(ODEBC_LPIPS_ALEX='', TORCH_HOME=str(tmp_path), https_proxy='http://127.0.0.1:9')
    done = odebc('demo', *QUICK, '--images', photo_folder, '--out', tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert 'odebc: note: real LPIPS is not at hand' in done.stderr
    assert 'ODEBC_LPIPS_ALEX' in done.stderr
    assert '| LPIPS-lite ↓' in (tmp_path / 'table.md').read_text()


@pytest.mark.parametrize(
    'args, says',
    [
        (['--images', 'no/such/folder'], 'there is no folder no/such/folder'),
        (['--k', '0'], "Invalid value for '--k'"),
        (['--r', '0'], "Invalid value for '--r'"),
        (['--k', '-3'], "Invalid value for '--k'"),
        (['--k', 'many'], "Invalid value for '--k'"),
        (['--k', '1000000000'], 'draw fewer'),
        (['--r', '100000'], 'cannot cut 100000 patches of 64×64 without overlap'),
        (['--tests', '100000'], 'cannot cut 100000 patches of 64×64 without overlap'),
        (['--sampler', 'DDMI-20'], 'DDIM-20?'),
        (['--sampler', 'DDPM-100'], 'choose one of the ODE'),
        (['--sampler', 'DDIM-2000'], 'no more than 1000'),
        (['--out', __file__], 'File exists'),
        (['--model', 'smal'], 'no model smal'),
        (['--nonsense'], '--nonsense'),
    ],
)
def test_bad_options(args, says):
    refused('demo', *args, says=says)


@pytest.mark.parametrize('content', [None, b'nonsense'])
def test_a_bad_alexnet_file_that_was_named_is_refused(tmp_path, content):
    path = tmp_path / 'alex.safetensors'
    if content:
        path.write_bytes(content)
    refused('demo', says="LPIPS needs AlexNet's weights", ODEBC_LPIPS_ALEX=str(path))


def test_bad_sets_and_networks_for_the_results(photo_folder, tmp_path):
    quick = ['results', '--quick', '--out', tmp_path / 'out']
    says = 'needs one of photographs for each test set'
    refused(*quick, '--tests', photo_folder, says=says)
    says = 'base starts from an x_T of shape (3, 256, 256)'
    refused(*quick, '--others', 'base', says=says)
    says = 'the networks need different names, none of them this'
    refused(*quick, '--others', 'small-mid', '--others', 'small-mid', says=says)
    refused(*quick, '--others', tmp_path / 'this', says=says)
    assert not (tmp_path / 'out').exists()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    from odebc import cli

    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    cli.check_processes()  # without a GPU all processes share the CPU
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    says = "2 processes need a GPU each, and there are 1: .*CUDA_VISIBLE_DEVICES=''"
    with pytest.raises(ValueError, match=says):
        cli.check_processes()


def test_empty_folder(tmp_path):
    refused('demo', '--images', tmp_path, says='no usable image')


def test_one_photograph_is_too_few(tmp_path, photo_folder):
    shutil.copy(next(photo_folder.iterdir()), tmp_path)
    refused('demo', '--images', tmp_path, says='at least two images')


def test_unreadable_and_tiny_images(tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG no more')
    Image.new('RGB', (20, 20)).save(tmp_path / 'tiny.png')
    refused('demo', '--images', tmp_path, says='no usable image')
    first, last = odebc('demo', '--images', tmp_path).stderr.strip().splitlines()[-2:]
    assert first.startswith('odebc: note: ') and 'ignored 2 of 2 files' in first
    assert last.startswith('odebc: ') and not last.startswith('odebc: note')


def test_grey_deep_and_transparent_images_are_converted(tmp_path, photo_folder):
    photos = [np.asarray(Image.open(p)) for p in sorted(photo_folder.iterdir())]
    Image.fromarray(photos[0]).convert('L').save(tmp_path / 'grey.png')
    Image.fromarray(photos[1][..., 0].astype(np.uint16) * 257).save(tmp_path / 'deep.png')
    Image.fromarray(photos[2]).convert('RGBA').save(tmp_path / 'transparent.png')
    done = odebc('demo', *QUICK, '--images', tmp_path, '--out', tmp_path / 'out')
    assert done.returncode == 0 and '3 photographs' in done.stdout, done.stderr


def test_damaged_checkpoint(tmp_path):
    from odebc.sr3 import SR3, WEIGHTS

    SR3.from_pretrained().save_pretrained(tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    for bad in (data[:5000], b'', b'{}' + data[2:]):
        (tmp_path / WEIGHTS).write_bytes(bad)
        refused('demo', '--model', tmp_path, says='damaged')


def test_train_and_resume(photo_folder, tmp_path):
    args = ['train', '--images', photo_folder, '--out', tmp_path, '--batch', 2, '--size', 32]
    assert odebc(*args, '--steps', 2).returncode == 0
    done = odebc(*args, '--steps', 4)
    assert done.returncode == 0 and '4 steps, 8 patches' in done.stdout, done.stderr
    huge = ['--images', photo_folder, '--config', 'huge']
    refused('train', *huge, says='unknown configuration')


def test_small_mid_is_plain_sr3(photo_folder, tmp_path):
    from odebc.sr3 import SR3

    quick = '--batch 2 --size 32 --steps 1'.split()
    folders = ['--images', photo_folder, '--out', tmp_path]
    done = odebc('train', '--config', 'small-mid', *folders, *quick)
    assert done.returncode == 0, done.stderr
    assert SR3.from_pretrained(tmp_path).net.s is None


def interrupt(process, with_signal):
    "What a process writes between a signal and its end"
    process.send_signal(with_signal)
    out, err = ended(process)
    told = [line for line in err.decode().splitlines() if not line.startswith('import time:')]
    assert process.returncode == 130, err
    assert 'Traceback' not in '\n'.join(told) and told[-1] == 'odebc: stopped'
    return out


def start(*args, until, **env):
    "A running command that has written something to its errors"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    process = begin([ODEBC, *args], os.environ | env, **pipes)
    written(process, until)
    return process


@pytest.mark.parametrize('with_signal', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_keeps_the_best_so_far(tmp_path, with_signal):
    out = interrupt(start('demo', '--k', 400, '--out', tmp_path, until=b'best='), with_signal)
    # at once, not when it was through
    assert b'interrupted; the best x_T so far' in out
    assert b'found candidate' not in out
    with safe_open(tmp_path / 'x_T.safetensors', 'pt') as f:
        assert f.get_tensor('x_T').shape == (3, 64, 64)


@pytest.mark.parametrize('loaded', ['numpy', 'torch'])
def test_ctrl_c_while_modules_are_loaded(loaded, tmp_path):
    "When Python has told that one of the large modules is there, and others are not"
    told = f' {loaded}\n'.encode()
    demo = start('demo', '--out', tmp_path, until=told, PYTHONPROFILEIMPORTTIME='1')
    assert b'photographs' not in interrupt(demo, signal.SIGINT)


def test_ctrl_c_during_the_comparison(photo_folder, tmp_path):
    folders = ['--images', photo_folder, '--out', tmp_path]
    demo = start('demo', *QUICK, '--tests', 6, *folders, until=b'compare: ')
    assert b'wrote' not in interrupt(demo, signal.SIGINT)
    assert (tmp_path / 'x_T.safetensors').exists()


def test_interrupted_training_goes_on(photo_folder, tmp_path):
    args = ['train', '--images', photo_folder, '--out', tmp_path, '--batch', 2, '--size', 32]
    interrupt(start(*args, until=b'loss='), signal.SIGTERM)
    done = odebc(*args, '--steps', 1)
    assert done.returncode == 0 and 'the model is in' in done.stdout, done.stderr


# --- search and upscale

SEARCH = '--k 12 --r 4 --unseen 2 --sampler DDIM-3'.split()


def test_a_search_that_was_killed_goes_on(tmp_path):
    from odebc.runner import BoundaryCondition

    args = ['search', *SEARCH, '--k', 40, '--strategy', 'exhaustive']
    end(start(*args, '--out', tmp_path / 'killed', until=b'best='))
    before = BoundaryCondition.load(tmp_path / 'killed')
    assert 0 < before.solves < 160
    for name in ('killed', 'whole'):
        done = odebc(*args, '--out', tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert '160 solves, 480 network evaluations' in done.stdout, done.stderr
    killed, whole = (BoundaryCondition.load(tmp_path / name) for name in ('killed', 'whole'))
    assert (killed.scores - whole.scores).abs().max() < 1e-6 and killed.index == whole.index
    other = [*args, '--out', tmp_path / 'whole', '--seed', '1']
    refused(*other, says='holds a search with another')


@pytest.mark.parametrize(
    'args, says',
    [
        (['--strategy', 'magic'], 'known are halving'),
        (['--strategy', 'multifidelity'], 'needs `coarse`'),
        (['--budget', '3'], 'budget of 3 solves is too small'),
        (['--sampler', 'DDPM-100'], 'draws noise in every step'),
        (['--coarse', 'DDIM'], 'unknown sampler'),
        (['--distance', 'LPIP'], 'known are best'),
        (['--r', '100000'], 'cannot cut'),
        (['--images', 'no/such/folder'], 'there is no folder'),
    ],
)
def test_bad_options_of_search(args, says, tmp_path):
    refused('search', *SEARCH, *args, '--out', tmp_path / 'x_T', says=says)
    assert not (tmp_path / 'x_T').exists()


def test_upscale(tmp_path):
    from odebc.matrix import candidate
    from odebc.runner import BoundaryCondition
    from odebc.sr3 import SR3

    x_T = tmp_path / 'x_T'
    meta = SR3.from_pretrained().solution_map('DDIM-2').meta
    start = candidate(0, (3, 64, 64))
    found = BoundaryCondition(start, 0, 0, torch.zeros(1, 1), 1, 2, 0.0, meta)
    found.save(x_T)
    tiny = tmp_path / 'tiny.png'
    sizes = dict(wide=(41, 19), tiny=(5, 3))
    for name, (w, h) in sizes.items():
        levels = np.random.default_rng(0).integers(0, 255, (h, w, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f'{name}.png')
    command = ['upscale', '--x-t', x_T, '--out', tmp_path / 'out']
    done = odebc(*command, tmp_path / 'wide.png', tiny)
    assert done.returncode == 0 and 'another model' not in done.stderr, done.stderr
    for name, (w, h) in sizes.items():
        assert Image.open(tmp_path / 'out' / f'{name}_x4.png').size == (4 * w, 4 * h)
    found.meta['weights'] = 'else'
    found.save(x_T)
    assert 'was found with another model' in odebc(*command, tiny).stderr
    for args, says in [
        ([tmp_path / 'none', tiny], 'there is no boundary condition'),
        ([tiny, tiny], 'is not a boundary condition'),
        ([x_T, x_T], 'as an image'),
        ([x_T, tmp_path / 'none.png'], 'there is no image file'),
        ([x_T, tiny, tiny, '--sampler', 'DDPM-9'], 'draws noise'),
    ]:
        refused('upscale', '--x-t', *args, says=says)
