"""Downloads against a local server, properties of patches, resizing against torchvision and
Pillow, broken files.
"""

import hashlib
import io
import math
import struct
import tarfile
import threading
import weakref
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from PIL import ExifTags, Image, ImageOps
from odebc import downloads, images as pictures
from odebc.data import augment, crops, degrade, PHOTOGRAPHS, photographs, split, tiles
from odebc.data import upsample
from odebc.degradations import blur, gaussian_kernel, gaussian_noise, degradation_stages, jpeg
from odebc.degradations import poisson_noise, realistic, resize, sinc_kernel
from odebc.downloads import Dataset, download
from odebc.images import byte_folder, image_folder, load_image, to_bytes, to_image, to_tensor
from odebc.metrics import import_torchvision


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the photographs that come with the package

SUMS = {  # of five the same sum stands in scikit-image's own registry of files
    'astronaut.png': '88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5',
    'chelsea.png': '596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb',
    'china.jpg': '8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29',
    'coffee.png': 'cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7',
    'flower.jpg': 'a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638',
    'retina.jpg': '38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6',
    'rocket.jpg': 'c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c',
}


def test_nobody_has_saved_the_photographs_anew():
    folder = files('odebc.assets') / 'photographs'
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SUMS}
    assert sums == SUMS and list(SUMS) == list(PHOTOGRAPHS)


def test_each_photograph_has_its_licence():
    text = (files('odebc.assets') / 'photographs/LICENCES.md').read_text(encoding='utf8')
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ')][2:]
    assert [row[0].removeprefix('| ') for row in rows] == list(SUMS)
    licences = {row[-1].removesuffix(' |') for row in rows}
    assert licences == {'public domain', 'CC0 1.0', 'CC BY 2.0'}


def test_the_photographs_are_those_of_scikit_image_and_scikit_learn():
    examples = pytest.importorskip('skimage.data')
    datasets = pytest.importorskip('sklearn.datasets')
    mine = photographs()
    assert list(mine) == sorted(mine) and len(mine) == 7
    for name, photo in mine.items():
        if name in ('china', 'flower'):
            pixels = datasets.load_sample_image(f'{name}.jpg')
        else:
            pixels = getattr(examples, name)()
        assert torch.equal(photo, to_tensor(Image.fromarray(pixels))), name


