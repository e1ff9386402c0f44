"The long training: killed and resumed, watched, started from its own half-precision weights."

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
import pytest
import torch
from waiting import file_limit
from odebc.errors import CannotWrite, OdebcError
from odebc.sr3 import SR3

ROOT = Path(__file__).parents[1]
MINUTE = 60


@pytest.fixture(scope='module')
def tool():
    "The module behind tools/vanilla.py"
    import importlib.util

    spec = importlib.util.spec_from_file_location('vanilla', ROOT / 'tools/vanilla.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules['vanilla'] = module
    spec.loader.exec_module(module)
    return module


def command(photos, out, *args):
    "A training on tiny patches, one every step"
    patches = ['--batch', '2', '--layout', 'pixels', '--plan', 'tiny']
    script = [sys.executable, '-c', TINY, str(ROOT / 'tools/vanilla.py')]
    return [*script, '--images', str(photos), '--out', str(out), *patches, *map(str, args)]


# the real script with a network and a plan small enough for a test
TINY = '''
import sys
path = sys.argv.pop(1)
import importlib.util
spec = importlib.util.spec_from_file_location('vanilla', path)
tool = importlib.util.module_from_spec(spec)
sys.modules['vanilla'] = tool
spec.loader.exec_module(tool)
layout = dict(channels=8, mults=(1, 2), blocks=1, attention=(1,), heads=2, groups=1)
tool.LAYOUTS['pixels'] = layout
tool.PLANS['tiny'] = [tool.Stage(20, 32, 2), tool.Stage(10**9, 64, 2, relative=False)]
tool.main()
'''


def test_killed_and_resumed_is_the_same_training(photo_folder, tmp_path):
    "kill -9 in the middle of steps and of writing"
    straight = command(photo_folder, tmp_path / 'straight', '--patches', 80)
    subprocess.run(straight, check=True, capture_output=True, timeout=5 * MINUTE)
    killed = command(photo_folder, tmp_path / 'killed', '--patches', 80, '--save-every', 0)
    checkpoint = tmp_path / 'killed' / 'checkpoint.pt'
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for wait in (0, 0.1, 0.3):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen(killed, **silent)
        deadline = time.monotonic() + 5 * MINUTE
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline and not process.poll(), 'no checkpoint'
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait(MINUTE)
    subprocess.run(killed, check=True, capture_output=True, timeout=5 * MINUTE)
    paths = [tmp_path / name / 'checkpoint.pt' for name in ('straight', 'killed')]
    a, b = (torch.load(path, weights_only=True) for path in paths)
    assert a['patches'] == b['patches'] == 80 and a['steps'] == 40
    for part in ('net', 'ema'):
        for name, tensor in a[part].items():
            assert torch.equal(tensor, b[part][name]), name


def test_ctrl_c_keeps_the_work_and_says_so(photo_folder, tmp_path):
    args = command(photo_folder, tmp_path, '--patches', 10**7, '--save-every', 0)
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 5 * MINUTE
    while not (tmp_path / 'checkpoint.pt').exists():
        assert time.monotonic() < deadline and not process.poll()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=MINUTE)[0].decode()
    assert process.returncode == 130 and 'the model is in' in out
    assert (tmp_path / 'model' / 'model.safetensors').exists()


@pytest.fixture
def begun(tool, photo_folder):
    "Makes a training on patches of 32²"
    from odebc.images import byte_folder

    tool.LAYOUTS['tiny'] = dict(channels=8, mults=(1, 2), blocks=1, heads=2, groups=1)
    images = list(byte_folder(photo_folder).values())

    def make(images=images, plan=[tool.Stage(10**9, 32, 2)], layout='tiny', **how):
        return tool.Training(layout, images, plan, **how)

    return make


def as_before_the_store(path):
    "Write a checkpoint as earlier versions did: layout, seed and plan, among the rest"
    state = torch.load(path, weights_only=True)
    task = state.pop('task')
    torch.save({name: task[name] for name in ('layout', 'plan', 'seed')} | state, path)


def test_what_an_earlier_version_has_begun_is_gone_on_with(begun, tmp_path):
    "To the bit; and it is refused where it is another's"
    straight, first, second = begun(), begun(), begun()
    for _ in range(6):
        straight.step()
    for _ in range(3):
        first.step()
    path = tmp_path / 'checkpoint.pt'
    first.save(path)
    as_before_the_store(path)
    with pytest.raises(OdebcError, match=r'holds a training with another seed \(0, not 1\)'):
        begun(seed=1).load(path)
    assert second.load(path)
    for _ in range(3):
        second.step()
    second.save(path)
    straight.save(tmp_path / 'straight.pt')
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ('straight.pt', path))
    assert a.pop('task') == b.pop('task') and b['steps'] == 6
    a['seconds'] = b['seconds'] = 0
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_another_training_is_not_gone_on_with(tool, begun, tmp_path):
    "Plan, average and precision may change on the way"
    path = tmp_path / 'checkpoint.pt'
    first = begun()
    assert not first.load(path)
    first.step()
    first.save(path)
    tool.LAYOUTS['other'] = tool.LAYOUTS['tiny'] | dict(channels=16)
    fewer = first.images[1:]
    for name, how in (
        ('layout', dict(layout='other')),
        ('seed', dict(seed=1)),
        ('number of photographs', dict(images=fewer)),
        ('photographs', dict(images=[*reversed(first.images)])),
    ):
        with pytest.raises(OdebcError, match=f'a training with another {name} .*--out'):
            begun(**how).load(path)
    changed = begun(
        plan=[tool.Stage(4, 48, 1), tool.Stage(10**9, 64, 1)], decay=0.9, bf16=True
    )
    assert changed.load(path) and changed.steps == 1
    changed.save(path)
    with pytest.raises(OdebcError, match='was written by another process meanwhile'):
        first.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OdebcError, match='does not hold a training, or it is damaged'):
        begun().load(path)


