"The network's blocks against torch's and diffusers' own, and the paper's size."

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from hypothesis import given, settings, strategies as st
from torch import nn
from odebc.unet import Attention, Backbone, ResBlock, time_embedding, UNet


def random_weights(module, std=0.1):
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module.requires_grad_(False)


def test_time_embedding_is_diffusers():
    t = torch.tensor([0.0, 1, 37.5, 999, 1000])
    theirs = get_timestep_embedding(t, 64, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(time_embedding(t, 64), theirs, atol=1e-4, rtol=0)


def test_attention_is_torchs():
    mine = random_weights(Attention(32, heads=4, groups=8))
    x = torch.randn(2, 32, 5, 7)
    weights = {
        'in_proj_weight': mine.qkv.weight[..., 0, 0],
        'in_proj_bias': mine.qkv.bias,
        'out_proj.weight': mine.out.weight[..., 0, 0],
        'out_proj.bias': mine.out.bias,
    }
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(weights)
    tokens = mine.norm(x).flatten(2).transpose(1, 2)
    found = theirs(tokens, tokens, tokens, need_weights=False)[0]
    expected = x + found.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(mine(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('resize', [None, 'down', 'up'])
def test_residual_block_is_diffusers(resize):
    module = dict(down=nn.AvgPool2d(2), up=nn.Upsample(scale_factor=2)).get(resize)
    mine = random_weights(ResBlock(32, 48, 64, groups=8, resize=module))
    theirs = ResnetBlock2D(
        in_channels=32,
        out_channels=48,
        temb_channels=64,
        groups=8,
        eps=1e-5,
        time_embedding_norm='scale_shift',
        up=resize == 'up',
        down=resize == 'down',
    ).requires_grad_(False)
    names = dict(
        norm1='norm1',
        conv1='conv1',
        norm2='norm2',
        conv2='conv2',
        scale_shift='time_emb_proj',
        shortcut='conv_shortcut',
    )
    for ours, their in names.items():
        getattr(theirs, their).load_state_dict(getattr(mine, ours).state_dict())
    x, emb = torch.randn(2, 32, 8, 12), torch.randn(2, 64)
    torch.testing.assert_close(mine(x, emb), theirs(x, emb), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_paper_has_36_million_parameters_and_runs_at_256():
    net = UNet.paper()
    x = torch.randn(1, 3, 256, 256)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(36.4, rel=0.003)
    assert net(x, x.clamp(-1, 1), 500).shape == x.shape


@given(
    channels=st.sampled_from([16, 32]),
    mults=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    blocks=st.integers(1, 2),
    unshuffle=st.sampled_from([1, 2]),
    data=st.data(),
)
@settings(max_examples=12, deadline=None)
def test_every_layout_keeps_the_shape(channels, mults, blocks, unshuffle, data):
    layout = dict(
        channels=channels,
        mults=mults,
        blocks=blocks,
        attention=data.draw(st.sets(st.integers(0, len(mults) - 1))),
        groups=8,
        unshuffle=unshuffle,
    )
    net = random_weights(UNet(0.13, **layout))
    x = torch.randn(1, 3, 2 * net.multiple, net.multiple)
    out = net(x, x.clamp(-1, 1), 300)
    assert out.shape == x.shape and out.isfinite().all()
    assert not torch.equal(net(x, None, 300), out)


@pytest.mark.parametrize(
    'bad', [dict(groups=7), dict(mults=()), dict(heads=5), dict(attention=(5,))]
)
def test_a_layout_that_cannot_be_built_is_refused(bad):
    good = dict(channels=32, mults=(1, 2), blocks=1, groups=8, attention=(1,))
    with pytest.raises(ValueError):
        Backbone(**(good | bad))


def test_bad_input_is_refused():
    x = torch.zeros(1, 3, 16, 16)
    for args, says in (
        ((x[:, :1], x, 5), 'must be .B, 3, H, W.'),
        ((x[..., :10], x[..., :10], 5), 'divisible by 8'),
        ((x, x[..., :8], 5), 'shape of x_t'),
        ((x, x, -1.0), 't must lie'),
        ((x, x, 1001.0), 't must lie'),
        ((x, x, torch.zeros(3)), 'one time'),
    ):
        for net in UNet.small(), UNet(channels=32, mults=(1, 1, 1, 1), blocks=1):
            with pytest.raises(ValueError, match=says):
                net(*args)
    with pytest.raises(ValueError, match='schedule'):
        UNet(0.1, schedule='quadratic', channels=32, mults=(1,))


@pytest.mark.parametrize('s', [0.1, None])
def test_weights_know_noise_and_not_the_schedule(s):
    layout = dict(channels=32, mults=(1,), blocks=1, groups=8)
    linear, cosine = UNet(s, **layout), UNet(s, schedule='cosine', **layout)
    for p in linear.parameters():
        torch.nn.init.normal_(p, std=0.1)
    cosine.start_from(linear)
    x, y_up = torch.randn(2, 4, 3, 8, 8)
    t = torch.tensor([1.0, 10.5, 300.0, 980.0], dtype=torch.float64)
    same_noise = cosine.sched.t_of_lam(linear.sched.lam(t))
    assert torch.allclose(cosine(x, y_up, same_noise), linear(x, y_up, t), atol=1e-5)
    assert not torch.allclose(cosine(x, y_up, t), linear(x, y_up, t), atol=1e-3)
    assert torch.equal(linear.linear_times(t, linear.sched.log_alpha(t)), t)
    # noise beyond the linear schedule's counts as its last
    ends = torch.tensor([0.0, 1000.0])
    assert torch.allclose(
        cosine.linear_times(ends, cosine.sched.log_alpha(ends)), ends.double(), atol=1e-6
    )
