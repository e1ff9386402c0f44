"Identities are the same on a machine that rounds otherwise, and others for another thing."

import json
import os
from itertools import product
from pathlib import Path
from types import SimpleNamespace
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from odebc.adapters import schedule_of, UNetMap, UpscalerMap
from odebc.data import crops, degrade, photographs, split, tiles
from odebc.identity import digest
from odebc.images import byte_folder
from odebc.identity import BICUBIC, degradation_of, pairs_digest, picture_digest
from odebc.experiments.lab import bicubic, COLUMNS, drawn, fixed, Lab, MEASURED, Protocol
from odebc.experiments.lab import table_1
from odebc.metrics import DISTS, import_torchvision, lite_model, lpips_lite
from odebc.runner import BoundaryCondition
from odebc.metrics import identity_of
from odebc.store import Store, read_facts
from odebc.search import search
from odebc.sr3 import SR3
from odebc.app.views import caches

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / 'shared/data'
ROUNDED = set(
    'cos sin log log1p exp expm1 softplus cumsum linspace sum mean mm addmm bmm convolution '
    'div upsample_bicubic2d _upsample_bicubic2d_aa'.split()
)


class Otherwise(TorchDispatchMode):
    "A machine whose functions end in another last bit, at random"

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in ROUNDED or not torch.is_tensor(out) or not out.is_floating_point():
            return out
        up = torch.rand(out.shape, generator=self.generator) < 0.5
        end = torch.where(up, torch.inf, -torch.inf).to(out)
        return torch.nextafter(out, end)


import_torchvision()  # before diffusers does it