def test_a_full_disk_leaves_the_last_checkpoint(begun, tmp_path):
    path = tmp_path / 'checkpoint.pt'
    training = begun()
    training.save(path)
    before = path.read_bytes()
    training.step()
    with file_limit(len(before) // 2), pytest.raises(CannotWrite, match='checkpoint.pt .File'):
        training.save(path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    training.save(path)
    again = begun()
    assert again.load(path) and again.steps == 1


def test_the_loss_is_the_papers(tool, photo_folder):
    "Eq. B.1 on the examples of a step, written out"
    from odebc.images import byte_folder

    tool.LAYOUTS['tiny'] = dict(channels=8, mults=(1, 2), blocks=1, heads=2, groups=1)
    plan = [tool.Stage(10**9, 32, 4, relative=False)]
    training = tool.Training('tiny', list(byte_folder(photo_folder).values()), plan)
    torch.nn.init.normal_(training.net.F.last.weight, std=0.1)
    z, y_up, t, eps, drop = tool.examples(training.images, plan[0], 0, 0, torch.device('cpu'))
    drop = drop.float()
    sched = training.net.sched
    alpha, sigma = (f(t).float().view(-1, 1, 1, 1) for f in (sched.alpha, sched.sigma))
    with torch.no_grad():
        estimate = training.net(alpha * z + sigma * eps, y_up, t, drop)
        expected = (eps - estimate).square().mean()
    assert training.step().item() == pytest.approx(expected.item(), rel=1e-4)
    assert t.min() >= 1 and t.max() <= 1000 and t.dtype == torch.int64
    assert training.net.s is None and training.net.sched.name == 'linear'


def test_parts_of_the_variance(tool):
    "On a matrix whose parts are known, and without a start's effect"
    g = torch.Generator().manual_seed(0)
    start, image, rest = 1.5, 0.7, 0.4
    D = start * torch.randn(600, 1, generator=g) + image * torch.randn(1, 400, generator=g)
    D = D + rest * torch.randn(600, 400, generator=g)
    found = tool.effects(D.double())
    assert found == pytest.approx((start**2, image**2, rest**2), rel=0.2)
    assert abs(tool.effects(torch.randn(600, 400, generator=g).double())[0]) < 0.01


def test_it_is_watched_and_goes_on_from_its_half_precision_weights(
    tool, photo_folder, tmp_path
):
    from odebc.images import byte_folder
    from odebc.metrics import default_distance

    tool.LAYOUTS['tiny'] = dict(channels=8, mults=(1, 2), blocks=1, heads=2, groups=1)
    images = list(byte_folder(photo_folder).values())
    plan = [tool.Stage(10**9, 32, 2)]
    training = tool.Training('tiny', images, plan)
    watch = tool.Watch(
        photo_folder,
        crops=3,
        size=32,
        starts=3,
        pairs=2,
        label='DDIM-2',
        sampled=2,
        distance=default_distance(),
    )
    watch.SAMPLERS = 'DDIM-2', 'DDPM-3'
    tool.train(training, tmp_path, 8, watch, tmp_path / 'watch.csv', every=4)
    rows = list(csv.DictReader((tmp_path / 'watch.csv').open(encoding='utf8')))
    assert [row['patches'] for row in rows] == ['4', '8']
    assert 0 <= float(rows[1]['start_share']) <= 1 and float(rows[1]['DDIM-2_lpips']) > 0
    text = (tmp_path / 'watch.csv').read_text(encoding='utf8')
    (tmp_path / 'watch.csv').write_text(text.rpartition('\n8,')[0] + '\n', encoding='utf8')
    tool.train(training, tmp_path, 8, watch, tmp_path / 'watch.csv', every=4)
    rows = list(csv.DictReader((tmp_path / 'watch.csv').open(encoding='utf8')))
    patches = [row['patches'] for row in rows]
    assert patches == ['4', '8'], 'a stop while it was measured loses a line'
    again = tool.Training('tiny', images, plan)
    again.begin_from(SR3.from_pretrained(tmp_path / 'model'))
    assert (again.patches, again.steps, again.warm) == (8, 4, 0)
    tool.train(again, tmp_path / 'again', 12)
    model = SR3.from_pretrained(tmp_path / 'again' / 'model')
    assert model.samples == 12 and model.size == 256


def test_what_a_gpu_is_asked_to_do_runs_here(photo_folder, tmp_path):
    "The script of nine minutes, with tiny numbers"
    args = [sys.executable, ROOT / 'tools/on_a_gpu.py']
    args += ['--images', photo_folder, '--out', tmp_path]
    args += '--start small-mid --batch 2 --size 32 --rounds 1 --eager'.split()
    # it ends by the patches, not by the time, which a busy machine may not have
    args += '--only training precision --patches 20 --seconds 1500'.split()
    done = subprocess.run(args, capture_output=True, encoding='utf8', timeout=9 * MINUTE)
    report = (tmp_path / 'report.txt').read_text(encoding='utf8')
    assert done.returncode == 0, report
    assert 'training: status 0' in report and 'bfloat16, channels last' in report
    assert SR3.from_pretrained(tmp_path / 'vanilla' / 'model').record['samples'] > 0
    assert json.loads((tmp_path / 'vanilla/model/config.json').read_text())['size'] == 256
