"Training in processes of their own: killed and resumed, two instead of one, bad input."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
import pytest
import torch
from waiting import TWO, begin, ended, finished, wait_until
from odebc.images import byte_folder
from odebc.errors import CannotWrite
from odebc.metrics import lite_model, lpips_model
from odebc.samplers import clipped, ddim_step, Point, predict_x0, solve, Solver
from odebc.engine import CONFIGS, configured, Recipe, Training
from odebc.sr3 import CHECKPOINT, SR3
from odebc.train import sr3_loss
from odebc.objective import Examples, Objective, noise_of, residual_std, training_times
from odebc.unet import UNet

SCRIPT = '''
import sys, torch
from odebc.images import byte_folder
from odebc.engine import Recipe, Training
from odebc.unet import UNet
torch.manual_seed(0)
net = UNet(.13, channels=32, mults=(1, 2), blocks=1, groups=8, unshuffle=2)
images = list(byte_folder(sys.argv[1]).values())
run = Training(net, images, Recipe(steps=40, batch=4, size=32))
'''
KILLED = SCRIPT + 'run.fit(sys.argv[2], minutes=0)'
GRADIENT = (
    SCRIPT
    + '''
run.optimizer.step = lambda: None
assert run.accelerator.num_processes == int(sys.argv[3])
loss = next(iter(run))
found = dict(loss=loss, grad=[p.grad for p in run.net.parameters()])
if run.accelerator.is_main_process: torch.save(found, sys.argv[2])
run.accelerator.wait_for_everyone()
run.accelerator.end_training()
'''
)
ENV = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')


@pytest.fixture
def images(photo_folder):
    return list(byte_folder(photo_folder).values())


def tiny(s=0.13, mults=(1,)):
    return UNet(s, channels=32, mults=mults, blocks=1, groups=8, unshuffle=4)


def written_at(path):
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.parametrize('how', ['SIGKILL', 'SIGINT'])
def test_killed_and_resumed_is_the_same_run(how, photo_folder, tmp_path):
    "kill -9, or Ctrl-C, at whatever moment, three times"

    def command(folder):
        return [sys.executable, '-c', KILLED, photo_folder, folder]

    finished(command(tmp_path / 'straight'), env=ENV, check=True)
    path = tmp_path / 'killed' / CHECKPOINT
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def there():
        return process.poll() is not None or written_at(path) != before

    for seconds in (0, 0.35, 0.8):
        before = written_at(path)
        process = begin(command(tmp_path / 'killed'), ENV, **pipes)
        wait_until(there, 'a checkpoint, or the end')
        time.sleep(seconds)
        process.send_signal(getattr(signal, how))
        err = ended(process)[1].decode()
        # the last may have been through
        assert (
            process.returncode == -getattr(signal, how)
            or 'KeyboardInterrupt' in err
            or process.returncode == 0
        ), err
    finished(command(tmp_path / 'killed'), env=ENV, check=True)
    paths = [tmp_path / name / CHECKPOINT for name in ('straight', 'killed')]
    straight, killed = (torch.load(path, weights_only=True) for path in paths)
    assert len(killed['losses']) == 40 and killed['losses'] == straight['losses']
    for part in ('net', 'ema'):
        for k, v in straight[part].items():
            assert torch.equal(v, killed[part][k]), k


def test_two_processes_have_the_gradient_of_the_joint_batch(photo_folder, tmp_path):
    (tmp_path / 'script.py').write_text(GRADIENT)
    for n, launch in ((1, [sys.executable]), (2, TWO)):
        command = [*launch, tmp_path / 'script.py', photo_folder, tmp_path / f'{n}', n]
        finished(command, env=ENV, check=True)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in '12')
    assert one['loss'] == pytest.approx(two['loss'], rel=1e-5)
    assert max(g.abs().max() for g in one['grad']) > 0.01
    for a, b in zip(one['grad'], two['grad']):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


