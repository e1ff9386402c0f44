"""diffusers' models as solution maps: the same pictures as diffusers' own loops and pipelines,
batches, precision, bad input.
"""

import json
import sys
from copy import deepcopy
import pytest
import torch
from odebc.metrics import import_torchvision

# ruff: noqa: E402 (transformers imports torchvision, which may have to be repaired before)
import_torchvision()
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxTransformer2DModel,
    IPNDMScheduler,
    LDMSuperResolutionPipeline,
    PNDMScheduler,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
    UNet2DModel,
    UniPCMultistepScheduler,
    VQModel,
)
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from waiting import finished
from odebc.adapters import eps_of, LatentMap, ode_sampler, schedule_of, TO_EPS, UNetMap
from odebc.adapters import FluxMap, UpscalerMap, ZeroTerminal
from odebc.canvas import canvas
from odebc.data import upsample
from odebc.metrics import Distance
from odebc.matrix import candidates
from odebc.search import search
from odebc.samplers import sampler
from odebc.schedule import Schedule

pytestmark = pytest.mark.filterwarnings(
    'ignore::FutureWarning:diffusers', 'ignore::DeprecationWarning'
)


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=g(seed))


def lr(n, side=8, seed=0):
    return torch.rand(n, 3, side, side, generator=g(seed)) * 2 - 1


def gap(a, b):
    return (a - b).abs().max().item()


def mse(a, b):
    return (a - b).square().mean((1, 2, 3))


BLOCKS = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
PLAIN = dict(BLOCKS, down_block_types=2 * ('DownBlock2D',), up_block_types=2 * ('UpBlock2D',))
CODER = dict(
    block_out_channels=3 * (8,),
    down_block_types=3 * ('DownEncoderBlock2D',),
    up_block_types=3 * ('UpDecoderBlock2D',),
    norm_num_groups=4,
)


def reloaded(model, folder, cls=None):
    "What a user has: the model after a way over the disk"
    model.save_pretrained(folder)
    return (cls or type(model)).from_pretrained(folder)


@pytest.fixture(scope='module')
def unet(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=16, in_channels=6, out_channels=3, **PLAIN)
    return reloaded(unet, tmp_path_factory.mktemp('unet'))


@pytest.fixture(scope='module')
def unconditional():
    torch.manual_seed(1)
    return UNet2DModel(sample_size=16, in_channels=3, out_channels=3, **PLAIN)


@pytest.fixture(scope='module')
def ldm(tmp_path_factory, unet):
    torch.manual_seed(0)
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0155,
        beta_schedule='scaled_linear',
        prediction_type='v_prediction',
        clip_sample=False,
        timestep_spacing='trailing',
    )
    vq = VQModel(**CODER, num_vq_embeddings=64)
    pipe = LDMSuperResolutionPipeline(vq, unet, scheduler)
    pipe = reloaded(pipe, tmp_path_factory.mktemp('ldm'))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope='module')
def upscaler(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=7,
        out_channels=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        num_class_embeds=1000,
        **BLOCKS,
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
    )
    vae = AutoencoderKL(**CODER, latent_channels=4, scaling_factor=0.08333)
    vocab = {'<|startoftext|>': 0, '<|endoftext|>': 1, 'a</w>': 2, 'cat</w>': 3}
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    scheduler = DDIMScheduler(
        beta_schedule='scaled_linear',
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type='v_prediction',
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing='trailing',
    )
    pipe = StableDiffusionUpscalePipeline(
        vae=vae,
        unet=unet,
        low_res_scheduler=DDPMScheduler(beta_schedule='squaredcos_cap_v2'),
        tokenizer=CLIPTokenizer(vocab=vocab, merges=[], model_max_length=8),
        text_encoder=CLIPTextModel(config),
        scheduler=scheduler,
    )
    pipe = reloaded(pipe, tmp_path_factory.mktemp('upscaler'))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_module_needs_no_diffusers():
    code = (
        'import sys, odebc.adapters\n'
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert finished([sys.executable, '-c', code], check=True).stdout.strip() == '[]'


SCHEDULES = dict(
    linear={},
    scaled_linear=dict(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear'),
    cosine=dict(beta_schedule='squaredcos_cap_v2'),
    trained=dict(trained_betas=[0.01, 0.2, 0.03, 0.4], num_train_timesteps=4),
    short=dict(num_train_timesteps=50),
)


@pytest.mark.parametrize(
    'kind',
    [
        DDIMScheduler,
        DDPMScheduler,
        PNDMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
    ],
)
@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules(name, kind):
    "ᾱ_t of ours is theirs at t − 1, and not at t; how the scheduler samples does not matter"
    scheduler = kind(**SCHEDULES[name])
    sched = schedule_of(scheduler)
    alpha_bar = sched.alpha(torch.arange(1, sched.T + 1)) ** 2
    theirs = scheduler.alphas_cumprod.double()
    exact = (1 - scheduler.betas.double()).cumprod(0)
    assert gap(alpha_bar / exact, torch.ones(sched.T)) < 1e-11
    assert gap(alpha_bar / theirs, torch.ones(sched.T)) < 1e-4
    assert gap(alpha_bar[1:] / theirs[:-1], torch.ones(sched.T - 1)) > 1e-2
    own = {'linear': Schedule.linear, 'cosine': Schedule.cosine}.get(name)
    if own:
        assert gap(sched.table, own().table) < 1e-5


def test_schedules_that_are_refused():
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(),
        IPNDMScheduler(),
        UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type='flow_prediction'),
        object(),
    ):
        with pytest.raises(ValueError, match=f'{type(scheduler).__name__} does not describe'):
            schedule_of(scheduler)
    with pytest.raises(ValueError, match='contradict'):
        schedule_of(CogVideoXDDIMScheduler())  # it shifts ᾱ, but not the betas


