"""Metrics against independent implementations, their refusals, kept features, and the stand-in
against real LPIPS.
"""

import functools
import os
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from urllib.request import urlopen
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from scipy.stats import spearmanr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from odebc.data import crops, degrade, photographs, upsample
from odebc.metrics import ALEX_VARIABLE, Distance, default_distance, dists, DISTS, dists_model
from odebc.metrics import dssim, import_torchvision, lite_model, load_trunk, LowRankAlexNet
from odebc.metrics import LPIPS, lpips, lpips_lite, lpips_model, psnr, ssim, trunk_weights
from odebc.metrics import TRUNKS
from odebc.matrix import candidates
from odebc.sr3 import SR3

# ruff: noqa: E402 (the next three import torchvision, which may have to be repaired before)
import_torchvision()
import lpips as lpips_package
import torchmetrics.functional.image.dists as torchmetrics_dists
from torchvision.models.vgg import cfgs, make_layers, vgg16
from waiting import LIMIT

SQUEEZE = Path(__file__).parents[2] / 'shared/weights/squeezenet1_1_features.safetensors'
real = pytest.mark.skipif(not os.environ.get(ALEX_VARIABLE), reason=f'needs {ALEX_VARIABLE}')


@pytest.fixture(scope='module')
def pair():
    z = crops(list(photographs().values()), 6, 64, torch.Generator().manual_seed(3))
    return upsample(degrade(z)), z


@pytest.fixture(scope='module')
def vgg(tmp_path_factory):
    "VGG16 as torchvision makes it, with random weights, and a file of them"
    torch.manual_seed(0)
    net = vgg16()
    path = tmp_path_factory.mktemp('vgg') / 'vgg16.pth'
    torch.save({k: v for k, v in net.state_dict().items() if k.startswith('features')}, path)
    return net, path


def forget_models():
    lpips_model.cache_clear()
    dists_model.cache_clear()


@pytest.fixture
def vgg_file(vgg, monkeypatch):
    monkeypatch.setenv('ODEBC_LPIPS_VGG', str(vgg[1]))
    forget_models()
    yield vgg[0]
    forget_models()


@pytest.fixture
def offline(monkeypatch):
    "A machine without network and without any weights"
    for net in TRUNKS:
        monkeypatch.delenv(f'ODEBC_LPIPS_{net.upper()}', raising=False)

    def no_network(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', no_network)
    forget_models()
    yield
    forget_models()


def hwc(x):
    return x.permute(1, 2, 0).numpy()


def test_psnr_and_ssim_are_those_of_scikit_image(pair):
    for a, b, p, s in zip(*pair, psnr(*pair), ssim(*pair)):
        independent = peak_signal_noise_ratio(hwc(b), hwc(a), data_range=2)
        assert p.item() == pytest.approx(independent, abs=1e-3)
        independent = structural_similarity(
            (hwc(a) + 1) / 2,
            (hwc(b) + 1) / 2,
            data_range=1,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert s.item() == pytest.approx(independent, abs=1e-4)
    assert torch.allclose(dssim(*pair), (1 - ssim(*pair)) / 2)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.01, 0.5), st.integers(11, 40), st.integers(11, 40), st.integers(0, 99))
def test_metrics_of_any_size(error, h, w, seed):
    z = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(seed)) - 0.5
    expected = 10 * torch.log10(torch.tensor(4 / error**2))
    assert torch.allclose(psnr(z + error, z), expected, atol=0.01)
    assert torch.allclose(ssim(z, z), torch.ones(2), atol=1e-5)
    assert (ssim(z + error, z) <= 1).all()


def random_lpips():
    return LPIPS(LowRankAlexNet([4, 4, 4]), [torch.ones(w) for w in (64, 192, 384, 256, 256)])


def random_dists():
    return DISTS(make_layers(cfgs['D']), torch.ones(1475), torch.ones(1475))


@pytest.mark.parametrize(
    'make',
    [
        lambda: psnr,
        lambda: ssim,
        lambda: dssim,
        lambda: lpips_lite,
        lite_model,
        random_lpips,
        random_dists,
    ],
)
def test_what_is_not_a_pair_of_images_is_refused(make, pair):
    metric = make()
    a, b = pair
    for bad in (a * 127.5, (a + 1) * 127.5):
        pytest.raises(ValueError, metric, bad, b).match('must lie in')
    pytest.raises(ValueError, metric, a, b * 127.5).match('must lie in')
    pytest.raises(ValueError, metric, torch.full_like(a, torch.nan), b).match('NaN')
    for bad in (a[:4], a[0], a[:, :1], a[..., :32]):
        pytest.raises(ValueError, metric, bad, b).match('batches of one shape')
    if hasattr(metric, 'features'):
        pytest.raises(ValueError, metric.features, a * 127.5).match('must lie in')
    if metric is not psnr:
        pytest.raises(ValueError, metric, a[..., :10, :], b[..., :10, :]).match('at least')


