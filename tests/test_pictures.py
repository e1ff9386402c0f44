"What a picture file says beside its pixels, against closed forms and other programs' files."

import io
import struct
import threading
import warnings
import zipfile
import zlib
from functools import partial
import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms
from odebc import images
from odebc.data import near_copies, photographs, split
from odebc.downloads import has_images, unpack
from odebc.images import byte_folder, image_folder, is_image, load_image, load_picture
from odebc.images import over_white, Picture, picture_size, to_bytes, to_image, to_tensor
from odebc.errors import OdebcError

LEVEL = 1 / 255


# Colours in closed form: no line of this is the package's

D50 = np.array([0.9642, 1, 0.8249])
CONES = np.array(
    [
        [0.8951, 0.2664, -0.1614],
        [-0.7502, 1.7135, 0.0367],
        [0.0389, -0.0685, 1.0296],
    ]
)
D65 = (0.3127, 0.3290)
SCREENS = {  # red, green, blue, white, curve
    'sRGB': ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), D65, 'sRGB'),
    'Display P3': ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65, 'sRGB'),
    'Adobe RGB': ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65, 563 / 256),
    'ProPhoto': (
        (0.7347, 0.2653),
        (0.1596, 0.8404),
        (0.0366, 0.0001),
        (0.3457, 0.3585),
        461 / 256,
    ),
    'BT.2020': ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), D65, 'sRGB'),
}


def xyz(x, y):
    return np.array([x / y, 1, (1 - x - y) / y])


def matrix(red, green, blue, white, curve=None):
    "From linear red, green, blue to XYZ under D50"
    m = np.stack([xyz(*red), xyz(*green), xyz(*blue)], 1)
    m = m * np.linalg.solve(m, xyz(*white))
    return np.linalg.inv(CONES) @ np.diag((CONES @ D50) / (CONES @ xyz(*white))) @ CONES @ m


def linear(v, curve):
    if curve != 'sRGB':
        return v**curve
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def from_xyz(xyz):
    "sRGB in 0 … 1"
    x = np.clip(xyz @ np.linalg.inv(matrix(*SCREENS['sRGB'])).T, 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def seen(v, screen):
    "What a viewer shows of numbers in 0 … 1 that are meant for a screen"
    return from_xyz(linear(v, screen[-1]) @ matrix(*screen).T)


def fixed(numbers):
    return b''.join(struct.pack('>i', round(float(n) * 65536)) for n in numbers)


def icc(space, tags, version, kind=b'mntr', connection=b'XYZ '):
    "A profile, byte by byte"
    table = struct.pack('>I', len(tags))
    body = b''
    for name, content in tags:
        table += name + struct.pack('>II', 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = 132 + len(table) - 4 + len(body)
    words = kind, space, connection, b'acsp'
    head = struct.pack('>I4xI4s4s4s12x4s', size, version << 24, *words)
    return head.ljust(68, b'\0') + fixed(D50) + bytes(48) + table + body


def curve_tag(curve, version):
    if version == 2 and curve == 'sRGB':
        table = np.round(linear(np.linspace(0, 1, 1024), curve) * 65535).astype('>u2')
        return b'curv' + bytes(4) + struct.pack('>I', 1024) + table.tobytes()
    if version == 2:
        return b'curv' + bytes(4) + struct.pack('>IH', 1, round(curve * 256))
    if curve != 'sRGB':
        return b'para' + bytes(8) + fixed([curve])
    numbers = fixed([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    return b'para' + bytes(4) + struct.pack('>HH', 3, 0) + numbers


def xyz_tag(numbers):
    return b'XYZ ' + bytes(4) + fixed(numbers)


def screen_icc(screen, version=4):
    m = matrix(*screen)
    curve = curve_tag(screen[-1], version)
    tags = [(b'wtpt', xyz_tag(D50))]
    tags += [(c + b'XYZ', xyz_tag(column)) for c, column in zip((b'r', b'g', b'b'), m.T)]
    tags += [(c + b'TRC', curve) for c in (b'r', b'g', b'b')]
    return icc(b'RGB ', tags, version)


def grey_icc(curve, version=4):
    tags = [(b'wtpt', xyz_tag(D50)), (b'kTRC', curve_tag(curve, version))]
    return icc(b'GRAY', tags, version)


# what of X, Y, Z full ink takes away…
INKS = np.array(
    [
        [0.70, 0.25, 0.08],
        [0.28, 0.62, 0.20],
        [0.02, 0.08, 0.60],
        [0.20, 0.20, 0.20],
    ]
)
INKS = INKS * 0.8  # …together at most 96 %


def ink_icc():
    "A printer whose inks take away light, each in proportion: a table of its 16 corners"
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing='ij'), -1).reshape(16, 4)
    left = D50 * (1 - corners @ INKS)
    ramp = struct.pack('>HH', 0, 65535)
    table = np.round(left * 32768).astype('>u2').tobytes()
    lut = b'mft2' + bytes(4) + bytes([4, 3, 2, 0]) + fixed(np.eye(3).ravel())
    lut += struct.pack('>HH', 2, 2) + 4 * ramp + table + 3 * ramp
    return icc(b'CMYK', [(b'wtpt', xyz_tag(D50)), (b'A2B0', lut)], 2, b'prtr')


def unit(x):
    "(3, H, W) in [-1, 1] to (H, W, 3) in 0 … 1"
    return (x.permute(1, 2, 0).double().numpy() + 1) / 2


def assert_shows(path, expected, alpha=None, levels=1.0):
    "Right pixels, and right transparency"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        picture = load_picture(path)
    assert picture.colours.dtype == torch.float32
    difference = np.abs(unit(picture.colours) - expected)
    if alpha is not None:
        difference = difference * (alpha > 0)[..., None]
    assert difference.max() <= levels * LEVEL + 1e-6
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.abs(picture.alpha[0].numpy() - alpha).max() <= LEVEL / 2
    assert picture_size(path) == expected.shape[1::-1]


def assert_is_laid_over_white(x, colours, alpha, levels=1.0):
    "Right pixels where what is transparent is white"
    laid = colours if alpha is None else colours * alpha[..., None] + 1 - alpha[..., None]
    assert np.abs(unit(x) - laid).max() <= levels * LEVEL + 1e-6


def random_levels(*shape, seed=0, most=255, dtype=np.uint8):
    return np.random.default_rng(seed).integers(most + 1, size=shape, dtype=dtype)


def smooth_levels(height, width):
    "What JPEG keeps nearly"
    rows, columns = np.mgrid[:height, :width]
    red = rows * 200 // height + 20
    green = columns * 180 // width + 40
    blue = (rows + columns) * 90 // (height + width) + 60
    return np.stack([red, green, blue], -1).astype(np.uint8)


# Orientation

HOW_IT_LIES = {  # orientation -> how an upright picture is stored, in numpy's words
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def exif_of(orientation):
    "What a file says of how it lies"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def stored_as(orientation, levels):
    "An upright picture, as files of this orientation hold it"
    return Image.fromarray(np.ascontiguousarray(HOW_IT_LIES[orientation](levels)))


WAYS = {
    'jpg': dict(quality=95, subsampling=0),
    'png': {},
    'webp': dict(lossless=True),
    'tif': {},
    'deflate.tif': dict(compression='tiff_deflate'),
    'avif': dict(quality=100, subsampling='4:4:4'),
}


LOSSY = 'jpg', 'avif'


def assert_is_upright(path, way, orientation, stored):
    "Saved in one of the ways, with this number, a picture is shown as it was before"
    right = smooth_levels(24, 40)
    stored(right).save(path, exif=exif_of(orientation), **WAYS[way])
    assert_shows(path, right / 255, levels=4 if way in LOSSY else 0)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('orientation', HOW_IT_LIES)
def test_every_format_is_upright(orientation, way, tmp_path):
    lying = partial(stored_as, orientation)
    assert_is_upright(tmp_path / f'x.{way}', way, orientation, lying)
    with Image.open(tmp_path / f'x.{way}') as image:
        assert torch.equal(to_tensor(image), load_image(tmp_path / f'x.{way}'))
        # now it is decoded
        assert torch.equal(to_tensor(image), load_image(tmp_path / f'x.{way}'))


@pytest.mark.parametrize('mode', '1 L LA P PA RGBA RGBX CMYK YCbCr LAB I;16 I;16B'.split())
@pytest.mark.parametrize('compression', [None, 'tiff_deflate'])
def test_a_tiff_of_any_mode_is_upright(mode, compression, tmp_path):
    "Pillow maps some of them from the file in the shape of the picture that is already turned"
    upright = in_mode(mode)
    upright.save(tmp_path / '0.tif', compression=compression)
    right = load_image(tmp_path / '0.tif')
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers of what lays it down
    for orientation, how in undo.items():
        lying = upright.transpose(Image.Transpose(how))
        options = dict(exif=exif_of(orientation), compression=compression)
        lying.save(tmp_path / f'{orientation}.tif', **options)
        assert torch.equal(load_image(tmp_path / f'{orientation}.tif'), right)
        assert picture_size(tmp_path / f'{orientation}.tif') == (32, 24)
        with Image.open(tmp_path / f'{orientation}.tif') as image:
            assert torch.equal(to_tensor(image), right)


def png(path, width, height, bits, kind, rows, before=(), after=()):
    "A PNG, chunk by chunk"

    def chunk(name, content):
        length = struct.pack('>I', len(content))
        return length + name + content + struct.pack('>I', zlib.crc32(name + content))

    head = struct.pack('>IIBBBBB', width, height, bits, kind, 0, 0, 0)
    pixels = zlib.compress(b''.join(b'\0' + row for row in rows))
    chunks = [(b'IHDR', head), *before, (b'IDAT', pixels), *after, (b'IEND', b'')]
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*c) for c in chunks))


