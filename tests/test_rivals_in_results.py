"""Rivals in what `odebc results` measures: small networks whose weights the tests write, so
that no optional package is needed.
"""

import csv
import re
import pytest
import torch
from odebc.cli import app
from odebc.data import photographs, split, tiles, upsample
from odebc.diagnosis import pairs_of
from odebc.engine import Recipe, Training
from odebc.errors import OdebcError
from odebc.experiments import lab, rivals
from odebc.experiments.rivals import rival, RRDBNet
from odebc.images import to_bytes
from odebc.matrix import candidate
from odebc.metrics import default_distance, psnr
from odebc.sr3 import SR3
from odebc.store import unpacked
from odebc.tasks import TASKS
from odebc.unet import UNet

N = 4  # patches
TINY = lab.Protocol(
    K=2,
    R=2,
    n=N,
    few=N,
    ode=['DDIM-2', 'D-2'],
    ddpm=['DDPM-2'],
    draws=2,
    matrix=(8, 2, 'DDIM-1'),
    blocks=2,
)
SMALL = dict(blocks=1, width=8, growth=4)


def write(file, seed):
    "A network of four times, with the published names; it does not do much"
    torch.manual_seed(seed)
    torch.save(RRDBNet(**SMALL).state_dict(), file)


def read(file, asked):
    "What spandrel would do; each picture that it is asked about is counted"
    net = RRDBNet(**SMALL)
    net.load_state_dict(torch.load(file, weights_only=True))
    net.register_forward_pre_hook(lambda net, given: asked.append(len(given[0])))
    return net.eval().requires_grad_(False)


@pytest.fixture
def asked(monkeypatch):
    "Files are read without spandrel, and `tiny` is a known rival"
    counted = []
    monkeypatch.setattr(rivals, 'from_pth', lambda file: read(file, counted))

    def known():
        torch.manual_seed(7)
        return RRDBNet(**SMALL).eval().requires_grad_(False)

    monkeypatch.setitem(rivals.KNOWN, 'tiny', ('this test', 'noise and blur', 'real', known))
    monkeypatch.setitem(lab.PROTOCOLS, 'quick', TINY)
    return counted


def network(task, folder):
    torch.manual_seed(0)
    net = UNet(channels=8, mults=(1,), blocks=1, groups=1, heads=1)
    images = [to_bytes(x) for x in photographs().values()]
    recipe = Recipe(1, batch=1, size=64, scale=TASKS[task].scale, task=task)
    run = Training(net, images, recipe)
    list(run)
    run.write(folder)
    return folder


def odebc(*args):
    app([*map(str, args)], standalone_mode=False, obj=dict(debug=True))


def rows_of(text):
    "Cells of the first table with methods"
    table = re.search(r'\| method .*?(?=\n\n|\Z)', text, re.S)[0]
    head, _, *rows = ([c.strip() for c in line.split('|')[1:-1]] for line in table.split('\n'))
    return head, {row[0]: dict(zip(head, row)) for row in rows}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize('task', ['bicubic', 'real'])
