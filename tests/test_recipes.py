"""Recipes for models from their own repositories: stand-ins with the original's calls, and for
each a loop written from the original's files, from the same start; every detail is noticed.
"""

import json
from enum import Enum
from types import SimpleNamespace
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from odebc.data import upsample
from odebc.matrix import candidates
from odebc.metrics import Distance
from odebc.recipes import (
    diff_bir,
    diff_ir,
    guided_upsampler,
    inv_sr,
    map_of,
    residual_shifting,
    seed_vr2,
)
from odebc.recipes import sr3_repository, stable_sr
from odebc.search import search

MSE = Distance(lambda a, b: (a - b).square().mean((1, 2, 3)), name='MSE')


def lr(n=2, side=8, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, side, side, generator=chance, dtype=torch.float64) * 2 - 1


def starts(h, y, n=2):
    return candidates(n, h.shape(y)).double()


def gap(a, b):
    return (a - b).abs().max().item()


class Net(nn.Module):
    "A convolution and a number: what it is told about time changes its answer smoothly"

    def __init__(self, channels_in, channels_out, period=20.0):
        super().__init__()
        torch.manual_seed(channels_in + 7 * channels_out)
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1).double()
        self.drop = nn.Dropout(0.5)
        self.period = period

    def forward(self, x, t):
        assert t.shape[0] == len(x)
        t = t.reshape(-1, 1, 1, 1).double() / self.period
        return self.drop(torch.sin(self.conv(x) + t))


def keeps_what_maps_promise(h, y, path):
    "Twice the same, rows by themselves, no global chance, searchable, JSON facts"
    x_T = starts(h, y)
    state = torch.get_rng_state()
    with torch.no_grad():
        together = h(x_T, y)
        alone = torch.cat([h(x_T[k : k + 1], y[k : k + 1]) for k in range(len(y))])
    assert torch.equal(torch.get_rng_state(), state)
    assert together.shape[:2] == (len(y), 3) and together.abs().max() <= 1
    assert gap(together, alone) < 1e-6 and together.std() > 0.05
    assert (together.abs() == 1).double().mean() < 0.9
    json.dumps(h.facts)
    with torch.no_grad():
        found = search(h, torch.zeros_like(together), y, 3, MSE, 'exhaustive', path=path)
    assert tuple(found.x_T.shape) == tuple(h.shape(y)) and found.nfe == 3 * len(y) * h.nfe
    with pytest.raises(ValueError, match='x_T must have the shape'):
        h(x_T[..., :-1], y)
    with pytest.raises(ValueError, match='y must lie in'):
        h(x_T, y + 2)


def gradients_reach(h, y):
    x_T = (0.3 * starts(h, y)).requires_grad_()
    h(x_T, y).square().sum().backward()
    assert x_T.grad.isfinite().all() and x_T.grad.abs().max() > 1e-9


def test_what_identifies_a_map():
    nets = Net(3, 3), Net(3, 3)
    with torch.no_grad():
        nets[1].conv.bias.add_(1)

    def facts(*networks, **more):
        return map_of(lambda x, y: x, 'it', list(networks), 1, (3, 8, 8), **more).facts

    assert facts(nets[0]) == facts(nets[0]) != facts(nets[1])
    assert facts(*nets) != facts(*nets[::-1]) and facts(nets[0]) != facts(nets[0], steps=3)
    assert not nets[0].training and not any(w.requires_grad for w in nets[0].parameters())


# SR3 in PyTorch: model/sr3_modules/diffusion.py (GaussianDiffusion) and model/model.py (DDPM)


def sr3_stand_in(T=20):
    betas = torch.linspace(1e-6, 0.1, T, dtype=torch.float64)
    net = Net(6, 3, period=0.2)

    class GaussianDiffusion(nn.Module):
        def __init__(self):
            super().__init__()
            self.denoise_fn = net
            self.register_buffer('betas', betas)

    return SimpleNamespace(netG=GaussianDiffusion()), net, betas


def ddim(eps_of, x, alpha_bar, clip):
    "DDIM through all steps, from the paper's Eq. 12 with η = 0; steps counted from 0"
    alpha_bar = alpha_bar.tolist()
    for i in range(len(alpha_bar))[::-1]:
        now, after = alpha_bar[i], alpha_bar[i - 1] if i else 1.0
        x0 = (x - (1 - now) ** 0.5 * eps_of(x, i)) / now**0.5
        x0 = x0.clamp(-1, 1) if clip else x0
        eps = (x - now**0.5 * x0) / (1 - now) ** 0.5
        x = after**0.5 * x0 + (1 - after) ** 0.5 * eps
    return x


