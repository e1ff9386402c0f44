"The command line as a user meets it, in processes of its own."
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

ODEBC = Path(sys.executable).with_name('odebc')
QUICK = '--k 4 --r 2 --tests 2 --sampler DDIM-3'.split()


def odebc(*args, **env):
    return subprocess.run([ODEBC, *map(str, args)], capture_output=True, encoding='utf8', env=os.environ | env, timeout=300)


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
    rows = (tmp_path/'table.md').read_text().splitlines()
    assert [r.split('|')[1].strip() for r in rows[2:6]] == ['bicubic', 'DDIM-3, random x_T', 'DDIM-3, found x_T', 'DDPM-100']
    with safe_open(tmp_path/'x_T.safetensors', 'pt') as f: assert f.get_tensor('x_T').shape == (3, 64, 64)
    assert Image.open(tmp_path/'picture.png').size[0] > 500


def test_without_alexnet_the_demo_says_so(photo_folder, tmp_path):
    done = odebc('demo', *QUICK, '--images', photo_folder, '--out', tmp_path, ODEBC_LPIPS_ALEX=str(tmp_path/'none.safetensors'))
    assert done.returncode == 0, done.stderr
    assert 'NOTE: real LPIPS is not at hand' in done.stdout and 'ODEBC_LPIPS_ALEX' in done.stdout
    assert '| DSSIM ↓' in (tmp_path/'table.md').read_text()


@pytest.mark.parametrize('args, says', [
    (['--images', 'no/such/folder'], 'there is no folder no/such/folder'),
    (['--k', '0'], '--k must be at least 1, not 0'),
    (['--r', '0'], '--r must be at least 1, not 0'),
    (['--k', '-3'], '--k must be at least 1, not -3'),
    (['--k', 'many'], "'--k'"),
    (['--sampler', 'DDMI-20'], 'did you mean DDIM-20?'),
    (['--sampler', 'DDPM-100'], 'choose one of the ODE'),
    (['--model', 'smal'], 'no model smal'),
    (['--nonsense'], '--nonsense'),
])
def test_bad_options(args, says): refused('demo', *args, says=says)


def test_empty_folder(tmp_path): refused('demo', '--images', tmp_path, says='no usable image')


def test_one_photograph_is_too_few(tmp_path, photo_folder):
    shutil.copy(next(photo_folder.iterdir()), tmp_path)
    refused('demo', '--images', tmp_path, says='at least two images')


def test_unreadable_and_tiny_images(tmp_path):
    (tmp_path/'broken.png').write_bytes(b'\x89PNG no more')
    Image.new('RGB', (20, 20)).save(tmp_path/'tiny.png')
    refused('demo', '--images', tmp_path, says='no usable image')
    assert 'skipped 2 of 2 images' in odebc('demo', '--images', tmp_path).stderr


def test_grey_deep_and_transparent_images_are_converted(tmp_path, photo_folder):
    photos = [np.asarray(Image.open(p)) for p in sorted(photo_folder.iterdir())]
    Image.fromarray(photos[0]).convert('L').save(tmp_path/'grey.png')
    Image.fromarray(photos[1][..., 0].astype(np.uint16)*257).save(tmp_path/'deep.png')
    Image.fromarray(photos[2]).convert('RGBA').save(tmp_path/'transparent.png')
    done = odebc('demo', *QUICK, '--images', tmp_path, '--out', tmp_path/'out')
    assert done.returncode == 0 and '3 photographs' in done.stdout, done.stderr


def test_damaged_checkpoint(tmp_path):
    from odebc.train import SR3, WEIGHTS
    SR3.from_pretrained().save_pretrained(tmp_path)
    data = (tmp_path/WEIGHTS).read_bytes()
    for bad in (data[:5000], b'', b'{}' + data[2:]):
        (tmp_path/WEIGHTS).write_bytes(bad)
        refused('demo', '--model', tmp_path, says='damaged')


def test_train_and_resume(photo_folder, tmp_path):
    args = ['train', '--images', photo_folder, '--out', tmp_path, '--batch', 2, '--size', 32]
    assert odebc(*args, '--steps', 2).returncode == 0
    done = odebc(*args, '--steps', 4)
    assert done.returncode == 0 and done.stdout.startswith('4 steps, 8 patches'), done.stderr
    refused('train', '--images', photo_folder, '--config', 'huge', says='unknown configuration')


def test_ctrl_c_keeps_the_best_so_far(tmp_path):
    "SIGINT in the middle of a search: ends within two seconds, status 130, no traceback, x_T is on disk"
    demo = subprocess.Popen([ODEBC, 'demo', '--k', '400', '--out', tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = b''
    while b'best=' not in seen: seen += demo.stderr.read1(200)
    start = time.monotonic()
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=20)
    assert time.monotonic() - start < 2
    assert demo.returncode == 130
    assert b'Traceback' not in err and b'interrupted; the best x_T so far' in out
    with safe_open(tmp_path/'x_T.safetensors', 'pt') as f: assert f.get_tensor('x_T').shape == (3, 64, 64)