ONE_IS_ASKED = (
    SCRIPT
    + '''
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
real, save = run.step, run.save
index = run.accelerator.process_index
def step(batch):
    if index == 1 and len(run.losses) == 5: os.kill(os.getpid(), signal.SIGINT)
    return real(batch)
def slowly(path): time.sleep(1); save(path)
run.step, run.save = step, slowly
try: run.fit(sys.argv[2])
except KeyboardInterrupt:
    open(f'{sys.argv[2]}/{index}', 'w').write(str(len(run.losses)))
    raise
'''
)


def test_when_one_process_is_interrupted_all_stop_and_the_work_is_kept(photo_folder, tmp_path):
    "Also where writing takes long: the launcher ends all processes when the first has ended"
    (tmp_path / 'script.py').write_text(ONE_IS_ASKED)
    done = finished([*TWO, tmp_path / 'script.py', photo_folder, tmp_path], env=ENV)
    assert 'KeyboardInterrupt' in done.stderr, done.stderr
    assert [(tmp_path / name).read_text() for name in '01'] == ['6', '6']
    assert len(torch.load(tmp_path / CHECKPOINT, weights_only=True)['losses']) == 6


def test_the_command_in_two_processes_and_again_to_go_on(photo_folder, tmp_path):
    command = [*TWO, '--', Path(sys.executable).with_name('odebc'), 'train']
    command += ['--images', photo_folder, '--out', tmp_path]
    command += '--start small --batch 2 --size 32'.split()
    for steps in 1, 2:
        finished([*command, '--steps', steps], env=ENV, check=True)
        model = SR3.from_pretrained(tmp_path)
        state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
        assert model.record['processes'] == 2
        assert model.samples == SR3.from_pretrained('small').samples + 2 * steps
        assert len(state['losses']) == steps
        assert state['optimizer']['state'][0]['step'] == steps


def test_perceptual_term_is_the_distance_of_the_estimated_picture(images, monkeypatch):
    monkeypatch.setattr('odebc.metrics.lpips_model', dict(squeeze=lite_model()).get)
    net = UNet.small()
    run = Examples(images, 32, stream=1)
    for p in net.F.last.parameters():
        torch.nn.init.normal_(p, std=0.02)
    z, y_up, v, eps, drop = (torch.stack(x) for x in zip(*(run[i] for i in range(6))))
    t = training_times(net, v, drop)
    drop[0] = True
    alpha, sigma = (f(t).to(z).view(-1, 1, 1, 1) for f in (net.sched.alpha, net.sched.sigma))
    x_t = alpha * z + sigma * eps
    x_0 = (x_t - sigma * net(x_t, y_up, t, drop)) / alpha
    seen = lite_model()(x_0.clamp(-1, 1), z)
    assert seen.max() > 0.01 and not drop.all()
    plain, joint = (Objective(net, perceptual=w)(z, y_up, v, eps, drop) for w in (0, 0.3))
    expected = 0.3 * seen[~drop].sum().item() / 6
    assert (joint - plain).item() == pytest.approx(expected, rel=1e-3)
    (joint - plain).backward()
    assert net.F.last.weight.grad.abs().max() > 1e-4
    assert not any(p.requires_grad for p in lite_model().parameters())