@pytest.mark.parametrize('kind', [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler])
def test_a_schedule_that_ends_in_noise_alone(kind):
    scheduler = kind(rescale_betas_zero_snr=True, beta_schedule='scaled_linear')
    sched = schedule_of(scheduler)
    assert isinstance(sched, ZeroTerminal) and sched.T == 1000
    exact = (1 - scheduler.betas.double()).cumprod(0)
    t = torch.arange(1, 1001)
    assert gap(sched.alpha(t) ** 2, exact) < 1e-12 and exact[-1] == 0
    assert (sched.alpha(1000), sched.sigma(1000), sched.lam(1000)) == (0, 1, -torch.inf)
    assert 2 * sched.alpha(999.5) == sched.alpha(999) > 0  # straight to 0 in the last step
    assert torch.equal(sched.until(700).alpha(t[:700]), sched.alpha(t[:700]))
    assert sched.numbers != schedule_of(kind(beta_schedule='scaled_linear')).numbers
    with pytest.raises(ValueError, match='ends in noise alone'):
        sampler('DDIM-50', sched)
    with pytest.raises(ValueError, match='has β_T = 1, not 0.02'):
        ZeroTerminal(Schedule.linear().betas)
    with pytest.raises(ValueError, match='must predict v or x_0'):
        ode_sampler('DDIM-50', sched, 'epsilon')


@pytest.mark.parametrize('kind', TO_EPS)
def test_estimates_are_those_of_a_diffusers_scheduler(kind):
    """ε from output and x_t, against the ε in DDIMScheduler's step, which is read off one step
    from t to the clean image and back
    """
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    x = normal(2, 3).double()
    out = normal(2, 3, seed=1).double()
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    scheduler.set_timesteps(1000)
    sched = schedule_of(scheduler)
    seen = []

    def network(x, i):
        seen.append(i)
        return out

    for t in (1, 2, 400, 1000):
        x0 = scheduler.step(out, t - 1, x).pred_original_sample
        eps = eps_of(network, sched, kind)(x, float(t))
        assert gap(sched.alpha(t) * x0 + sched.sigma(t) * eps, x) < 1e-9
    assert [i.item() for i in seen] == [0, 1, 399, 999]
    assert all(i.dtype == torch.float32 for i in seen)
    eps_of(network, Schedule.linear())(x, 12.5)
    assert seen[-1] == 11.5


def test_v_is_that_of_diffusers():
    scheduler = DDIMScheduler()
    x0 = normal(1, 4)
    eps = normal(1, 4, seed=1)
    for t in (1, 500, 1000):
        i = torch.tensor([t - 1])
        v = scheduler.get_velocity(x0, eps, i)
        x = scheduler.add_noise(x0, eps, i)
        ours = eps_of(lambda *_: v, schedule_of(scheduler), 'v_prediction')(x, float(t))
        assert gap(ours, eps) < 1e-4


def loop(network, scheduler, x, n, **how):
    "diffusers' own loop with its table in double precision"
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    scheduler.set_timesteps(n)
    with torch.no_grad():
        for i in scheduler.timesteps:
            x = scheduler.step(network(x, i), i, x, **how).prev_sample
    return x


