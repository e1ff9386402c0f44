"""What the apps for the trajectory and for the noise are told, against brute force."""

import io
import json
import math
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from odebc.app import walks
from odebc.app.walks import ANSWERS, mixed, still_noise, still_trajectory, trajectory
from odebc.app.workshop import Job, Request, rounded, Workshop
from odebc.data import photographs, upsample
from odebc.errors import OdebcError, Stopped
from odebc.experiments.lab import reference_and_test
from odebc.identity import digest
from odebc.images import to_tensor
from odebc.matrix import candidate
from odebc.metrics import psnr
from odebc.sr3 import SR3

K, R, U = 5, 3, 4
KEY = 'small-DDIM-4'


@pytest.fixture(scope='module', autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope='module')
def room(tmp_path_factory):
    "A workshop with scores that are drawn, of a sampler with few calls"
    folder = tmp_path_factory.mktemp('shelf')
    model = SR3.from_pretrained('small')
    pairs = reference_and_test(photographs(), R, U, model.size, model.scale, 0)
    g = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(K, R + U, generator=g) for name in ('LPIPS', 'DSSIM', 'MSE')}
    for what in 'bicubic', 'random':
        tensors |= {f'{what} {name}': torch.rand(U, generator=g) for name in list(tensors)[:3]}
    tensors['shown'] = torch.tensor([1, 3])
    facts = dict(
        model='small',
        sampler='DDIM-4',
        seed=0,
        R=R,
        U=U,
        side=64,
        bf16=False,
        pairs=digest(torch.cat(pairs[::2]), torch.cat(pairs[1::2])),
        weights=model.solution_map('DDIM-4').meta['weights'],
    )
    metadata = {name: str(value) for name, value in facts.items()}
    save_file(tensors, folder / f'{KEY}.safetensors', metadata)
    return Workshop(folder)


@pytest.fixture(scope='module')
def model(room):
    return room.model('small')


@pytest.fixture(scope='module')
def unseen(model):
    return reference_and_test(photographs(), R, U, model.size, model.scale, 0)[2:]


def asked(room, name, told=None, **args):
    tell = (lambda told: None) if told is None else told.append
    return ANSWERS[name](room, Request(args, tell=tell))


def picture(data):
    return to_tensor(Image.open(io.BytesIO(data)).convert('RGB'))


def numbers(data, *shape):
    return torch.from_numpy(np.frombuffer(data, np.float32).copy()).view(*shape)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


WALK = dict(key=KEY, picture=3, solver='DDIM-20', start=dict(seed=1, index=2), noise=5)


@pytest.fixture(scope='module')
def walk(room):
    return asked(room, 'walk', **WALK)


@pytest.fixture(scope='module')
def ends(model, unseen):
    "What `h` makes of the same start"
    x_T, y = candidate(2, model.shape, 1)[None], unseen[1][3:4]
    return dict(ode=model.h(x_T, y, 'DDIM-20'), sde=model.h(x_T, y, 'DDPM-20', seeded(5)))


def tile(walk, row, column):
    side = walk['side']
    sheet = picture(walk['sheet'])
    return sheet[:, row * side : (row + 1) * side, column * side : (column + 1) * side]


