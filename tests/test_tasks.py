"A network knows what it undoes: trained, kept, loaded, altered"

import json
from importlib.resources import files
import pytest
import torch
from PIL import Image
from odebc.data import degrade, photographs, tiles, upsample
from odebc.diagnosis import pairs_of
from odebc.engine import Recipe, Training, watch
from odebc.errors import OdebcError
from odebc.experiments.lab import methods, reference_and_test
from odebc.images import from_bytes, to_tensor
from odebc.matrix import candidates
from odebc.metrics import lpips_lite
from odebc.objective import Examples
from odebc.sr3 import gaussian_first, scaled, SR3
from odebc.tasks import TASKS
from odebc.unet import UNet

IMAGES = [torch.randint(256, (3, 40, 48), dtype=torch.uint8)]
TINY = dict(channels=8, mults=(1,), blocks=1, groups=1, heads=1)


def training(task, steps=2):
    torch.manual_seed(0)
    recipe = Recipe(steps, batch=2, size=16, scale=TASKS[task].scale, task=task)
    return Training(UNet(**TINY), IMAGES, recipe)


@pytest.mark.parametrize('task', TASKS)
def test_examples_are_pairs_of_the_task(task):
    scale = TASKS[task].scale
    examples = Examples(IMAGES, 16, scale, task=task)
    z, y_up, *_ = examples[3]
    assert z.shape == y_up.shape == (3, 16, 16)
    assert (y_up == examples[3][1]).all()
    if task == 'grey':
        assert (y_up[0] == y_up[2]).all()
    if task == 'dark':
        assert y_up.mean() < z.mean() - 0.2


@pytest.mark.parametrize('task', TASKS)
def test_the_task_goes_along_with_the_network(task, tmp_path):
    run = training(task)
    assert all(loss == loss for loss in run)
    run.write(tmp_path)
    model = SR3.from_pretrained(tmp_path)
    for other in (model, model.on('cosine'), scaled(gaussian_first(model, 0.1), 0.9)):
        assert (other.task.name, other.scale) == (task, TASKS[task].scale)
    z = from_bytes(IMAGES[0])[None, :, :16, :16]
    y = model.task(z)
    assert model.h(torch.randn(1, 3, 16, 16), y, 'DDIM-2').shape == z.shape


def test_files_from_before_there_were_tasks(tmp_path):
    "They say nothing of it, and mean bicubic; theirs and new ones are the same"
    training('bicubic').model().save_pretrained(tmp_path)
    assert 'task' not in json.loads((tmp_path / 'config.json').read_text(encoding='utf8'))
    model = SR3.from_pretrained(tmp_path)
    z = from_bytes(IMAGES[0])[None]
    assert (model.task(z) == degrade(z)).all()


def test_a_training_of_another_task_is_not_gone_on_with(tmp_path):
    grey = training('grey')
    grey.save(tmp_path / 'checkpoint.pt')
    with pytest.raises(OdebcError, match='task'):
        training('dark').resume(tmp_path / 'checkpoint.pt')
    training('grey').resume(tmp_path / 'checkpoint.pt')


@pytest.mark.parametrize('task', TASKS)
def test_pairs_for_searches_are_pairs_of_the_task(task):
    images = {str(i): torch.randint(256, (3, 40, 48), dtype=torch.uint8) for i in range(4)}
    scale = TASKS[task].scale
    z, y, names = pairs_of(images, 3, 16, scale, task=task)
    assert y.shape == (3, 3, 16 // scale, 16 // scale)
    z_ref, y_ref, z_test, y_test = reference_and_test(images, 2, 2, 16, scale, task=task)
    assert y_ref.shape == y_test.shape == (2, 3, 16 // scale, 16 // scale)
    again = reference_and_test(images, 2, 2, 16, scale, task=task)
    assert (y_test == again[3]).all()


@pytest.mark.parametrize('task, scale', [('grey', 4), ('bicubic', 1), ('sepia', 4)])
def test_impossible_tasks_are_refused(task, scale):
    with pytest.raises(OdebcError):
        SR3(UNet(**TINY), scale, task=task)
    with pytest.raises(OdebcError):
        Examples(IMAGES, 16, scale, task=task)


@pytest.mark.parametrize('name', ['grey', 'dark'])
def test_those_that_ship_undo_what_their_name_says(name):
    "And give a picture of the right size; the means of a start decide its tint"
    model = SR3.from_pretrained(name)
    assert (model.task.name, model.scale, model.size) == (name, 1, 64)
    z = tiles(list(photographs().values()), 2, 64, torch.Generator().manual_seed(0))
    y = model.task(z)
    assert torch.equal(y, TASKS[name](z))
    x_T = candidates(2, model.shape)
    means = x_T.mean((2, 3), keepdim=True)
    swapped = x_T - means + means.flip(0)
    before, after = (
        torch.stack([model.h(one[None], y, 'DDIM-5').mean((2, 3)) for one in starts])
        for starts in (x_T, swapped)
    )
    stays, moves = (after - before).norm(), (after - before.flip(0)).norm()
    assert moves < stays / 2


def test_the_network_for_bad_pictures_enlarges_and_cleans():
    "Nearer to the photograph than bicubic by the distance that ships"
    model = SR3.from_pretrained('real')
    assert (model.task.name, model.scale, model.size) == ('real', 4, 256)
    z = tiles([photographs()['coffee']], 1, 256, torch.Generator().manual_seed(0))
    # kept, as the chance of the degradation may fall otherwise on another machine
    y = to_tensor(Image.open(files('odebc.assets') / 'results/real.png'))[None]
    x_0 = model.h(candidates(1, model.shape), y, 'D-4')
    assert x_0.shape == z.shape
    assert lpips_lite(x_0, z) < lpips_lite(upsample(y, 4), z)


@pytest.mark.parametrize('task', TASKS)
def test_a_row_without_network_says_what_it_shows(task):
    "y enlarged by bicubic; or y as it is, where nothing is enlarged"
    model = SR3(UNet(**TINY), TASKS[task].scale, 16, task=task)
    ways = methods(model, ['DDPM-2'], {}, 1)
    row, group = next(iter(ways.items()))
    assert str(row) == ('bicubic' if model.scale == 4 else 'y') and row.calls == 0
    y = torch.rand(2, 3, 16 // model.scale, 16 // model.scale)
    (way,) = group.values()
    assert torch.equal(way(y, range(2)), upsample(y) if model.scale == 4 else y)


@pytest.mark.parametrize('task, known', [('grey', '$y$'), ('bicubic', 'bicubic')])
def test_a_training_is_watched_whatever_its_task(task, known, monkeypatch):
    shown = []

    class Handle:
        def update(self, fig):
            shown.append(fig.axes[1].get_title())

    monkeypatch.setattr('IPython.display.display', lambda *_, **__: Handle())
    watch(training(task), from_bytes(IMAGES[0])[None, :, :16, :16], seconds=0, every=0)
    assert len(shown) == 1 and shown[0].startswith(f'{known}, $h(x_T, y)$')
