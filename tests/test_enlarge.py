"Pictures of any size: what comes out, what it costs, and what is left when it is stopped."

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from odebc import enlarge as module
from odebc.canvas import canvas
from odebc.images import load_picture, Picture, to_bytes, to_image
from odebc.footprint import needs
from odebc.maps import solution_map
from odebc.enlarge import available_memory, Blend, enlarge, enlarge_files, Enlargement
from odebc.enlarge import facts_of, kept_facts, shipped_start, Tiling, write_png
from odebc.errors import CannotWrite, OdebcError
from odebc.enlarge import tile_starts
from odebc.sr3 import SR3
from odebc.store import head_of, unpacked
from odebc.unet import UNet
from waiting import begin, end, ended, file_limit, finished, wait_until, written

ODEBC = Path(sys.executable).with_name('odebc')


def tiny(size=32, unshuffle=4):
    "A real network, as small as it gets"
    torch.manual_seed(0)
    net = UNet(s=0.13, channels=8, mults=(1,), blocks=1, groups=1, unshuffle=unshuffle)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return SR3(net.eval().requires_grad_(False), 4, size)


@pytest.fixture(scope='module')
def model():
    return tiny()


@pytest.fixture(scope='module')
def x_T():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def picture_of(height, width, alpha=False, seed=0):
    colours = noise(3, height, width, seed=seed) * 2 - 1
    return Picture(colours, noise(1, height, width, seed=seed + 1) if alpha else None)


class Counting:
    "The model's map; counts its calls, and does something before one of them"

    def __init__(self, h, at=None, do=None):
        self.h = h
        self.meta = h.meta
        self.at = at
        self.do = do
        self.calls = 0

    def __call__(self, x_T, y):
        self.calls += 1
        if self.calls == self.at:
            self.do()
        return self.h(x_T, y)


def stop():
    raise KeyboardInterrupt


def pixels(path):
    return np.asarray(Image.open(path))


def levels_apart(path, x):
    "The largest difference between a file and an image in [-1, 1], of 255 levels"
    return np.abs(pixels(path).astype(int) - np.asarray(to_image(x)).astype(int)).max()


# --- the same pixels as ever


def before(model, image, x_T, sampler='DDIM-20', overlap=4, batch=16):
    "SR3.upscale as it was: the sums of the whole picture in memory"
    h = model.solution_map(sampler)
    s = model.scale
    side = model.size // model.scale
    right, below = max(side - image.shape[2], 0), max(side - image.shape[1], 0)
    y = F.pad(image[None], (0, right, 0, below), mode='replicate')
    rows, columns = (tile_starts(length, side, overlap) for length in y.shape[2:])
    places = [(i, j) for i in rows for j in columns]
    ramp = torch.arange(1.0, model.size + 1)
    ramp = ramp.minimum(ramp.flip(0)).clamp(max=s * overlap + 1)
    window = ramp.outer(ramp)
    total = torch.zeros(4, s * y.shape[2], s * y.shape[3])
    for part in [places[n : n + batch] for n in range(0, len(places), batch)]:
        tiles = torch.cat([y[..., i : i + side, j : j + side] for i, j in part])
        with torch.no_grad():
            tiles = h(x_T[None], tiles)
        for (i, j), tile in zip(part, tiles):
            place = total[:, s * i : s * i + model.size, s * j : s * j + model.size]
            place += torch.cat([tile * window, window[None]])
    return (total[:3] / total[3])[:, : s * image.shape[1], : s * image.shape[2]]


@pytest.mark.parametrize(
    'height, width, overlap, batch',
    [
        (8, 8, 4, 16),
        (3, 5, 4, 16),
        (9, 31, 4, 2),
        (30, 7, 3, 5),
        (25, 33, 0, 7),
        (20, 21, 7, 16),
        (41, 13, 2, 100),
        (1, 60, 4, 1),
    ],
)
def test_the_pixels_are_those_of_the_picture_as_a_whole(
    model, x_T, height, width, overlap, batch
):
    image = picture_of(height, width).colours
    now = model.upscale(image, x_T, 'DDIM-2', overlap, batch, mode='tiles')
    old = before(model, image, x_T, 'DDIM-2', overlap, batch)
    assert now.shape == old.shape == (3, 4 * height, 4 * width)
    assert (now - old).abs().max() < 1e-6


def test_a_shipped_network_on_a_photograph(photo_folder, tmp_path):
    small = SR3.from_pretrained()
    photo = load_picture(sorted(photo_folder.iterdir())[0])
    y = Picture(photo.colours[:, 40:70, 20:61])
    x_T = shipped_start(small.fingerprint).x_T
    old = before(small, y.colours, x_T, 'DDIM-3')
    now = small.upscale(y.colours, x_T, 'DDIM-3', mode='tiles')
    assert (now - old).abs().max() < 1e-6
    h = small.solution_map('DDIM-3')
    Enlargement(h, y, x_T, tmp_path / 'y.png', mode='tiles').run()
    assert levels_apart(tmp_path / 'y.png', old) <= 1


def test_the_band_is_as_high_as_a_tile():
    tiling = Tiling(400, 40, 64)
    blend = Blend(tiling)
    rows = 0
    for _ in tiling.places:
        rows += blend.add(torch.ones(1, 3, 64, 64)).shape[1]
        assert blend.sums.shape == (4, 64, 160)
        assert rows == min(blend.first, 1600) >= 4 * tiling.places[blend.done - 1][0]
    assert rows == 1600


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(image=torch.zeros(1, 9, 9)), 'need one RGB image'),
        (dict(image=torch.zeros(3, 0, 9)), 'need one RGB image'),
        (dict(image=torch.zeros(1, 3, 9, 9)), 'need one RGB image'),
        (dict(x_T=torch.zeros(3, 16, 32)), 'x_T must be'),
        (dict(x_T=torch.zeros(3, 30, 30)), 'x_T must be'),
        (dict(overlap=8), 'overlap must lie in 0 … 7'),
        (dict(overlap=-1), 'overlap must lie in'),
        (dict(batch=0), 'at least one tile'),
    ],
)
def test_what_cannot_be_tiled_is_refused(model, x_T, change, says):
    options = dict(image=torch.zeros(3, 9, 9), x_T=x_T) | change
    with pytest.raises(OdebcError, match=says):
        enlarge(model.solution_map('DDIM-1'), **options)