def test_own_path_term_is_the_distance_of_the_picture_that_sampling_leads_to(
    images, monkeypatch
):
    monkeypatch.setattr('odebc.metrics.lpips_model', dict(squeeze=lite_model()).get)
    net = UNet.small()
    run = Examples(images, 32, stream=1)
    for p in net.F.last.parameters():
        torch.nn.init.normal_(p, std=0.2)
    z, y_up, v, eps, drop = (torch.stack(x) for x in zip(*(run[i] for i in range(4))))
    # DDPM's path, DDIM's, DDPM's
    v = torch.tensor([0.3, 0.1004, 0.4007, 0.9002])
    drop = torch.tensor([True, False, False, False])
    seen = []
    for i in range(1, 4):

        def eps_fn(x, t):
            return net(x, y_up[i : i + 1], torch.tensor([t]))

        def shuffled(n):
            order = torch.randperm(eps[i].numel(), generator=torch.Generator().manual_seed(n))
            return eps[i].flatten()[order].view_as(eps[:1])

        estimate = clipped(eps_fn, net.sched)
        t = 1 + 999 * v[i].item() ** 2
        times = t + (1000 - t) * torch.linspace(1, 0, 21, dtype=torch.float64) ** 2
        solver = Solver(times, 20 * [ddim_step(float(1000 * v[i] % 1 < 0.5))])
        drawn = iter([shuffled(n) for n in range(20)])
        with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, 'randn', lambda *_, **__: next(drawn))
            x = solve(solver, estimate, eps[i : i + 1], net.sched, torch.Generator())
        x_0 = predict_x0(Point(t, x, eps_fn(x, t)), net.sched).clamp(-1, 1)
        seen.append(lite_model()(x_0, z[i : i + 1]).sum())
    expected = 0.7 * sum(seen) / 4
    expected.backward()
    gradient = net.F.last.weight.grad.clone()
    net.zero_grad()
    plain, joint = (Objective(net, own_path=w)(z, y_up, v, eps, drop) for w in (0, 0.7))
    assert min(seen) > 0.01
    assert (joint - plain).item() == pytest.approx(expected.item(), rel=1e-3)
    (joint - plain).backward()
    atol = 1e-3 * gradient.abs().max().item()
    assert torch.allclose(net.F.last.weight.grad, gradient, rtol=1e-2, atol=atol)
    with torch.autocast('cpu', torch.bfloat16):
        low = Objective(net, own_path=0.7)(z, y_up, v, eps, drop)
    net.zero_grad()
    low.backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_every_random_number_of_an_example_is_its_own(images):
    "Once a single uniform was time and coin, and the noise of a step was x_T shuffled"
    examples = Examples(images, 32)
    *known, way = examples[3]
    assert all(torch.equal(a, b) for a, b in zip(known, Examples(images, 32, stream=1)[3]))
    ways = [examples[n][-1] for n in range(200)]
    where, coin = (torch.stack([w[name] for w in ways]) for name in ('where', 'coin'))
    v = torch.stack([examples[n][2] for n in range(200)])
    both = torch.corrcoef(torch.stack([v, where, coin]))
    assert (both - torch.eye(3)).abs().max() < 0.25
    assert len({w['seed'].item() for w in ways}) == 200
    seeds = torch.stack([way['seed'], ways[0]['seed']])
    x_T = torch.zeros(2, 3, 32, 32)
    first, second = noise_of(seeds, 0, x_T), noise_of(seeds, 1, x_T)
    assert torch.equal(first, noise_of(seeds, 0, x_T))
    for a, b in ((first, second), (first[0], first[1])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.1
    assert abs(first.std() - 1) < 0.05


def test_a_training_under_way_keeps_its_old_stream(images, tmp_path):
    def begun(steps, **how):
        torch.manual_seed(0)
        return Training(tiny(), images, Recipe(steps=steps, batch=2, size=32, **how))

    old = [*begun(4, stream=1)]
    half = begun(4, stream=1)
    next(iter(half))
    half.save(tmp_path / CHECKPOINT)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del state['task']['stream']  # from before there was a choice
    torch.save(state, tmp_path / CHECKPOINT)
    resumed = begun(4).resume(tmp_path / CHECKPOINT)
    assert resumed.recipe.stream == 1 and [*resumed] and resumed.losses == old
    assert begun(4).examples.stream == 2


@pytest.mark.parametrize('term', ['perceptual', 'own_path'])
def test_a_network_that_diverges_is_not_taken_for_a_bad_photograph(term, images, monkeypatch):
    monkeypatch.setattr('odebc.metrics.lpips_model', dict(squeeze=lite_model()).get)
    run = configured('small', images, size=32, batch=2, **{term: 0.2})
    run.net.F.last.bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match='at step 0: lower the learning rate'):
        next(iter(run))


def test_perceptual_training_needs_the_weights(images, monkeypatch):
    monkeypatch.setenv('ODEBC_LPIPS_SQUEEZE', 'missing.safetensors')
    lpips_model.cache_clear()
    says = "LPIPS needs SqueezeNet 1.1's weights, and missing.safetensors cannot be read"
    with pytest.raises(ValueError, match=says):
        configured('small', images, perceptual=0.2)
    with pytest.raises(ValueError, match='must not be negative, as -0.1 is'):
        configured('small', images, perceptual=-0.1)
    with pytest.raises(ValueError, match='must not be negative, as -2 is'):
        configured('small', images, own_path=-2)