class TestWalk:
    def test_ends_where_h_ends(self, model, unseen, ends):
        x_T, y = candidate(2, model.shape, 1)[None], unseen[1][3:4]
        for name, label in dict(ode='DDIM-20', sde='DDPM-20').items():
            way = trajectory(label, model.eps(y), x_T, model.sched, seeded(5), clip=True)
            assert (way[-1].x == ends[name]).all()

    def test_says_what_the_ends_score(self, room, walk, unseen, ends):
        z = unseen[0][3:4]
        for name, x_0 in ends.items():
            told = walk['ends'][name]
            assert told['lpips'] == pytest.approx(room.distance()(x_0, z).item(), abs=1e-5)
            assert told['psnr'] == pytest.approx(psnr(x_0, z).item(), abs=1e-3)

    def test_tiles_are_the_stops(self, model, unseen, walk):
        x_T, y = candidate(2, model.shape, 1)[None], unseen[1][3:4]
        for first, label in ((0, 'DDIM-20'), (2, 'DDPM-20')):
            way = trajectory(label, model.eps(y), x_T, model.sched, seeded(5), clip=True)
            for i in 0, 7, 13, 20:
                alpha, sigma = model.sched.alpha(way[i].t), model.sched.sigma(way[i].t)
                shown = (way[i].x[0] / (alpha + 3 * sigma)).float(), way[i].x0[0]
                for row, x in zip((first, first + 1), shown):
                    seen = tile(walk, row, i)
                    assert psnr(seen[None], x[None].clamp(-1, 1)) > 25
                    others = tile(walk, row, (i + 5) % 21)
                    gap = (seen - x.clamp(-1, 1)).abs().mean()
                    assert gap < (others - x.clamp(-1, 1)).abs().mean()

    def test_stops_are_the_solvers(self, model, walk):
        steps = walk['steps']['ode']
        assert [step['t'] for step in steps] == list(range(1000, -1, -50))
        assert steps[-1]['lam'] is None
        for step in steps[:-1]:
            assert step['lam'] == pytest.approx(
                math.log(step['alpha'] / step['sigma']), abs=1e-4
            )
            assert step['alpha'] ** 2 + step['sigma'] ** 2 == pytest.approx(1, abs=1e-5)
        assert walk['near'] == list(range(21))
        json.dumps(
            {name: v for name, v in walk.items() if not isinstance(v, bytes)}, allow_nan=False
        )

    def test_other_times_take_the_nearest(self, room):
        walk = asked(room, 'walk', **WALK | dict(solver='DPMS-20'))
        mine = np.array([step['t'] for step in walk['steps']['ode']])
        other = np.array([step['t'] for step in walk['steps']['sde']])
        assert (np.diff(mine) < 0).all()
        assert walk['near'] == np.abs(mine[:, None] - other).argmin(1).tolist()
        assert walk['near'] != list(range(21))

    def test_sde_alone_draws(self, room, walk):
        again = asked(room, 'walk', **WALK)
        assert again['sheet'] == walk['sheet'] and again['toy sde'] == walk['toy sde']
        other = asked(room, 'walk', **WALK | dict(noise=6))
        assert other['ends']['ode'] == walk['ends']['ode']
        assert other['toy ode'] == walk['toy ode']
        assert other['ends']['sde'] != walk['ends']['sde']
        assert other['toy sde'] != walk['toy sde']

    def test_toy(self, walk):
        ode, sde = (numbers(walk[f'toy {name}'], 21, 60, 2) for name in ('ode', 'sde'))
        assert (ode[0] == sde[0]).all()
        for cloud in ode, sde:
            gaps = (cloud[-1][:, None] - torch.tensor(walk['means'])).norm(dim=2).min(1).values
            assert (gaps < 0.5).float().mean() > 0.9
        turned = [cloud.diff(dim=0).norm(dim=2).sum(0).median() for cloud in (ode, sde)]
        assert turned[1] > 3 * turned[0]  # the SDE's way is the longer one

    def test_progress(self, room):
        told = []
        asked(room, 'walk', told, **WALK)
        shares = [one['share'] for one in told]
        assert shares == sorted(shares) and len(shares) == 40 and shares[-1] == 1


class TestMixed:
    def test_against_the_formula(self):
        g = seeded(0)
        a, b = (torch.randn(3, 16, 16, generator=g) for _ in range(2))
        cases = [(0, 1, 0, 1, 0), (30, 0.7, 1, 1.3, 5), (250, 1.2, 8, 0.5, 15)]
        for phi, tau, grid, grey, roll in cases:
            x = np.cos(np.radians(phi)) * a.numpy() + np.sin(np.radians(phi)) * b.numpy()
            side = 16 // grid if grid else 0
            for c in range(3):
                for i in range(grid):
                    for j in range(grid):
                        block = np.s_[c, i * side : (i + 1) * side, j * side : (j + 1) * side]
                        x[block] -= x[block].mean()
            x *= tau * np.sqrt(x.size / (x**2).sum())
            middle = x.mean(0)
            x = x - middle + grey * middle
            wanted = np.empty_like(x)
            for j in range(16):
                wanted[:, :, (j + roll) % 16] = x[:, :, j]
            got = mixed(a, b, phi, tau, grid, grey, roll).numpy()
            assert np.abs(got - wanted).max() < 1e-5

    def test_noises_are_the_candidates(self, room, model):
        answer = asked(room, 'noises', key=KEY, seed=2, a=1, b=4)
        assert answer['shape'] == list(model.shape)
        for name, index in dict(a=1, b=4).items():
            assert (
                numbers(answer[name], *model.shape) == candidate(index, model.shape, 2)
            ).all()