def orientation_tag(orientation):
    entry = ExifTags.Base.Orientation, 3, 1, orientation
    return b'MM\0*' + struct.pack('>IHHHIHHI', 8, 1, *entry, 0, 0)


@pytest.mark.parametrize('where', ['before', 'after'])
def test_a_png_that_says_it_behind_its_pixels(where, tmp_path):
    right = smooth_levels(12, 20)
    rows = [row.tobytes() for row in HOW_IT_LIES[6](right)]
    png(tmp_path / 'x.png', 12, 20, 8, 2, rows, **{where: [(b'eXIf', orientation_tag(6))]})
    assert_shows(tmp_path / 'x.png', right / 255, levels=0)


@pytest.mark.parametrize('number', [0, 9, 65535])
@pytest.mark.parametrize('way', ['jpg', 'png', 'webp', 'tif'])
def test_numbers_that_mean_no_orientation_are_upright_without_a_word(way, number, tmp_path):
    assert_is_upright(tmp_path / f'x.{way}', way, number, Image.fromarray)


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')  # Pillow's own words
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp'])
def test_damaged_exif_is_told_and_the_picture_read(suffix, tmp_path):
    right = smooth_levels(24, 40)
    many = b'Exif\0\0MM\0*' + struct.pack('>IH', 8, 900)
    for n, damaged in enumerate((b'Exif\0\0XX\0*\0\0\0\x08', b'Exif\0\0MM', many)):
        path = tmp_path / f'{n}.{suffix}'
        Image.fromarray(right).save(path, exif=damaged, **WAYS[suffix])
        with warnings.catch_warnings(record=True, action='always') as told:
            picture = load_picture(path)
        assert np.abs(unit(picture.colours) - right / 255).max() <= 4 * LEVEL
        assert all('EXIF' in str(w.message) for w in told)
        assert n > 0 or len(told) == 1
        assert picture_size(path) == (40, 24)


def test_the_size_is_told_without_decoding(tmp_path, monkeypatch):
    for way in WAYS:
        Image.new('RGB', (30, 20)).save(tmp_path / f'x.{way}', exif=exif_of(6), **WAYS[way])

    def decoded(*args):
        raise AssertionError("decoded")

    for plugin in (Image.Image, *{type(Image.open(tmp_path / f'x.{way}')) for way in WAYS}):
        monkeypatch.setattr(plugin, 'load', decoded)
    for way in WAYS:
        assert picture_size(tmp_path / f'x.{way}') == (20, 30)
    with pytest.raises(OdebcError, match='there is no image file'):
        picture_size(tmp_path / 'no.png')
    (tmp_path / 'broken.png').write_bytes(b'not an image')
    with pytest.raises(OdebcError, match='cannot read .*broken.png as an image'):
        picture_size(tmp_path / 'broken.png')


# Modes


def yellow_blue(a):
    "JFIF's colours from YCbCr"
    y, b, r = (a[..., i].astype(float) for i in range(3))
    red = y + 1.402 * (r - 128)
    green = y - 0.344136 * (b - 128) - 0.714136 * (r - 128)
    blue = y + 1.772 * (b - 128)
    return np.stack([red, green, blue], -1).clip(0, 255) / 255


def cielab(a):
    "sRGB of 8-bit L*, a*, b* under D50, as TIFF keeps them: a* and b* with a sign"
    f = a[..., 0] / 2.55 / 116 + 16 / 116
    signed = a.astype(np.int8).astype(float)
    f = np.stack([f + signed[..., 1] / 500, f, f - signed[..., 2] / 200], -1)
    return from_xyz(D50 * np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2))


def grey(a):
    return np.repeat(a[..., None], 3, -1)