@pytest.mark.parametrize('net', TRUNKS)
def test_lpips_is_that_of_its_package(net, pair, vgg_file, monkeypatch):
    if net == 'squeeze':
        if not SQUEEZE.exists():
            pytest.skip('needs SqueezeNet')
        monkeypatch.setenv('ODEBC_LPIPS_SQUEEZE', str(SQUEEZE))
    if net == 'alex' and not os.environ.get(ALEX_VARIABLE):
        pytest.skip(f'needs {ALEX_VARIABLE}')
    package = lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False)
    load_trunk(package.net, net, trunk_weights(net))
    assert torch.allclose(lpips(*pair, net), package(*pair).flatten(), atol=1e-6)


def test_dists_is_that_of_its_authors(pair, vgg_file, monkeypatch):
    """The formulas written out for each image, layer and channel, and torchmetrics with the
    same trunk
    """
    ours = dists(*pair)
    monkeypatch.setattr(torchmetrics_dists, 'vgg16', lambda weights: vgg_file)
    published = torchmetrics_dists.deep_image_structure_and_texture_similarity
    theirs = published(*((x + 1) / 2 for x in pair))
    # it subtracts the product of means, which costs digits
    assert torch.allclose(ours, theirs.detach(), atol=2e-4)
    path = files('torchmetrics.functional.image') / 'dists_models/weights.pt'
    weights = torch.load(path, map_location='cpu')
    alpha, beta = (weights[k].detach().flatten().double().numpy() for k in ('alpha', 'beta'))
    expected = [written_out(a, b, vgg_file, alpha, beta) for a, b in zip(*pair)]
    assert ours.numpy() == pytest.approx(expected, abs=1e-5)


def written_out(a, b, net, alpha, beta):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16

    def maps(x):
        x = (x[None].double() + 1) / 2
        f = (x - mean) / std
        found = [x]
        for layer in net.features[:30]:
            if isinstance(layer, torch.nn.MaxPool2d):
                found.append(f)
                window = F.pad(f, (1, 1, 1, 1)).square().unfold(2, 3, 2).unfold(3, 3, 2)
                f = (window * blur).sum((4, 5)).sqrt()
            elif isinstance(layer, torch.nn.Conv2d):
                f = F.conv2d(f, layer.weight.double(), layer.bias.double(), padding=1)
            else:
                f = f.relu()
        return [m[0].flatten(1).detach().numpy() for m in (*found, f)]

    def channels(x):
        return [channel for layer in maps(x) for channel in layer]

    p, q = (np.array([(m.mean(), m.std()) for m in channels(x)]) for x in (a, b))
    pairs = zip(channels(a), channels(b))
    cov = np.array([np.mean((u - u.mean()) * (v - v.mean())) for u, v in pairs])
    texture = (2 * p[:, 0] * q[:, 0] + 1e-6) / (p[:, 0] ** 2 + q[:, 0] ** 2 + 1e-6)
    structure = (2 * cov + 1e-6) / (p[:, 1] ** 2 + q[:, 1] ** 2 + 1e-6)
    return 1 - (alpha * texture + beta * structure).sum() / (alpha + beta).sum()


@pytest.mark.parametrize(
    'make', [lite_model, random_dists, pytest.param(lpips_model, marks=real)]
)
def test_kept_features_give_the_same_distances(make, pair):
    model = make()
    a, z = pair
    i = torch.tensor([5, 0, 0, 3, 2, 5])
    assert torch.allclose(Distance(model).to(z)(a, i), model(a, z[i]), atol=1e-6)
    to_one = model.compare(model.features(a), model.features(z[:1]))
    assert torch.allclose(to_one, model(a, z[:1].expand_as(a)), atol=1e-6)
    assert torch.equal(Distance(psnr).to(z)(a, i), psnr(a, z[i]))


def test_each_reference_is_looked_at_once(pair):
    model = random_lpips()
    a, z = pair
    seen = []
    model.trunk.register_forward_hook(lambda trunk, images, maps: seen.append(len(images[0])))
    d = Distance(model).to(z)
    for _ in range(5):
        d(a, torch.arange(6))
    assert sum(seen) == 6 + 5 * 6


def test_gradients_reach_the_image_also_where_nothing_is_seen(pair):
    "The package's own normalisation gives NaN for a place where no channel answers"
    model = random_lpips()
    a = pair[0].clone().requires_grad_()
    for p in model.trunk.layers[0].parameters():
        torch.nn.init.zeros_(p)
    model(a, pair[1]).sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize('net', TRUNKS)
@pytest.mark.parametrize('content', [None, b'', b'nonsense', 'other'])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_weights_that_cannot_be_used_are_refused(net, content, suffix, tmp_path, monkeypatch):
    path = tmp_path / f'weights.{suffix}'
    if content == 'other':
        torch.save({'features.0.weight': torch.zeros(1)}, path)
    elif content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(f'ODEBC_LPIPS_{net.upper()}', str(path))
    forget_models()
    for metric in [lambda a, b: lpips(a, b, net)] + [dists] * (net == 'vgg'):
        with pytest.raises(ValueError, match=TRUNKS[net][0]):
            metric(*torch.zeros(2, 1, 3, 64, 64))
    lpips_model.cache_clear()