AMONG = dict(key=KEY, picture=1, seed=0, a=1, b=4)
CHANGED = dict(phi=35, tau=0.9, grid=8, grey=1.2, roll=7)


class TestResult:
    def test_is_that_of_the_mixture(self, room, model, unseen, monkeypatch):
        monkeypatch.setattr(walks, 'BETWEEN', 0)  # a guess at each call
        told = []
        answer = asked(room, 'result', told, **AMONG, **CHANGED)
        noises = [candidate(index, model.shape, 0) for index in (1, 4)]
        x_T = mixed(*noises, *CHANGED.values())
        x_0 = model.h(x_T[None], unseen[1][1:2], 'DDIM-4')
        z = unseen[0][1:2]
        assert answer['lpips'] == pytest.approx(room.distance()(x_0, z).item(), abs=1e-5)
        assert answer['psnr'] == pytest.approx(psnr(x_0, z).item(), abs=1e-3)
        assert answer['length'] == pytest.approx(x_T.square().mean().sqrt().item(), abs=1e-5)
        right, made = walks.details(x_0, z)
        assert (answer['right'], answer['made']) == pytest.approx(
            (right.item(), made.item()), abs=1e-5
        )
        assert (picture(answer['picture']) - x_0[0]).abs().max() < 1 / 127
        assert [(one['done'], one['calls']) for one in told] == [(n, 4) for n in (1, 2, 3, 4)]
        wanted = np.asarray(Image.open(io.BytesIO(answer['picture'])).convert('RGBA'))
        colours = [
            np.frombuffer(one['colours'], np.uint8).reshape(-1, one['wide'], 4) for one in told
        ]
        far = [np.abs(guess.astype(float) - wanted).mean() for guess in colours]
        assert far == sorted(far, reverse=True) and far[0] > 0 == far[-1]

    def test_no_guess_where_the_result_comes_at_once(self, room, monkeypatch):
        monkeypatch.setattr(walks, 'BETWEEN', 60)
        told = []
        asked(room, 'result', told, **AMONG, **CHANGED)
        assert [one['done'] for one in told] == [4]

    def test_circle_is_made_of_results(self, room):
        told = []
        whole = asked(room, 'circle', told, **AMONG)
        assert [point['phi'] for point in whole['points']] == list(range(0, 360, 15))
        assert [one['point'] for one in told] == whole['points']
        plain = dict(tau=1, grid=0, grey=1, roll=0)
        for i in 0, 5, 20:
            alone = asked(room, 'result', **AMONG, phi=15 * i, **plain)
            assert alone['picture'] == told[i]['picture']
            assert whole['points'][i] == pytest.approx(
                {name: alone[name] for name in whole['points'][i] if name != 'phi'}
                | dict(phi=15 * i)
            )
            seen = tile(whole, 0, i)
            assert psnr(seen[None], picture(alone['picture'])[None]) > 25

    def test_about(self, room, model, unseen):
        answer = asked(room, 'noise_about', key=KEY)
        D = room.scores(KEY).split('LPIPS')[0].mean(1)
        assert answer['shown'] == [1, 3] and answer['warning'] == ''
        assert (answer['best'], answer['worst']) == (D.argmin().item(), D.argmax().item())
        lost = [score['lpips'] for score in answer['bicubic']]
        assert answer['first'] == answer['shown'][int(np.argmax(lost))]
        for i, k in enumerate(answer['shown']):
            both = picture(answer[f'pictures {i}'])
            z, y = (v[k : k + 1] for v in unseen)
            bicubic = upsample(y)
            assert (both - torch.cat([bicubic, z], 3)[0].clamp(-1, 1)).abs().max() < 1 / 127
            assert answer['bicubic'][i]['lpips'] == pytest.approx(
                room.distance()(bicubic, z).item(), abs=1e-5
            )