@pytest.mark.parametrize('parallel', [False, True])
def test_sr3_repository(parallel, tmp_path):
    model, net, betas = sr3_stand_in()
    if parallel:
        model.netG = SimpleNamespace(module=model.netG)  # nn.DataParallel
    h = sr3_repository(model, 'DDIM-20', scale=2)
    y = lr()
    x_T = starts(h, y)
    alpha_bar = (1 - betas).cumprod(0)
    # as p_mean_variance looks it up: one place later in a table that begins with 1
    root = torch.cat([torch.ones(1), alpha_bar]).sqrt()

    def theirs(late=0, y_last=False, of_t=False):
        y_up = F.interpolate(y, scale_factor=2, mode='bicubic').clamp(-1, 1)

        def eps(x, i):
            level = float(i) if of_t else root[i + 1 - late].item()
            told = torch.full((len(x), 1), level, dtype=torch.float64)
            return net(torch.cat([x, y_up] if y_last else [y_up, x], 1), told)

        return ddim(eps, x_T, alpha_bar, clip=True).clamp(-1, 1)

    with torch.no_grad():
        x0 = h(x_T, y)
        assert h.shape(y) == (3, 16, 16) and h.nfe == 20 and gap(x0, theirs()) < 1e-6
        for wrong in (dict(late=1), dict(y_last=True), dict(of_t=True)):
            assert gap(x0, theirs(**wrong)) > 1e-4, wrong
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')
    gradients_reach(sr3_repository(model, 'DDIM-3', scale=2), y)


# guided-diffusion: guided_diffusion/respace.py, gaussian_diffusion.py, unet.py (SuperResModel)

Mean = Enum('Mean', 'PREVIOUS_X START_X EPSILON')


class SuperResModel(nn.Module):
    num_classes = None

    def __init__(self):
        super().__init__()
        self.net = Net(6, 6)

    def forward(self, x, timesteps, low_res=None, y=None):
        up = F.interpolate(low_res, x.shape[2:], mode='bilinear')
        shift = 0 if y is None else y.double() / 10
        return self.net(torch.cat([x, up], 1), timesteps + 10 * shift)


def spaced_diffusion(T=20, kept=20, mean=Mean.EPSILON, rescale=False):
    return SimpleNamespace(
        betas=torch.linspace(0.001, 0.2, T, dtype=torch.float64).numpy(),
        num_timesteps=kept,
        original_num_steps=T,
        model_mean_type=mean,
        rescale_timesteps=rescale,
    )


@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('mean', [Mean.EPSILON, Mean.START_X])
@pytest.mark.parametrize('class_index', [None, 3])
def test_guided_upsampler(mean, rescale, class_index, tmp_path):
    model, diffusion = SuperResModel(), spaced_diffusion(mean=mean, rescale=rescale)
    model.num_classes = None if class_index is None else 1000
    h = guided_upsampler(model, diffusion, 'DDIM-20', 2, class_index)
    y = lr()
    x_T = starts(h, y)
    alpha_bar = torch.from_numpy(1 - diffusion.betas).cumprod(0)

    def theirs(late=0, half=slice(3), factor=50.0 if rescale else 1.0, other=0):
        told = dict(low_res=y)
        if class_index is not None:
            told['y'] = torch.full((len(y),), class_index + other)

        def eps(x, i):
            out = model(x, torch.full((len(x),), factor * (i - late)), **told)[:, half]
            now = alpha_bar[i].item()
            return out if mean == Mean.EPSILON else (x - now**0.5 * out) / (1 - now) ** 0.5

        return ddim(eps, x_T, alpha_bar, clip=True).clamp(-1, 1)

    with torch.no_grad():
        x0 = h(x_T, y)
        assert gap(x0, theirs()) < 1e-6 and h.nfe == 20
        wrongs = [dict(late=1), dict(half=slice(3, 6)), dict(factor=25.0)]
        wrongs += [dict(other=1)] if class_index else []
        for wrong in wrongs:
            assert gap(x0, theirs(**wrong)) > 1e-4, wrong
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')
    gradients_reach(guided_upsampler(model, diffusion, 'DDIM-3', 2, class_index), y)


