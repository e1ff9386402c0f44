"What is asked of every solution map and distance alike, whoever made them."

import numpy as np
import pytest
import torch
from torch import nn
from odebc.errors import OdebcError
from odebc.images import to_bytes, to_image
from odebc.maps import SolutionMap, solution_map
from odebc.matrix import candidates, score_matrix
from odebc.metrics import Distance, as_distance, dssim, lpips_lite, psnr, ssim
from odebc.sr3 import SR3
from odebc.unet import UNet


def tiny_sr3():
    torch.manual_seed(0)
    net = UNet(0.13, channels=8, mults=(1,), blocks=1, heads=2, groups=1)
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    return SR3(net.eval().requires_grad_(False), size=16)


def of_sr3():
    return tiny_sr3().solution_map('DDIM-2')


def of_diffusers():
    from odebc.metrics import import_torchvision

    import_torchvision()  # before diffusers does it
    from diffusers import DDIMScheduler, UNet2DModel
    from odebc.adapters import UNetMap

    torch.manual_seed(0)
    layout = dict(block_out_channels=(8, 8), norm_num_groups=2, layers_per_block=1)
    blocks = dict(down_block_types=('DownBlock2D',) * 2, up_block_types=('UpBlock2D',) * 2)
    net = UNet2DModel(16, in_channels=6, out_channels=3, **layout, **blocks)
    return UNetMap(net.eval().requires_grad_(False), DDIMScheduler(), 'DDIM-2')


def of_a_function():
    def enlarged(x_T, y):
        return y.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.1 * x_T

    return solution_map(enlarged, name='enlarged', shape=lambda y: (3, 16, 16))


@pytest.fixture(params=[of_sr3, of_diffusers, of_a_function], ids=lambda make: make.__name__)
def h(request):
    return request.param()


Y = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
X_T = candidates(2, (3, 16, 16))


def test_what_every_map_says_of_itself(h):
    assert isinstance(h, SolutionMap) and h.name in repr(h)
    assert h.nfe >= 1 and tuple(h.shape(Y)) == (3, 16, 16)
    assert h.facts and h.meta == h.facts
    assert solution_map(h) is h


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_types_are_converted_at_the_door(h, dtype):
    "Not: Input type (double) and bias type (float)"
    expected = h(X_T.to(dtype).float(), Y.to(dtype).float())
    found = h(X_T.to(dtype), Y.to(dtype))
    assert found.dtype in (torch.float32, torch.float64)
    assert (found - expected).abs().max() < 1e-4


def test_one_start_serves_all(h):
    both = h(X_T[:1], Y)
    assert torch.allclose(both[1], h(X_T[:1], Y[1:])[0], atol=1e-3)


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(y=127.5 * (Y + 1)), r'y must lie in \[-1, 1\], not in \['),
        (dict(y=(127 * Y).to(torch.uint8)), 'y must be a tensor of floating-point'),
        (dict(y=Y.where(Y < 0.9, torch.nan)), 'y holds NaN'),
        (dict(y=Y.where(Y < 0.9, torch.inf)), 'y holds NaN or infinite'),
        (dict(y=Y.numpy()), 'y must be a tensor'),
        (dict(x_T=X_T[..., :8]), 'x_T must have the shape'),
        (dict(x_T=X_T.where(X_T < 2, torch.nan)), 'x_T holds NaN'),
        (dict(x_T=candidates(3, (3, 16, 16))), 'x_T must have the shape'),
        (dict(x_T=np.zeros((1, 3, 16, 16))), 'x_T must be a tensor'),
    ],
)
def test_every_map_refuses_the_same(h, change, says):
    with pytest.raises(OdebcError, match=says):
        h(**(dict(x_T=X_T, y=Y) | change))


def test_a_result_that_is_not_finite_is_refused():
    "Weights with a NaN gave a black picture, status 0"
    model = tiny_sr3()
    model.net.F.last.bias[0] = torch.nan
    with pytest.raises(
        OdebcError, match='returned NaN or infinite values: look at its weights'
    ):
        model.h(X_T, Y, 'DDIM-2')
    with pytest.raises(OdebcError, match='NaN'):
        model.upscale(Y[0], X_T[0], 'DDIM-2', overlap=1)
    for broken in (torch.full((3, 4, 4), torch.nan), torch.full((3, 4, 4), torch.inf)):
        for write in (to_image, to_bytes):
            with pytest.raises(OdebcError, match='NaN or infinite'):
                write(broken)


def test_upscale_takes_what_numpy_gives():
    model = tiny_sr3()
    expected = model.upscale(Y[0], X_T[0], 'DDIM-2', overlap=1)
    found = model.upscale(Y[0].double(), X_T[0].double(), 'DDIM-2', overlap=1)
    assert (found - expected).abs().max() < 1e-5


# --- distances


@pytest.mark.parametrize('metric', [psnr, ssim, dssim, lpips_lite])
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_metrics_compute_in_float32(metric, dtype):
    "h that returns bfloat16 had SSIM .754 for .695, and another winner"
    a, b = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = metric(a.to(dtype).float(), b.to(dtype).float())
    found = metric(a.to(dtype), b.to(dtype))
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.allclose(metric(a, b), metric(a.clone(), b), atol=0)
        under_autocast = metric(a, b)
    assert torch.allclose(under_autocast, metric(a, b), atol=1e-5)


def test_a_map_in_half_precision_has_the_scores_of_its_pictures():
    z = Y.repeat_interleave(8, 2).repeat_interleave(8, 3)

    def half(x_T, y):
        return (z[: len(y)] * 0.9 + 0.01 * x_T).bfloat16()

    def whole(x_T, y):
        return half(x_T, y).float()

    starts = candidates(4, (3, 32, 32))
    maps = solution_map(half, shape=(3, 32, 32)), solution_map(whole, shape=(3, 32, 32))
    one, other = (score_matrix(h, starts, z, Y, dssim, batch=2) for h in maps)
    assert torch.equal(one, other)


def test_what_tells_distances_apart():
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3)

    def mine(a, b):
        return (a - b).abs().mean((1, 2, 3))

    assert Distance(mine).identity is None and as_distance(mine).name == 'mine'
    assert Distance(mine, 'L1').identity == 'L1'
    assert Distance(net).identity is None
    before = Distance(net, 'net').identity
    with torch.no_grad():
        net.weight.add_(1)
    assert Distance(net, 'net').identity != before
    assert Distance(dssim).identity == 'dssim'
    distance = Distance(mine, 'L1')
    assert as_distance(distance) is distance