@pytest.mark.parametrize('clip', [True, False])
@pytest.mark.parametrize('kind', TO_EPS)
def test_pixels_are_those_of_diffusers(unet, unconditional, kind, clip):
    """From the same noise to the same picture; started below T ('leading') or ended above 0 to
    another
    """
    how = dict(prediction_type=kind, beta_end=0.002, clip_sample=clip)
    y = lr(2, 4)
    consistent = dict(use_clipped_model_output=clip)
    for net in (unet, unconditional):
        net.double()
        c = None if net is unconditional else y

        def call(x, i):
            if c is not None:
                x = torch.cat([x, upsample(y.double(), 4)], 1)
            return net(x, i).sample

        def theirs(**other):
            scheduler = DDIMScheduler(**how, **other)
            return loop(call, scheduler, x_T.double(), 20, **consistent).clamp(-1, 1)

        h = UNetMap(net, DDIMScheduler(**how), 'DDIM-20', clip=clip)
        x_T = 0.3 * candidates(2, h.shape(c))
        with torch.no_grad():
            x0 = h(x_T, c)
        same = theirs(timestep_spacing='trailing')
        others = [
            theirs(timestep_spacing='leading'),
            theirs(timestep_spacing='leading', steps_offset=1),
        ]
        net.float()
        assert x0.std() > 0.05 and (x0.abs() == 1).float().mean() < 0.9
        assert gap(x0, same) < 1e-9 and min(gap(x0, other) for other in others) > 1e-4


@pytest.mark.parametrize('clip', [True, False])
@pytest.mark.parametrize('kind', ['v_prediction', 'sample'])
@pytest.mark.parametrize('n', [1, 2, 20])
def test_from_noise_alone_it_is_diffusers(unet, kind, clip, n):
    "DDIM from ᾱ_T = 0 on; with a v of the wrong sign, or a step late, another picture"
    how = dict(prediction_type=kind, clip_sample=clip, rescale_betas_zero_snr=True)
    scheduler = DDIMScheduler(**how, timestep_spacing='trailing')
    y = lr(2, 4)
    y_up = upsample(y.double(), 4)
    h = UNetMap(unet.double(), scheduler, f'DDIM-{n}', clip=clip)
    x_T = 0.3 * candidates(2, h.shape(y))

    def call(x, i):
        return unet(torch.cat([x, y_up], 1), i).sample

    consistent = dict(use_clipped_model_output=clip)
    with torch.no_grad():
        x0 = h(x_T, y)
        same = loop(call, scheduler, x_T.double(), n, **consistent).clamp(-1, 1)
        late = loop(lambda x, i: call(x, i - 1), scheduler, x_T.double(), n, **consistent)
        backwards = loop(lambda x, i: -call(x, i), scheduler, x_T.double(), n, **consistent)
    unet.float()
    assert x0.std() > 0.05 and h.nfe == n
    assert gap(x0, same) < 1e-9
    assert gap(x0, late.clamp(-1, 1)) > 1e-6 and gap(x0, backwards.clamp(-1, 1)) > 1e-2


def test_calls_from_noise_alone(unet):
    sched = DDIMScheduler(prediction_type='v_prediction', rescale_betas_zero_snr=True)
    for label in ('DDIM-1', 'DDIM-7', 'DDIM-1000', 'DPMS-8', 'DPM++-2M-6', 'DPM++-2M-1'):
        h = UNetMap(unet, sched, label)
        calls = []

        def count(x, i):
            calls.append(i.item())
            return 0.1 * x

        h.sample(count, candidates(1, (3, 16, 16)))
        assert len(calls) == h.nfe and calls[0] == 999 and max(calls[1:], default=0) < 999
    for label in ('DDIM-1001', 'DPM++-2M-1002'):
        with pytest.raises(ValueError, match='no more than'):
            UNetMap(unet, sched, label)


def test_dpm_solver_from_noise_alone():
    "A Gaussian, whose flow is known: higher orders are better"
    sched = schedule_of(DDIMScheduler(rescale_betas_zero_snr=True))
    x_T = normal(50).double()

    def v(x, i):
        alpha, sigma = sched.alpha(i.item() + 1), sched.sigma(i.item() + 1)
        x0 = 0.3 + alpha * 0.04 * (x - alpha * 0.3) / (alpha**2 * 0.04 + sigma**2)
        return alpha * (x - alpha * x0) / sigma - sigma * x0

    def error(label):
        return gap(ode_sampler(label, sched, 'v_prediction')(v, x_T), 0.3 + 0.2 * x_T)

    assert 1.8 < error('DDIM-50') / error('DDIM-100') < 2.2
    assert error('DPM++-2M-50') < error('DDIM-50') / 10
    assert error('DPMS-50') < error('DDIM-50') / 100