def test_rivals_stand_in_table_1(task, asked, tmp_path):
    model, out, file = network(task, tmp_path / 'model'), tmp_path / 'out', tmp_path / 'my.pth'
    write(file, 1)
    plain = ['results', '--quick', '--model', model, '--precision', 'float32', '--out', out]
    command = [*plain, '--rival', f'mine={file}', '--rival', 'tiny']
    odebc(*command)
    assert sum(asked) == N
    text = (out / 'results.md').read_text(encoding='utf8')
    head, rows = rows_of(text)
    told = 'tiny (trained for noise and blur)' if task == 'bicubic' else 'tiny'
    assert list(rows)[:4] == ['bicubic', 'mine', told, 'DDPM-2']
    assert rows['mine']['NFE'] == '1' and rows['DDIM-2']['beats a random DDIM-2'] == ''
    assert '- mine: my.pth, weights ' in text and 'its file does not say' in text

    # by hand, on the same crops
    theirs = list(split(photographs())[1].values())
    z = tiles(theirs, N, 64, torch.Generator().manual_seed(0))
    sr3 = SR3.from_pretrained(model, 'float32')
    y, distance = sr3.task(z, lab.chance_of('photographs')), default_distance()
    x_0 = rival(f'mine={file}')(y)
    random = []
    for k in (100, 101):
        x_T = torch.stack([candidate(i, sr3.shape, k) for i in range(N)])
        random.append(distance(sr3.h(x_T, y, 'DDIM-2'), z))
    lines = list(csv.DictReader((out / 'results.csv').open(encoding='utf8')))
    cell = {(line['method'], line['metric']): float(line['mean']) for line in lines}

    def wins(x):
        return torch.stack([distance(x, z) < row for row in random]).float().mean().item()

    for name, x in (('mine', x_0), ('bicubic', upsample(y))):
        assert abs(cell[name, distance.name] - distance(x, z).mean()) < 1e-4
        assert abs(cell[name, 'PSNR'] - psnr(x, z).mean()) < 1e-2
        assert cell[name, 'beats a random DDIM-2'] == pytest.approx(wins(x), abs=1e-4)
        label = rows[name]['beats a random DDIM-2']
        assert label == f'{wins(x):.0%}'

    if task == 'real':
        return
    # what is there is not measured again; other weights are another row, whatever their name
    del asked[:]
    odebc(*command)
    assert not asked
    kept = unpacked(out / lab.MEASURED).tensors
    write(file, 2)
    odebc(*command)
    assert sum(asked) == N
    _, new = rows_of((out / 'results.md').read_text(encoding='utf8'))
    assert new['mine']['PSNR ↑'] != rows['mine']['PSNR ↑']
    same = ['LPIPS ↓' if 'LPIPS ↓' in head else head[1], 'PSNR ↑']
    for name in ('bicubic', told, 'DDIM-2', 'DDIM-2 + x̃_T'):
        assert [new[name][c] for c in same] == [rows[name][c] for c in same]
    after = unpacked(out / lab.MEASURED).tensors
    assert len(after) == len(kept) + 1 and set(kept) < set(after)
    # the old file has its row still
    del asked[:]
    write(file, 1)
    odebc(*command)
    assert not asked and rows_of((out / 'results.md').read_text())[1]['mine'] == rows['mine']
    # and without rivals all is as it was
    odebc(*plain)
    _, without = rows_of((out / 'results.md').read_text())
    assert list(without) == [name for name in rows if name not in ('mine', told)]


MAP = '''
from odebc.data import upsample
from odebc.maps import solution_map


def fn(x_T, y):
    return (upsample(y, 4) + 0.3 * x_T).clamp(-1, 1)


h = solution_map(fn, name='noisy', nfe=1)
'''


def test_rivals_beside_a_map(asked, tmp_path):
    (tmp_path / 'my.py').write_text(MAP)
    file, x_t, out = tmp_path / 'my.pth', tmp_path / 'x_T.safetensors', tmp_path / 'out'
    write(file, 1)
    own = ['--map', f'{tmp_path}/my.py:h']
    odebc('search', *own, '--k', 3, '--r', 2, '--unseen', 2, '--out', x_t)
    command = ['results', *own, '--x-t', x_t, '--patches', 6, '--out', out]
    command += ['--rival', f'mine={file}', '--rival', 'tiny']
    odebc(*command)
    n = sum(asked)
    text = (out / 'results.md').read_text(encoding='utf8')
    _, rows = rows_of(text)
    told = 'tiny (trained for noise and blur)'
    assert list(rows) == ['bicubic', 'mine', told, 'random x_T', 'x̃_T']
    distance = default_distance()
    searched, _ = split(photographs())
    judged = {name: image for name, image in photographs().items() if name not in searched}
    z, y, names = pairs_of(judged, 6, 64, 4)
    assert n == len(z) and f'photographs, {n} patches' in text
    x_0, x_b = rival(f'mine={file}')(y), upsample(y)
    random = [
        distance((x_b + 0.3 * candidate(k, (3, 64, 64), 100)).clamp(-1, 1), z)
        for k in range(8)
    ]

    def mean(values):
        "Over photographs, as the table has it"
        each = [values[[n == name for n in names]].mean() for name in dict.fromkeys(names)]
        return sum(each).item() / len(each)

    column = f'{distance.name} ↓'
    for name, x in (('mine', x_0), ('bicubic', x_b)):
        scores = distance(x, z)
        assert float(rows[name][column].split()[0]) == pytest.approx(mean(scores), abs=2e-4)
        shown = float(rows[name]['PSNR ↑'].split()[0])
        assert shown == pytest.approx(mean(psnr(x, z)), abs=0.02)
        share = torch.stack([scores < row for row in random]).float().mean()
        assert rows[name]['beats a random x_T'] == f'{share:.0%}'
    assert float(rows['random x_T'][column].split()[0]) == pytest.approx(
        mean(torch.stack(random).mean(0)), abs=2e-4
    )
    del asked[:]
    odebc(*command)
    assert not asked
    write(file, 2)
    odebc(*command)
    assert sum(asked) == n
    _, new = rows_of((out / 'results.md').read_text(encoding='utf8'))
    assert new['mine'] != rows['mine']
    assert {k: v for k, v in new.items() if k != 'mine'} == {
        k: v for k, v in rows.items() if k != 'mine'
    }