def test_weights_in_torchvisions_cache_are_used(vgg, tmp_path, monkeypatch):
    monkeypatch.delenv('ODEBC_LPIPS_VGG', raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    (tmp_path / 'hub/checkpoints').mkdir(parents=True)
    (tmp_path / 'hub/checkpoints' / TRUNKS['vgg'][1]).symlink_to(vgg[1])
    weights = trunk_weights('vgg')
    trunk = {k: v for k, v in vgg[0].state_dict().items() if k.startswith('features')}
    assert all(torch.equal(weights[k], v) for k, v in trunk.items())


def test_a_download_of_other_weights_is_refused_and_leaves_nothing_behind(
    vgg, tmp_path, monkeypatch
):
    monkeypatch.delenv('ODEBC_LPIPS_VGG', raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    (tmp_path / TRUNKS['vgg'][1]).symlink_to(vgg[1])
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    server = HTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there = 'https://download.pytorch.org/models'
    asked = []

    def local(request):
        asked.append(request.full_url)
        here = f'http://127.0.0.1:{server.server_port}'
        return urlopen(request.full_url.replace(there, here), timeout=LIMIT)

    monkeypatch.setattr(torch.hub, 'urlopen', local)
    with pytest.raises(ValueError, match='invalid hash value'):
        trunk_weights('vgg')
    server.shutdown()
    assert asked == [f"{there}/{TRUNKS['vgg'][1]}"]
    assert not [path for path in (tmp_path / 'home').rglob('*') if path.is_file()]


def test_the_name_of_a_distance_is_the_same_on_every_machine():
    "torch's float32 root is off by a last bit here and there, otherwise on other machines"
    w = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    root = LPIPS(torch.nn.Identity(), [w]).roots[0].detach().numpy()
    assert np.array_equal(root, np.sqrt(w.numpy()))


def test_unknown_network():
    pytest.raises(ValueError, trunk_weights, 'resnet').match('there are alex, vgg, squeeze')


def test_without_network_and_weights(offline, pair):
    for net in TRUNKS:
        with pytest.raises(ValueError, match=f'name such a file in ODEBC_LPIPS_{net.upper()}'):
            lpips(*pair, net)
    with pytest.raises(ValueError, match='ODEBC_LPIPS_VGG'):
        dists(*pair)
    distance = default_distance()
    assert distance.name == 'LPIPS-lite'
    assert torch.equal(distance(*pair), lpips_lite(*pair))
    assert 'ODEBC_LPIPS_ALEX' in distance.note


@real
def test_the_default_distance_is_lpips(pair):
    distance = default_distance()
    assert (distance.name, distance.note) == ('LPIPS', '')
    assert torch.equal(distance(*pair), lpips(*pair))


def test_the_stand_in_is_small_and_a_distance(pair):
    a, z = pair
    folder = files('odebc.assets') / 'lpips_lite'
    assert sum(f.stat().st_size for f in folder.iterdir()) < 2e6
    with pytest.raises(ValueError, match='no model'):
        SR3.from_pretrained('lpips_lite')
    assert torch.equal(lpips_lite(z, z), torch.zeros(6))
    assert torch.allclose(lpips_lite(a, z), lpips_lite(z, a), atol=1e-7)
    assert (lpips_lite(a, z) > lpips_lite((a + z) / 2, z)).all()
    for size in (32, 33, 50, 128):
        assert lpips_lite(*torch.rand(2, 1, 3, size, size + 7)).isfinite().all()


@real
@torch.no_grad()
def test_the_stand_in_agrees_with_lpips():
    "Photographs and a distortion (mosaic) that it was not trained on; few, so with some slack"
    z = crops(list(photographs().values()), 6, 64, torch.Generator().manual_seed(11))
    sr3 = SR3.from_pretrained()
    x_T = candidates(20, (3, 64, 64), seed=5)

    def often(one):
        return one.expand(20, -1, -1, -1)

    x = torch.stack([sr3.h(x_T, often(one), 'DDIM-6') for one in degrade(z)])

    def scores(d):
        return torch.stack([d(versions, often(one)) for versions, one in zip(x, z)])

    D = {metric: scores(metric) for metric in (lpips, lpips_lite, dssim)}

    def within(metric):
        return np.mean([spearmanr(s, t).statistic for s, t in zip(D[metric], D[lpips])])

    assert within(lpips_lite) > max(0.85, within(dssim) + 0.3), within(lpips_lite)
    g = torch.Generator().manual_seed(0)
    mosaic = F.interpolate(F.avg_pool2d(z, 4), scale_factor=4)
    others = [upsample(degrade(z)), mosaic, z.roll(1, -1)]
    for s in (0.03, 0.1, 0.3):
        others.append((z + s * torch.randn(z.shape, generator=g)).clamp(-1, 1))

    def everything(metric):
        return torch.cat([D[metric].flatten()] + [metric(o, z) for o in others])

    assert spearmanr(everything(lpips_lite), everything(lpips)).statistic > 0.93