@pytest.mark.parametrize('n', [1, 2, 4, 30])
def test_means_from_noise_alone(n):
    "From there x_T says nothing of a Gaussian: D-n returns its mean, whatever x_T is"
    sched = schedule_of(DDIMScheduler(rescale_betas_zero_snr=True))

    def v(x, i):
        alpha, sigma = sched.alpha(i.item() + 1), sched.sigma(i.item() + 1)
        x0 = 0.3 + alpha * 0.04 * (x - alpha * 0.3) / (alpha**2 * 0.04 + sigma**2)
        return alpha * (x - alpha * x0) / sigma - sigma * x0

    x_T = normal(50).double()
    x_0 = ode_sampler(f'D-{n}', sched, 'v_prediction')(v, x_T)
    assert gap(x_0, torch.full_like(x_T, 0.3)) < 1e-9
    assert n == 1 or ode_sampler(f'DDIM-{n}', sched, 'v_prediction')(v, x_T).std() > 0.01


def test_a_latent_map_is_the_pipeline(ldm):
    "Their noise is drawn from a generator of known seed"
    y = lr(2)
    h = LatentMap(ldm, 'DDIM-10')
    with torch.no_grad():
        x0 = h(normal(2, *h.shape(y), seed=5), y)
    expected = ldm(y, num_inference_steps=10, generator=g(5), output_type='pt').images * 2 - 1
    assert x0.shape == (2, 3, 32, 32) and gap(x0, expected) < 1e-5
    ldm.scheduler.register_to_config(timestep_spacing='leading')
    leading = ldm(y, num_inference_steps=10, generator=g(5), output_type='pt').images * 2 - 1
    ldm.scheduler.register_to_config(timestep_spacing='trailing')
    assert gap(x0, leading) > 1e-3


@pytest.mark.parametrize('guidance', [1.0, 5.0])
def test_an_upscaler_map_is_the_pipeline(upscaler, guidance):
    "For one image, where the pipeline draws the same noise on y"
    y = lr(3)
    h = UpscalerMap(upscaler, 'DDIM-10', 'a cat', guidance, noise_level=50, seed=3)
    x_T = candidates(3, h.shape(y))
    with torch.no_grad():
        x0 = h(x_T, y)
    for k in range(3):

        def ask(prompt='a cat', seed=3):
            noise = dict(latents=x_T[k : k + 1], generator=g(seed))
            image = (y[k : k + 1] + 1) / 2
            result = upscaler(prompt, image, 10, guidance, 50, **noise, output_type='pt')
            return result.images * 2 - 1

        assert gap(x0[k : k + 1], ask()) < 1e-5
        assert gap(x0[k : k + 1], ask(seed=4)) > 1e-4
        assert gap(x0[k : k + 1], ask(prompt='')) > 1e-5
    upscaler.scheduler.register_to_config(timestep_spacing='leading')
    try:
        assert gap(x0[2:], ask()) > 1e-4
    finally:
        upscaler.scheduler.register_to_config(timestep_spacing='trailing')


# β_T = .004: at α_T = .006, (x − σε)/α of an untrained ε magnifies rounding 160-fold
MAPS = {
    'pixels': lambda p, label: UNetMap(p.unet, DDIMScheduler(beta_end=0.004), label, 2),
    'latent': LatentMap,
    'upscaler': UpscalerMap,
    'guided': lambda p, label: UpscalerMap(p, label, 'a cat', 3.0),
}


@pytest.fixture(params=MAPS)
def make(request, ldm, upscaler):
    pipe = ldm if request.param in ('pixels', 'latent') else upscaler
    return lambda label: MAPS[request.param](pipe, label)


def test_rows_do_not_know_each_other(make):
    "A row of a batch is the image alone; one x_T serves all; no global chance is used"
    h = make('DDIM-5')
    y = lr(3)
    x_T = candidates(3, h.shape(y))
    state = torch.get_rng_state()
    with torch.no_grad():
        together = h(x_T, y)
        shared = h(x_T[:1], y)
        alone = torch.cat([h(x_T[k : k + 1], y[k : k + 1]) for k in range(3)])
    assert torch.equal(torch.get_rng_state(), state)
    assert together.shape[:2] == (3, 3)
    assert together.abs().max() <= 1
    assert gap(together, alone) < 1e-5
    assert gap(shared[:1], together[:1]) < 1e-5 and gap(shared[1:], together[1:]) > 1e-4