def patches(n=4, size=64, seed=0):
    return crops(list(photographs().values()), n, size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('name', ['small', 'small-mid', 'base'])
def test_networks(name):
    here = SR3.from_pretrained(name)
    with Otherwise():
        there = SR3.from_pretrained(name)
        assert there.fingerprint == here.fingerprint
        assert there.on('cosine').fingerprint == here.on('cosine').fingerprint
    assert not torch.equal(there.sched.table, here.sched.table), (
        'the other machine rounds alike'
    )
    assert here.on('cosine').fingerprint != here.on('linear').fingerprint


def test_another_number_of_the_schedule_is_another_network():
    model = SR3.from_pretrained('base')
    was = model.fingerprint
    model.sched = type(model.sched).cosine(s=0.01)
    assert model.fingerprint != was


def test_shipped_records_are_of_the_shipped_networks():
    "The rows of evaluations that belong to what is shipped are found, also on another machine"
    with Otherwise():
        names = 'small', 'small-mid', 'base'
        ids = {name: SR3.from_pretrained(name).fingerprint for name in (*names, 'vanilla')}
    for name in names:
        path = ROOT / 'data' / name / 'evaluation.json'
        rows = json.loads(path.read_text(encoding='utf8'))
        mine = {row['sampler'] for row in rows if row.get('weights') == ids[name]}
        assert {'bicubic', 'DDIM-20'} <= mine, name
    for path in sorted((ROOT / 'data/results').glob('*/x_T-*.safetensors')):
        assert BoundaryCondition.load(path).meta['weights'] == ids[path.parent.name]
    for cache in caches().values():
        assert cache.weights == ids[cache.network]


@pytest.mark.parametrize('key', ['small-mid-DDIM-10', 'base-DDIM-10'])
def test_pairs_of_the_explorer(key):
    cache = caches()[key]
    model = SR3.from_pretrained(cache.network)
    with Otherwise():
        pairs = cache.images(model)
        z, y = torch.cat(pairs[::2]), torch.cat(pairs[1::2])
        assert pairs_digest(z, y) == cache.pairs
        there = shrunk(z)
    assert not torch.equal(shrunk(z), there), 'the other machine rounds alike'


def shrunk(z):
    "What `degrade` rounds to 8 bits"
    return torch.nn.functional.interpolate(z, size=(16, 16), mode='bicubic', antialias=True)


def test_pairs_by_scale_and_degradation():
    z = patches()
    with Otherwise():
        there = {scale: pairs_digest(z, degrade(z, scale)) for scale in (2, 4)}
    here = {scale: pairs_digest(z, degrade(z, scale)) for scale in (2, 4)}
    assert here == there and here[2] != here[4]
    nearest = z[..., ::4, ::4]
    assert degradation_of(z, nearest) == {} and pairs_digest(z, nearest) != here[4]
    many_off = degrade(z) + torch.where(torch.rand(4, 3, 16, 16) < 0.1, 1 / 127.5, 0.0)
    assert degradation_of(z, many_off.clamp(-1, 1)) == {}


def test_distances():
    def perceptual():
        w = torch.load(dists_weights(), weights_only=True, map_location='cpu')
        return DISTS(trunk, w['alpha'].detach(), w['beta'].detach())

    trunk = torch.nn.Sequential(*(torch.nn.Identity() for _ in range(31)))
    here = identity_of(lite_model(), None), identity_of(perceptual(), None)
    with Otherwise():
        there = identity_of(lite_model.__wrapped__(), None), identity_of(perceptual(), None)
    assert here == there
    record = json.loads((ROOT / 'data/lpips_lite/record.json').read_text(encoding='utf8'))
    assert record['weights'] in here[0]


def dists_weights():
    from importlib.resources import files

    return files('torchmetrics.functional.image') / 'dists_models/weights.pt'


@pytest.mark.parametrize('beta_schedule', ['linear', 'scaled_linear', 'squaredcos_cap_v2'])
def test_maps_of_diffusers(beta_schedule):
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = dict(down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',))
    unet = UNet2DModel(16, 6, 3, block_out_channels=(32,), **blocks)

    def identity(kind=DDPMScheduler, **numbers):
        scheduler = kind(beta_schedule=beta_schedule, **numbers)
        return UNetMap(unet, scheduler, 'DDIM-5').meta

    def table():
        return schedule_of(DDPMScheduler(beta_schedule=beta_schedule)).table

    here = identity()
    with Otherwise():
        there = identity()
        other = table()
    assert here == there and identity(DDIMScheduler) == here
    assert identity(num_train_timesteps=500) != here
    assert not torch.equal(other, table())


def test_a_prompt_is_known_by_its_words():
    "Not by the numbers that an encoder makes of them"
    from diffusers import DDPMScheduler, UNet2DConditionModel, AutoencoderKL

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        8,
        7,
        4,
        block_out_channels=(32,),
        down_block_types=('CrossAttnDownBlock2D',),
        up_block_types=('CrossAttnUpBlock2D',),
        cross_attention_dim=8,
        num_class_embeds=400,
    )
    encoder = torch.nn.Embedding(20, 8)

    def encode(prompt, device, n, guided):
        words = torch.tensor([[len(word) for word in prompt.split()] or [0]])
        empty = torch.zeros(1, 1).long()
        return encoder(words).exp().detach(), encoder(empty).exp().detach()

    pipeline = SimpleNamespace(
        unet=unet,
        vae=AutoencoderKL(block_out_channels=(32,)),
        scheduler=DDPMScheduler(),
        text_encoder=encoder,
        encode_prompt=encode,
        device='cpu',
        low_res_scheduler=DDPMScheduler(),
        config=SimpleNamespace(max_noise_level=350),
    )
    here = UpscalerMap(pipeline, prompt='a red house').meta
    with Otherwise():
        assert UpscalerMap(pipeline, prompt='a red house').meta == here
    assert UpscalerMap(pipeline, prompt='a low house').meta['text'] != here['text']
    with torch.no_grad():
        encoder.weight += 1
    assert UpscalerMap(pipeline, prompt='a red house').meta['text'] != here['text']


# --- searches go on, or refuse


def begun(tmp_path, z, y, **how):
    "A search with the shipped network, and what it needs to go on"
    h = SR3.from_pretrained('small').solution_map('DDIM-1')
    path = tmp_path / 'x_T.safetensors'
    return lambda **more: search(h, z, y, 3, lpips_lite, path=path, **how, **more)


def test_a_search_goes_on_on_a_machine_that_rounds_otherwise(tmp_path):
    z = patches(2)
    first = begun(tmp_path, z, degrade(z))()
    with Otherwise():
        z = patches(2)
        again = begun(tmp_path, z, degrade(z))()
    assert again.solves == first.solves and torch.equal(again.scores, first.scores)


def test_a_search_of_an_earlier_version_goes_on(tmp_path):
    z = patches(2)
    path = tmp_path / 'x_T.safetensors'
    run = begun(tmp_path, z, degrade(z))
    first = run()
    first.meta['pairs'] = digest(z, degrade(z))
    first.save(path)
    assert run().solves == first.solves
    assert BoundaryCondition.load(path).meta['pairs'] == pairs_digest(z, degrade(z))


def test_photographs_of_another_decoder_are_accepted_knowingly(tmp_path):
    z = patches(2)
    first = begun(tmp_path, z, degrade(z))()
    z[0, 1, 5, 5] -= 2 / 255
    run = begun(tmp_path, z, degrade(z))
    with pytest.raises(ValueError, match='another pairs .* accept the pairs of the file'):
        run()
    with pytest.raises(ValueError, match='another pairs'):
        run(accept=['weights'])
    again = run(accept=['pairs'])
    assert again.solves == first.solves and again.meta['accepted'] == ['pairs']
    assert run().meta['accepted'] == ['pairs'], 'what was accepted once is the file\'s own now'


def test_pairs_that_only_look_alike_by_name_are_refused(tmp_path):
    z = patches(2)
    begun(tmp_path, z, degrade(z))()
    with pytest.raises(ValueError, match='another pairs'):
        begun(tmp_path, z, z[..., ::4, ::4].contiguous())()


def test_a_search_on_the_shipped_base_begun_by_an_earlier_version(tmp_path):
    "Its weights had an identity made from the table of the cosine schedule"
    model = SR3.from_pretrained('base')
    path = tmp_path / 'x_T.safetensors'
    meta = dict(model.solution_map('DDIM-1').meta)
    old = meta | model.former
    assert old['weights'] != meta['weights']
    BoundaryCondition(torch.zeros(3, 4, 4), 0, 0, torch.zeros(1, 1), 1, 1, 0.0, old).save(path)
    assert Store(path, meta, model.former).load()
    with pytest.raises(ValueError, match='another weights'):
        Store(path, meta).load()


# --- results


def small_lab(folder, images, more=None, **how):
    protocol = Protocol(2, 2, 2, 2, ['DDIM-1'], [], 1, (2, 2, 'DDIM-1'), 1)
    ours, theirs = split(images)
    tests = dict(photographs=list(theirs.values())) | (more or {})
    model = SR3.from_pretrained('small')
    return Lab(model, protocol, list(ours.values()), tests, folder, **how)


def test_results_go_on_on_a_machine_that_rounds_otherwise(tmp_path):
    small_lab(tmp_path, photographs())
    before = read_facts(tmp_path / MEASURED)
    with Otherwise():
        small_lab(tmp_path, photographs())
    assert read_facts(tmp_path / MEASURED) == before
    changed = {name: x.sub(1 / 127.5).clamp(-1, 1) for name, x in photographs().items()}
    says = 'another references .* accept the references of the'
    with pytest.raises(ValueError, match=says):
        small_lab(tmp_path, changed)
    both = ['references', 'tests']
    small_lab(tmp_path, changed, accept=both)
    assert read_facts(tmp_path / MEASURED)['accepted'] == both


def as_by_an_earlier_version(lab, **changes):
    """Facts in lab.json, and the scores of every method in a file of its own, all of them by 1
    too large: so they can be told from what is measured
    """
    facts = read_facts(lab.folder / MEASURED)
    tests = {n: digest(z) for n, z in lab.tests.items()}
    old = facts | dict(references=digest(lab.z), tests=tests, distance=lab.distance.name)
    old['network'] = dict(weights=old.pop('weights'), bf16=old.pop('bf16'))
    del old['degradation']
    (lab.folder / 'lab.json').write_text(json.dumps(old | changes))
    for key, way in lab.ways.items():
        folder = lab.folder / 'scores' / way['test']
        folder.mkdir(parents=True, exist_ok=True)
        values = dict(zip(COLUMNS, (lab.known[key] + 1).T.tolist()))
        (folder / f"{way['name']}.json").write_text(json.dumps(values))
    (lab.folder / MEASURED).unlink()
    return facts, old


def test_results_of_an_earlier_version_go_on(tmp_path):
    lab = small_lab(tmp_path, photographs())
    new = table_1(lab, 'photographs')
    facts, old = as_by_an_earlier_version(lab)
    with pytest.warns(UserWarning, match='an earlier version has measured') as told:
        again = table_1(small_lab(tmp_path, photographs()), 'photographs')
    assert len(told) == 1, 'once is enough'
    assert read_facts(tmp_path / MEASURED) == facts
    for row in new:  # they are read, and not measured anew
        assert torch.allclose(again[row]['SSIM'], new[row]['SSIM'] + 1, atol=1e-5)
    (tmp_path / MEASURED).unlink()
    with pytest.raises(ValueError, match='another protocol'):
        (tmp_path / 'lab.json').write_text(json.dumps(old | dict(protocol={})))
        small_lab(tmp_path, photographs())


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(network=dict(weights='another', bf16=False)), 'another weights'),
        (dict(distance='another'), 'another distance'),
        (dict(tests=dict(photographs='another')), 'another tests'),
        (dict(tests={}), 'another tests'),
        (dict(degradation='another'), 'another degradation'),
        (None, 'nothing says what'),
    ],
)
def test_older_scores_of_another_thing_are_not_taken_for_ours(change, says, tmp_path):
    "The folder is ours by now, but they lie in it under the same names"
    lab = small_lab(tmp_path, photographs())
    new = table_1(lab, 'photographs')
    as_by_an_earlier_version(lab, **change or {})
    if change is None:
        (tmp_path / 'lab.json').unlink()
    Store(tmp_path / MEASURED, lab.store.facts).save({}, ways={})
    with pytest.warns(UserWarning, match=f'is not used.*{says}') as told:
        again = table_1(small_lab(tmp_path, photographs()), 'photographs')
    assert len(told) == 1
    for row in new:
        assert torch.allclose(again[row]['SSIM'], new[row]['SSIM'], atol=1e-5)