def test_resuming_another_run_is_refused(images, tmp_path):
    def small(s=0.13, **changes):
        recipe = Recipe(**(dict(steps=2, batch=2, size=32) | changes))
        return Training(tiny(s), images, recipe)

    small().fit(tmp_path)
    with pytest.raises(ValueError, match=r'another batch \(2, not 4\)'):
        small(batch=4).fit(tmp_path)
    with pytest.raises(ValueError, match='another s '):
        configured('small', images, steps=2, batch=2, size=32).fit(tmp_path)
    with pytest.raises(ValueError, match='another (number of )?photographs'):
        Training(small().net, images[1:], small().recipe).fit(tmp_path)
    noise = [torch.randint(256, image.shape, dtype=torch.uint8) for image in images]
    with pytest.raises(ValueError, match='another photographs'):
        Training(small().net, noise, small().recipe).fit(tmp_path)  # of the same sizes
    with pytest.raises(ValueError, match=r'another s \(0.13, not None\)'):
        small(s=None).fit(tmp_path)  # plain SR3: the same tensors, another network
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del state['task']['perceptual']  # from before there was such a field
    torch.save(state, tmp_path / CHECKPOINT)
    assert len(small(steps=3).fit(tmp_path).record['loss']) == 3
    with pytest.raises(ValueError, match='unknown configuration'):
        configured('huge', images)


def test_the_mean_of_the_weights_before_and_after_a_training(images, tmp_path):
    net = tiny()
    before = Training(net, images, Recipe(steps=3, batch=2, size=64)).fit(tmp_path / 'before')
    run = Training(net, images, Recipe(steps=3, batch=2, size=32), before.record)
    after = run.fit(tmp_path / 'after')

    def mean(first, second, share='.25'):
        tool = Path(__file__).parents[1] / 'tools/mean.py'
        options = ['--out', tmp_path / 'mean', '--share', share]
        command = [sys.executable, tool, tmp_path / first, tmp_path / second, *options]
        return finished(command, env=ENV)

    assert mean('before', 'after').returncode == 0
    found = SR3.from_pretrained(tmp_path / 'mean')

    def weight(model):
        return model.net.F.last.weight

    assert (weight(after) - weight(before)).abs().max() > 1e-3
    expected = (0.75 * weight(before) + 0.25 * weight(after)).cpu()
    torch.testing.assert_close(weight(found), expected, atol=2e-5, rtol=1e-3)
    assert found.samples == after.samples
    assert found.size == 64
    note = '0.75 of those before the training, and 0.25 of those after it'
    assert found.record['note'].endswith(note)
    says = 'the second network was not trained on from the first'
    assert says in mean('after', 'before').stderr
    other = tiny(mults=(1, 2))
    run = Training(other, images, Recipe(steps=1, batch=2, size=32), before.record)
    run.fit(tmp_path / 'other')
    assert 'the two networks are not of one kind' in mean('before', 'other').stderr
    assert 'the share must be in 0 … 1, not 2' in mean('before', 'after', '2').stderr


def test_the_origin_survives_a_resume(images, tmp_path):
    def make(steps, start):
        return Training(tiny(), images, Recipe(steps, batch=2, size=32), start)

    make(1, dict(samples=100)).fit(tmp_path)
    assert make(3, None).fit(tmp_path).samples == 106
    assert make(4, dict(samples=100)).fit(tmp_path).samples == 108
    with pytest.raises(ValueError, match='began from other weights'):
        make(5, dict(samples=200)).fit(tmp_path)


def test_s_is_measured_over_all_examples(images):
    examples = Examples(images, 32)
    z, y_up = (torch.stack(x) for x in zip(*(examples[i][:2] for i in range(50))))
    expected = tuple(round(x.square().mean().sqrt().item(), 3) for x in (z - y_up, z))
    assert residual_std(examples, 50) == expected


def test_a_loaded_network_can_be_trained_on(images):
    run = Training(SR3.from_pretrained().net, images, Recipe(steps=1, batch=2, size=32))
    before = run.net.F.last.weight.detach().clone()
    next(iter(run))
    assert not torch.equal(before, run.net.F.last.weight)