def test_guided_upsampler_refuses():
    model = SuperResModel()
    with pytest.raises(ValueError, match='keeps 5 of 20 steps'):
        guided_upsampler(model, spaced_diffusion(kept=5))
    model.num_classes = 1000
    with pytest.raises(ValueError, match='pass class_index'):
        guided_upsampler(model, spaced_diffusion())


# ResShift and SinSR: models/gaussian_diffusion.py, configs/realsr_swinunet_realesrgan256.yaml


class Autoencoder(nn.Module):
    "Four times smaller, three channels"

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.mix = nn.Conv2d(3, 3, 1).double()

    def encode(self, picture):
        return self.mix(F.avg_pool2d(picture, 4))

    def decode(self, z):
        return torch.tanh(F.interpolate(self.mix(z), scale_factor=4))


class Shifting:
    "The parts of GaussianDiffusion that the recipe calls"

    def __init__(self, T=5, kappa=2.0, scale_factor=1.5):
        self.etas = torch.linspace(0.1, 0.99, T).double().numpy() ** 2
        self.etas_prev = torch.tensor([0.0, *self.etas[:-1]]).double().numpy()
        self.sqrt_etas = self.etas**0.5
        self.num_timesteps, self.kappa, self.scale_factor = T, kappa, scale_factor

    def encode_first_stage(self, y, first_stage_model, up_sample=False):
        assert up_sample
        y = F.interpolate(y, scale_factor=4, mode='bicubic')
        return first_stage_model.encode(y) * self.scale_factor

    def prior_sample(self, y, noise=None):
        return y + self.kappa * self.sqrt_etas[-1] * noise

    def _scale_input(self, inputs, t):
        eta = torch.from_numpy(self.etas)[t].reshape(-1, 1, 1, 1)
        return inputs / (eta * self.kappa**2 + 1).sqrt()


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(6, 3)

    def forward(self, x, t, lq=None):
        return self.net(torch.cat([x, lq], 1), t)


def ddim_of_sinsr(diffusion, model, autoencoder, x_T, y, one_step, **wrong):
    "By ε: x_t = (1 − η) z_0 + η z_y + κ √η ε, with the same ε at the next η"
    late = wrong.get('late', 0)
    up = F.interpolate(y, scale_factor=4, mode='bicubic')
    z_y = autoencoder.encode(up) * diffusion.scale_factor
    kappa, etas = diffusion.kappa, diffusion.etas.tolist()
    z = (0 if wrong.get('no_y') else z_y) + kappa * etas[-1] ** 0.5 * x_T
    for i in range(len(etas))[::-1]:
        t = torch.full((len(y),), i)
        seen = z if wrong.get('no_scale') else z / (etas[i] * kappa**2 + 1) ** 0.5
        z_0 = model(seen, t - late, lq=y)
        if one_step:
            z = z_0
            break
        eps = (z - (1 - etas[i]) * z_0 - etas[i] * z_y) / (kappa * etas[i] ** 0.5)
        after = etas[i - 1] if i else 0.0
        z = (1 - after) * z_0 + after * z_y + kappa * after**0.5 * eps
    latent = z if wrong.get('unscaled') else z / diffusion.scale_factor
    return autoencoder.decode(latent).clamp(-1, 1)


@pytest.mark.parametrize('one_step', [False, True])
def test_residual_shifting(one_step, tmp_path):
    parts = Shifting(), Swin(), Autoencoder()
    h = residual_shifting(*parts, one_step)
    y = lr()
    x_T = starts(h, y)
    with torch.no_grad():
        x0 = h(x_T, y)
        assert gap(x0, ddim_of_sinsr(*parts, x_T, y, one_step)) < 1e-9
        for wrong in ('late', 'no_y', 'no_scale', 'unscaled'):
            other = ddim_of_sinsr(*parts, x_T, y, one_step, **{wrong: 1})
            assert gap(x0, other) > 1e-4, wrong
    assert h.shape(y) == (3, 8, 8) and h.nfe == (1 if one_step else 5)
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')
    gradients_reach(h, y)


# InvSR: sampler_invsr.py, inference_invsr.py; NoisePredictor.forward; __call__ and
# retrieve_timesteps in pipeline_stable_diffusion_inversion_sr.py