def test_older_scores_are_used_for_the_sets_that_are_the_same(tmp_path):
    def both():
        theirs = list(split(photographs())[1].values())
        return small_lab(tmp_path, photographs(), more=dict(second=theirs[:1]))

    lab = both()
    new = {test: lab.scores(test, 'bicubic', bicubic(lab.model)) for test in lab.tests}
    _, old = as_by_an_earlier_version(lab)
    changed = dict(old, tests=old['tests'] | dict(second='another'))
    (tmp_path / 'lab.json').write_text(json.dumps(changed))
    Store(tmp_path / MEASURED, lab.store.facts).save({}, ways={})
    lab = both()
    with pytest.warns(UserWarning) as told:
        again = {test: lab.scores(test, 'bicubic', bicubic(lab.model)) for test in lab.tests}
    assert len(told) == 2
    assert torch.allclose(again['photographs']['SSIM'], new['photographs']['SSIM'] + 1)
    assert torch.allclose(again['second']['SSIM'], new['second']['SSIM'])


def test_an_older_name_that_says_something_else_is_not_used(tmp_path):
    "A name says the sampler, and sometimes the start"
    lab = small_lab(tmp_path, photographs())
    x_T = torch.zeros(lab.model.shape)
    one, two = (f'DDIM-1 with x_T {digest(x)} of this' for x in (x_T, x_T + 1))
    for seed, name in enumerate(('DDIM-1 mine', one, two, 'DDIM-1 eta 1', 'mine')):
        lab.scores('photographs', name, drawn(lab.model, 'DDIM-1', seed))
    as_by_an_earlier_version(lab)
    lab = small_lab(tmp_path, photographs())

    def older(name, way):
        return bool(lab.scores('photographs', name, way)['SSIM'].min() > 1)

    with pytest.warns(UserWarning, match="says something else than .*'sampler': 'DDIM-2'"):
        assert not older('DDIM-1 mine', drawn(lab.model, 'DDIM-2'))
    assert not older('DDIM-1 mine', bicubic(lab.model))
    assert not older(two, fixed(lab.model, x_T + 2, 'DDIM-1'))
    with pytest.warns(UserWarning, match='it is used'):
        assert older('DDIM-1 eta 1', drawn(lab.model, 'DDIM(1)-1'))
    assert older(one, fixed(lab.model, x_T, 'DDIM-1'))
    assert older('mine', drawn(lab.model, 'DDIM-1'))


