"A network as files hold it, in 16 bits and in 8: what is saved is what is loaded again."

import copy
import pytest
import torch
from safetensors.torch import load_file, save_file
from odebc.errors import OdebcError
from odebc.hub import HubSR3
from odebc.sr3 import scaled, SR3
from odebc.unet import UNet

WEIGHTS = 'model.safetensors'


@pytest.fixture(scope='module')
def small():
    return SR3.from_pretrained('small')


def tiny():
    "Whose largest weights are beyond `LARGE`, in a network that takes no time"
    torch.manual_seed(0)
    net = UNet(channels=64, mults=(1,), blocks=1, attention=(), groups=1)
    return SR3(net.eval().requires_grad_(False), 4, 64)


def error_of_channels(file, net):
    "Largest difference of each channel of the weights in 8 bits, as a share of its largest"
    kept = load_file(file)
    names = [name for name, w in kept.items() if w.dtype == torch.int8]
    assert names
    for name in names:
        scale, w = kept[f'scale of {name}'].float(), net.state_dict()[name].float()
        again = kept[name].flatten(1) * scale[:, None]
        largest = w.flatten(1).abs().amax(1)
        yield (again - w.flatten(1)).abs().amax(1) / largest


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_8_bits_lose_half_a_level_at_most(small, dtype, tmp_path):
    net = copy.deepcopy(small.net).to(dtype)
    SR3(net, 4, 64).save_pretrained(tmp_path, bits=8)
    for error in error_of_channels(tmp_path / WEIGHTS, net):
        assert error.max() < 0.505 / 127


@pytest.mark.parametrize('bits', [8, 16])
def test_what_was_loaded_is_saved_as_it_was(bits, tmp_path):
    tiny().save_pretrained(tmp_path / 'one', bits=bits)
    one = SR3.from_pretrained(tmp_path / 'one')
    one.save_pretrained(tmp_path / 'two')
    HubSR3.of(one).save_pretrained(tmp_path / 'three')
    for folder in ('two', 'three'):
        again = SR3.from_pretrained(tmp_path / folder)
        assert again.fingerprint == one.fingerprint and again.bits == bits
        same = (tmp_path / name / WEIGHTS for name in ('one', folder))
        assert len({path.read_bytes() for path in same}) == 1


def test_the_hub_is_told_how_many_bits(tmp_path):
    model = HubSR3.of(tiny())
    sizes = []
    for bits in (16, 8):
        model.save_pretrained(tmp_path / str(bits), bits=bits)
        sizes.append((tmp_path / str(bits) / WEIGHTS).stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    with pytest.raises(OdebcError, match='in 16 or 8 bits, not in 4'):
        model.save_pretrained(tmp_path / 'four', bits=4)


@pytest.mark.parametrize('task', ['real', 'grey'])
def test_the_hub_keeps_the_task(task, tmp_path):
    model = SR3.from_pretrained(task)
    HubSR3.of(model).save_pretrained(tmp_path)
    for again in (HubSR3.from_pretrained(tmp_path), SR3.from_pretrained(tmp_path)):
        assert (again.task, again.scale) == (model.task, model.scale)
        assert again.fingerprint == model.fingerprint


def test_the_hub_refuses_what_no_file_holds(small):
    with pytest.raises(OdebcError, match='not what alters its guesses'):
        HubSR3.of(scaled(small, 0.9))


@pytest.mark.parametrize('harm', ['gone', 'short', 'one for all'])
def test_8_bits_without_their_scales_are_damaged(harm, tmp_path):
    tiny().save_pretrained(tmp_path, bits=8)
    kept = load_file(tmp_path / WEIGHTS)
    name = next(name for name in kept if name.startswith('scale of '))
    scale = kept.pop(name)
    if harm != 'gone':
        kept[name] = scale[:1] if harm == 'one for all' else scale[:-1]
    save_file(kept, tmp_path / WEIGHTS)
    with pytest.raises(OdebcError, match='damaged or of another version.*no scale'):
        SR3.from_pretrained(tmp_path)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1e6])
def test_numbers_that_a_file_would_lose_are_refused(bits, value, tmp_path):
    model = tiny()
    bias = next(p for name, p in model.net.named_parameters() if name.endswith('bias'))
    bias[0] = value
    with pytest.raises(OdebcError, match='NaN, or numbers beyond ± 65504, and is not saved'):
        model.save_pretrained(tmp_path / 'lost', bits=bits)
    assert not (tmp_path / 'lost').exists()