class Predictor(nn.Module):
    "Plays NoisePredictor: mean and spread from the picture in [0, 1] and the time"

    def __init__(self):
        super().__init__()
        self.net = Net(3, 8, period=500.0)

    def forward(self, sample, timesteps, sample_posterior=True, center_input_sample=True):
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        sample = sample * 2 - 1.0 if center_input_sample else sample
        side = sample.shape[-1] // 2
        moments = F.adaptive_avg_pool2d(self.net(sample, timesteps), side)
        posterior = DiagonalGaussianDistribution(moments)
        return posterior.sample() if sample_posterior else posterior


@pytest.fixture(scope='module')
def turbo():
    from odebc.metrics import import_torchvision

    import_torchvision()
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(8)
    blocks = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    coder = dict(block_out_channels=4 * (8,), norm_num_groups=4, latent_channels=4)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        **blocks,
    ).double()
    vae = AutoencoderKL(
        down_block_types=4 * ('DownEncoderBlock2D',),
        up_block_types=4 * ('UpDecoderBlock2D',),
        scaling_factor=0.18215,
        **coder,
    ).double()
    scheduler = EulerDiscreteScheduler(
        beta_schedule='scaled_linear',
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing='trailing',
    )
    words = torch.randn(1, 3, 8, dtype=torch.float64)

    def encode_prompt(prompt, device, num_images_per_prompt, do_classifier_free_guidance):
        return words, None

    parts = dict(unet=unet, vae=vae, scheduler=scheduler, encode_prompt=encode_prompt)
    return SimpleNamespace(**parts, start_noise_predictor=Predictor())


def theirs_of_inv_sr(pipe, x_T, y, steps, **wrong):
    "The pipeline's __call__ and retrieve_timesteps, with diffusers' own scheduler; x_T drawn"
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    image = y if wrong.get('range') else (y + 1) / 2
    image_up = F.interpolate(image, scale_factor=4, mode='bicubic') * 2 - 1
    timesteps = torch.tensor(steps, dtype=torch.float32) - (0 if wrong.get('late') else 1)
    sigmas = scheduler.sigmas.flip(0)[1:][timesteps.long()]
    scheduler.timesteps = timesteps
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1)])
    scheduler._step_index = scheduler._begin_index = None
    told = timesteps[:1].repeat(len(y))
    posterior = pipe.start_noise_predictor(image, told, sample_posterior=False)
    noise = x_T if wrong.get('no_predictor') else posterior.mean + posterior.std * x_T
    factor = 1.0 if wrong.get('unscaled') else pipe.vae.config.scaling_factor
    latents = factor * pipe.vae.encode(image_up).latent_dist.mode()
    latents = scheduler.add_noise(latents, noise, told)
    for t in timesteps:
        seen = scheduler.scale_model_input(latents, t)
        words = pipe.encode_prompt('', 'cpu', 1, False)[0].repeat(len(y), 1, 1)
        noise_pred = pipe.unet(seen, t, encoder_hidden_states=words, return_dict=False)[0]
        latents = scheduler.step(noise_pred, t, latents, return_dict=False)[0]
    return pipe.vae.decode(latents / factor, return_dict=False)[0].clamp(-1, 1)


@pytest.mark.parametrize('steps', [(200,), (250, 200, 150, 100, 50)])
def test_inv_sr(steps, turbo, tmp_path):
    h = inv_sr(turbo, steps)
    y = lr(side=16)
    x_T = starts(h, y)
    with torch.no_grad():
        x0 = h(x_T, y)
        assert gap(x0, theirs_of_inv_sr(turbo, x_T, y, steps)) < 1e-5
        for wrong in ('range', 'late', 'no_predictor', 'unscaled'):
            assert gap(x0, theirs_of_inv_sr(turbo, x_T, y, steps, **{wrong: 1})) > 1e-4, wrong
    assert h.shape(y) == (4, 8, 8) and h.nfe == len(steps)
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')
    gradients_reach(h, y)


# DiffIR: DiffIR-SRGAN/ldm/ddpm.py (DDPM), DiffIR-SRGAN/DiffIR/archs/S2_arch.py (DiffIRS2)


class Denoise(nn.Module):
    def __init__(self, n):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(2 * n + 1, n).double()

    def forward(self, x, t, c):
        return torch.tanh(self.linear(torch.cat([c, t.double().view(-1, 1) / 50, x], 1)))