def test_a_map_that_breaks_is_told(x_T):
    with pytest.raises(OdebcError, match='must return images of shape'):
        enlarge(lambda x_T, y: y, torch.zeros(3, 9, 9), x_T)

    def broken(x_T, y):
        return x_T.expand(len(y), -1, -1, -1) * torch.nan

    with pytest.raises(OdebcError, match='NaN or infinite values in tiles 0 … 3'):
        enlarge(broken, torch.zeros(3, 9, 9), x_T)


# --- the file


@pytest.mark.parametrize('channels', [3, 4])
@pytest.mark.parametrize(
    'height, width, cuts',
    [
        (1, 1, [0, 1]),
        (1, 300, [0, 1]),
        (300, 1, [0, 1, 2, 299, 300]),
        (57, 83, [0, 20, 20, 57]),
    ],
)
def test_pillow_reads_what_is_written(tmp_path, height, width, cuts, channels):
    rng = np.random.default_rng(0)
    path = tmp_path / 'x.png'
    smooth = np.linspace(0, 255, height * width * channels).reshape(height, width, channels)
    facts = {'sampler': 'DDIM-20', 'ä': [1, None]}
    for image in (
        rng.integers(0, 256, (height, width, channels)).astype(np.uint8),
        smooth.astype(np.uint8),
        smooth.astype(np.uint8)[:, ::-1],
        np.full((height, width, channels), 255, np.uint8),
    ):
        strips = (image[a:b] for a, b in zip(cuts, cuts[1:]) if b > a)
        write_png(path, strips, width, height, channels, facts)
        with Image.open(path) as read:
            assert read.mode == {3: 'RGB', 4: 'RGBA'}[channels]
            assert read.size == (width, height)
            assert read.info['srgb'] == 0
            assert np.array_equal(np.asarray(read), image)
        assert facts_of(path) == facts
        with Image.open(path) as read:
            read.verify()  # the checksums


def test_our_file_is_about_as_small_as_pillows(photo_folder, tmp_path):
    image = pixels(sorted(photo_folder.iterdir())[0])
    write_png(tmp_path / 'ours.png', [image], image.shape[1], image.shape[0], 3)
    Image.fromarray(image).save(tmp_path / 'theirs.png')
    ours, theirs = ((tmp_path / f'{n}.png').stat().st_size for n in ('ours', 'theirs'))
    assert ours < 1.1 * theirs


def test_facts_of_other_files(tmp_path):
    Image.new('RGB', (2, 2)).save(tmp_path / 'plain.png')
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG no more')
    write_png(tmp_path / 'none.png', [np.zeros((1, 1, 3), np.uint8)], 1, 1, 3)
    for name in ('plain.png', 'broken.png', 'none.png', 'absent.png'):
        assert facts_of(tmp_path / name) is None


# --- alpha


@pytest.mark.parametrize('height, width', [(30, 23), (5, 3), (8, 8), (77, 9)])
def test_alpha_is_enlarged_beside_the_colours(model, x_T, tmp_path, height, width):
    picture = picture_of(height, width, alpha=True)
    target = tmp_path / 'x.png'
    Enlargement(model.solution_map('DDIM-1'), picture, x_T, target, batch=3).run()
    result = load_picture(target)
    assert Image.open(target).mode == 'RGBA'
    whole = F.interpolate(picture.alpha[None], scale_factor=4, mode='bicubic')[0].clamp(0, 1)
    assert (result.alpha - whole).abs().max() <= 0.5 / 255 + 1e-5
    colours = enlarge(model.solution_map('DDIM-1'), picture.colours, x_T, batch=3)
    assert torch.equal(to_bytes(result.colours), to_bytes(colours))


def test_without_alpha_there_is_none(model, x_T, tmp_path):
    Enlargement(model.solution_map('DDIM-1'), picture_of(9, 10), x_T, tmp_path / 'x.png').run()
    assert Image.open(tmp_path / 'x.png').mode == 'RGB'