class Server:
    """Serves one archive, even to other machines' names for it; the first `broken` answers
    close in the middle
    """

    def __init__(self, content):
        self.requests = 0
        self.broken = 0
        self.announced = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                if 'missing' in self.path:
                    self.send_error(404)
                    return
                self.send_response(200)
                if server.announced:
                    self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                half = server.requests <= server.broken
                self.wfile.write(content[: len(content) // 2] if half else content)

            def log_message(self, *args):
                pass

        self.http = HTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as z:
        for folder in ('HR', 'LR'):
            for name, x in list(photographs().items())[:2]:
                picture = io.BytesIO()
                to_image(x[:, :90, :80]).save(picture, 'PNG')
                z.writestr(f'Set/{folder}/{name}.png', picture.getvalue())
    return buffer.getvalue()


@pytest.fixture
def server(archive, monkeypatch):
    server = Server(archive)
    right, zeros = 'sha256:' + hashlib.sha256(archive).hexdigest(), 'md5:' + 32 * '0'
    known = {
        'Right': Dataset(f'{server.url}/set.zip', right, ['Set/HR'], 2),
        'Wrong': Dataset(f'{server.url}/other.zip', zeros, ['Set/HR'], 2),
        'Few': Dataset(f'{server.url}/few.zip', right, ['Set/HR'], 3),
        'Gone': Dataset(f'{server.url}/missing.zip', right, ['Set/HR'], 2),
    }
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.setattr(downloads, 'DATASETS', known)
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_set_is_downloaded_once(server, tmp_path):
    images = image_folder(download('Right', tmp_path))
    assert list(images) == [f'{name}.png' for name in list(photographs())[:2]]
    assert torch.equal(images['astronaut.png'], photographs()['astronaut'][:, :90, :80])
    assert server.requests == 1
    download('Right', tmp_path)
    assert server.requests == 1
    assert [p.name for p in tmp_path.iterdir()] == ['Right']


def test_sets_of_one_archive_share_its_download(server, tmp_path, monkeypatch):
    known = downloads.DATASETS['Right']
    both = {'A': known, 'B': known._replace(folders=['Set/LR'])}
    monkeypatch.setattr(downloads, 'DATASETS', both)
    download('A', tmp_path)
    download('B', tmp_path)
    assert server.requests == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ['A', 'B']


def test_a_damaged_archive_in_the_cache_is_fetched_again(server, tmp_path):
    (tmp_path / 'set.zip').write_bytes(b'half')
    assert len(image_folder(download('Right', tmp_path))) == 2


def test_tar_archives(archive, tmp_path, monkeypatch):
    with zipfile.ZipFile(io.BytesIO(archive)) as z:
        files = {name: z.read(name) for name in z.namelist()}
    # what macOS adds, and what an attacker might
    files |= {'Set/HR/._astronaut.png': b'?', 'Set/HR/../../../evil.png': b'?'}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w:gz') as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f'./{name}')
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    server = Server(buffer.getvalue())
    md5 = 'md5:' + hashlib.md5(buffer.getvalue()).hexdigest()
    known = Dataset(f'{server.url}/set.tgz', md5, ['Set/HR'], 2)
    monkeypatch.setattr(downloads, 'DATASETS', {'Tar': known})
    expected = [f'{name}.png' for name in list(photographs())[:2]]
    assert list(image_folder(download('Tar', tmp_path / 'sub'))) == expected
    assert [p.name for p in tmp_path.iterdir()] == ['sub']
    server.http.shutdown()
    server.http.server_close()


def test_the_real_table():
    for known in downloads.DATASETS.values():
        kind, digits = known.sum.split(':')
        assert known.url.startswith('https://')
        assert len(bytes.fromhex(digits)) == hashlib.new(kind).digest_size
        assert known.count > 0
    assert not set(downloads.DATASETS['BSDS500'].folders) & set(
        downloads.DATASETS['BSD100'].folders
    )
    assert downloads.DATASETS['BSDS500'].without == ('302003',)


def test_an_address_that_is_gone(server, tmp_path):
    with pytest.raises(ValueError, match='cannot get Gone.*404.*fill the folder'):
        download('Gone', tmp_path)


def test_a_wrong_sum_is_refused_and_nothing_is_left(server, tmp_path):
    with pytest.raises(ValueError, match='cannot get Wrong.*hash.*You can fill the folder'):
        download('Wrong', tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'announced', [True, False], ids=['length announced', 'length unknown']
)
def test_a_broken_connection_is_tried_again(server, tmp_path, announced):
    server.announced = announced
    server.broken = 1
    assert len(image_folder(download('Right', tmp_path))) == 2
    assert server.requests == 2


def test_an_ever_broken_connection_leaves_nothing(server, tmp_path):
    server.broken = 99
    with pytest.raises(ValueError, match='cannot get Right'):
        download('Right', tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.broken = 0
    assert len(image_folder(download('Right', tmp_path))) == 2


def test_unpacking_that_is_interrupted_leaves_no_half_folder(server, tmp_path, monkeypatch):
    real = downloads.archived
    seen = []

    def stops(path):
        for item in real(path):
            seen.append(item[0])
            if len(seen) == 2:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as m:
        m.setattr(downloads, 'archived', stops)
        with pytest.raises(KeyboardInterrupt):
            download('Right', tmp_path)
    assert not (tmp_path / 'Right').exists()
    assert len(image_folder(download('Right', tmp_path))) == 2


def test_another_process_may_be_faster(server, tmp_path, monkeypatch):
    real = downloads.unpack

    def overtaken(*args):
        real(*args)
        real(*args)  # the second cannot replace a folder that is in use

    monkeypatch.setattr(downloads, 'unpack', overtaken)
    assert len(image_folder(download('Right', tmp_path))) == 2
    assert [p.name for p in tmp_path.iterdir()] == ['Right']


def test_a_tilde_is_the_home_folder(server, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('ODEBC_DATA', '~/sets')
    assert download('Right') == tmp_path / 'sets' / 'Right'


def test_images_of_other_sets_are_left_out(server, tmp_path, monkeypatch):
    "The woman of Set5 is a photograph of BSDS500"
    one = downloads.DATASETS['Right']._replace(count=1, without=('astronaut',))
    monkeypatch.setitem(downloads.DATASETS, 'Right', one)
    assert list(image_folder(download('Right', tmp_path))) == [f'{list(photographs())[1]}.png']


@pytest.mark.parametrize('mode, value', [('F', 0.5), ('I', 70_000), ('I', -1)])
def test_pictures_without_an_agreed_white_are_refused(mode, value, tmp_path):
    Image.new(mode, (8, 8), value).save(tmp_path / 'x.tif')
    with pytest.raises(ValueError, match='x.tif as an image.*no agreed white'):
        load_image(tmp_path / 'x.tif')


def test_an_archive_without_all_images_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match='few.zip holds 2 images in Set/HR, not 3'):
        download('Few', tmp_path)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


def test_without_network_the_message_names_the_folder_and_filling_it_works(
    tmp_path, monkeypatch
):
    nowhere = Dataset('http://127.0.0.1:9/set.zip', 'md5:' + 32 * '0', ['HR'], 5)
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.setattr(downloads, 'DATASETS', {'Set5': nowhere})
    monkeypatch.setenv('ODEBC_DATA', str(tmp_path))
    (tmp_path / 'Set5').mkdir()
    (tmp_path / 'Set5/.hidden.png').write_bytes(b'')  # does not make it a folder of images
    with pytest.raises(ValueError, match=f'fill the folder {tmp_path}/Set5'):
        download('Set5')
    to_image(photographs()['coffee']).save(tmp_path / 'Set5/mine.png')
    (tmp_path / 'Set5/.hidden.png').unlink()
    # and there is still no network
    assert list(image_folder(download('Set5'))) == ['mine.png']
    with pytest.raises(ValueError, match='known are Set5'):
        download('Set6')


@given(n=st.integers(1, 4), size=st.integers(1, 12), seed=st.integers(0, 99))
@example(n=4, size=12, seed=0)
@settings(max_examples=30, deadline=None)
def test_every_crop_is_a_part_of_its_image(n, size, seed):
    images = [torch.arange(3 * 12 * 17).view(3, 12, 17) + 10_000 * i for i in range(3)]
    for patch in crops(images, n, size, seeded(seed)):
        i = int(patch[0, 0, 0]) // 10_000
        row, column = divmod(int(patch[0, 0, 0]) % 10_000, 17)
        assert torch.equal(patch, images[i][:, row : row + size, column : column + size])


@given(size=st.integers(2, 9), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=30, deadline=None)
def test_tiles_never_overlap(size, seed, data):
    images = [torch.arange(3 * 20 * 27.0).view(3, 20, 27) + 10_000 * i for i in range(2)]
    room = 2 * (20 // size) * (27 // size)
    n = data.draw(st.integers(1, room))
    pixels = tiles(images, n, size, seeded(seed))[:, 0].flatten()
    assert len(pixels.unique()) == n * size * size
    with pytest.raises(ValueError, match=f'the images hold {room}'):
        tiles(images, room + 1, size, seeded(seed))


def test_a_split_tells_shapes_apart():
    sides = split({'wide': torch.zeros(3, 4, 6), 'high': torch.zeros(3, 6, 4)})
    assert [len(side) for side in sides] == [1, 1]


@given(share=st.floats(0, 1), seed=st.integers(0, 99), copies=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_split_never_shares_an_image(share, seed, copies):
    images = {f'{i}': torch.full((3, 4, 4), float(i)) for i in range(5)}
    images |= {f'copy {i}': torch.full((3, 4, 4), float(i)) for i in range(copies)}
    left, right = split(images, share, seed)
    assert left and right and set(left) | set(right) == set(images)
    levels = [{x.mean().item() for x in side.values()} for side in (left, right)]
    assert not levels[0] & levels[1]


@pytest.mark.parametrize('scale', [2, 4])
def test_degrade_is_torchvisions_and_pillows(scale):
    import_torchvision()
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    z = crops(list(photographs().values()), 200, 64, seeded(1))
    side = 64 // scale
    bicubic = InterpolationMode.BICUBIC
    theirs = resize(z, [side, side], interpolation=bicubic, antialias=True).clamp(-1, 1)
    assert (degrade(z, scale) - theirs).abs().max() <= 0.5 / 127.5 + 1e-5

    def pillows(x):
        levels = np.array(to_image(x).resize((side, side), Image.BICUBIC))
        return torch.from_numpy(levels).permute(2, 0, 1) / 127.5 - 1

    def one_pass(x, size):
        x = torch.nn.functional.interpolate(x, size=size, mode='bicubic', antialias=True)
        return to_bytes(x).float() / 127.5 - 1

    pillow = torch.stack([pillows(x) for x in z])
    down = one_pass(one_pass(z, (64, side)), (side, side))
    # Pillow rounds and clips between its two passes
    assert (down - pillow).abs().max() <= 1.01 / 127.5
    assert ((degrade(z, scale) - pillow).abs() > 1.01 / 127.5).float().mean() < 0.001


def test_every_history_is_a_picture():
    z = crops(list(photographs().values()), 24, 64, seeded(1))
    for scale in (2, 4):
        y = realistic(z, scale, seeded(2))
        assert y.shape == (24, 3, 64 // scale, 64 // scale)
        assert y.isfinite().all()
        assert y.abs().max() <= 1
        assert torch.equal(y, realistic(z, scale, seeded(2)))
        assert not torch.equal(y, realistic(z, scale, seeded(3)))
    with pytest.raises(ValueError, match='divisible'):
        realistic(z[..., :62], 4, seeded())
    with pytest.raises(ValueError, match='divisible'):
        realistic(z, 0, seeded())


def test_both_ends_of_a_history_occur():
    z = crops(list(photographs().values()), 1, 32, seeded())
    ends = {tuple(degradation_stages(z, 4, seeded(i)))[-2:] for i in range(12)}
    assert ends == {('sharpen', 'JPEG 2'), ('JPEG 2', 'sharpen')}


def test_jpeg_is_pillows():
    z = crops(list(photographs().values()), 4, 64, seeded(1))
    for quality in (5, 50, 95):
        for x, mine in zip(z, jpeg(z, quality)):
            buffer = io.BytesIO()
            to_image(x).save(buffer, format='JPEG', quality=quality)
            theirs = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
            assert torch.equal(((mine + 1) * 127.5).round().byte(), theirs)


@given(sigma=st.tuples(st.floats(0.8, 3), st.floats(0.8, 3)), angle=st.floats(0, 3.14))
@settings(max_examples=30, deadline=None)
def test_moments_of_the_gaussian(sigma, angle):
    k = gaussian_kernel(sigma, angle, 31).double()
    r = torch.arange(31.0).double() - 15
    x, y = r.expand(31, 31), r[:, None].expand(31, 31)
    xx, xy, yy = (k * x * x).sum(), (k * x * y).sum(), (k * y * y).sum()
    moments = torch.linalg.eigvalsh(torch.tensor([[xx, xy], [xy, yy]]))
    expected = torch.tensor(sorted(s * s for s in sigma)).double()
    assert abs(k.sum() - 1) < 1e-5
    assert torch.allclose(moments, expected, atol=2e-3, rtol=1e-3)


def test_blur_is_scipys():
    from scipy.ndimage import convolve

    z = crops(list(photographs().values()), 2, 48, seeded(1))
    k = gaussian_kernel((1.0, 2.0), 0.4, 9)
    theirs = np.stack([[convolve(c, k.numpy(), mode='mirror') for c in x] for x in z.numpy()])
    assert np.abs(blur(z, k).numpy() - theirs).max() < 1e-5


@given(seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_turned_patches_are_numpys(seed):
    z = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    eight = [
        [np.rot90(m, k, (1, 2)) for k in range(4) for m in (x, x[..., ::-1])]
        for x in z.numpy()
    ]
    for mine, theirs in zip(augment(z, seeded(seed)).numpy(), eight):
        assert any((mine == t).all() for t in theirs)


def test_a_folder_in_bytes_holds_one_float_image_at_a_time(photo_folder, monkeypatch):
    alive = []
    most = []
    real = pictures.load_silently

    def watched(*args):
        image = real(*args)
        alive.append(weakref.ref(image))
        most.append(sum(r() is not None for r in alive))
        return image

    monkeypatch.setattr(pictures, 'load_silently', watched)
    images = byte_folder(photo_folder)
    assert len(images) == len(most) > 1 and max(most) == 1
    assert all(
        torch.equal(images[name], ((y + 1) * 127.5).round().byte())
        for name, y in image_folder(photo_folder).items()
    )


PHOTO = torch.zeros(1, 3, 64, 64)
BAD = {
    'crops of nothing': (lambda: crops([PHOTO[0]], 1, 0, seeded()), '1 patches of 0×0'),
    'no crops': (lambda: crops([PHOTO[0]], 0, 8, seeded()), 'cannot cut 0 patches'),
    'crops of no images': (lambda: crops([], 1, 8, seeded()), 'from 0 images'),
    'large crops': (
        lambda: crops([PHOTO[0, :, :50]], 1, 60, seeded()),
        'cannot cut 60×60 from an image of 64×50',
    ),
    'tiles of nothing': (lambda: tiles([PHOTO[0]], 1, 0, seeded()), 'at least one pixel'),
    'no tiles': (lambda: tiles([PHOTO[0]], 0, 8, seeded()), 'the images hold 64'),
    'share above 1': (
        lambda: split({'a': PHOTO, 'b': PHOTO + 1}, 2),
        'the share must lie in 0 … 1, not 2',
    ),
    'share not a number': (lambda: split({'a': PHOTO, 'b': PHOTO + 1}, math.nan), 'the share'),
    'nothing to split': (lambda: split({}), 'at least two images that differ'),
    'scale 0': (lambda: degrade(PHOTO, 0), 'divisible by the scale 0'),
    'scale -4': (lambda: degrade(PHOTO, -4), 'divisible by the scale -4'),
    'scale 3': (lambda: degrade(PHOTO, 3), 'divisible by the scale 3'),
    'bytes to degrade': (lambda: degrade(PHOTO.byte()), 'not torch.uint8; see `from_bytes`'),
    'bytes to enlarge': (lambda: upsample(PHOTO.byte()), 'not torch.uint8; see `from_bytes`'),
    'an image is not a batch': (lambda: degrade(PHOTO[0]), 'need a batch'),
    'an image is not a batch to enlarge': (lambda: upsample(PHOTO[0]), 'need a batch'),
    'noise on no batch': (lambda: gaussian_noise(PHOTO[0], 9, seeded()), 'need a batch'),
    'bytes to round': (lambda: to_bytes(PHOTO.byte()), 'not torch.uint8'),
    'bytes as a picture': (lambda: to_image(PHOTO[0].byte()), 'not torch.uint8'),
    'enlarge 0 times': (lambda: upsample(PHOTO, 0), 'cannot enlarge 0 times'),
    'turn a rectangle': (lambda: augment(PHOTO[..., :60], seeded()), 'only squares'),
    'one standard deviation': (lambda: gaussian_kernel((1.0,)), 'two positive'),
    'a number for two': (lambda: gaussian_kernel(1.0), 'two positive'),
    'negative width': (lambda: gaussian_kernel((1.0, -1.0)), 'two positive'),
    'no width': (lambda: gaussian_kernel((1.0, math.nan)), 'two positive'),
    'even kernel': (lambda: gaussian_kernel((1.0, 1.0), size=8), 'odd size'),
    'cut-off 0': (lambda: sinc_kernel(0), 'cut-off'),
    'wide kernel': (lambda: blur(PHOTO, torch.ones(3, 5)), 'square and odd'),
    'negative noise': (lambda: gaussian_noise(PHOTO, -1, seeded()), 'standard deviation'),
    'endless noise': (lambda: gaussian_noise(PHOTO, math.inf, seeded()), 'standard deviation'),
    'two channels of noise': (lambda: gaussian_noise(PHOTO, 1, seeded(), 2), 'channels'),
    'no photons': (lambda: poisson_noise(PHOTO, 0, seeded()), 'photons'),
    'endless photons': (lambda: poisson_noise(PHOTO, math.inf, seeded()), 'photons'),
    'quality 0': (lambda: jpeg(PHOTO, 0), '1 … 95'),
    'quality 100': (lambda: jpeg(PHOTO, 100), '1 … 95'),
    'no size': (lambda: resize(PHOTO, (0, 8)), 'cannot resize'),
    'no such filter': (lambda: resize(PHOTO, (8, 8), 'nearest'), 'bicubic, bilinear and area'),
    'realistic scale': (lambda: realistic(PHOTO, 5, seeded()), 'divisible by the scale 5'),
}


@pytest.mark.parametrize('call, message', BAD.values(), ids=BAD)
def test_bad_arguments_are_told_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_eight_symmetries_are_equally_frequent_and_commute_with_degrade():
    z = crops(list(photographs().values()), 1, 64, seeded(1))
    corners = augment(z.expand(2000, -1, -1, -1)[..., :2, :2], seeded())
    _, counts = corners.unique(dim=0, return_counts=True)
    assert len(counts) == 8 and counts.min() > 190 and counts.max() < 310  # 250 ± 15
    many = z.expand(32, -1, -1, -1)
    gap = augment(degrade(many), seeded(2)) - degrade(augment(many, seeded(2)))
    assert gap.abs().max() <= 1.01 / 127.5
    turned = augment(many, seeded(3))
    assert torch.equal(turned.flatten(1).sort()[0], many.flatten(1).sort()[0])


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    'step',
    [
        lambda x: gaussian_noise(x, 9, seeded()),
        lambda x: poisson_noise(x, 50, seeded()),
        lambda x: jpeg(x, 40),
        lambda x: blur(x, sinc_kernel(2.0)),
        lambda x: resize(x, (9, 7), 'area'),
    ],
    ids='gaussian poisson jpeg blur resize'.split(),
)
def test_every_step_keeps_the_dtype_and_the_range(step, dtype):
    # a little beyond the range, as a network's output may be
    x = crops(list(photographs().values()), 3, 32, seeded(1)).to(dtype) * 1.2
    assert step(x).dtype == dtype
    assert step(x).abs().max() <= 1
    assert torch.equal(step(x), step(x))


@pytest.mark.filterwarnings('ignore')  # Pillow's own, of damaged TIFF
@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'bmp', 'webp'])
def test_damaged_files_are_told_in_a_sentence(suffix, tmp_path):
    path = tmp_path / f'x.{suffix}'
    r = np.random.default_rng(0)
    to_image(photographs()['coffee'][:, 150:210, 200:270]).save(path)
    content = path.read_bytes()
    for cut in range(80):
        damaged = np.frombuffer(content, np.uint8).copy()
        levels = r.integers(256, size=5)
        end = min(300, len(damaged)) if cut % 2 else len(damaged)
        damaged[r.integers(end, size=5)] = levels
        path.write_bytes(damaged.tobytes()[: None if cut % 4 else r.integers(len(damaged))])
        try:
            assert load_image(path).shape[0] == 3
        except ValueError as e:
            assert str(e).startswith(f'cannot read {path}')


def exif(orientation, unit_type):
    """What a camera writes before a picture: two entries, the second, the unit of the
    resolution, in the right type (3) or as text (2)
    """
    entries = struct.pack('>HHIHH', ExifTags.Base.Orientation, 3, 1, orientation, 0)
    entries += struct.pack('>HHIHH', ExifTags.Base.ResolutionUnit, unit_type, 1, 2, 0)
    return b'Exif\0\0MM\0*' + struct.pack('>IH', 8, 2) + entries + bytes(4)


@pytest.mark.parametrize('orientation', range(10))
def test_photographs_are_upright_also_where_another_tag_is_damaged(orientation, tmp_path):
    picture = to_image(photographs()['coffee'][:, :40, :60])
    for name, unit_type in (('good', 3), ('damaged', 2)):
        picture.save(tmp_path / f'{name}.jpg', exif=exif(orientation, unit_type), quality=95)
    with Image.open(tmp_path / 'good.jpg') as image:
        right = to_tensor(ImageOps.exif_transpose(image))
    for name in ('good', 'damaged'):
        assert torch.equal(load_image(tmp_path / f'{name}.jpg'), right)
    if 2 <= orientation <= 8:
        with Image.open(tmp_path / 'damaged.jpg') as image, pytest.raises(struct.error):
            ImageOps.exif_transpose(image)


@pytest.mark.filterwarnings('error')  # nor are they told as ignored
def test_hidden_files_are_no_images(tmp_path):
    to_image(photographs()['coffee']).save(tmp_path / 'a.png')
    (tmp_path / '._a.png').write_bytes(b'what macOS adds')
    assert list(image_folder(tmp_path)) == ['a.png']


def test_files_that_end_too_early(tmp_path):
    to_image(photographs()['coffee']).save(tmp_path / 'whole.jpg')
    content = (tmp_path / 'whole.jpg').read_bytes()
    (tmp_path / 'half.jpg').write_bytes(content[: len(content) // 2])
    (tmp_path / 'empty.png').write_bytes(b'')
    with pytest.warns(UserWarning, match='ignored 2 of 3 files'):
        assert [x.shape for x in byte_folder(tmp_path).values()] == [(3, 400, 600)]
    with pytest.raises(ValueError, match='cannot read'):
        load_image(tmp_path / 'half.jpg')
    (tmp_path / 'whole.jpg').unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='no usable image'):
        byte_folder(tmp_path)