@pytest.mark.parametrize('label', ['DDIM-1', 'DDIM-7', 'DPMS-8', 'DPM++-2M-6'])
def test_calls_are_counted(make, label):
    h = make(label)
    y = lr(1)
    calls = []
    hook = h.unet.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        x0 = h(candidates(1, h.shape(y)), y)
    hook.remove()
    assert len(calls) == h.nfe and x0.isfinite().all()


def test_a_search_file_belongs_to_one_map(make, tmp_path):
    "Another sampler is another map, and so is another network"
    h = make('DDIM-2')
    y = lr(2)

    def how(h):
        return dict(
            z=torch.zeros_like(h(candidates(1, h.shape(y)), y)),
            y=y,
            K=2,
            distance=Distance(mse, name='MSE'),
            strategy='exhaustive',
            shape=h.shape(y),
            path=tmp_path / 'x_T.safetensors',
        )

    with torch.no_grad():
        search(h, **how(h))
    with torch.no_grad(), pytest.raises(ValueError, match='another sampler'):
        search(make('DDIM-3'), **how(h))
    other = make('DDIM-2')
    other.unet = deepcopy(other.unet)
    with torch.no_grad():
        next(other.unet.parameters()).add_(1)
    with torch.no_grad(), pytest.raises(ValueError, match='another weights'):
        search(other, **how(h))


def test_guidance_prompt_and_noise_tell_maps_apart(upscaler):
    ways = [{}, dict(prompt='a cat'), dict(guidance=2.0), dict(noise_level=7), dict(seed=1)]
    maps = [UpscalerMap(upscaler, 'DDIM-2', **how) for how in ways]
    assert len({json.dumps(h.meta, sort_keys=True) for h in maps}) == 5
    assert UpscalerMap(upscaler, 'DDIM-2').meta == maps[0].meta


def test_gradients_reach_x_T(make):
    h = make('DDIM-3')
    y = lr(1)
    x_T = (0.3 * candidates(1, h.shape(y))).requires_grad_()
    h(x_T, y).square().sum().backward()
    assert x_T.grad.isfinite().all() and x_T.grad.abs().max() > 1e-6


def test_half_precision(upscaler, ldm):
    "A bfloat16 network gives float32 pictures, near those of the float32 network"
    y = lr(2)
    for kind, pipe in ((UpscalerMap, upscaler), (LatentMap, ldm)):
        with torch.no_grad():
            x_T = candidates(2, kind(pipe, 'DDIM-5').shape(y))
            exact = kind(pipe, 'DDIM-5')(x_T, y)
            pipe.to(torch.bfloat16)
            x0 = kind(pipe, 'DDIM-5')(x_T, y)
            pipe.to(torch.float32)
        assert x0.dtype == torch.float32 and 0 < (x0 - exact).abs().mean() < 0.05 * exact.std()


def test_a_half_precision_decoder_is_upcast(upscaler):
    try:
        upscaler.vae.half()
        assert UpscalerMap(upscaler).vae.dtype == torch.float32
    finally:
        upscaler.vae.float()


LAYOUTS = [
    (6, 3),
    (6, 6),
    (3, 3),
    (3, 6),
    (2, 1),
    (2, 2),
    (1, 1),
    (1, 2),
]  # channels in, channels out