def inks(a):
    return (1 - a[..., :3] / 255) * (1 - a[..., 3:] / 255)


def undone(a):
    "Colours that were multiplied by alpha, which comes last"
    return np.minimum(a[..., :-1] / np.maximum(a[..., -1:], 1), 1)


PALETTE = random_levels(256, 3, seed=3)
EXPECTED = {  # mode -> from what Pillow holds: colours in 0 … 1, alpha or None
    '1': lambda a: (grey(a.astype(float)), None),
    'L': lambda a: (grey(a) / 255, None),
    'LA': lambda a: (grey(a[..., 0]) / 255, a[..., 1] / 255),
    'La': lambda a: (grey(undone(a)[..., 0]), a[..., 1] / 255),
    'P': lambda a: (PALETTE[a] / 255, None),
    'PA': lambda a: (PALETTE[a[..., 0]] / 255, a[..., 1] / 255),
    'RGB': lambda a: (a / 255, None),
    'RGBX': lambda a: (a[..., :3] / 255, None),
    'RGBA': lambda a: (a[..., :3] / 255, a[..., 3] / 255),
    'RGBa': lambda a: (undone(a), a[..., 3] / 255),
    'CMYK': lambda a: (inks(a), None),
    'YCbCr': lambda a: (yellow_blue(a), None),
    'LAB': lambda a: (cielab(a), None),
    'I;16': lambda a: (grey(a) / 65535, None),
    'I;16B': lambda a: (grey(a) / 65535, None),
    'I;16L': lambda a: (grey(a) / 65535, None),
    # no white is agreed on
    'HSV': lambda a: None,
    'I': lambda a: None,
    'F': lambda a: None,
}


def in_mode(mode, height=24, width=32):
    "A picture of this mode, with all its numbers"
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode == '1':
        return Image.fromarray(random_levels(height, width) > 127)
    if mode in ('I', 'F'):
        numbers = random_levels(height, width).astype(np.int32) * 257
        return Image.fromarray(numbers).convert(mode)
    if mode.startswith('I;16'):
        order = '>u2' if mode == 'I;16B' else '<u2'
        numbers = random_levels(height, width, most=65535, dtype=np.uint16)
        return Image.frombytes(mode, (width, height), numbers.astype(order).tobytes())
    levels = random_levels(height, width, bands)
    if mode in ('La', 'RGBa'):
        levels[..., :-1] = np.minimum(levels[..., :-1], levels[..., -1:])
    image = Image.frombytes(mode, (width, height), levels.tobytes())
    if mode in ('P', 'PA'):
        image.putpalette(PALETTE.tobytes())
    return image


def exactly(suffix):
    "How Pillow keeps every number"
    return dict(lossless=True, exact=True) if suffix == 'webp' else {}


def writable():
    for mode in EXPECTED:
        for suffix in ('png', 'jpg', 'webp', 'tif', 'bmp'):
            kind = {'jpg': 'JPEG', 'tif': 'TIFF'}.get(suffix, suffix.upper())
            try:
                in_mode(mode).save(io.BytesIO(), kind)
            except (OSError, KeyError, ValueError):
                continue
            yield mode, suffix


@pytest.mark.parametrize('mode, suffix', list(writable()), ids=str)
def test_every_mode_that_pillow_writes_is_right_or_refused(mode, suffix, tmp_path):
    path = tmp_path / f'x.{suffix}'
    in_mode(mode).save(path, **exactly(suffix))
    with Image.open(path) as image:
        held = image.mode
        numbers = np.array(image)
        if suffix in ('png', 'tif') and mode not in ('RGBX', 'I;16B', 'I;16L'):
            assert held == mode
    expected = EXPECTED[held](numbers)
    if expected is None:
        with pytest.raises(OdebcError, match='no agreed white'):
            load_picture(path)
        return
    colours, alpha = expected
    levels = 1 if held in ('YCbCr', 'LAB', 'La', 'CMYK') else 0.01
    assert_shows(path, colours, alpha, levels=levels)
    assert_is_laid_over_white(load_image(path), colours, alpha)


@pytest.mark.parametrize('mode', EXPECTED)
def test_pictures_in_memory(mode):
    image = in_mode(mode)
    if mode == 'F':
        with pytest.raises(OdebcError, match='floating-point numbers have no agreed white'):
            to_tensor(image)
        return
    numbers = np.array(image)
    if mode == 'I':
        # in memory these are 16 bits, as Pillow's older versions had them
        expected = (grey(numbers) / 65535, None)
    elif mode == 'HSV':
        expected = np.array(image.convert('RGB')) / 255, None
    else:
        expected = EXPECTED[mode](numbers)
    assert_is_laid_over_white(to_tensor(image), *expected)


def test_modes_are_really_tried():
    modes = list(writable())
    assert len(modes) > 45 and {mode for mode, _ in modes} == {*EXPECTED} - {'La'}


# Colour profiles


@pytest.mark.parametrize('version', [2, 4])
@pytest.mark.parametrize('name', SCREENS)
@pytest.mark.parametrize('suffix', ['png', 'tif', 'webp'])
def test_a_screens_profile_is_looked_at(suffix, name, version, tmp_path):
    levels = random_levels(64, 96, 3)
    path = tmp_path / f'x.{suffix}'
    profile = screen_icc(SCREENS[name], version)
    Image.fromarray(levels).save(path, icc_profile=profile, **exactly(suffix))
    expected = seen(levels / 255, SCREENS[name])
    assert_shows(path, expected)
    off = np.abs(expected - levels / 255)
    # this is what is at stake
    assert (off.max() < LEVEL / 2) == (name == 'sRGB')
    assert name == 'sRGB' or off.mean() > 5 * LEVEL


@pytest.mark.parametrize('name', SCREENS)
def test_a_jpeg_with_a_profile(name, tmp_path):
    profile = screen_icc(SCREENS[name])
    picture = Image.fromarray(smooth_levels(40, 60))
    picture.save(tmp_path / 'x.jpg', quality=95, icc_profile=profile)
    with Image.open(tmp_path / 'x.jpg') as image:
        assert_shows(tmp_path / 'x.jpg', seen(np.array(image) / 255, SCREENS[name]))


def test_what_is_srgb_keeps_its_levels(tmp_path):
    levels = random_levels(64, 96, 3)
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    ours = [screen_icc(SCREENS['sRGB'], version) for version in (2, 4)]
    for i, profile in enumerate([made, *ours]):
        Image.fromarray(levels).save(tmp_path / f'{i}.png', icc_profile=profile)
        assert np.array_equal(np.array(to_image(load_image(tmp_path / f'{i}.png'))), levels)