class DiffIRS2(nn.Module):
    def __init__(self, n=8):
        super().__init__()
        torch.manual_seed(2)
        self.denoise = Denoise(n)
        self.encoder = nn.Linear(3, n).double()
        self.tint = nn.Linear(n, 3).double()
        betas = torch.linspace(0.1**0.5, 0.99**0.5, 4, dtype=torch.float64) ** 2
        alpha_bar = (1 - betas).cumprod(0)
        before = torch.cat([torch.ones(1), alpha_bar[:-1]])
        self.of_x0 = betas * before.sqrt() / (1 - alpha_bar)
        self.of_x = (1 - before) * (1 - betas).sqrt() / (1 - alpha_bar)
        self.diffusion = SimpleNamespace(
            num_timesteps=4,
            channels=n // 4,
            clip_denoised=False,
            p_mean_variance=self.p_mean_variance,
        )

    def p_mean_variance(self, x, t, c, clip_denoised: bool):
        x0 = self.denoise(x, t, c)
        mean = self.of_x0[t].view(-1, 1) * x0 + self.of_x[t].view(-1, 1) * x
        return mean, None, None, x0

    def condition(self, img):
        assert img.min() >= 0 and img.max() <= 1
        return self.encoder(img.mean((2, 3)))

    def G(self, img, numbers):
        up = F.interpolate(img, scale_factor=4, mode='nearest')
        return up + 0.3 * self.tint(numbers)[:, :, None, None]


def test_diff_ir(tmp_path):
    "By DDPM's posterior mean, Eq. 7 of Ho et al."
    model = DiffIRS2()
    h = diff_ir(model)
    y = lr()
    x_T = starts(h, y)
    assert h.shape(y) == (8,) and h.nfe == 4

    def theirs(late=0, in_range=True, upwards=False):
        img = (y + 1) / 2 if in_range else y.clamp(0, 1)
        c, x = model.condition(img), x_T
        for i in range(4) if upwards else (3, 2, 1, 0):
            t = torch.full((len(y),), i)
            x0 = model.denoise(x, t - late, c)
            x = model.of_x0[i] * x0 + model.of_x[i] * x
        return (2 * model.G(img, x) - 1).clamp(-1, 1)

    with torch.no_grad():
        x0 = h(x_T, y)
        assert gap(x0, theirs()) < 1e-9
        for wrong in (dict(late=1), dict(in_range=False), dict(upwards=True)):
            assert gap(x0, theirs(**wrong)) > 1e-6, wrong
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')
    gradients_reach(h, y)


# StableSR: scripts/sr_val_ddim_text_T_negativeprompt.py, ldm/models/diffusion/ddim.py


class Posterior:
    def __init__(self, mean):
        self.mean = mean

    def mode(self):
        return self.mean

    def sample(self):
        return self.mean + torch.randn_like(self.mean)


class Resi(nn.Module):
    "AutoencoderKLResi: 8 times smaller, four channels, features beside"

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.down, self.up = nn.Conv2d(3, 4, 1).double(), nn.Conv2d(4, 3, 1).double()
        self.decoder = SimpleNamespace(fusion_w=0.5)

    def encode(self, x):
        return Posterior(self.down(F.avg_pool2d(x, 8))), F.avg_pool2d(x, 4)

    def decode(self, z, features):
        picture = F.interpolate(self.up(z), scale_factor=8)
        fused = F.interpolate(features, scale_factor=4)
        return torch.tanh(picture + self.decoder.fusion_w * fused)


class LatentDiffusion(nn.Module):
    channels = 4
    scale_factor = 0.2

    def __init__(self, T=20):
        super().__init__()
        self.net, self.structure = Net(8, 4), Net(4, 4)
        betas = torch.linspace(0.00085**0.5, 0.25**0.5, T, dtype=torch.float64) ** 2
        self.register_buffer('betas', betas)

    def cond_stage_model(self, texts):
        return torch.full((len(texts), 7, 8), float(len(texts[0])), dtype=torch.float64)

    def get_first_stage_encoding(self, posterior):
        z = posterior.sample() if isinstance(posterior, Posterior) else posterior
        return self.scale_factor * z

    def structcond_stage_model(self, z, t):
        return self.structure(z, t)

    def apply_model(self, x, t, words, structure):
        assert words.shape == (len(x), 7, 8)
        return self.net(torch.cat([x, structure], 1), t + words.mean((1, 2)))