@pytest.mark.parametrize('y_first', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_channels_say_what_a_network_is_for(layout, y_first):
    "Against diffusers' loop with the network called by hand"
    torch.manual_seed(0)
    plain = dict(sample_size=16, in_channels=layout[0], out_channels=layout[1], **PLAIN)
    net = UNet2DModel(**plain).double()
    side = 1 if min(layout) <= 1 or layout == (2, 2) else 3
    y = lr(2, 4) if layout[0] == 2 * side else None
    scheduler = DDIMScheduler(beta_end=0.002, timestep_spacing='trailing')
    h = UNetMap(net, scheduler, 'DDIM-10', y_first=y_first)
    x_T = 0.3 * candidates(2, h.shape(y))
    assert h.shape(y) == (side, 16, 16)

    def theirs(y_first, swapped=False):
        def call(x, i):
            parts = [x]
            if y is not None:
                c = upsample(y.double(), 4)
                if side == 1:
                    r, green, b = c.split(1, 1)
                    c = 0.299 * r + 0.587 * green + 0.114 * b
                parts = [c, x] if y_first else [x, c]
            out = net(torch.cat(parts, 1), i).sample
            return out[:, -side:] if swapped else out[:, :side]

        how = dict(use_clipped_model_output=True)
        return loop(call, scheduler, x_T.double(), 10, **how).clamp(-1, 1)

    with torch.no_grad():
        x0 = h(x_T, y)
        assert x0.shape == (2, 3, 16, 16) and gap(x0, theirs(y_first)) < 1e-9
        if y is not None:
            assert gap(x0, theirs(not y_first)) > 1e-3
        if layout[1] == 2 * side:  # the second half is the variance
            assert gap(x0, theirs(y_first, swapped=True)) > 1e-3
    if y is not None:
        assert (h.facts == UNetMap(net, scheduler, 'DDIM-10').facts) == (not y_first)


def test_networks_that_are_told_more():
    "A class and a text, the same for all images; without them refused, with what to pass"
    torch.manual_seed(0)
    sched = DDIMScheduler(beta_end=0.002, timestep_spacing='trailing')
    sizes = dict(sample_size=16, in_channels=6, out_channels=3)
    of_a_class = UNet2DModel(**sizes, **PLAIN, num_class_embeds=5).double()
    with pytest.raises(ValueError, match=r'pass told=dict\(class_labels='):
        UNetMap(of_a_class, sched)
    attending = UNet2DConditionModel(
        **sizes,
        cross_attention_dim=8,
        attention_head_dim=4,
        **BLOCKS,
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
    ).double()
    with pytest.raises(ValueError, match=r'shape \(1, tokens, 8\)'):
        UNetMap(attending, sched)
    with pytest.raises(ValueError, match='one row for all images'):
        UNetMap(of_a_class, sched, told=dict(class_labels=torch.tensor([1, 2])))
    y = lr(2, 4)
    text = normal(1, 7, 8)
    ways = [
        (of_a_class, 'class_labels', torch.tensor([3]), torch.tensor([4])),
        (attending, 'encoder_hidden_states', text, -text),
    ]
    for net, name, one, other in ways:
        h = UNetMap(net, sched, 'DDIM-10', told={name: one})
        x_T = 0.3 * candidates(2, h.shape(y))

        def theirs(value):
            def call(x, i):
                told = value.expand(2, *value.shape[1:])
                told = told.double() if told.is_floating_point() else told
                both = torch.cat([x, upsample(y.double(), 4)], 1)
                return net(both, i, **{name: told}).sample

            how = dict(use_clipped_model_output=True)
            return loop(call, sched, x_T.double(), 10, **how).clamp(-1, 1)

        with torch.no_grad():
            x0 = h(x_T, y)
            assert gap(x0, theirs(one)) < 1e-9 and gap(x0, theirs(other)) > 1e-6
        assert h.facts != UNetMap(net, sched, 'DDIM-10', told={name: other}).facts
        json.dumps(h.facts)


def test_no_dropout_and_no_gradients_of_weights(ldm):
    torch.manual_seed(0)
    sizes = dict(sample_size=16, in_channels=6, out_channels=3)
    net = UNet2DModel(**sizes, **PLAIN, dropout=0.5).train()
    h = UNetMap(net, DDIMScheduler(beta_end=0.004), 'DDIM-2')
    assert not any(p.requires_grad for p in net.parameters())
    net.train()  # between two solves
    x_T = (0.3 * candidates(1, (3, 16, 16))).requires_grad_()
    y = lr(1, 4)
    x0 = h(x_T, y)
    assert torch.equal(x0, h(x_T, y)) and x0.requires_grad and not net.training
    net.requires_grad_(True)
    UNetMap(net, DDIMScheduler())
    LatentMap(ldm)
    for module in (net, ldm.unet, ldm.vqvae):
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_bad_input(make):
    h = make('DDIM-2')
    y = lr(2)
    C, H, W = h.shape(y)
    for bad in ((2, C, H, W + 2), (2, C + 1, H, W), (3, C, H, W), (0, C, H, W), (C, H, W)):
        with pytest.raises(ValueError, match='x_T must have the shape'):
            h(torch.zeros(bad), y)
    for bad in (None, y[:, :1], y[0]):
        with pytest.raises(ValueError, match='y must be LR images'):
            h(torch.zeros(2, C, H, W), bad)
    with pytest.raises(ValueError, match='NaN'):
        h(torch.full((2, C, H, W), torch.nan), y)
    for label in ('DDPM-50', 'DDIM(0.5)-50'):
        with pytest.raises(ValueError, match='choose an ODE solver'):
            make(label)
    with pytest.raises(ValueError, match='unknown sampler'):
        make('DDMI-50')


def test_bad_models(unet, unconditional, ldm, upscaler):
    with pytest.raises(ValueError, match='from 4 to 3 channels'):
        UNetMap(UNet2DModel(in_channels=4, out_channels=3, **PLAIN), DDIMScheduler())
    with pytest.raises(ValueError, match="unknown prediction type 'flow'"):
        UNetMap(unet, DDIMScheduler(prediction_type='flow'))
    with pytest.raises(ValueError, match='unconditional'):
        UNetMap(unconditional, DDIMScheduler())(candidates(1, (3, 16, 16)), lr(1, 4))
    with pytest.raises(ValueError, match='sample_size'):
        UNetMap(UNet2DModel(in_channels=3, out_channels=3, **PLAIN), DDIMScheduler()).shape()
    with pytest.raises(ValueError, match='divisible by 2'):
        LatentMap(ldm).shape(lr(1, 7))
    for level in (-1, 351):
        with pytest.raises(ValueError, match='0 … 350'):
            UpscalerMap(upscaler, noise_level=level)
    with pytest.raises(ValueError, match='at least 1'):
        UpscalerMap(upscaler, guidance=0.5)
    with pytest.raises(ValueError, match='one prompt'):
        UpscalerMap(upscaler, prompt=['a', 'cat'])


def test_sizes_that_are_not_square(make):
    h = make('DDIM-2')
    y = torch.rand(1, 3, 8, 12, generator=g()) * 2 - 1
    with torch.no_grad():
        x0 = h(candidates(1, h.shape(y)), y)
    assert x0.shape[3] == 1.5 * x0.shape[2] and x0.isfinite().all()


def test_a_start_serves_other_sizes_by_a_canvas(make):
    h = make('DDIM-2')
    found = candidates(1, h.shape(lr(1)))[0]
    y = torch.rand(1, 3, 8, 16, generator=g()) * 2 - 1
    x_T = canvas(found, *h.shape(y)[1:])
    half = x_T.shape[2] // 2
    assert x_T[..., :half].equal(found) and x_T[..., half:].equal(found)
    with torch.no_grad():
        x_0 = h(x_T[None], y)
        same = h(canvas(found, *found.shape[1:])[None], lr(1))
        assert same.equal(h(found[None], lr(1)))
    assert x_0.shape[3] == 2 * x_0.shape[2] and x_0.isfinite().all()


def test_noise_on_y_belongs_to_the_map(upscaler):
    "Same seed, same map; another seed or level, another map"
    y = lr(1)
    x_T = candidates(1, UpscalerMap(upscaler).shape(y))

    def result(level, seed):
        return UpscalerMap(upscaler, 'DDIM-5', noise_level=level, seed=seed)(x_T, y)

    with torch.no_grad():
        a, b = result(100, 1), result(100, 1)
        others = result(100, 2), result(101, 1)
    assert torch.equal(a, b) and min(gap(a, other) for other in others) > 1e-5


@pytest.fixture(scope='module')
def flux(tmp_path_factory):
    torch.manual_seed(0)
    sizes = dict(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    controlnet = FluxControlNetModel(**sizes)
    for weight in controlnet.parameters():  # parts of it begin at 0
        torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path_factory.mktemp('flux')
    coder = dict(CODER, block_out_channels=(8, 8))
    coder |= {k: coder[k][:2] for k in ('down_block_types', 'up_block_types')}
    latents = dict(latent_channels=4, scaling_factor=1.5, shift_factor=0.2)
    vae = AutoencoderKL(**coder, **latents)
    pipe = FluxControlNetPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        reloaded(vae, folder / 'vae'),
        transformer=reloaded(FluxTransformer2DModel(**sizes), folder / 'transformer'),
        controlnet=reloaded(controlnet, folder / 'controlnet'),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )

    def encode_prompt(prompt, *_, **__):
        "No encoder of its own: another text, other numbers"
        return normal(1, 5, 8, seed=len(prompt)), normal(1, 8), torch.zeros(5, 3)

    pipe.encode_prompt = encode_prompt
    pipe.set_progress_bar_config(disable=True)
    return pipe


def packed(pipe, x):
    return pipe._pack_latents(x, *x.shape)


def flux_says(pipe, x_T, y, n=4, guidance=3.5, strength=0.6, prompt='', seed=3):
    side = dict(zip(('height', 'width'), (4 * y.shape[2], 4 * y.shape[3])))
    how = dict(guidance_scale=guidance, controlnet_conditioning_scale=strength, **side)
    how |= dict(num_inference_steps=n, generator=g(seed), output_type='pt')
    x_T = packed(pipe, x_T)
    return pipe(prompt, control_image=upsample(y), latents=x_T, **how).images * 2 - 1


@pytest.mark.parametrize('dynamic', [True, False])
def test_a_flux_map_is_the_pipeline(flux, dynamic):
    "For one image, where the pipeline draws the same noise; every detail is noticed"
    flux.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic, shift=3.0)
    y = torch.rand(3, 3, 8, 12, generator=g()) * 2 - 1
    h = FluxMap(flux, 4, seed=3)
    assert h.shape(y) == (4, 16, 24) and h.nfe == 4
    x_T = candidates(3, h.shape(y))
    one = x_T[1:2], y[1:2]
    with torch.no_grad():
        x0 = h(x_T, y)[1:2]
    assert x0.std() > 0.05 and (x0.abs() == 1).float().mean() < 0.5
    assert gap(x0, flux_says(flux, *one)) < 1e-5
    others = [
        dict(guidance=1.0),
        dict(strength=0.5),
        dict(prompt='a cat'),
        dict(seed=4),
        dict(n=5),
    ]
    assert min(gap(x0, flux_says(flux, *one, **other)) for other in others) > 1e-4
    for name in ('scaling_factor', 'shift_factor'):  # an unscaled, an unshifted latent
        kept = flux.vae.config[name]
        flux.vae.register_to_config(**{name: kept + 0.1})
        assert gap(x0, flux_says(flux, *one)) > 1e-3
        flux.vae.register_to_config(**{name: kept})
    transposed = one[0].mT.reshape(one[0].shape)
    assert gap(x0, flux_says(flux, transposed, y[1:2])) > 1e-3
    flux.scheduler = FlowMatchEulerDiscreteScheduler()
    assert gap(x0, flux_says(flux, *one)) > 1e-4  # steps that are not shifted
    flux.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def test_a_flux_map_in_half_precision(flux):
    y = lr(2)
    x_T = candidates(2, (4, 16, 16))
    with torch.no_grad():
        exact = FluxMap(flux, 3)(x_T, y)
        flux.to(torch.bfloat16)
        x0 = FluxMap(flux, 3)(x_T, y)
        flux.to(torch.float32)
    assert x0.dtype == torch.float32 and 0 < (x0 - exact).abs().mean() < 0.1 * exact.std()