def test_the_profiles_that_imagecms_makes(tmp_path):
    "sRGB fits a photograph; Lab fits a picture in Lab; XYZ fits no picture"
    levels = random_levels(24, 32, 3)
    made = {
        kind: ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()
        for kind in ('sRGB', 'LAB', 'XYZ')
    }
    Image.fromarray(levels).save(tmp_path / 'srgb.tif', icc_profile=made['sRGB'])
    assert_shows(tmp_path / 'srgb.tif', levels / 255, levels=0.01)
    in_mode('LAB').save(tmp_path / 'lab.tif', icc_profile=made['LAB'])
    assert_shows(tmp_path / 'lab.tif', cielab(np.array(Image.open(tmp_path / 'lab.tif'))))
    for kind in ('LAB', 'XYZ'):
        Image.fromarray(levels).save(tmp_path / f'{kind}.tif', icc_profile=made[kind])
        says = f'{kind}.tif: its colour profile cannot be used.*read as sRGB.*it is for'
        with pytest.warns(UserWarning, match=says):
            found = load_image(tmp_path / f'{kind}.tif')
        assert np.allclose(unit(found), levels / 255, atol=1e-6)


@pytest.mark.parametrize('suffix', ['png', 'tif', 'jpg'])
@pytest.mark.parametrize('curve', [1.8, 'sRGB', 1.0])
def test_greyscale_with_a_profile(curve, suffix, tmp_path):
    levels = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
    kept = 461 / 256 if curve == 1.8 else curve
    expected = from_xyz(D50 * linear(levels / 255, kept)[..., None])
    kinds = {'grey': grey_icc(kept, 2)}
    if curve == 1.8:
        # grey is red, green and blue alike
        kinds['colour'] = screen_icc(SCREENS['ProPhoto'], 2)
    best = dict(quality=100) if suffix == 'jpg' else {}
    for name, profile in kinds.items():
        path = tmp_path / f'{name}.{suffix}'
        Image.fromarray(levels).save(path, icc_profile=profile, **best)
        with Image.open(path) as image:
            assert np.abs(np.array(image).astype(int) - levels).max() <= 1
        # a level of JPEG's is 13 where the curve is steep
        assert_shows(path, expected, levels=1 if suffix != 'jpg' else 13)
    if suffix == 'jpg':
        return
    both = Image.merge('LA', [Image.fromarray(levels), Image.fromarray(levels.T)])
    both.save(tmp_path / f'la.{suffix}', icc_profile=kinds['grey'])
    assert_shows(tmp_path / f'la.{suffix}', expected, levels.T / 255)


def ink_on_screen(v):
    "The light that inks leave; all four become the screen's black, and paper its white"
    darkest = 1 - INKS.sum(0)
    return from_xyz(D50 * (1 - v @ INKS - darkest) / (1 - darkest))


def test_colours_of_ink(tmp_path):
    levels = random_levels(48, 64, 4)
    expected = ink_on_screen(levels / 255)
    picture = Image.frombytes('CMYK', (64, 48), levels.tobytes())
    picture.save(tmp_path / 'x.tif', icc_profile=ink_icc())
    assert_shows(tmp_path / 'x.tif', expected)
    assert np.abs(expected - inks(levels)).mean() > 20 * LEVEL
    blocks = levels[::8, ::8].repeat(8, 0).repeat(8, 1)
    picture = Image.frombytes('CMYK', (64, 48), blocks.tobytes())
    for name, profile in (('with', ink_icc()), ('without', None)):
        path = tmp_path / f'{name}.jpg'
        picture.save(path, quality=100, icc_profile=profile)
        held = np.array(Image.open(path))
        # Adobe's files hold 255 − ink, which Pillow knows
        assert np.abs(held.astype(int) - blocks).max() <= 2
        assert_shows(path, ink_on_screen(held / 255) if profile else inks(held))


def jpeg_scan(levels, transform):
    "A JPEG of four colours, each block of one level, bit by bit; None: no marker of Adobe's"

    def segment(marker, content):
        return bytes([255, marker]) + struct.pack('>H', len(content) + 2) + content

    height, width = (8 * n for n in levels.shape[:2])
    adobe = b''
    if transform is not None:
        adobe = segment(0xEE, b'Adobe' + struct.pack('>HHHB', 100, 0, 0, transform))
    quant = segment(0xDB, bytes([0]) + bytes([1] * 64))
    planes = b''.join(bytes([i + 1, 0x11, 0]) for i in range(4))
    frame = segment(0xC0, struct.pack('>BHHB', 8, height, width, 4) + planes)
    # twelve codes of 4 bits: the size of the difference
    lengths = bytes([0, 0, 0, 12] + [0] * 12)
    codes = segment(0xC4, bytes([0]) + lengths + bytes(range(12)))
    # and one of 2 bits: the end of the block
    codes += segment(0xC4, bytes([0x10, 0, 1] + [0] * 14 + [0]))
    bits = ''
    last = [0] * 4
    for row in levels.astype(int):
        for pixel in row:
            for i, level in enumerate(pixel):
                step = int(8 * (level - 128) - last[i])
                last[i] += step
                size = abs(step).bit_length()
                bits += f'{size:04b}'
                if size:
                    bits += f'{step if step > 0 else step + 2**size - 1:0{size}b}'
                bits += '00'
    bits += '1' * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, 'big').replace(b'\xff', b'\xff\0')
    planes = b''.join(bytes([i + 1, 0]) for i in range(4))
    start = segment(0xDA, bytes([4]) + planes + bytes([0, 63, 0]))
    return b'\xff\xd8' + adobe + quant + frame + codes + start + scan + b'\xff\xd9'


def test_ink_of_16_bits(tmp_path):
    path = tmp_path / 'x.tif'
    numbers = random_levels(24, 32, 4, most=65535, dtype=np.uint16)
    tifffile.imwrite(path, numbers, photometric='separated', iccprofile=ink_icc())
    says = 'x.tif as an image: it has 16 bits, and a profile that is a table.*8 bits'
    with pytest.raises(OdebcError, match=says):
        load_picture(path)


@pytest.mark.parametrize('curve', [1.8, 1.0, 'sRGB'])
def test_grey_of_16_bits_with_a_profile(curve, tmp_path):
    path = tmp_path / 'x.tif'
    numbers = random_levels(32, 48, most=65535, dtype=np.uint16)
    numbers[:16] //= 64
    tifffile.imwrite(path, numbers, photometric='minisblack', iccprofile=grey_icc(curve))
    assert_shows(path, from_xyz(D50 * linear(numbers / 65535, curve)[..., None]))