def test_what_was_accepted_of_an_earlier_version_is_remembered(tmp_path):
    lab = small_lab(tmp_path, photographs())
    table_1(lab, 'photographs')
    as_by_an_earlier_version(lab, references='another')
    with pytest.raises(ValueError, match='another references'):
        small_lab(tmp_path, photographs())
    for accept in (['references'], []):
        lab = small_lab(tmp_path, photographs(), accept=accept)
        assert read_facts(tmp_path / MEASURED)['accepted'] == ['references']
    with pytest.warns(UserWarning, match='it is used'):
        lab.scores('photographs', 'bicubic', bicubic(lab.model))


@pytest.mark.skipif(
    not SHARED.is_dir() or not os.environ.get('ODEBC_LPIPS_ALEX'),
    reason='needs the photographs that the results were measured on, and LPIPS',
)
@pytest.mark.parametrize('name', ['small', 'small-mid'])
def test_shipped_results_are_of_these_photographs(name):
    facts = read_facts(ROOT / 'data/results' / name / MEASURED)
    assert facts['degradation'] == BICUBIC
    for test in ('Set5', 'Set14'):
        images = list(byte_folder(SHARED / 'test' / test).values())
        room = sum((image.shape[1] // 64) * (image.shape[2] // 64) for image in images)
        n = min(facts['protocol']['few'], room)
        cut = tiles(images, n, 64, torch.Generator().manual_seed(0))
        assert picture_digest(cut) == facts['tests'][test]


def test_a_command_accepts_photographs_of_another_decoder(photo_folder, tmp_path):
    "`odebc search --accept pairs`, after one pixel of one photograph has changed"
    import shutil
    from PIL import Image
    from odebc.cli import app

    photos = shutil.copytree(photo_folder, tmp_path / 'photos')
    sizes = ['--k', '2', '--r', '4', '--unseen', '2', '--sampler', 'DDIM-1']
    fixed = '--distance lpips-lite --precision float32 --out'.split() + [str(tmp_path / 'x_T')]

    def run(*more):
        command = ['search', '--images', str(photos), *sizes, *fixed, *more]
        app(command, standalone_mode=False, obj=dict(debug=False))
        return BoundaryCondition.load(tmp_path / 'x_T')

    first = run()
    for path in photos.iterdir():
        image = Image.open(path)
        for x, y in product(range(5, image.width, 16), range(5, image.height, 16)):
            red, *others = image.getpixel((x, y))
            image.putpixel((x, y), (red ^ 1, *others))
        image.save(path)
    with pytest.raises(ValueError, match='another pairs'):
        run()
    again = run('--accept', 'pairs')
    assert again.meta['accepted'] == ['pairs'] and torch.equal(again.scores, first.scores)