def test_stable_sr(tmp_path):
    model, vq_model = LatentDiffusion(), Resi()
    h = stable_sr(model, vq_model, 'DDIM-20')
    y = lr()
    x_T = starts(h, y)
    assert h.shape(y) == (4, 4, 4) and h.nfe == 20
    alpha_bar = (1 - model.betas).cumprod(0)

    def theirs(late=0, start=True, scale=0.2, fused=True, prompt=''):
        posterior, features = vq_model.encode(upsample(y))
        z_y = 0.2 * posterior.mean
        words = model.cond_stage_model(len(y) * [prompt])

        def eps(x, i):
            t = torch.full((len(x),), i - late)
            return model.apply_model(x, t, words, model.structcond_stage_model(z_y, t))

        end = alpha_bar[-1].item()
        x = end**0.5 * z_y + (1 - end) ** 0.5 * x_T if start else x_T
        z = ddim(eps, x, alpha_bar, clip=False)
        return vq_model.decode(z / scale, features if fused else 0 * features).clamp(-1, 1)

    with torch.no_grad():
        x0 = h(x_T, y)
        assert gap(x0, theirs()) < 1e-6
        wrongs = [dict(late=1), dict(start=False), dict(scale=1.0), dict(fused=False)]
        for wrong in [*wrongs, dict(prompt='a')]:
            assert gap(x0, theirs(**wrong)) > 1e-4, wrong
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')
    gradients_reach(stable_sr(model, vq_model, 'DDIM-3'), y)
    facts = h.facts
    vq_model.decoder.fusion_w = 0.0
    assert stable_sr(model, vq_model, 'DDIM-20').facts != facts


# SeedVR2: projects/video_diffusion_sr/infer.py, projects/inference_seedvr2_3b.py


class Runner:
    "Latents are frames, rows, columns, channels"

    def __init__(self):
        torch.manual_seed(4)
        self.dit, self.vae = Net(33, 16, period=1000.0), nn.Conv2d(3, 16, 1).double()
        self.out = nn.Conv2d(16, 3, 1).double()
        sampling = SimpleNamespace(steps=1)
        self.config = SimpleNamespace(
            vae=SimpleNamespace(use_sample=True, scaling_factor=0.9),
            diffusion=SimpleNamespace(timesteps=SimpleNamespace(sampling=sampling)),
        )

    def vae_encode(self, samples):
        assert all(x.ndim == 4 and x.shape[:2] == (3, 1) for x in samples)
        latents = [self.vae(F.avg_pool2d(x[:, 0], 8)[None])[0] for x in samples]
        if self.config.vae.use_sample:
            latents = [z + torch.randn_like(z) for z in latents]
        return [(z * 0.9).permute(1, 2, 0)[None] for z in latents]

    def get_condition(self, latent, latent_blur, task):
        assert task == 'sr' and latent.shape == latent_blur.shape
        return torch.cat([latent_blur, torch.ones_like(latent_blur[..., :1])], -1)

    def inference(self, noises, conditions, texts_pos, texts_neg, cfg_scale=None):
        assert len(noises) == len(conditions) == len(texts_pos) == len(texts_neg)
        samples = []
        for noise, c, text in zip(noises, conditions, texts_pos):
            both = torch.cat([noise, c], -1).permute(0, 3, 1, 2)
            v = self.dit(both, 1000 + text)
            z = (noise.permute(0, 3, 1, 2) - v) / 0.9
            samples.append(torch.tanh(F.interpolate(self.out(z), scale_factor=8))[0])
        return samples


def test_seed_vr2(tmp_path):
    runner = Runner()
    text = torch.full((1,), 7.0, dtype=torch.float64)
    h = seed_vr2(runner, dict(texts_pos=[text], texts_neg=[text]))
    y = lr()
    x_T = starts(h, y)
    assert h.shape(y) == (16, 4, 4) and h.nfe == 1 and runner.config.vae.use_sample is False

    def theirs(transposed=False, scale=0.9):
        "One step of Euler from σ = 1 to 0, channels first"
        start = x_T.mT if transposed else x_T
        seen = scale * runner.vae(F.avg_pool2d(upsample(y), 8))
        told = torch.cat([start, seen, torch.ones_like(seen[:, :1])], 1)
        z = (start - runner.dit(told, 1000 + text.expand(2))) / 0.9
        return torch.tanh(F.interpolate(runner.out(z), scale_factor=8)).clamp(-1, 1)

    with torch.no_grad():
        x0 = h(x_T, y)
        assert gap(x0, theirs()) < 1e-9
        assert gap(x0, theirs(transposed=True)) > 1e-3 and gap(x0, theirs(scale=1.0)) > 1e-4
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')


