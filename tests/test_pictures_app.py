"The app that enlarges a picture, from Python's side: what it answers to the browser."

import io
import tempfile
import threading
import time
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from waiting import LIMIT
import odebc.enlarge
from odebc.app.pictures import ANSWERS
from odebc.app.views import BESIDE, SCORED
from odebc.app.workshop import Job, Request, Workshop
from odebc.data import degrade, photographs, upsample
from odebc.enlarge import Enlargement, enlarge_files, gigabytes, kept_facts, shipped_start
from odebc.errors import OdebcError, Stopped
from odebc.images import from_file, load_image, load_picture, Picture, picture_size
from odebc.images import to_bytes, to_image
from odebc.matrix import candidate
from odebc.metrics import psnr
from odebc.runner import BoundaryCondition
from odebc.sr3 import SR3


@pytest.fixture(scope='module')
def room(tmp_path_factory):
    "A workshop; its scores are drawn, and nothing here looks at them"
    folder = tmp_path_factory.mktemp('shelf')
    tensors = {name: torch.rand(3, 4) for name in SCORED}
    tensors |= {f'{what} {name}': torch.rand(2) for what in BESIDE for name in SCORED}
    facts = dict(model='small', sampler='DDIM-2', side='64', R='2', seed='0')
    facts |= dict(weights='none', pairs='none', bf16='False')
    shown = dict(shown=torch.tensor([0]))
    save_file(tensors | shown, folder / 'small-DDIM-2.safetensors', facts)
    room = Workshop(folder)
    room.paces['small'] = 3, 0.01  # so that tiles come in several batches
    room.paces['base'] = 1, 1.0
    return room


def ask(room, name, args, file=None, **more):
    return ANSWERS[name](room, Request(args, [] if file is None else [file], **more))


def png(x, alpha=None, **how):
    file = io.BytesIO()
    to_image(x, alpha).save(file, 'PNG', **how)
    return file.getvalue()