def test_adobes_inks_also_as_ycck(tmp_path):
    levels = random_levels(6, 8, 4, seed=5)
    # Adobe's files hold what the ink leaves of white
    shown = inks(255 - levels).repeat(8, 0).repeat(8, 1)
    # and files without Adobe's marker are taken for Adobe's, by browsers too
    for marker in (0, None):
        (tmp_path / 'cmyk.jpg').write_bytes(jpeg_scan(levels, marker))
        assert_shows(tmp_path / 'cmyk.jpg', shown)
    levels[..., :3] = levels[..., :3] // 4 + 96  # YCC whose colours exist
    (tmp_path / 'ycck.jpg').write_bytes(jpeg_scan(levels, 2))
    # YCC is of what libjpeg takes from white once more
    shown = (1 - yellow_blue(levels)) * (levels[..., 3:] / 255)
    assert_shows(tmp_path / 'ycck.jpg', shown.repeat(8, 0).repeat(8, 1), levels=1.5)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'webp'])
def test_a_damaged_profile_is_told_and_not_used(suffix, tmp_path):
    whole = screen_icc(SCREENS['Adobe RGB'])
    damaged = {
        'cut': whole[:200],
        'words': b'no profile at all',
        'empty table': whole[:128] + bytes(len(whole) - 128),
    }
    for name, profile in damaged.items():
        path = tmp_path / f'{name}.{suffix}'
        picture = Image.fromarray(smooth_levels(24, 32))
        picture.save(path, icc_profile=profile, **exactly(suffix))
        with Image.open(path) as image:
            stored = np.array(image)
        says = f'{path.name}: its colour profile cannot be used, so it is read as sRGB'
        with pytest.warns(UserWarning, match=says) as told:
            picture = load_picture(path)
        assert len(told) == 1 and np.allclose(unit(picture.colours), stored / 255, atol=1e-6)


def test_profiles_that_pillow_drops_are_told(tmp_path):
    "PNG's own packing of the profile is damaged; a JPEG lacks a part of it"
    levels = smooth_levels(24, 32)
    rows = [row.tobytes() for row in levels]
    damaged = (b'iCCP', b'name\0\0' + b'not compressed')
    png(tmp_path / 'x.png', 32, 24, 8, 2, rows, before=[damaged])
    profile = screen_icc(SCREENS['Adobe RGB'])
    Image.fromarray(levels).save(tmp_path / 'x.jpg', icc_profile=profile)
    content = (tmp_path / 'x.jpg').read_bytes()
    content = content.replace(b'ICC_PROFILE\0\1\1', b'ICC_PROFILE\0\1\2')
    (tmp_path / 'x.jpg').write_bytes(content)
    for suffix in ('png', 'jpg'):
        with pytest.warns(UserWarning, match=f'x.{suffix}: its colour profile cannot be used'):
            load_picture(tmp_path / f'x.{suffix}')


def test_a_turned_picture_with_alpha_and_a_profile(tmp_path):
    levels = random_levels(24, 40, 4)
    profile = screen_icc(SCREENS['Display P3'])
    expected = seen(levels[..., :3] / 255, SCREENS['Display P3'])
    for suffix in ('png', 'tif', 'webp'):
        path = tmp_path / f'x.{suffix}'
        options = dict(exif=exif_of(6), icc_profile=profile)
        stored_as(6, levels).save(path, **options, **exactly(suffix))
        assert_shows(path, expected, levels[..., 3] / 255)


def test_a_profile_inside_a_bmp(tmp_path):
    levels = random_levels(24, 32, 3)
    profile = screen_icc(SCREENS['Display P3'])

    def bitmap(space, profile):
        n = 24 * 96  # bytes of the pixels
        head = struct.pack('<IiiHHIIiiII', 124, 32, -24, 1, 24, 0, n, 2835, 2835, 0, 0)
        head = head.ljust(56, b'\0') + space
        head = head.ljust(108, b'\0') + struct.pack('<IIII', 4, 124 + n, len(profile), 0)
        start = b'BM' + struct.pack('<IHHI', 14 + 124 + n + len(profile), 0, 0, 138)
        return start + head + levels[..., ::-1].tobytes() + profile

    for name, space, content, screen in (
        ('embedded', b'DEBM', profile, 'Display P3'),
        ('srgb', b'BGRs', b'', 'sRGB'),
        ('windows', b' niW', b'', 'sRGB'),
    ):
        (tmp_path / f'{name}.bmp').write_bytes(bitmap(space, content))
        assert_shows(tmp_path / f'{name}.bmp', seen(levels / 255, SCREENS[screen]))
    (tmp_path / 'damaged.bmp').write_bytes(bitmap(b'DEBM', profile[:100]))
    with pytest.warns(UserWarning, match='damaged.bmp: its colour profile cannot be used'):
        load_picture(tmp_path / 'damaged.bmp')


# PNG's own words for colours


def chroma(screen):
    red, green, blue, white, _ = screen
    numbers = [n for point in (white, red, green, blue) for n in point]
    return b'cHRM', struct.pack('>8I', *(round(n * 100_000) for n in numbers))


def gamma(number):
    return b'gAMA', struct.pack('>I', number)


def points(*numbers):
    return b'cICP', bytes(numbers)


def profiled(screen):
    return b'iCCP', b'x\0\0' + zlib.compress(screen_icc(screen))


SRGB, P3, ADOBE, PROPHOTO, BT2020 = SCREENS.values()
GAMMA = {  # the chunks, and what they mean
    'linear': ([gamma(100_000)], (*SRGB[:4], 1.0)),
    'Macintosh': ([gamma(55_556)], (*SRGB[:4], 1.8)),
    "sRGB's": ([gamma(45_455)], SRGB),
    'primaries': ([chroma(ADOBE)], (*ADOBE[:4], 'sRGB')),
    'both': ([gamma(55_556), chroma(PROPHOTO)], (*PROPHOTO[:4], 1.8)),
    'sRGB overrules': ([gamma(100_000), (b'sRGB', b'\0')], SRGB),
    'a profile overrules': ([gamma(100_000), profiled(P3)], P3),
    'code points overrule': ([points(12, 13, 0, 1), profiled(ADOBE)], P3),
    'code points of 2020': ([points(9, 13, 0, 1)], BT2020),
    'code points of sRGB': ([points(1, 13, 0, 1), gamma(100_000)], SRGB),
}


@pytest.mark.parametrize('chunks, screen', GAMMA.values(), ids=GAMMA)
def test_gamma_and_primaries_of_a_png(chunks, screen, tmp_path):
    levels = random_levels(24, 32, 3)
    rows = [row.tobytes() for row in levels]
    png(tmp_path / 'x.png', 32, 24, 8, 2, rows, before=chunks)
    assert_shows(tmp_path / 'x.png', seen(levels / 255, screen))
    if any(name == b'iCCP' for name, _ in chunks):
        return
    flat = levels[..., 0]
    rows = [row.tobytes() for row in flat]
    png(tmp_path / 'grey.png', 32, 24, 8, 0, rows, before=chunks)
    assert_shows(tmp_path / 'grey.png', seen(grey(flat) / 255, screen))