def test_a_folder_that_cannot_be_is_refused_before_the_first_step(images, tmp_path):
    (tmp_path / 'file').write_text('')
    run = Training(tiny(), images, Recipe(steps=1, batch=2, size=32))
    with pytest.raises(CannotWrite, match='cannot write .*file .File exists'):
        run.fit(tmp_path / 'file')
    assert not run.losses


@pytest.mark.parametrize('name', CONFIGS)
def test_configurations(name, images):
    run = configured(name, images, size=64)
    plain = name in ('small-mid', 'plain', 'base-plain', 'paper')
    assert run.net.s == (None if plain else residual_std(Examples(images, 64))[0])
    assert run.recipe.size == 64
    assert run.net.config['unshuffle'] == (1 if name in ('small-mid', 'paper') else 2)


def test_base_starts_from_small(images):
    small = UNet.small()
    for p in small.parameters():
        torch.nn.init.normal_(p, std=0.05)
    run = configured('base', images, SR3(small, record=dict(samples=100)), size=64, batch=2)
    for k, v in small.state_dict().items():
        assert torch.equal(v, run.net.state_dict()[k].cpu())
    run.losses = [1.0]
    assert run.model().samples == 102 and run.model().record['samples'] == 2
    base = run.net
    with pytest.raises(ValueError, match='cannot start'):
        small.start_from(base)


def test_an_ema_is_its_closed_form(images):
    run = Training(tiny(), images, Recipe(steps=5, batch=2, size=32, decay=0.8))
    weights = [run.net.F.first.weight.detach().clone() for _ in run]
    closed = 0.8**4 * weights[0] + sum(0.2 * 0.8 ** (4 - i) * weights[i] for i in range(1, 5))
    torch.testing.assert_close(run.ema.module.F.first.weight, closed, atol=1e-7, rtol=1e-5)


def test_the_log_grows_with_the_run_and_has_each_step_once(images, tmp_path):
    run = Training(tiny(), images, Recipe(steps=100, batch=2, size=16))
    # of a run that was killed after its last checkpoint
    (tmp_path / 'log.csv').write_text(
        'step,samples,minutes,loss\n50,100,0.01,1.\n100,200,0.02,1.\n150,300,0.03,1.\n'
    )
    run.fit(tmp_path)
    lines = (tmp_path / 'log.csv').read_text().splitlines()
    assert lines[0] == 'step,samples,minutes,loss'
    assert [line.split(',')[:2] for line in lines[1:]] == [['50', '100'], ['100', '200']]
    assert float(lines[2].split(',')[3]) == pytest.approx(sum(run.losses[50:]) / 50, abs=1e-5)


def test_a_shipped_name_is_not_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'small').mkdir()
    assert SR3.from_pretrained('small').size == 64
    with pytest.raises(ValueError, match='is missing'):
        SR3.from_pretrained('./small')
    SR3.from_pretrained('small').save_pretrained('./small')
    (tmp_path / 'small' / 'config.json').write_bytes(b'\xff')
    with pytest.raises(ValueError, match='damaged or of another version'):
        SR3.from_pretrained('./small')


def test_the_loss_of_the_course_is_the_papers():
    "Eq. B.1 written out, with and without conditions that are dropped"
    torch.manual_seed(0)
    net = UNet(channels=8, mults=(1, 2), blocks=1, heads=2, groups=1)
    torch.nn.init.normal_(net.F.last.weight, std=0.1)
    z, y_up, eps = torch.rand(3, 4, 3, 32, 32) * 2 - 1
    t = torch.tensor([1.0, 300.0, 700.0, 1000.0])
    alpha, sigma = (f(t).float().view(-1, 1, 1, 1) for f in (net.sched.alpha, net.sched.sigma))
    for drop in (None, torch.tensor([True, False, True, False])):
        with torch.no_grad():
            estimate = net(
                alpha * z + sigma * eps, y_up, t, drop if drop is None else drop.float()
            )
            expected = (eps - estimate).square().mean((1, 2, 3))
            assert torch.allclose(sr3_loss(net, z, y_up, t, eps, drop), expected, rtol=1e-4)