def test_alpha_in_three_kinds_of_files(model, x_T, tmp_path):
    "RGBA, grey with alpha, and a palette with a transparent colour"
    step = np.zeros((20, 20), np.uint8)
    step[:, 10:] = 255
    grey, alpha = Image.new('L', (20, 20), 99), Image.fromarray(step)
    Image.merge('LA', (grey, alpha)).save(tmp_path / 'LA.png')
    Image.merge('RGBA', (grey, grey, grey, alpha)).save(tmp_path / 'RGBA.png')
    palette = Image.fromarray(step // 255, 'P')
    palette.putpalette([9, 9, 9, 200, 200, 200])
    palette.save(tmp_path / 'P.png', transparency=0)
    names = 'LA.png', 'RGBA.png', 'P.png'
    sources = {tmp_path / 'out' / name: tmp_path / name for name in names}
    enlarge_files(model.solution_map('DDIM-1'), sources, x_T)
    for target in sources:
        alpha = pixels(target)[..., 3]
        assert alpha.shape == (80, 80)
        assert (alpha[:, :32] == 0).all()
        assert (alpha[:, 48:] == 255).all()


# --- what it will cost


def test_the_forecast_of_12_megapixels(model, tmp_path):
    large = Picture(torch.zeros(1).expand(3, 3000, 4000))
    x_T = torch.zeros(3, 64, 64)
    enlargement = Enlargement(model.solution_map('DDIM-1'), large, x_T, tmp_path / 'x.png')
    forecast = enlargement.forecast(0.2)
    assert len(enlargement.tiling.places) == forecast.left == 333 * 250
    assert forecast.batches == 5204  # 83,250/16, rounded up
    assert forecast.picture == 3 * 12_000 * 16_000
    assert forecast.seconds == pytest.approx(83_250 * 0.2)
    assert forecast.memory < 3e8 and 5.7e8 < forecast.kept < 7e8
    says = '4000×3000 to 16000×12000 pixels, 83,250 tiles, 5,204 batch(es), about 4 h 38 min'
    assert says in str(forecast)
    assert 'about' not in str(enlargement.forecast())


@pytest.mark.parametrize('height, width', [(8, 8), (3, 100), (61, 23), (100, 9)])
def test_as_many_tiles_are_solved_as_were_forecast(model, x_T, tmp_path, height, width):
    seen = []
    real = model.solution_map('DDIM-1')

    def h(x_T, y):
        seen.append(len(y))
        return real(x_T, y)

    h.meta = real.meta
    enlargement = Enlargement(h, picture_of(height, width), x_T, tmp_path / 'x.png', batch=5)
    forecast = enlargement.forecast()
    enlargement.run()
    assert (len(seen), sum(seen)) == (forecast.batches, forecast.left)


def test_the_time_of_a_tile_is_measured(model, x_T, tmp_path):
    def slow(x_T, y):
        time.sleep(0.02 + 0.01 * len(y))
        return model.h(x_T, y, 'DDIM-1')

    slow.meta = model.solution_map('DDIM-1').meta
    enlargement = Enlargement(slow, picture_of(40, 40), x_T, tmp_path / 'x.png', batch=8)
    assert 0.0125 <= enlargement.seconds_per_tile() < 10


def test_too_little_memory_is_refused_before_the_first_solve(
    model, x_T, tmp_path, monkeypatch
):
    h = Counting(model.solution_map('DDIM-1'))
    picture = picture_of(50, 60)
    source = tmp_path / 'photo.png'
    to_image(picture.colours).save(source)
    monkeypatch.setattr(module, 'available_memory', lambda device='cpu': 100_000)
    numbers = r'needs \d+\.\d MB of memory, and 0\.1 MB are free: '
    says = f'enlarging 60×50 to 240×200 pixels in memory {numbers}use `odebc upscale`'
    with pytest.raises(OdebcError, match=says):
        enlarge(h, picture.colours, x_T)
    with pytest.raises(OdebcError, match=f'in memory {numbers}'):
        model.upscale(picture.colours, x_T, 'DDIM-1')
    with pytest.raises(OdebcError, match=f'enlarging into .*x.png {numbers}'):
        Enlargement(h, picture, x_T, tmp_path / 'x.png').run()
    with pytest.raises(OdebcError, match=f'reading .*photo.png of 60×50 pixels {numbers}'):
        enlarge_files(h, {tmp_path / 'x.png': source}, x_T)
    assert h.calls == 0 and [p.name for p in tmp_path.iterdir()] == ['photo.png']


def test_what_fits_in_strips_does_not_have_to_fit_as_a_whole(
    model, x_T, tmp_path, monkeypatch
):
    picture = picture_of(400, 16)

    def memory(device='cpu'):
        return 90_000_000 if device == 'cpu' else 5_000_000

    monkeypatch.setattr(module, 'available_memory', memory)
    with pytest.raises(OdebcError, match='in memory'):
        enlarge(model.solution_map('DDIM-1'), picture_of(4000, 160).colours, x_T)
    Enlargement(model.solution_map('DDIM-1'), picture, x_T, tmp_path / 'x.png').run()
    assert Image.open(tmp_path / 'x.png').size == (64, 1600)


def test_too_little_disk_is_refused_before_the_first_solve(model, x_T, tmp_path, monkeypatch):
    h = Counting(model.solution_map('DDIM-1'))
    source = tmp_path / 'photo.png'
    to_image(picture_of(50, 60).colours).save(source)
    free = 1_000_000
    monkeypatch.setattr(module, 'free_disk', lambda target: free)
    files = {tmp_path / f'out/{n}.png': source for n in range(9)}
    says = r'enlarging 9 picture\(s\) needs up to 1\.\d MB on the disk of .*out, and 1\.0 MB'
    with pytest.raises(CannotWrite, match=f'{says} are free: make room'):
        enlarge_files(h, files, x_T)
    free = 100_000
    says = r'0.png needs up to 0\.\d MB on the disk of .*out, and 0\.1 MB'
    with pytest.raises(CannotWrite, match=says):
        enlarge_files(h, files, x_T)
    assert h.calls == 0 and not (tmp_path / 'out').exists()


def test_limits_of_the_process_count():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        pytest.skip('there is a limit already')
    import psutil

    limit = psutil.Process().memory_info().vms + 300_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        assert available_memory() <= 300_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_the_command_forecasts_long_work_and_only_that(model, x_T, tmp_path, monkeypatch):
    picture = tmp_path / 'photo.png'
    said = []
    to_image(picture_of(40, 40).colours).save(picture)

    def run(target):
        h = model.solution_map('DDIM-1')
        enlarge_files(h, {target: picture}, x_T, batch=4, say=said.append)

    monkeypatch.setattr(Enlargement, 'seconds_per_tile', lambda self: 0.3)
    run(tmp_path / 'a.png')
    assert '40×40 to 160×160 pixels, 81 tiles, 21 batch(es), about 24 s' in said[0]
    assert 'can be stopped' in said[1]
    assert said[2].startswith('wrote')
    said.clear()
    monkeypatch.setattr(Enlargement, 'seconds_per_tile', lambda self: 0.1)
    run(tmp_path / 'b.png')
    assert said == [f"wrote {tmp_path / 'b.png'}"]


# --- stopped, and gone on with


def test_stopped_and_gone_on(model, x_T, tmp_path):
    "At every batch in turn; nothing that was solved is solved again"
    picture = picture_of(30, 40, alpha=True)
    h = model.solution_map('DDIM-1')
    Enlargement(h, picture, x_T, tmp_path / 'whole.png', batch=8).run()
    batches = Enlargement(h, picture, x_T, tmp_path / 'x.png', batch=8).forecast().batches
    for n in range(1, batches + 1):
        target = tmp_path / f'stopped{n}.png'
        stopped, rest = Counting(h, n, stop), Counting(h)
        with pytest.raises(KeyboardInterrupt):
            Enlargement(stopped, picture, x_T, target, batch=8).run()
        assert not target.exists()
        Enlargement(rest, picture, x_T, target, batch=8).run()
        assert stopped.calls - 1 + rest.calls == batches
        assert target.read_bytes() == (tmp_path / 'whole.png').read_bytes()
        assert not target.with_name(target.name + '.part').exists()


def test_a_network_that_fails_loses_nothing(model, x_T, tmp_path):
    def fail():
        raise RuntimeError('out of memory')

    failing = Counting(model.solution_map('DDIM-1'), 5, fail)
    rest = Counting(model.solution_map('DDIM-1'))
    with pytest.raises(RuntimeError, match='out of memory'):
        Enlargement(failing, picture_of(20, 30), x_T, tmp_path / 'x.png', batch=4).run()
    again = Enlargement(rest, picture_of(20, 30), x_T, tmp_path / 'x.png', batch=4)
    forecast = again.forecast()
    assert forecast.left == len(forecast.tiling.places) - 16


QUIET = os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'}
CHILD = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_enlarge import picture_of, tiny
from odebc import enlarge
moment, target = sys.argv[1:]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
saved, put = enlarge.Part.save, os.replace
count = 0
def save(part, blend):
    global count
    count += 1
    print(blend.done, flush=True)
    if moment == f'before save {{count}}': kill()
    saved(part, blend)
    if moment == f'after save {{count}}': kill()
def replace(part, whole):
    if moment == 'before the picture is put in place' and str(whole) == target: kill()
    put(part, whole)
    if moment == 'after the picture is put in place' and str(whole) == target: kill()
enlarge.Part.save, os.replace = save, replace
x_T = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
h, picture = tiny().solution_map('DDIM-1'), picture_of(60, 50, alpha=True)
enlarge.Enlargement(h, picture, x_T, target, batch=4).run(every=0)
"""


def child(moment, target):
    "A process of its own, not a fork"
    code = CHILD.format(tests=str(Path(__file__).parent))
    command = [sys.executable, '-c', code, moment, target]
    return begin(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=QUIET)


def test_killed_and_gone_on(tmp_path):
    "kill -9 between rows and state, after a state, at any time, and about the last step"
    target, whole = tmp_path / 'killed.png', tmp_path / 'whole.png'
    done = child('never', whole)
    ended(done)
    assert done.returncode == 0
    for moment in ('before save 5', 'after save 7'):
        process = child(moment, target)
        ended(process)
        assert process.returncode == -signal.SIGKILL and not target.exists()
    before = solved_of(target)
    process = child('never', target)
    assert before == 4 * (4 + 7)  # what was saved, and nothing else
    wait_until(lambda: process.poll() is not None or solved_of(target) > before, 'a batch')
    time.sleep(0.03)
    end(process)
    assert before < solved_of(target)
    for moment in ('before the picture is put in place', 'after the picture is put in place'):
        process = child(moment, target)
        ended(process)
        assert process.returncode == -signal.SIGKILL
    process = child('never', target)
    assert ended(process)[0] == b'' and process.returncode == 0  # there was nothing left to do
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['killed.png', 'whole.png']


def solved_of(target):
    "Tiles that a killed process left"
    return unpacked(target.with_name(target.name + '.part') / module.STATE).notes['done']


@pytest.mark.parametrize('size', [10, 100_000, 120_000])
def test_a_full_disk_loses_nothing(model, x_T, tmp_path, size):
    "While a state is written, and while rows are"
    target = tmp_path / 'x.png'
    picture = picture_of(60, 50)
    h = model.solution_map('DDIM-1')
    Enlargement(h, picture_of(60, 50, seed=5), x_T, target).run()
    old = target.read_bytes()
    rest = Counting(h)
    says = r'cannot write .*x\.png \(File too large\): make room.*kept in .*x\.png\.part'
    with file_limit(size), pytest.raises(CannotWrite, match=says):
        Enlargement(h, picture, x_T, target, batch=4).run(every=0)
    assert target.read_bytes() == old
    forecast = Enlargement(rest, picture, x_T, target, batch=4).forecast()
    Enlargement(rest, picture, x_T, target, batch=4).run()
    assert rest.calls == forecast.batches
    if size == 120_000:
        assert forecast.left < len(forecast.tiling.places)  # something had been finished
    assert levels_apart(target, enlarge(h, picture.colours, x_T, batch=4)) == 0


def test_a_disk_that_is_full_in_the_last_step(model, x_T, tmp_path, monkeypatch):
    target = tmp_path / 'x.png'
    picture = picture_of(60, 50)
    h = Counting(model.solution_map('DDIM-1'))
    real = Enlargement.write

    def write(self):
        with file_limit(5_000):
            real(self)

    monkeypatch.setattr(Enlargement, 'write', write)
    with pytest.raises(CannotWrite, match=r'cannot write .*x\.png \(File too large\)'):
        Enlargement(h, picture, x_T, target).run()
    assert not target.exists()
    calls = h.calls
    monkeypatch.setattr(Enlargement, 'write', real)
    Enlargement(h, picture, x_T, target).run()
    assert h.calls == calls and Image.open(target).size == (200, 240)


def test_a_target_that_cannot_be_written_is_told_before_the_first_solve(model, x_T, tmp_path):
    h = Counting(model.solution_map('DDIM-1'))
    picture = picture_of(9, 9)
    (tmp_path / 'file').write_text('a file, no folder')
    with pytest.raises(CannotWrite, match='cannot write .*x.png'):
        Enlargement(h, picture, x_T, tmp_path / 'file/x.png').run()
    with pytest.raises(CannotWrite, match='is a folder'):
        Enlargement(h, picture, x_T, tmp_path)
    assert h.calls == 0


@pytest.mark.parametrize(
    'name, change',
    [
        ('picture', dict(picture=picture_of(20, 30, seed=9))),
        ('picture', dict(picture=picture_of(20, 30, alpha=True))),
        ('x_T', dict(x_T=torch.zeros(3, 32, 32))),
        ('overlap', dict(overlap=3)),
        ('batch', dict(batch=5)),
        ('picture', dict(picture=picture_of(20, 31))),
        ('sampler', dict(h='DDIM-2')),
    ],
)
def test_half_of_another_picture_is_not_touched(model, x_T, tmp_path, name, change):
    first = dict(
        h=Counting(model.solution_map('DDIM-1'), 3, stop),
        picture=picture_of(20, 30),
        x_T=x_T,
        target=tmp_path / 'x.png',
        batch=4,
    )
    with pytest.raises(KeyboardInterrupt):
        Enlargement(**first).run()
    kept = {path: path.read_bytes() for path in (tmp_path / 'x.png.part').iterdir()}
    if 'h' in change:
        change = dict(h=model.solution_map(change['h']))
    other = Enlargement(**first | change)
    says = f'x.png.part.* holds half of an enlargement with another {name}'
    for act in (other.forecast, other.run):
        with pytest.raises(OdebcError, match=says):
            act()
    assert kept == {path: path.read_bytes() for path in (tmp_path / 'x.png.part').iterdir()}


@pytest.mark.parametrize(
    'name, data', [(module.STATE, b'nonsense'), (module.STATE, b''), (module.ROWS, b'')]
)
def test_a_damaged_half_is_begun_anew(model, x_T, tmp_path, name, data):
    picture = picture_of(30, 30)
    h = model.solution_map('DDIM-1')
    with pytest.raises(KeyboardInterrupt):
        Enlargement(Counting(h, 9, stop), picture, x_T, tmp_path / 'x.png', batch=4).run()
    (tmp_path / 'x.png.part' / name).write_bytes(data)
    with pytest.warns(UserWarning, match='begun anew'):
        Enlargement(h, picture, x_T, tmp_path / 'x.png', batch=4).run()
    whole = enlarge(h, picture.colours, x_T, batch=4)
    assert levels_apart(tmp_path / 'x.png', whole) == 0


def as_before_the_store(path):
    "Write a state as earlier versions did: the facts by another name"
    content = unpacked(path)
    head = {name: json.dumps(note) for name, note in content.notes.items()}
    path.write_bytes(save(content.tensors, head | dict(facts=json.dumps(content.facts))))
    with pytest.raises(KeyError):
        head_of(path)['meta']


def test_what_an_earlier_version_has_begun_is_gone_on_with(model, x_T, tmp_path):
    "And half of another enlargement is not touched"
    h = model.solution_map('DDIM-1')
    rest = dict(picture=picture_of(20, 30), x_T=x_T, target=tmp_path / 'x.png', batch=4)
    with pytest.raises(KeyboardInterrupt):
        Enlargement(Counting(h, 3, stop), **rest).run()
    half = tmp_path / 'x.png.part'
    as_before_the_store(half / module.STATE)
    assert kept_facts(half)['sampler'] == 'DDIM-1'
    with pytest.raises(OdebcError, match=r'another batch \(4, not 5\): write into another'):
        Enlargement(h, **rest | dict(batch=5)).run()
    counting = Counting(h)
    again = Enlargement(counting, **rest)
    batches = math.ceil(len(again.tiling.places) / 4)
    again.run()
    assert counting.calls == batches - 2
    whole = enlarge(h, rest['picture'].colours, x_T, batch=4)
    assert levels_apart(tmp_path / 'x.png', whole) == 0


def test_two_at_once_do_not_mix(model, x_T, tmp_path):
    picture = picture_of(20, 20)
    refused = []

    h = model.solution_map('DDIM-1')

    def second():
        with pytest.raises(OdebcError, match='another process is at work on .*x.png'):
            Enlargement(h, picture, x_T, tmp_path / 'x.png', batch=4).run()
        refused.append(True)

    Enlargement(Counting(h, 2, second), picture, x_T, tmp_path / 'x.png', batch=4).run()
    assert refused and Image.open(tmp_path / 'x.png').size == (80, 80)


def test_what_is_there_is_not_made_again(model, x_T, tmp_path):
    "So a command with many pictures goes on, too"
    sources = {tmp_path / f'{n}.png': tmp_path / f'in{n}.png' for n in range(3)}
    for n, source in enumerate(sources.values()):
        to_image(picture_of(12, 12, seed=n).colours).save(source)
    said = []
    h = Counting(model.solution_map('DDIM-1'), 8, stop)
    with pytest.raises(KeyboardInterrupt):
        enlarge_files(h, sources, x_T, batch=1, say=said.append)
    assert said == [
        f"wrote {tmp_path / '0.png'}",
        f"what is finished is kept in {tmp_path / '1.png'}.part, and the same command goes on",
    ]
    said.clear()
    rest = Counting(h.h)
    enlarge_files(rest, sources, x_T, batch=1, say=said.append)
    # four tiles each; and two batches were timed, twice
    assert h.calls - 1 + rest.calls == 3 * 4 + 4
    assert 'is there already' in said[0]
    assert '1.png was begun, ' in said[1]
    assert said[2:] == [f"wrote {tmp_path / f'{n}.png'}" for n in (1, 2)]
    other = Counting(model.solution_map('DDIM-2'))
    enlarge_files(other, sources, x_T, batch=1, say=said.append)
    assert facts_of(tmp_path / '0.png')['sampler'] == 'DDIM-2'  # other facts: made anew


def test_what_a_kill_in_the_last_moment_left_is_cleared(model, x_T, tmp_path):
    "By the command, too; the half of another enlargement stays"
    source, target = tmp_path / 'in.png', tmp_path / 'x.png'
    to_image(picture_of(12, 12).colours).save(source)
    h = model.solution_map('DDIM-1')
    files = {target: source}
    enlarge_files(h, files, x_T)
    (tmp_path / 'x.png.part').mkdir()
    (tmp_path / 'x.png.part' / module.ROWS).write_bytes(b'rows')
    enlarge_files(h, files, x_T)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.png', 'x.png']
    with pytest.raises(KeyboardInterrupt):
        Enlargement(Counting(h, 2, stop), picture_of(20, 20), x_T, target, batch=4).run()
    enlarge_files(h, files, x_T)
    assert (tmp_path / 'x.png.part' / module.STATE).exists()


def test_permissions_are_those_of_any_file(model, x_T, tmp_path):
    "Not those of a temporary file"
    Enlargement(model.solution_map('DDIM-1'), picture_of(9, 9), x_T, tmp_path / 'x.png').run()
    (tmp_path / 'other').write_text('')
    assert (tmp_path / 'x.png').stat().st_mode == (tmp_path / 'other').stat().st_mode


LARGE = """
import resource, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_enlarge import picture_of, tiny
from odebc.enlarge import Enlargement
model, picture = tiny(64, 16), picture_of(3000, 500)
h, x_T = model.solution_map('DDIM-1'), torch.zeros(3, 64, 64)
Enlargement(h, picture_of(40, 500), x_T, sys.argv[1] + '/small.png', batch=64).run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Enlargement(h, picture, x_T, sys.argv[1] + '/large.png', batch=64).run()
print(1024*(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_memory_does_not_grow_with_the_result(tmp_path):
    "24 megapixels come out, which are 384 MB of sums, and 288 MB of floats"
    code = LARGE.format(tests=str(Path(__file__).parent))
    done = finished([sys.executable, '-c', code, tmp_path], check=True, env=QUIET)
    assert int(done.stdout) < 200e6
    assert Image.open(tmp_path / 'large.png').size == (2000, 12_000)


# --- the command


def odebc(*args, **env):
    return finished([ODEBC, *args], env=os.environ | env)


@pytest.mark.parametrize('with_signal', [signal.SIGINT, signal.SIGTERM])
def test_the_command_is_stopped_and_goes_on(tmp_path, with_signal):
    picture = picture_of(52, 64)
    to_image(picture.colours).save(tmp_path / 'in.png')
    args = ['upscale', tmp_path / 'in.png', '--out', tmp_path / 'out']
    args += '--sampler DDIM-5 --seed 3 --mode tiles'.split()
    process = begin([ODEBC, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    written(process, b'16/20')
    process.send_signal(with_signal)
    out, err = ended(process)
    assert process.returncode == 130 and b'Traceback' not in err
    assert b'in_x4.png.part, and the same command goes on' in out
    done = odebc(*args)
    assert done.returncode == 0 and '16 of its 20 tiles are solved' in done.stdout, done.stderr
    from odebc.matrix import candidate

    x_T = candidate(0, (3, 64, 64), 3)
    photo = load_picture(tmp_path / 'in.png').colours
    expected = SR3.from_pretrained().upscale(photo, x_T, 'DDIM-5', mode='tiles')
    assert levels_apart(tmp_path / 'out' / 'in_x4.png', expected) <= 1


def test_the_shipped_start_is_the_default(tmp_path):
    to_image(picture_of(10, 12, seed=3).colours).save(tmp_path / 'in.png')
    done = odebc('upscale', tmp_path / 'in.png', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    found = 'the x_T that was found for small with DDIM-20 (LPIPS, K = 200, R = 32)'
    assert done.stdout.splitlines()[1] == f'using {found}, shipped with odebc'
    small = SR3.from_pretrained()
    x_T = shipped_start(small.fingerprint).x_T
    expected = small.upscale(load_picture(tmp_path / 'in.png').colours, x_T, 'DDIM-20')
    assert levels_apart(tmp_path / 'in_x4.png', expected) <= 1


def test_starts_by_weights_and_sampler(tmp_path, capsys):
    from odebc.cli import start_for
    from odebc.matrix import candidate

    small = SR3.from_pretrained()
    small.save_pretrained(tmp_path / 'mine')
    mine = SR3.from_pretrained(tmp_path / 'mine')
    for name, network in (('small', small), ('mine', mine)):  # another name, the same weights
        for asked, found, used in (
            (None, 'DDIM-20', 'DDIM-20'),
            ('DPMS-20', 'DPMS-20', 'DPMS-20'),
            ('DDIM-100', 'DDIM-100', 'DDIM-100'),
            ('DDIM-7', 'DDIM-20', 'DDIM-7'),
        ):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter('always')
                x_T, sampler = start_for(network, name, None, None, asked)
            out = capsys.readouterr().out
            assert sampler == used
            assert f'found for {name} with {found} (LPIPS, K = 200, R = 32), shipped' in out
            assert len(said) == (asked == 'DDIM-7')
            assert all('none is shipped for DDIM-7' in str(one.message) for one in said)
            assert torch.equal(x_T, shipped_start(small.fingerprint, found).x_T)
    mid = SR3.from_pretrained('small-mid')
    start_for(mid, 'small-mid', None, None, None)
    assert 'DDIM-20 (LPIPS, K = 100, R = 16)' in capsys.readouterr().out
    indifferent = SR3.from_pretrained('base')
    x_T, _ = start_for(indifferent, 'base', None, None, 'DDIM-10')
    assert 'using a fixed x_T: base does not care about it' in capsys.readouterr().out
    assert torch.equal(x_T, candidate(0, indifferent.shape, 0))
    with torch.no_grad():
        next(mine.net.parameters()).add_(1)  # the same name, other weights
    search = '`odebc search --model mine .*--seed 0'
    says = f'no x_T is shipped for the model mine: search one with {search}'
    with pytest.raises(OdebcError, match=says):
        start_for(mine, 'mine', None, None, None)
    x_T, sampler = start_for(mine, 'mine', None, 0, None)
    assert torch.equal(x_T, candidate(0, (3, 64, 64), 0)) and sampler == 'DDIM-20'
    with pytest.raises(OdebcError, match='give one of them'):
        start_for(small, 'small', tmp_path, 0, None)
    capsys.readouterr()
    for sampler in ('DDPM-10', 'DDIM-0', 'nonsense'):  # no advice to search for these
        with pytest.raises(OdebcError):
            start_for(small, 'small', None, None, sampler)
        assert not capsys.readouterr().out
    large = SR3(small.net, small.scale, 128)  # what ships was found for 64
    with pytest.raises(OdebcError, match='no x_T is shipped'):
        start_for(large, 'large', None, None, None)


def test_a_start_of_another_size_is_refused(tmp_path):
    from odebc.cli import start_for
    from odebc.runner import BoundaryCondition

    found = BoundaryCondition(torch.zeros(3, 32, 32), 0, 0, torch.zeros(1, 1), 1, 1, 0.0)
    found.save(tmp_path / 'x_T')
    warned = pytest.warns(UserWarning, match='another model')
    says = r'shape \(3, 64, 64\) of the model small, not \(3, 32, 32\)'
    with warned, pytest.raises(OdebcError, match=says):
        start_for(SR3.from_pretrained(), 'small', tmp_path / 'x_T', None, None)


def test_the_command_solves_as_it_is_told(tmp_path):
    to_image(picture_of(20, 24, seed=3).colours).save(tmp_path / 'in.png')
    args = ['upscale', tmp_path / 'in.png', '--sampler', 'DDIM-2', '--out']
    for mode in module.MODES:
        done = odebc(*args, tmp_path / mode, '--mode', mode)
        assert done.returncode == 0, done.stderr
        facts = kept_facts(tmp_path / mode / 'in_x4.png')
        assert facts.get('mode', 'tiles') == mode
    done = odebc(*args, tmp_path, '--mode', 'all')
    assert done.returncode == 2 and "whole, windows, tiles or auto, not 'all'" in done.stderr


def test_a_bad_picture_is_found_before_the_first_is_enlarged(tmp_path):
    to_image(picture_of(10, 12).colours).save(tmp_path / 'good.png')
    (tmp_path / 'bad.png').write_bytes(b'\x89PNG no more')
    pictures = tmp_path / 'good.png', tmp_path / 'bad.png'
    done = odebc('upscale', *pictures, '--out', tmp_path / 'out')
    assert done.returncode == 2
    assert 'cannot read' in done.stderr
    assert not list(tmp_path.glob('out/*'))


def test_the_precision_of_what_was_begun_is_kept(model, tmp_path):
    "The machine, or whoever set ODEBC_PRECISION, may have changed its mind meanwhile"
    to_image(picture_of(10, 12, seed=3).colours).save(tmp_path / 'in.png')
    args = ['upscale', tmp_path / 'in.png', '--out', tmp_path]
    args += '--sampler DDIM-1 --seed 0'.split()
    done = odebc(*args, ODEBC_PRECISION='bfloat16')
    assert done.stdout.startswith('precision: bfloat16, as ODEBC_PRECISION says')
    assert kept_facts(tmp_path / 'in_x4.png')['bf16'] is True
    done = odebc(*args, ODEBC_PRECISION='float32')
    assert done.stdout.startswith('precision: bfloat16, as in ')
    assert 'is there already' in done.stdout
    assert 'wrote' in odebc(*args, '--precision', 'float32').stdout
    assert kept_facts(tmp_path / 'in_x4.png')['bf16'] is False


def test_facts_of_what_was_begun(model, x_T, tmp_path):
    assert kept_facts(tmp_path / 'x.png') == kept_facts(tmp_path / 'x.png.part') == {}
    rest = dict(picture=picture_of(20, 30), x_T=x_T, target=tmp_path / 'x.png', batch=4)
    with pytest.raises(KeyboardInterrupt):
        Enlargement(Counting(model.solution_map('DDIM-1'), 3, stop), **rest).run()
    assert kept_facts(tmp_path / 'x.png.part')['sampler'] == 'DDIM-1'
    bf16 = SR3(model.net, model.scale, model.size, precision='bfloat16')
    with pytest.raises(OdebcError, match=r'with another precision \(float32, not bfloat16\)'):
        Enlargement(bf16.solution_map('DDIM-1'), **rest).run()


# --- at once, and in windows of one canvas


class Known:
    "The model's map; its network is stopped before one of its calls, and counted"

    def __init__(self, h, stop_at=None):
        needs(h, torch.zeros(3, 32, 32), torch.zeros(3, 8, 8))  # asks it once, then knows
        self.calls, self.stop_at = 0, stop_at
        self.map = h.with_eps(self.change)

    def change(self, eps):
        def eps_of(y):
            eps_fn = eps(y)

            def fn(x, t):
                if self.calls == self.stop_at:
                    raise KeyboardInterrupt
                self.calls += 1
                return eps_fn(x, t)

            return fn

        return eps_of


@pytest.mark.parametrize('sampler', ['DDIM-2', 'DPM-3M-4', 'DPMS-4'])
def test_all_ways_agree_where_the_picture_is_as_large_as_the_start(model, x_T, sampler):
    h = model.solution_map(sampler)
    y = picture_of(8, 8).colours
    expected = h(x_T[None], y[None])[0]
    for mode in module.MODES:
        for cells in ('periodic', 'scrambled'):
            found = enlarge(h, y, x_T, mode=mode, cells=cells)
            assert (found - expected).abs().max() < 1e-5


def test_at_once_is_the_map_on_the_canvas(model, x_T):
    h = model.solution_map('DDIM-2')
    y = picture_of(20, 28).colours
    for cells in ('periodic', 'scrambled'):
        start = canvas(x_T, 80, 112, cells, 3)
        found = enlarge(h, y, x_T, mode='whole', cells=cells, seed=3)
        assert torch.equal(found, h(start[None], y[None])[0])


def test_the_mean_over_windows_by_hand(model, x_T):
    "One step with two windows, beside each other"
    h = model.solution_map('DDIM-1')
    y = picture_of(8, 12).colours
    found = enlarge(h, y, x_T, mode='windows', cells='periodic')
    start = canvas(x_T, 32, 48)[None]
    left, right = (
        model.eps(y[None, ..., at : at + 8])(start[..., 4 * at : 4 * at + 32], 1000.0)
        for at in (0, 4)
    )
    window = Tiling(8, 12, 32).window()
    total, weight = torch.zeros(1, 3, 32, 48), torch.zeros(32, 48)
    for guess, at in ((left, 0), (right, 16)):
        total[..., at : at + 32] += window * guess
        weight[:, at : at + 32] += window
    expected = model.h(start, y[None], 'DDIM-1')  # for its place in the schedule only
    alpha, sigma = (f(1000.0) for f in (model.sched.alpha, model.sched.sigma))
    expected = ((start - sigma * total / weight) / alpha).clamp(-1, 1)[0]
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize('mode', ['whole', 'windows'])
@pytest.mark.parametrize('height, width', [(1, 1), (9, 31), (1, 60), (41, 13), (8, 8)])
def test_any_size_at_once(model, x_T, tmp_path, mode, height, width):
    "In memory and as a file, with alpha; a network that halves twice more, too"
    picture = picture_of(height, width, alpha=True)
    for network, start in ((model, x_T), (tiny(64, 16), torch.zeros(3, 64, 64))):
        h = network.solution_map('DDIM-2')
        x = enlarge(h, picture.colours, start, mode=mode, batch=3)
        assert x.shape == (3, 4 * height, 4 * width) and x.abs().max() < 1.0001
        target = tmp_path / f'{network.size}.png'
        Enlargement(h, picture, start, target, batch=3, mode=mode).run()
        result = load_picture(target)
        assert torch.equal(to_bytes(result.colours), to_bytes(x))
        whole = F.interpolate(picture.alpha[None], scale_factor=4, mode='bicubic')[0]
        assert (result.alpha - whole.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-5
        assert kept_facts(target)['mode'] == mode


@pytest.mark.parametrize('sampler', ['DDIM-4', 'DPM-3M-5'])
@pytest.mark.parametrize('mode, calls', [('whole', 1), ('windows', 6)])
def test_at_once_stopped_and_gone_on(model, x_T, tmp_path, mode, calls, sampler):
    "At every call in turn: finished steps are not done again, and the pixels are the same"
    picture = picture_of(12, 20, alpha=True)
    h = model.solution_map(sampler)
    how = dict(batch=2, mode=mode)
    Enlargement(h, picture, x_T, tmp_path / 'whole.png', **how).run()
    if mode == 'windows':
        calls = math.ceil(len(Tiling(12, 20, 32).places) / 2)
    total = calls * h.nfe
    for n in range(0, total, 1 if mode == 'whole' else 5):
        target = tmp_path / f'stopped{n}.png'
        stopped, rest = Known(h, n), Known(h)
        with pytest.raises(KeyboardInterrupt):
            Enlargement(stopped.map, picture, x_T, target, **how).run()
        assert not target.exists()
        again = Enlargement(rest.map, picture, x_T, target, **how)
        forecast = again.forecast()
        assert forecast.left == h.nfe - n // calls and forecast.steps == h.nfe
        again.run()
        assert rest.calls == total - n // calls * calls == forecast.batches
        assert target.read_bytes() == (tmp_path / 'whole.png').read_bytes()
        assert not target.with_name(target.name + '.part').exists()


def test_what_was_begun_goes_on_in_the_same_way(model, x_T, tmp_path, monkeypatch):
    "Whatever memory is free meanwhile, where nobody says how"
    picture = picture_of(12, 20)
    h = model.solution_map('DDIM-4')
    for mode in module.MODES:
        target = tmp_path / f'{mode}.png'
        stopped = Known(h, 2)
        with pytest.raises(KeyboardInterrupt):
            Enlargement(stopped.map, picture, x_T, target, batch=2, mode=mode).run()
        again = Enlargement(h, picture, x_T, target, batch=2, mode='auto')
        assert again.mode == mode
        again.run()
        assert Enlargement(h, picture, x_T, target, batch=2, mode='auto').mode in (
            mode,
            'whole',
        )


def test_a_guess_that_is_damaged_is_made_again(model, x_T, tmp_path):
    picture, target = picture_of(12, 20), tmp_path / 'x.png'
    h = model.solution_map('DDIM-4')
    with pytest.raises(KeyboardInterrupt):
        Enlargement(Known(h, 3).map, picture, x_T, target, mode='whole').run()
    (tmp_path / 'x.png.part' / 'guess-1.safetensors').write_bytes(b'no tensor')
    rest = Known(h)
    Enlargement(rest.map, picture, x_T, target, mode='whole').run()
    assert rest.calls == 2
    assert levels_apart(target, enlarge(h, picture.colours, x_T, mode='whole')) == 0


@pytest.mark.parametrize(
    'change, name',
    [
        (dict(mode='windows'), 'overlap'),
        (dict(cells='periodic'), 'cells'),
        (dict(seed=1), 'seed'),
    ],
)
def test_half_of_another_way_is_not_touched(model, x_T, tmp_path, change, name):
    first = dict(h=model.solution_map('DDIM-4'), picture=picture_of(12, 20), x_T=x_T)
    first |= dict(target=tmp_path / 'x.png', mode='whole', cells='scrambled')
    with pytest.raises(KeyboardInterrupt):
        Enlargement(**first | dict(h=Known(first['h'], 3).map)).run()
    kept = list((tmp_path / 'x.png.part').glob('guess-*'))
    with pytest.raises(OdebcError, match='holds half of an enlargement with another'):
        Enlargement(**first | change).run()
    assert len(kept) == 3 and all(path.exists() for path in kept)


def test_memory_decides(model, x_T, monkeypatch):
    "Much: at once; less: in windows; little: in tiles; and no map that takes one size only"
    y = picture_of(64, 64).colours
    h = model.solution_map('DDIM-2')

    def way(h, free, advice=('whole', 'scrambled')):
        monkeypatch.setattr(module, 'available_memory', lambda device='cpu': free)
        monkeypatch.setattr(module, 'advised', lambda h: advice)
        return module.Way(h, x_T, y, Tiling(64, 64, 32), 1, 'auto', None, 0)

    whole = way(h, 1e12)
    assert (whole.mode, whole.cells) == ('whole', 'scrambled')
    assert way(h, whole.memory - 1).mode == 'windows'
    assert way(h, way(h, whole.memory - 1).memory - 1).mode == 'tiles'
    assert way(h, 1e12, ('tiles', 'periodic')).mode == 'tiles'
    advised = way(h, 1e12, ('windows', 'periodic'))
    assert (advised.mode, advised.cells) == ('windows', 'periodic')
    assert way(solution_map(h, nfe=2), 1e12).mode == 'whole'  # it is a map already
    one_size = solution_map(lambda x_T, y: h(x_T, y), nfe=2)
    assert way(one_size, 1e12).mode == 'tiles'
    many = solution_map(lambda x_T, y: h(x_T, y), nfe=2, multiple=4)
    assert way(many, 1e12).mode == 'whole'
    assert way(many, way(many, 1e12).memory - 1).mode == 'tiles'  # no windows
    for mode, says in (('whole', 'one size only'), ('windows', 'one size only')):
        with pytest.raises(OdebcError, match=says):
            enlarge(one_size, y, x_T, mode=mode)
    with pytest.raises(OdebcError, match='cannot be reached'):
        enlarge(many, y, x_T, mode='windows')
    with pytest.raises(OdebcError, match="not 'all'"):
        enlarge(h, y, x_T, mode='all')
    monkeypatch.setattr(module, 'available_memory', lambda device='cpu': 1e5)
    for mode in ('whole', 'windows'):
        with pytest.raises(OdebcError, match='in memory needs .* --mode tiles'):
            enlarge(h, y, x_T, mode=mode)


def test_a_map_of_ones_own_that_takes_any_size(model, x_T):
    h = model.solution_map('DDIM-2')
    mine = solution_map(lambda x_T, y: h(x_T, y), nfe=2, multiple=4)
    y = picture_of(11, 30).colours
    ours, theirs = (enlarge(one, y, x_T, mode='whole', cells='periodic') for one in (mine, h))
    assert torch.equal(ours, theirs)


PEAK = """
import resource, sys, threading, time
import torch, psutil
torch.set_num_threads(1)
from odebc.enlarge import enlarge, Way, laid_out
from odebc.footprint import calm_heap
from odebc.sr3 import SR3
calm_heap()  # from the beginning, so that nothing free is reckoned as taken
name, precision, mode, height, width, label = sys.argv[1:]
model = SR3.from_pretrained(name, precision=precision)
h, x_T = model.solution_map(label), torch.randn(model.shape)
y = torch.rand(3, int(height), int(width)) * 2 - 1
way = Way(h, x_T, y, laid_out(y, x_T, 4, 4, 2), 2, mode, 'periodic', 0)
forecast = way.memory
enlarge(h, y[:, :20, :70], x_T, mode=mode, batch=2)  # what libraries take once
before = psutil.Process().memory_info().rss
most = before
def watch():
    global most
    while True:
        most = max(most, psutil.Process().memory_info().rss)
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
enlarge(h, y, x_T, mode=mode, batch=2)
print(forecast, most - before)
"""


@pytest.mark.parametrize(
    'name, precision, mode, height, width, label',
    [
        ('small', 'float32', 'whole', 128, 192, 'DDIM-2'),
        ('small', 'bfloat16', 'whole', 130, 130, 'DPM-3M-4'),
        ('base', 'float32', 'whole', 100, 150, 'DDIM-2'),
        ('small', 'bfloat16', 'windows', 300, 490, 'DDIM-1'),
    ],
)
def test_memory_is_as_forecast(name, precision, mode, height, width, label):
    "Of a child process, within a fifth"
    command = [sys.executable, '-c', PEAK, name, precision, mode, height, width, label]
    done = finished([str(word) for word in command], check=True, env=QUIET)
    forecast, measured = map(int, done.stdout.split()[-2:])
    assert measured == pytest.approx(forecast, rel=0.2)