def test_bright_screens_are_refused_and_nonsense_is_told(tmp_path):
    rows = [row.tobytes() for row in smooth_levels(24, 32)]
    for n, bright in enumerate(([9, 16, 0, 1], [9, 18, 0, 1], [1, 13, 1, 1], [1, 13, 0, 0])):
        png(tmp_path / f'{n}.png', 32, 24, 8, 2, rows, before=[points(*bright)])
        says = f'{n}.png as an image: its colours .cICP {bright[0]}, .*convert it to sRGB'
        with pytest.raises(OdebcError, match=says):
            load_picture(tmp_path / f'{n}.png')
    for n, numbers in enumerate(([0] * 8, [2**32 - 1] * 8, [31270, 32900] + [30000] * 6)):
        nonsense = (b'cHRM', struct.pack('>8I', *numbers))
        png(tmp_path / f'x{n}.png', 32, 24, 8, 2, rows, before=[nonsense])
        with pytest.warns(UserWarning, match=f'x{n}.png: its colour profile cannot be used'):
            load_picture(tmp_path / f'x{n}.png')


# Depth


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_grey_with_a_transparent_value_is_white_there(bits, tmp_path):
    most = 2**bits - 1
    numbers = random_levels(16, 32, most=most, dtype=np.uint16)
    key = int(numbers[3, 5])
    if bits < 8:
        spread = (numbers[..., None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(spread.reshape(16, -1).astype(np.uint8), -1)
    else:
        rows = numbers.astype('>u2' if bits == 16 else np.uint8)
    path = tmp_path / 'x.png'
    rows = [row.tobytes() for row in rows]
    png(path, 32, 16, bits, 0, rows, before=[(b'tRNS', struct.pack('>H', key))])
    shown = grey(numbers / most), (numbers != key).astype(float)
    assert_shows(path, *shown, levels=0.01)
    assert_is_laid_over_white(load_image(path), *shown, levels=0)


@pytest.mark.parametrize('bits', [8, 16])
def test_colours_with_a_transparent_one(bits, tmp_path):
    most = 2**bits - 1
    numbers = random_levels(16, 32, 3, most=most, dtype=np.uint16)
    key = numbers[3, 5].copy()
    numbers[::2, 1::2] = key
    numbers[::2, 2::2] = key ^ 1  # in 16 bits only the lowest differs
    rows = [row.tobytes() for row in numbers.astype('>u2' if bits == 16 else np.uint8)]
    chunk = (b'tRNS', key.astype('>u2').tobytes())
    png(tmp_path / 'x.png', 32, 16, bits, 2, rows, before=[chunk])
    alpha = (numbers != key).any(-1).astype(float)
    assert_shows(tmp_path / 'x.png', numbers / most, alpha, levels=0.01)


@pytest.mark.parametrize('key', [5, bytes(range(256))], ids=['one', 'each'])
def test_palettes_with_transparency(key, tmp_path):
    image = in_mode('P')
    image.save(tmp_path / 'x.png', transparency=key)
    numbers = np.array(image)
    alpha = numbers / 255 if isinstance(key, bytes) else (numbers != 5).astype(float)
    assert_shows(tmp_path / 'x.png', PALETTE[numbers] / 255, alpha, levels=0.01)


def test_a_png_of_two_colours_with_transparency(tmp_path):
    image = in_mode('1')
    image.save(tmp_path / 'x.png', transparency=255)
    numbers = np.array(image).astype(float)
    assert_shows(tmp_path / 'x.png', grey(numbers), 1 - numbers, levels=0.01)


@pytest.mark.parametrize('kind, channels', [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize('name', [None, 'ProPhoto'])
def test_all_16_bits_of_a_png_are_read(kind, channels, name, tmp_path):
    numbers = random_levels(32, 48, channels, most=65535, dtype=np.uint16)
    numbers[:8, ..., :] //= 64  # dark, where the curves are steep
    chunks = [] if name is None else [profiled(SCREENS[name])]
    rows = [row.astype('>u2').tobytes() for row in numbers]
    png(tmp_path / 'x.png', 48, 32, 16, kind, rows, before=chunks)
    v = numbers / 65535
    alpha = v[..., -1] if channels in (2, 4) else None
    v = v[..., :3] if channels > 2 else np.repeat(v[..., :1], 3, -1)
    if name is None:
        assert_shows(tmp_path / 'x.png', v, alpha, levels=0.01)
    else:
        assert_shows(tmp_path / 'x.png', seen(v, SCREENS[name]), alpha)


# channels, photometric and extra sample that are written
TIFFS = {
    'RGB': (3, 'rgb', None),
    'RGBA': (4, 'rgb', 'unassalpha'),
    'RGBa': (4, 'rgb', 'assocalpha'),
    'LA': (2, 'minisblack', 'unassalpha'),
    'La': (2, 'minisblack', 'assocalpha'),
    'RGBX': (4, 'rgb', 'unspecified'),
    'CMYK': (4, 'separated', None),
    'black is 0': (0, 'minisblack', None),
    'white is 0': (0, 'miniswhite', None),
}
# what that means: colours, alpha or None
MEANING = {
    'RGB': lambda v: (v, None),
    'RGBA': lambda v: (v[..., :3], v[..., 3]),
    'RGBa': lambda v: (v[..., :3] / v[..., 3:], v[..., 3]),
    'LA': lambda v: (grey(v[..., 0]), v[..., 1]),
    'La': lambda v: (grey(v[..., 0] / v[..., 1]), v[..., 1]),
    'RGBX': lambda v: (v[..., :3], None),
    'CMYK': lambda v: ((1 - v[..., :3]) * (1 - v[..., 3:]), None),
    'black is 0': lambda v: (grey(v), None),
    'white is 0': lambda v: (grey(1 - v), None),
}


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('kind', TIFFS)
def test_tiff_as_another_program_writes_it(kind, bits, order, compression, tmp_path):
    channels, photometric, extra = TIFFS[kind]
    most = 2**bits - 1
    shape = (24, 32, channels) if channels else (24, 32)
    numbers = random_levels(*shape, most=most, dtype=np.uint16)
    if kind[-1] == 'a':
        numbers[..., -1] |= most // 2 + 1
        numbers[..., :-1] = np.minimum(numbers[..., :-1], numbers[..., -1:])
    path = tmp_path / 'x.tif'
    options = dict(photometric=photometric, byteorder=order, compression=compression)
    if extra:
        options['extrasamples'] = [extra]
    tifffile.imwrite(path, numbers.astype(f'uint{bits}'), **options)
    unknown_to_pillow = kind in ('LA', 'La') or kind == 'white is 0' and order == '>'
    if bits == 16 and unknown_to_pillow:
        says = 'cannot read .*x.tif as an image: cannot identify'
        with pytest.raises(OdebcError, match=says):
            load_picture(path)
        return
    levels = 1 if kind[-1] == 'a' and bits == 8 else 0.01
    assert_shows(path, *MEANING[kind](numbers / most), levels=levels)


def test_a_tiff_in_strips_or_tiles_of_16_bits(tmp_path):
    numbers = random_levels(48, 64, 3, most=65535, dtype=np.uint16)
    for name, how in (('strips', dict(rowsperstrip=7)), ('tiles', dict(tile=(16, 16)))):
        tifffile.imwrite(tmp_path / f'{name}.tif', numbers, photometric='rgb', **how)
        assert_shows(tmp_path / f'{name}.tif', numbers / 65535, levels=0.01)


def test_a_deep_photograph_in_prophoto(tmp_path):
    "What Lightroom exports: of 8 bits some steps would be left out"
    numbers = random_levels(48, 64, 3, most=65535, dtype=np.uint16)
    numbers[:16] //= 128
    profile = screen_icc(SCREENS['ProPhoto'], 2)
    tifffile.imwrite(tmp_path / 'x.tif', numbers, photometric='rgb', iccprofile=profile)
    assert_shows(tmp_path / 'x.tif', seen(numbers / 65535, SCREENS['ProPhoto']))


def test_twelve_bits(tmp_path):
    tags = [
        (256, 3, 4),
        (257, 3, 1),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 122),
        (277, 3, 1),
        (278, 3, 1),
        (279, 4, 6),
    ]
    content = b'II*\0' + struct.pack('<IH', 8, len(tags))
    for tag, kind, value in tags:
        content += struct.pack('<HHI', tag, kind, 1) + struct.pack('<I', value)
    content += bytes(4) + bytes.fromhex('000fff800001')
    (tmp_path / 'x.tif').write_bytes(content)
    assert_shows(tmp_path / 'x.tif', grey(np.array([[0, 4095, 2048, 1]]) / 4095), levels=0.01)


@pytest.mark.parametrize(
    'dtype', ['int8', 'int16', 'uint32', 'int32', 'float16', 'float32', 'float64']
)
@pytest.mark.parametrize('order', '<>')
def test_numbers_without_an_agreed_white_are_refused(dtype, order, tmp_path):
    levels = random_levels(24, 32).astype(dtype)
    how = dict(photometric='minisblack', byteorder=order)
    tifffile.imwrite(tmp_path / 'x.tif', levels, **how)
    with pytest.raises(OdebcError, match='cannot read .*x.tif as an image'):
        load_picture(tmp_path / 'x.tif')


def test_what_pillow_would_read_wrongly_is_refused(tmp_path):
    numbers = np.moveaxis(random_levels(48, 64, 3, most=65535, dtype=np.uint16), -1, 0)
    for name, how in (
        ('planes', {}),
        ('tiles', dict(tile=(16, 16))),
        ('compressed', dict(compression='zlib')),
    ):
        path = tmp_path / f'{name}.tif'
        tifffile.imwrite(path, numbers, photometric='rgb', planarconfig='separate', **how)
        says = f'{name}.tif as an image: it keeps 16 bits in one plane for each colour'
        with pytest.raises(OdebcError, match=says):
            load_picture(path)


# Large pictures


@pytest.fixture
def low_limit(monkeypatch):
    "As if every picture here were larger than Pillow allows"
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('way', WAYS)
def test_pictures_beyond_pillows_limit(way, low_limit, tmp_path):
    levels = smooth_levels(24, 40)
    Image.fromarray(levels).save(tmp_path / f'x.{way}', **WAYS[way])
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / f'x.{way}').load()
    assert_shows(tmp_path / f'x.{way}', levels / 255, levels=4 if way in LOSSY else 0)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pillows_limit_is_back_whatever_happens(low_limit, tmp_path):
    Image.fromarray(random_levels(64, 64, 3)).save(tmp_path / 'x.png')
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'x.png').read_bytes()[:3000])
    (tmp_path / 'no.png').write_bytes(b'no picture')

    def often(name):
        for _ in range(20):
            try:
                load_picture(tmp_path / name)
            except OdebcError:
                pass

    names = ('x.png', 'broken.png', 'no.png') * 2
    threads = [threading.Thread(target=often, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_our_own_limit(tmp_path, monkeypatch):
    rows = [bytes(2000)] * 12_000  # 192 megapixels of one bit, as large as four times 12
    png(tmp_path / 'large.png', 16_000, 12_000, 1, 0, rows)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / 'large.png')
    assert picture_size(tmp_path / 'large.png') == (16_000, 12_000)
    png(tmp_path / 'huge.png', 40_000, 30_000, 1, 0, [b''])
    says = 'huge.png as an image: its 40000×30000 pixels .* 1,000,000,000 .*: cut it into'
    for look in (picture_size, load_picture):
        with pytest.raises(OdebcError, match=says):
            look(tmp_path / 'huge.png')
    monkeypatch.setattr(images, 'MAX_PIXELS', 16_000 * 12_000 - 1)
    with pytest.raises(OdebcError, match='cut it into parts'):
        load_picture(tmp_path / 'large.png')


# Several pictures in a file


def test_of_several_pictures_the_first_is_read_with_a_word(tmp_path):
    levels = smooth_levels(24, 40)
    first, second = (Image.fromarray(levels[::step]) for step in (1, -1))
    both = dict(save_all=True, append_images=[second])
    for suffix in ('tif', 'png', 'webp'):
        path = tmp_path / f'x.{suffix}'
        first.save(path, **both, **exactly(suffix))
        says = 'it holds several pictures, and the first is read'
        with Image.open(path) as image, pytest.warns(UserWarning) as told:
            found = load_image(path), load_picture(path).colours, to_tensor(image)
        assert all(np.allclose(unit(x), levels / 255, atol=1e-6) for x in found)
        said = [str(warning.message) for warning in told]
        assert said == [f'{path}: {says}', f'{path}: {says}', f'a picture: {says}']
        assert {warning.filename for warning in told} == {__file__}  # who asked for it
    first.save(tmp_path / 'telephone.jpg', 'MPO', **both, quality=95, subsampling=0)
    # its second one is for a machine
    assert_shows(tmp_path / 'telephone.jpg', levels / 255, levels=4)


# Writing


def test_alpha_is_written_and_read_again(tmp_path):
    levels = random_levels(24, 32, 4)
    x = torch.from_numpy(levels).permute(2, 0, 1) / 255
    image = to_image(x[:3] * 2 - 1, x[3:])
    assert image.mode == 'RGBA' and np.array_equal(np.array(image), levels)
    image.save(tmp_path / 'x.png')
    assert_shows(tmp_path / 'x.png', levels[..., :3] / 255, levels[..., 3] / 255, levels=0.01)
    assert to_image(x[:3] * 2 - 1).mode == 'RGB'
    for wrong in (x[3], x[3:, 1:], x[2:], x[3:].expand(3, -1, -1)):
        with pytest.raises(OdebcError, match=r'alpha .*\(1, 24, 32\)'):
            to_image(x[:3], wrong)


def test_laid_over_white():
    colours, alpha = torch.full((3, 1, 3), -1.0), torch.tensor([[[0.0, 0.5, 1.0]]])
    expected = torch.tensor([1.0, 0, -1]).expand(3, 1, 3)
    assert torch.equal(over_white(Picture(colours, alpha)), expected)
    assert over_white(Picture(colours)) is colours


# Folders


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def photograph(name):
    return to_image(photographs()[name])


@pytest.fixture
def album(tmp_path):
    "A folder as one finds it on a disk"
    for name in ('coffee', 'chelsea', 'rocket'):
        save(tmp_path / f'{name}.png', photograph(name))
        thumbnail = photograph(name)
        thumbnail.thumbnail((128, 128))
        for hidden in ('.thumbnails', '__MACOSX', 'deep/.cache/large', '@eaDir/x'):
            save(tmp_path / hidden / f'{name}.png', thumbnail)
    return tmp_path


def test_hidden_folders_are_not_read_and_told(album):
    (album / 'notes.txt').write_text('hello')
    (album / '.DS_Store').write_bytes(b'')
    (album / '.git').mkdir()
    (album / '.git/HEAD').write_text('ref')
    (album / 'folder.png').mkdir()
    (album / 'broken.jpg').write_bytes(b'no picture')
    save(album / 'tiny.png', Image.new('RGB', (50, 80)))
    Image.fromarray(random_levels(80, 80, 3)).save(album / 'doubt.png', icc_profile=b'damaged')
    with pytest.warns(UserWarning) as told:
        images = byte_folder(album)
    assert list(images) == ['chelsea.png', 'coffee.png', 'doubt.png', 'rocket.png']
    assert len(told) == 1
    said = str(told[0].message)
    assert said.startswith(
        f'ignored 15 of 19 files in {album}: 12 hidden (.thumbnails/chelsea.png, …), '
        '1 by its name no image (notes.txt), '
        '1 smaller than 64×64 (tiny.png, 50×80), 1 unreadable (cannot read'
    )
    assert said.endswith(
        '1 read with a doubt (doubt.png: its colour profile cannot be used, '
        'so it is read as sRGB (it is damaged))'
    )
    assert told[0].filename == __file__


@pytest.mark.filterwarnings('error')
def test_nothing_is_said_about_nothing(tmp_path):
    # the folders above the searched one are the user's
    save(tmp_path / '.hidden/above/sub/a.png', photograph('coffee'))
    (tmp_path / '.hidden/above/.DS_Store').write_bytes(b'')
    (tmp_path / '.hidden/above/sub/._a.png').write_bytes(b'')
    assert list(image_folder(tmp_path / '.hidden/above')) == ['sub/a.png']
    assert has_images(tmp_path / '.hidden/above') and not has_images(tmp_path)


def test_what_is_hidden_is_hidden_everywhere(album, monkeypatch):
    hidden = '.a.png', '.thumbnails/a.png', 'b/.x/c/a.png', '__MACOSX/Set/a.png'
    assert not any(map(is_image, (*hidden, 'a.txt', 'a')))
    there = 'a.png', './a.PNG', '../a.jpg', 'b.c/a.tiff', '/home/me/.cache/Set5/a.png'
    assert all(map(is_image, there))
    for name in ('coffee', 'chelsea', 'rocket'):
        (album / f'{name}.png').unlink()
    assert not has_images(album)
    (album / 'empty.png').mkdir()
    assert not has_images(album)
    with zipfile.ZipFile(album / 'set.zip', 'w') as archive:
        for folder in ('HR', '.HR', '__MACOSX/HR', 'HR/.thumbnails'):
            archive.writestr(f'{folder}/a.png', b'')
    unpack(album / 'set.zip', ['HR', '.HR', '__MACOSX/HR', 'HR/.thumbnails'], album / 'set', 1)
    assert [path.name for path in (album / 'set').iterdir()] == ['a.png']


def jpeg_of(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return Image.open(buffer)


def as_wide_as(image, width):
    return image.resize((width, round(width * image.height / image.width)))


COPIES = {
    'thumbnail': lambda image: as_wide_as(image, 128),
    'half': lambda image: image.reduce(2),
    'saved again': lambda image: jpeg_of(image, 30),
    'small and poor': lambda image: jpeg_of(as_wide_as(image, 96), 60),
    'larger': lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2)),
    '256 colours': lambda image: image.quantize(256),
}