def shade(height, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(3, height, width, generator=g) * 2 - 1


def handed(room, content, name='mine.png'):
    return ask(room, 'picture', dict(name=name), content)


def run(picture, crop=None, **changes):
    "The arguments of a forecast and of an enlargement"
    usual = dict(network='small', sampler='DDIM-2', start=dict(kind='shipped'), draws=0)
    return dict(picture=picture, crop=crop) | usual | changes


def test_a_result_is_that_of_upscale(room):
    small = room.model('small')
    y = degrade(photographs()['coffee'][None, :, 60:220, 200:328])[0]
    mine = handed(room, png(y))
    told = []
    result = ask(room, 'enlarge', run(mine['picture'], draws=1), tell=told.append)
    x_T = shipped_start(small.fingerprint, 'DDIM-2').x_T
    y = load_picture(png(y)).colours
    x = small.upscale(y, x_T, 'DDIM-2', batch=3, mode='tiles')
    assert torch.equal(to_bytes(load_picture(result['file']).colours), to_bytes(x))
    other = small.upscale(y, candidate(1, small.shape, 10**6), 'DDIM-2', batch=3, mode='tiles')
    assert torch.equal(to_bytes(load_picture(result['random']).colours), to_bytes(other))
    assert result['name'] == 'mine_x4.png' and 'plain' not in result
    shares = [one['share'] for one in told if 'share' in one]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 > shares[-2]


def test_the_file_is_that_of_the_command(room, tmp_path):
    "The same pixels, alpha and facts as `odebc upscale` writes"
    alpha = torch.linspace(0, 1, 20).expand(1, 18, 20)
    content = png(shade(18, 20), alpha)
    mine = handed(room, content)
    result = ask(room, 'enlarge', run(mine['picture']))
    (tmp_path / 'mine.png').write_bytes(content)
    small = room.model('small')
    h = small.solution_map('DDIM-2')
    x_T = shipped_start(small.fingerprint, 'DDIM-2').x_T
    target = tmp_path / 'out.png'
    how = dict(batch=3, mode='tiles', say=lambda line: None)
    enlarge_files(h, {target: tmp_path / 'mine.png'}, x_T, **how)
    assert result['file'] == target.read_bytes()
    (tmp_path / 'app.png').write_bytes(result['file'])
    assert kept_facts(tmp_path / 'app.png')['sampler'] == 'DDIM-2'
    got = load_picture(result['file'])
    assert mine['alpha'] and got.alpha.shape == (1, 72, 80)
    assert (got.alpha - upsample(alpha[None])[0].clamp(0, 1)).abs().max() < 0.01


FIXED = dict(kind='fixed')  # start of a network for which none is shipped
WIDE = 80, 66  # LR pixels of a picture for `base`, whose tiles have 64


def ways(mode, monkeypatch):
    "What is known of the network leaves one way"
    if mode == 'windows':
        monkeypatch.setattr(odebc.enlarge, 'AT_ONCE', 0)
    if mode == 'tiles':
        monkeypatch.setattr(odebc.enlarge, 'advised', lambda h: ('tiles', 'periodic'))


@pytest.mark.parametrize('mode', ['whole', 'windows', 'tiles'])
def test_a_network_enlarges_in_its_own_way(room, tmp_path, monkeypatch, mode):
    "The forecast, the pixels and the file are those of `odebc upscale --mode auto`"
    ways(mode, monkeypatch)
    content = png(shade(WIDE[1], WIDE[0]))
    mine = handed(room, content)
    args = run(mine['picture'], network='base', start=FIXED)
    said = ask(room, 'forecast', args)
    told = []
    result = ask(room, 'enlarge', args, tell=told.append)
    assert said['mode'] == result['mode'] == mode
    base = room.model('base')
    h, x_T = base.solution_map('DDIM-2'), candidate(0, base.shape)
    (tmp_path / 'mine.png').write_bytes(content)
    target = tmp_path / 'out.png'
    how = dict(batch=1, mode='auto')
    work = Enlargement(h, load_picture(content), x_T, target, **how)
    cost = work.forecast(2.0)  # seconds of a tile, two calls
    assert said['memory'] == gigabytes(cost.memory)
    assert said['seconds'] == pytest.approx(cost.seconds)
    enlarge_files(h, {target: tmp_path / 'mine.png'}, x_T, say=lambda line: None, **how)
    assert result['file'] == target.read_bytes()
    x = base.upscale(load_picture(content).colours, x_T, 'DDIM-2', **how)
    pixels = to_bytes(load_picture(result['file']).colours)
    assert torch.equal(pixels, to_bytes(x))
    other = base.upscale(
        load_picture(content).colours,
        x_T,
        'DDIM-2',
        batch=1,
        mode='whole' if mode == 'tiles' else 'tiles',
    )
    assert not torch.equal(pixels, to_bytes(other))
    assert (result['seams'] is None) == (mode == 'whole')
    pieces = 1 if mode == 'whole' else 4
    assert said['calls'] == result['calls'] == 2 * said['tiles'] == 2 * pieces
    shares = [one['share'] for one in told if 'share' in one]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 > shares[-2]


def test_what_is_solved_at_once_is_shown_when_it_is_there(room):
    "Each start's picture, as one tile, before the next one is begun"
    mine = handed(room, png(shade(WIDE[1], WIDE[0])))
    told = []
    args = run(mine['picture'], network='base', start=FIXED, draws=1)
    result = ask(room, 'enlarge', args, tell=told.append)
    shown = [one for one in told if 'tiles' in one]
    assert [one['which'] for one in shown] == [0, 1]
    assert told.index(shown[0]) < len(told) / 2 + 1
    for one, name in zip(shown, ('file', 'random')):
        assert one['places'] == [[0, 0]] and one['side'] == 4 * WIDE[0]
        seen = np.asarray(Image.open(io.BytesIO(one['tiles'])).convert('RGB'), float)
        assert seen.shape == (4 * WIDE[0], 4 * WIDE[0], 3)
        x = np.asarray(Image.open(io.BytesIO(result[name])), float)
        assert np.abs(seen[: 4 * WIDE[1]] - x).mean() < 12  # but for WEBP's rounding


def test_where_memory_is_short_it_is_windows(room, monkeypatch):
    mine = handed(room, png(shade(WIDE[1], WIDE[0])))
    args = run(mine['picture'], network='base', start=FIXED)
    base = room.model('base')
    y = load_picture(png(shade(WIDE[1], WIDE[0]))).colours
    how = dict(batch=1, mode='whole')
    h = base.solution_map('DDIM-2')
    whole = Enlargement(h, Picture(y), candidate(0, base.shape), 'none.png', **how)
    assert ask(room, 'forecast', args)['mode'] == 'whole'
    monkeypatch.setattr(odebc.enlarge, 'available_memory', lambda device: whole.way.memory - 1)
    said = ask(room, 'forecast', args)
    assert said['mode'] == 'windows' and said['tiles'] == 4


@pytest.mark.parametrize('mode', ['whole', 'windows'])
def test_a_picture_that_is_solved_at_once_can_be_cancelled(room, monkeypatch, mode):
    "Between two calls of the network; nothing is left on disk"
    ways(mode, monkeypatch)
    mine = handed(room, png(shade(WIDE[1], WIDE[0])))
    args = run(mine['picture'], network='base', start=FIXED, sampler='DDIM-10')
    assert ask(room, 'forecast', args)['mode'] == mode
    folders, calls, asked = [], [], []
    made = tempfile.TemporaryDirectory

    def noted():
        folders.append(made())
        return folders[-1]

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise Stopped

    eps = SR3.eps

    def counting(self, y):
        fn = eps(self, y)
        return lambda x, t: (asked.append(len(x)), fn(x, t))[1]

    monkeypatch.setattr(SR3, 'eps', counting)
    monkeypatch.setattr(tempfile, 'TemporaryDirectory', noted)
    with pytest.raises(Stopped):
        ask(room, 'enlarge', args, check=check)
    assert len(calls) == 3 and len(asked) == 2
    assert folders and not any(Path(folder.name).exists() for folder in folders)


@pytest.mark.parametrize('draws', [0, 2])
@pytest.mark.parametrize('crop', [[0, 0, 10, 8], [3, 5, 16, 16], [0, 2, 30, 20]])
def test_a_forecast_counts_the_calls(room, monkeypatch, crop, draws):
    args = run('coffee', crop, draws=draws)
    said = ask(room, 'forecast', args)
    counted = []
    eps = SR3.eps

    def counting(self, y):
        fn = eps(self, y)
        return lambda x, t: (counted.append(len(x)), fn(x, t))[1]

    monkeypatch.setattr(SR3, 'eps', counting)
    tiles = []
    result = ask(room, 'enlarge', args, tell=tiles.append)
    assert said['calls'] == sum(counted) == result['calls']
    assert said['seconds'] == pytest.approx(said['calls'] * 0.01)
    tiles = [one for one in tiles if 'tiles' in one]
    assert sum(len(one['places']) for one in tiles) == said['tiles'] * (1 + draws)
    for one in tiles:
        side, count = one['side'], len(one['places'])
        assert Image.open(io.BytesIO(one['tiles'])).size == (side, side * count)
    size = Image.open(io.BytesIO(result['file'])).size
    assert size == (said['width'], said['height']) == (4 * crop[2], 4 * crop[3])
    assert len(result['draws']) == draws


def test_a_pace_is_measured_once(room):
    del room.paces['small']
    args = run('china', [0, 0, 8, 8])
    seconds = [ask(room, 'forecast', args)['seconds'] for _ in range(2)]
    assert seconds[0] == seconds[1] > 0 and 1 <= room.paces['small'][0] <= 16
    room.paces['small'] = 3, 0.01


def test_scores_are_those_of_the_files(room):
    crop = [4, 8, 20, 16]
    result = ask(room, 'enlarge', run('coffee', crop, draws=2))
    z = photographs()['coffee'][:, 60 + 32 : 60 + 96, 200 + 16 : 200 + 96]
    before = ask(room, 'cropped', dict(picture='coffee', crop=crop))
    assert torch.equal(to_bytes(load_picture(before['z']).colours), to_bytes(z))
    names = dict(chosen=result['file'], plain=before['bicubic'])
    distance = room.distance()
    for name, file in names.items():
        x = load_picture(file).colours[None]
        mine = [distance(x, z[None]).item(), psnr(x, z[None]).item()]
        assert result[name] == pytest.approx(mine, abs=1e-5)
    x = load_picture(result['random']).colours[None]
    assert result['draws'][0][1] == pytest.approx(psnr(x, z[None]).item(), abs=1e-4)
    assert result['draws'][0] != result['draws'][1] and result['measure'] in distance.name


def test_seams_are_those_between_tiles(room):
    result = ask(room, 'enlarge', run('coffee', [0, 0, 28, 16]))
    x = load_picture(result['file']).colours
    steps = x.diff(dim=2).abs().mean((0, 1))  # two tiles, beside each other: 0–64 and 48–112
    on = steps[[47, 63]]
    rows = x.diff(dim=1).abs().mean((0, 2))
    rest = torch.ones(len(steps), dtype=torch.bool)
    rest[[47, 63]] = False
    off = torch.cat([rows, steps[rest]])
    assert result['seams'] == pytest.approx((on.mean() / off.mean()).item(), rel=1e-4)
    assert ask(room, 'enlarge', run('coffee', [0, 0, 16, 16]))['seams'] is None


def test_a_cancelled_run_ends_and_leaves_the_room_usable(room):
    job, begun, dropped = Job(), threading.Event(), threading.Event()
    args = run('china', sampler='DDIM-50')

    def work(check):
        ask(room, 'enlarge', args, check=check, tell=lambda told: begun.set())

    job.start(work, dropped.set)
    assert begun.wait(LIMIT)
    time.sleep(0.5)
    begin = time.monotonic()
    job.cancel()
    assert dropped.wait(LIMIT)
    calls = time.monotonic() - begin
    assert calls < 2, 'one call of the network for three tiles, on a busy machine'
    again = ask(room, 'enlarge', run('china', [0, 0, 8, 8]))
    assert load_picture(again['file']).colours.shape == (3, 32, 32)


def test_nothing_is_solved_after_the_question_is_dropped(room):
    "It ends before the next call, also where the wish comes in the middle of a solve"
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        ask(room, 'enlarge', run('china', sampler='DDIM-10'), check=check)
    assert len(calls) == 3


BAD = {
    'a text': b'this is no picture',
    'nothing': b'',
    'half a picture': png(shade(40, 40))[:900],
    'a vector drawing': b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize('content', BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_by_its_name(room, content):
    before = dict(room.pictures)
    with pytest.raises(OdebcError, match='^cannot read holiday.png as an image') as info:
        handed(room, content, 'holiday.png')
    assert 'object at' not in str(info.value)
    assert room.pictures == before


@pytest.mark.parametrize('content', BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize('read', [load_picture, from_file, load_image])
def test_content_is_called_by_a_name(read, content):
    "In every way to read it"
    for given in (content, io.BytesIO(content)):
        with pytest.raises(OdebcError, match='^cannot read this picture as an image') as info:
            read(given)
        assert '0x' not in str(info.value) and 'BytesIO' not in str(info.value)


@pytest.mark.parametrize('depth', [8, 16])
def test_content_is_read_as_the_file_is(tmp_path, depth):
    path = tmp_path / 'a.png'
    values = np.arange(24 * 30, dtype=np.uint16).reshape(24, 30) * 90
    image = Image.fromarray(values if depth == 16 else (values >> 8).astype(np.uint8))
    image.save(path)
    for given in (path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert torch.equal(load_picture(given).colours, load_picture(path).colours)
        assert picture_size(given) == (30, 24)


def test_a_size_is_not_told_of_what_is_no_picture():
    for content in (b'', b'a text'):
        with pytest.raises(OdebcError, match='^cannot read this picture as an image: it is n'):
            picture_size(content)


def test_remarks_about_content_name_it(tmp_path):
    frames = [Image.new('L', (9, 9), level) for level in (0, 255)]
    file = io.BytesIO()
    frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match='^moving.gif: it holds several pictures'):
        load_picture(file.getvalue(), 'moving.gif')
    with pytest.warns(UserWarning, match='^this picture: it holds several pictures'):
        load_picture(file)
    path = tmp_path / 'moving.gif'
    path.write_bytes(file.getvalue())
    with pytest.warns(UserWarning, match='moving.gif: it holds several pictures'):
        assert (load_picture(path).colours == -1).all()


def test_a_picture_too_large_is_refused(room, monkeypatch):
    wide = io.BytesIO()
    Image.new('1', (6000, 5000)).save(wide, 'PNG')
    with pytest.raises(OdebcError, match='wide.png has 6000×5000 pixels'):
        handed(room, wide.getvalue(), 'wide.png')


CROPS = {
    'outside': [10, 0, 20, 20],
    'left of it': [-1, 0, 5, 5],
    'above it': [0, -3, 5, 5],
    'empty': [0, 0, 0, 5],
}


@pytest.mark.parametrize('crop', CROPS.values(), ids=CROPS.keys())
def test_a_crop_lies_inside(room, crop):
    number = handed(room, png(shade(24, 24)))['picture']
    for name in ('cropped', 'forecast', 'enlarge'):
        with pytest.raises(OdebcError, match='inside the picture'):
            ask(room, name, run(number, crop))


def test_a_crop_has_a_usual_size_and_a_largest(room):
    mine = handed(room, png(shade(530, 600)), 'large.png')
    assert (mine['width'], mine['height'], mine['known']) == (600, 530, False)
    assert mine['crop'] == [236, 201, 128, 128]
    preview = Image.open(io.BytesIO(mine['preview']))
    assert preview.size == (480, 424)
    with pytest.raises(OdebcError, match='513×10 pixels'):
        ask(room, 'forecast', run(mine['picture'], [0, 0, 513, 10]))
    whole = ask(room, 'forecast', run(mine['picture'], [0, 0, 512, 512]))
    assert whole['width'] == 2048 and whole['tiles'] == 43**2
    small = handed(room, png(shade(9, 200)))
    assert small['crop'] == [36, 0, 128, 9]


def test_the_last_two_files_are_kept(room):
    numbers = [handed(room, png(shade(8, 8, i)))['picture'] for i in range(3)]
    assert sorted(room.pictures) == numbers[1:]
    with pytest.raises(OdebcError, match='hand it over again'):
        ask(room, 'cropped', dict(picture=numbers[0], crop=None))


def test_what_does_not_belong_together_is_told(room):
    def warned(**changes):
        said = ask(room, 'forecast', run('china', [0, 0, 8, 8], **changes))
        return said['warning'], said['usable']

    assert warned(sampler='DDIM-20') == ('', True)
    assert 'with DDIM-20, not with DPMS-10' in warned(sampler='DPMS-10')[0]
    assert warned(start=dict(kind='random')) == ('', True)
    chosen = dict(kind='chosen', network='small-mid', sampler='DDIM-2', seed=0, index=1)
    assert 'for another network' in warned(start=chosen)[0]
    assert warned(start=chosen | dict(network='small')) == ('', True)
    assert 'not with DDIM-2' in warned(start=chosen | dict(network='small', sampler='X'))[0]
    says, usable = warned(network='base', start=chosen)
    assert says == 'This start has 64×64 pixels, and the network takes 256×256.' and not usable
    with pytest.raises(OdebcError, match='256×256'):
        ask(room, 'enlarge', run('china', network='base', start=chosen))
    assert warned(network='base', start=dict(kind='fixed')) == ('', True)
    with pytest.raises(OdebcError, match='no x_T is shipped for base'):
        warned(network='base')


def test_the_start_of_the_live_search(room):
    with pytest.raises(OdebcError, match='no live search'):
        ask(room, 'enlarge', run('china', [0, 0, 8, 8], start=dict(kind='found')))
    small = room.model('small')
    x_T = candidate(5, small.shape, 3)
    meta = small.solution_map('DDIM-3').meta
    D = torch.rand(6, 2)
    room.found = BoundaryCondition(x_T, 3, 5, D, 12, 36, 0.0, meta, None)
    try:
        args = run('china', [0, 0, 12, 8], start=dict(kind='found'))
        assert 'with DDIM-3, not with DDIM-2' in ask(room, 'forecast', args)['warning']
        result = ask(room, 'enlarge', args | dict(sampler='DDIM-3'))
    finally:
        room.found = None
    y = degrade(photographs()['china'][None, :, 60:316, 250:506])[0][:, :8, :12]
    x = small.upscale(y, x_T, 'DDIM-3', batch=3, mode='tiles')
    assert torch.equal(to_bytes(load_picture(result['file']).colours), to_bytes(x))


def test_the_start_that_a_network_comes_with(room):
    for network in ('small', 'small-mid'):
        said = ask(room, 'starts', dict(network=network))
        assert said == dict(kind='shipped', sampler='DDIM-20', why='')
    said = ask(room, 'starts', dict(network='base'))
    assert said['kind'] == 'fixed' and said['why'].startswith('base does not care')