def test_rounded_weights_change_nothing():
    "What autocast would round in each call, rounded once"
    model = SR3.from_pretrained('small', 'bfloat16')
    other = rounded(model)
    x_T = candidate(0, model.shape)[None]
    y = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(other.h(x_T, y, 'DDIM-2'), model.h(x_T, y, 'DDIM-2'))
    assert next(model.net.parameters()).dtype == torch.float32
    exact = SR3.from_pretrained('small')
    assert rounded(exact) is exact


class TestRefusals:
    @pytest.mark.parametrize(
        'change, why',
        [
            (dict(key='none-DDIM-4'), "no scores for 'none-DDIM-4'"),
            (dict(picture=4), 'picture must be a whole number from 0 to 3, not 4'),
            (dict(picture=None), 'picture must be'),
            (dict(solver='DDPM-20'), 'the solver is one of DDIM-20, DPMS-20'),
            (dict(start=7), 'a start is a seed and an index'),
            (dict(start=dict(seed=-1, index=0)), 'seed must be a whole number'),
            (dict(start=dict(seed=0, index=0.5)), 'index must be a whole number'),
            (dict(noise='x'), 'noise must be a whole number'),
        ],
    )
    def test_walk(self, room, change, why):
        with pytest.raises(OdebcError, match=why):
            asked(room, 'walk', **WALK | change)

    @pytest.mark.parametrize(
        'change, why',
        [
            (dict(tau=0), 'tau must be a number from 0.5 to 1.5, not 0'),
            (dict(tau=math.nan), 'tau must be a number'),
            (dict(grey='1'), 'grey must be a number'),
            (dict(grid=2.5), 'grid must be a whole number'),
            (dict(phi=361), 'phi must be a number from 0 to 360'),
            (dict(a=-1), 'index must be a whole number'),
        ],
    )
    def test_result(self, room, change, why):
        with pytest.raises(OdebcError, match=why):
            asked(room, 'result', **AMONG | CHANGED | change)

    @pytest.mark.parametrize(
        'name, args', [('walk', WALK), ('result', AMONG | CHANGED), ('circle', AMONG)]
    )
    def test_dropped_questions_stop(self, room, name, args):
        calls = 0

        def check():
            nonlocal calls
            calls += 1
            if calls > 2:
                raise Stopped

        with pytest.raises(Stopped):
            ANSWERS[name](room, Request(args, check=check))
        assert calls == 3

    def test_newer_question_drops_the_older(self, room):
        job, answers, dropped = Job(), [], []

        def work(check):
            answers.append(ANSWERS['walk'](room, Request(WALK, check=check)))

        job.start(work, dropped=lambda: dropped.append(1))
        job.start(work, dropped=lambda: dropped.append(2))
        job.wait(60)
        assert dropped == [1] and len(answers) == 1


class TestStill:
    def test_questions_are_written_as_in_javascript(self):
        args = dict(key='é', start=dict(seed=0, index=1), tau=0.9)
        wanted = '["walk",{"key":"é","start":{"seed":0,"index":1},"tau":0.9}]'
        assert walks.as_asked('walk', args) == wanted

    def test_pages_hold_few_small_answers(self, room):
        kept = still_trajectory(room) | still_noise(room)
        names = [json.loads(question)[0] for question in kept]
        assert sorted(set(names)) == ['circle', 'noise_about', 'noises', 'walk', 'walk_about']
        assert names.count('walk') == 4 and names.count('circle') == 2
        for question, answer in kept.items():
            size = sum(len(v) * 4 / 3 for v in answer.values() if isinstance(v, bytes))
            assert size < 600_000, question

    def test_answers_are_the_live_ones(self, room):
        for question, answer in still_noise(room).items():
            name, args = json.loads(question)
            assert asked(room, name, **args) == answer
            break
