"Real LPIPS against the values that its authors publish; runs where AlexNet's weights are at hand."
import os
from pathlib import Path
import pytest
import torch
from odebc.data import load_image
from odebc.metrics import ALEX_VARIABLE, alexnet_features, lpips, lpips_alex

EXAMPLES = Path(__file__).parents[2]/'shared/data/lpips_examples'
real = pytest.mark.skipif(not (os.environ.get(ALEX_VARIABLE) and EXAMPLES.is_dir()), reason=f'needs {ALEX_VARIABLE} and the LPIPS example images')


@real
def test_published_values():
    ref, p0, p1 = (load_image(EXAMPLES/f'ex_{n}.png')[None] for n in ('ref', 'p0', 'p1'))
    assert lpips(p0, ref).item() == pytest.approx(.722, abs=.001)
    assert lpips(p1, ref).item() == pytest.approx(.138, abs=.001)
    assert lpips((p0 + 1)/2, (ref + 1)/2).item() != pytest.approx(.722, abs=.002), 'images in [0, 1] must give another value'


@pytest.mark.parametrize('content', [None, b'nonsense'])
def test_bad_weights_are_refused(tmp_path, monkeypatch, content):
    path = tmp_path/'alex.safetensors'
    if content: path.write_bytes(content)
    monkeypatch.setenv(ALEX_VARIABLE, str(path))
    with pytest.raises(ValueError, match="needs AlexNet's weights"): alexnet_features()


def test_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    torch.save({'features.0.weight': torch.zeros(1)}, tmp_path/'other.pth')
    monkeypatch.setenv(ALEX_VARIABLE, str(tmp_path/'other.pth'))
    lpips_alex.cache_clear()
    with pytest.raises(ValueError, match="not torchvision's AlexNet"): lpips_alex()
    lpips_alex.cache_clear()