def test_a_flux_map_keeps_what_maps_promise(flux):
    h = FluxMap(flux, 3, 'Heun')
    y = lr(3)
    x_T = candidates(3, h.shape(y))
    calls = []
    hook = flux.transformer.register_forward_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    with torch.no_grad():
        together = h(x_T, y)
        alone = torch.cat([h(x_T[k : k + 1], y[k : k + 1]) for k in range(3)])
    hook.remove()
    assert torch.equal(torch.get_rng_state(), state)
    assert len(calls) == 4 * h.nfe == 20 and gap(together, alone) < 1e-5
    x_T = x_T.requires_grad_()
    h(x_T, y).square().sum().backward()
    assert x_T.grad.isfinite().all() and x_T.grad.abs().max() > 1e-6
    ways = [dict(), dict(n=4), dict(method='Heun'), dict(prompt='a'), dict(guidance=2.0)]
    ways += [dict(strength=0.5), dict(seed=1)]
    facts = {json.dumps(FluxMap(flux, **how).facts, sort_keys=True) for how in ways}
    assert len(facts) == len(ways)
    with pytest.raises(ValueError, match='divisible by 4'):
        FluxMap(flux, scale=3).shape(lr(1, 7))
    for how in (dict(use_karras_sigmas=True), dict(stochastic_sampling=True)):
        flux.scheduler = FlowMatchEulerDiscreteScheduler(**how)
        with pytest.raises(ValueError, match=f'asks for {list(how)[0]}'):
            FluxMap(flux)
    flux.scheduler = FlowMatchEulerDiscreteScheduler(time_shift_type='linear')
    with pytest.raises(ValueError, match='exponential shift'):
        FluxMap(flux)
    flux.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