# DiffBIR: diffbir/pipeline.py (BSRNetPipeline), diffbir/model/cldm.py (ControlLDM)


class ControlLDM(nn.Module):
    scale_factor = 0.2

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.net = Net(8, 4)
        self.down, self.up = nn.Conv2d(3, 4, 1).double(), nn.Conv2d(4, 3, 1).double()

    def prepare_condition(self, cond_img, txt):
        assert len(txt) == len(cond_img)
        words = torch.tensor([float(len(text)) for text in txt], dtype=torch.float64)
        c_img = self.scale_factor * self.down(F.avg_pool2d(cond_img * 2 - 1, 8))
        return dict(c_txt=words, c_img=c_img)

    def forward(self, x_noisy, t, cond):
        return self.net(torch.cat([x_noisy, cond['c_img']], 1), t + cond['c_txt'])

    def vae_decode(self, z):
        return torch.tanh(F.interpolate(self.up(z / self.scale_factor), scale_factor=8))


class BSRNetPipeline:
    upscale = 4.0

    def __init__(self, zero_snr, parameterization, T=20):
        alpha = (1 - torch.linspace(0.01, 0.3, T, dtype=torch.float64)).cumprod(0).sqrt()
        if zero_snr:  # shifted so that the last is 0, scaled so that the first stays
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        ratio = alpha**2 / torch.cat([torch.ones(1), alpha[:-1] ** 2])
        named = dict(betas=(1 - ratio).numpy(), parameterization=parameterization)
        self.diffusion = SimpleNamespace(**named)
        self.cldm = ControlLDM()
        torch.manual_seed(8)
        self.cleaner = nn.Conv2d(3, 3, 1).double()

    def set_output_size(self, lq_size):
        self.output_size = tuple(int(side * self.upscale) for side in lq_size[2:])

    def apply_cleaner(self, lq, tiled, tile_size, tile_stride):
        assert not tiled and lq.min() >= 0
        return F.interpolate(torch.sigmoid(self.cleaner(lq)), size=self.output_size)


@pytest.mark.parametrize('guidance', [1.0, 4.0])
@pytest.mark.parametrize('version', ['2.1', '2'])
def test_diff_bir(version, guidance, tmp_path):
    "v from noise alone, and ε with something of the picture left"
    pipeline = BSRNetPipeline(*((True, 'v') if version == '2.1' else (False, 'eps')))
    net = pipeline.cldm
    h = diff_bir(pipeline, 'DDIM-20', ('a cat', 'blur'), guidance)
    y = lr()
    x_T = starts(h, y)
    assert h.shape(y) == (4, 4, 4) and h.nfe == (20 if guidance == 1 else 40)
    alpha_bar = torch.from_numpy(1 - pipeline.diffusion.betas).cumprod(0).tolist()

    def theirs(late=0, w=guidance, backwards=1, clean=True):
        picture = (y + 1) / 2
        picture = torch.sigmoid(pipeline.cleaner(picture)) if clean else picture
        picture = F.interpolate(picture, scale_factor=4)
        told, other = (
            net.prepare_condition(picture, [text] * 2) for text in ('a cat', 'blur')
        )
        x = x_T
        for i in range(20)[::-1]:
            t = torch.full((2,), i - late)
            out = net(x, t, other)
            out = backwards * (out + w * (net(x, t, told) - out))
            alpha, sigma = alpha_bar[i] ** 0.5, (1 - alpha_bar[i]) ** 0.5
            after = alpha_bar[i - 1] if i else 1.0
            if version == '2.1':
                x0, eps = alpha * x - sigma * out, sigma * x + alpha * out
            else:
                x0, eps = (x - sigma * out) / alpha, out
            x = after**0.5 * x0 + (1 - after) ** 0.5 * eps
        return net.vae_decode(x).clamp(-1, 1)

    with torch.no_grad():
        x0 = h(x_T, y)
        assert gap(x0, theirs()) < 1e-6
        for wrong in (dict(late=1), dict(w=2.0), dict(backwards=-1), dict(clean=False)):
            assert gap(x0, theirs(**wrong)) > 1e-5, wrong
    keeps_what_maps_promise(h, y, tmp_path / 'x_T.safetensors')
    gradients_reach(diff_bir(pipeline, 'DDIM-3'), y)