@pytest.mark.parametrize('copy', COPIES.values(), ids=COPIES)
def test_a_copy_stays_with_its_original(copy):
    "Also where one was made of the other's copy, whatever the seed, as floats and as bytes"
    photos = {name: x[:, :240, :320] for name, x in photographs().items()}
    again = COPIES['saved again']
    images = dict(photos)
    for name, x in photos.items():
        images[f'copy of {name}'] = to_tensor(copy(to_image(x)))
    for name, x in photos.items():
        second = again(copy(to_image(x)).convert('RGB'))
        images[f'second copy of {name}'] = to_tensor(second)

    def originals(side):
        return {name.split()[-1] for name in side}

    for seed in range(3):
        for kind in (images, {name: to_bytes(x) for name, x in images.items()}):
            left, right = split(kind, seed=seed)
            assert not originals(left) & originals(right)
            assert left.keys() | right.keys() == images.keys() and left and right


def test_different_photographs_are_no_copies():
    photos = list(photographs().values())
    large = [x for x in photos if min(x.shape[1:]) >= 400]
    corners = (0, 0), (0, 200), (200, 0), (200, 200)
    parts = [x[:, i : i + 200, j : j + 200] for x in large for i, j in corners]
    noise = list(torch.randn(6, 3, 256, 256, generator=torch.Generator().manual_seed(0)))
    flat = list(torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 64, 64))
    for group in (photos, parts, noise, flat):
        assert not near_copies(group).triu(1).any()


def test_a_folder_of_one_photograph_in_two_sizes_cannot_be_split(tmp_path):
    save(tmp_path / 'a.png', photograph('coffee'))
    save(tmp_path / 'b.png', photograph('coffee').reduce(2))
    with pytest.raises(OdebcError, match='at least two images that differ .* got 1'):
        split(image_folder(tmp_path))
