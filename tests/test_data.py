"Downloads against a local server, properties of patches, resizing against torchvision and Pillow, broken files."
import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from odebc import data
from odebc.data import crops, degrade, download, image_folder, load_image, photographs, realistic, split, tiles, to_image, training_images
from odebc.metrics import import_torchvision

seeded = lambda seed=0: torch.Generator().manual_seed(seed)


class Server:
    "Serves one archive; `broken` answers close in the middle"
    def __init__(self, content):
        self.requests, self.broken, server = 0, 0, self
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                self.send_response(200); self.send_header('Content-Length', str(len(content))); self.end_headers()
                self.wfile.write(content[:len(content)//2] if server.requests <= server.broken else content)
            def log_message(self, *args): pass
        self.http = HTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}/set.zip'
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as z:
        for folder in ('HR', 'LR'):
            for name, x in list(photographs().items())[:2]:
                picture = io.BytesIO(); to_image(x[:, :90, :80]).save(picture, 'PNG'); z.writestr(f'Set/{folder}/{name}.png', picture.getvalue())
    return buffer.getvalue()


@pytest.fixture
def server(archive, monkeypatch):
    server = Server(archive)
    md5 = hashlib.md5(archive).hexdigest()
    monkeypatch.setattr(data, 'DATASETS', {'Right': (server.url, md5, ['Set/HR']), 'Wrong': (server.url, 'f'*32, ['Set/HR']), 'Empty': (server.url, md5, ['Set/HQ'])})
    yield server
    server.http.shutdown()


def test_a_set_is_downloaded_once(server, tmp_path):
    images = image_folder(download('Right', tmp_path))
    assert list(images) == [f'{name}.png' for name in list(photographs())[:2]]
    assert torch.equal(images['astronaut.png'], photographs()['astronaut'][:, :90, :80])
    assert server.requests == 1
    download('Right', tmp_path)
    assert server.requests == 1


def test_a_wrong_sum_is_refused_and_nothing_is_left(server, tmp_path):
    with pytest.raises(ValueError, match='cannot get Wrong.*hash.*You can fill the folder'): download('Wrong', tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_tried_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    server.broken = 1
    assert len(image_folder(download('Right', tmp_path))) == 2
    assert server.requests == 2


def test_an_ever_broken_connection_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    server.broken = 99
    with pytest.raises(ValueError, match='cannot get Right'): download('Right', tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.broken = 0
    assert len(image_folder(download('Right', tmp_path))) == 2


def test_unpacking_that_is_interrupted_leaves_no_half_folder(server, tmp_path, monkeypatch):
    real, seen = data.archived, []
    def stops(path):
        for item in real(path):
            seen.append(item[0])
            if len(seen) == 2: raise KeyboardInterrupt
            yield item
    with monkeypatch.context() as m:
        m.setattr(data, 'archived', stops)
        with pytest.raises(KeyboardInterrupt): download('Right', tmp_path)
    assert not (tmp_path/'Right').exists()
    assert len(image_folder(download('Right', tmp_path))) == 2


def test_an_archive_without_the_images_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match='holds no images in Set/HQ'): download('Empty', tmp_path)
    assert not (tmp_path/'Empty').exists()


def test_without_network_the_message_names_the_folder_and_filling_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.setattr(data, 'DATASETS', {'Set5': ('http://127.0.0.1:9/set.zip', '0'*32, ['HR'])})
    monkeypatch.setenv('ODEBC_DATA', str(tmp_path))
    with pytest.raises(ValueError, match=f'fill the folder {tmp_path}/Set5'): download('Set5')
    (tmp_path/'Set5').mkdir(exist_ok=True)
    to_image(photographs()['coffee']).save(tmp_path/'Set5/mine.png')
    assert list(image_folder(download('Set5'))) == ['mine.png']
    with pytest.raises(ValueError, match='known are Set5'): download('Set6')


@given(n=st.integers(1, 4), size=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_crop_is_a_part_of_its_image(n, size, seed):
    images = [torch.arange(3*12*17).view(3, 12, 17) + 10_000*i for i in range(3)]
    for patch in crops(images, n, size, seeded(seed)):
        i, (row, column) = int(patch[0, 0, 0])//10_000, divmod(int(patch[0, 0, 0]) % 10_000, 17)
        assert torch.equal(patch, images[i][:, row:row + size, column:column + size])


@given(size=st.integers(2, 9), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=30, deadline=None)
def test_tiles_never_overlap(size, seed, data):
    images = [torch.arange(3*20*27.).view(3, 20, 27) + 10_000*i for i in range(2)]
    room = 2*(20//size)*(27//size)
    n = data.draw(st.integers(1, room))
    pixels = tiles(images, n, size, seeded(seed))[:, 0].flatten()
    assert len(pixels.unique()) == n*size*size
    with pytest.raises(ValueError, match=f'the images hold {room}'): tiles(images, room + 1, size, seeded(seed))


@given(share=st.floats(0, 1), seed=st.integers(0, 99), copies=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_split_never_shares_an_image(share, seed, copies):
    images = {f'{i}': torch.full((3, 4, 4), float(i)) for i in range(5)} | {f'copy {i}': torch.full((3, 4, 4), float(i)) for i in range(copies)}
    left, right = split(images, share, seed)
    assert left and right and set(left) | set(right) == set(images)
    assert not {x.mean().item() for x in left.values()} & {x.mean().item() for x in right.values()}


@pytest.mark.parametrize('scale', [2, 4])
def test_degrade_is_torchvisions_and_pillows(scale):
    import_torchvision()
    from torchvision.transforms.v2.functional import InterpolationMode, resize
    z = crops(list(photographs().values()), 6, 64, seeded(1))
    theirs = resize(z, [64//scale]*2, interpolation=InterpolationMode.BICUBIC, antialias=True).clamp(-1, 1)
    assert (degrade(z, scale) - theirs).abs().max() <= .5/127.5 + 1e-5
    pillow = torch.stack([torch.from_numpy(np.array(to_image(x).resize((64//scale,)*2, Image.BICUBIC))).permute(2, 0, 1)/127.5 - 1 for x in z])
    assert (degrade(z, scale) - pillow).abs().max() <= 2.1/127.5


def test_every_history_is_a_picture():
    z = crops(list(photographs().values()), 24, 64, seeded(1))
    for scale in (2, 4):
        y = realistic(z, scale, seeded(2))
        assert y.shape == (24, 3, 64//scale, 64//scale) and y.isfinite().all() and y.abs().max() <= 1
    with pytest.raises(ValueError, match='divisible'): realistic(z[..., :62], 4, seeded())


def test_files_that_end_too_early(tmp_path):
    to_image(photographs()['coffee']).save(tmp_path/'whole.jpg')
    content = (tmp_path/'whole.jpg').read_bytes()
    (tmp_path/'half.jpg').write_bytes(content[:len(content)//2])
    (tmp_path/'empty.png').write_bytes(b'')
    with pytest.warns(UserWarning, match='skipped 2 of 3 images'): assert [x.shape for x in training_images(tmp_path)] == [(3, 400, 600)]
    with pytest.raises(ValueError, match='cannot read'): load_image(tmp_path/'half.jpg')
    (tmp_path/'whole.jpg').unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='no usable image'): training_images(tmp_path)