def test_a_stopped_rival_goes_on(asked, tmp_path, monkeypatch):
    "Batches of it that are done are not done again"
    from odebc.experiments.on_tests import on_rivals

    write(tmp_path / 'my.pth', 1)
    mine = rival(f'mine={tmp_path}/my.pth')
    z, y, names = pairs_of(photographs(), 18, 64, 4)
    whole = on_rivals([mine], dict(a=(z, y, names)))
    del asked[:]
    h = rivals.Rival.__call__

    def failing(self, y):
        if sum(asked) >= 16:
            raise KeyboardInterrupt
        return h(self, y)

    monkeypatch.setattr(rivals.Rival, '__call__', failing)
    with pytest.raises(KeyboardInterrupt):
        on_rivals([mine], dict(a=(z, y, names)), folder=tmp_path / 'out')
    assert asked == [16]
    monkeypatch.setattr(rivals.Rival, '__call__', h)
    again = on_rivals([mine], dict(a=(z, y, names)), folder=tmp_path / 'out')
    assert asked == [16, 2]
    gap = again['a']['mine']['distance'] - whole['a']['mine']['distance']
    assert gap.abs().max() < 1e-5


@pytest.mark.parametrize('task', ['grey', 'dark'])
def test_where_nothing_is_enlarged_there_is_no_rival(task, asked, tmp_path):
    model = network(task, tmp_path / 'model')
    out = ['--out', tmp_path / 'out', '--quick', '--precision', 'float32']
    with pytest.raises(OdebcError, match=f'y of the task {task} is as large as the picture'):
        odebc('results', '--model', model, '--rival', 'tiny', *out)
    assert not (tmp_path / 'out' / lab.MEASURED).exists()


def test_what_is_refused(asked, tmp_path):
    write(tmp_path / 'my.pth', 1)
    mine = f'{tmp_path}/my.pth'
    (tmp_path / 'my.py').write_text(MAP)
    x_t = tmp_path / 'x_T.safetensors'
    own = ['--map', f'{tmp_path}/my.py:h']
    odebc('search', *own, '--k', 2, '--r', 2, '--unseen', 2, '--out', x_t)
    command = ['results', *own, '--x-t', x_t, '--out', tmp_path / 'out']
    for args, says in (
        (['--scale', 2, '--rival', 'tiny'], 'y of the task bicubic is 2 times smaller'),
        (['--rival', f'a={mine}', '--rival', f'a={mine}'], 'two rivals are called a'),
        (['--rival', 'SRDiff'], "no rival 'SRDiff': known are RealSR"),
        (['--rival', f'DDIM-20={mine}'], "no name for a rival: 'DDIM-20'"),
        (['--rival', f'bicubic={mine}'], "no name for a rival: 'bicubic'"),
        (['--rival', f'={mine}'], "no name for a rival: ''"),
        (['--rival', f'DDIM-50 + x̃_T={mine}'], "no name for a rival: 'DDIM-50"),
        (['--rival', f'random x_T={mine}'], "no name for a rival: 'random x_T'"),
        (['--rival', f' y={mine}'], "no name for a rival: ' y'"),
        (['--rival', f'a|b={mine}'], 'no name for a rival'),
    ):
        with pytest.raises(OdebcError, match=says):
            odebc(*command, *args)
    two = rivals.Rival('two', '', lambda y: upsample(y, 2))
    with pytest.raises(OdebcError, match=r'two returned pictures of shape \(1, 3, 16, 16\)'):
        two(torch.zeros(1, 3, 8, 8))


def test_weights_tell_rivals_apart_and_names_do_not(asked, tmp_path):
    one, other = tmp_path / 'one.pth', tmp_path / 'other.pth'
    write(one, 1)
    write(other, 2)
    facts = [rival(f'{name}={file}').facts for name, file in (('a', one), ('b', one))]
    assert facts[0] == facts[1] != rival(f'a={other}').facts
    state = torch.load(one, weights_only=True)
    state['conv_last.bias'][0] += 1e-6
    torch.save(state, other)
    assert rival(f'a={other}').facts != facts[0]
