"The scripts that make the shipped weights and figures, at their smallest."

import asyncio
import base64
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
import nbformat
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from odebc.data import crops, degrade, tiles, upsample
from odebc.images import image_folder
from odebc.metrics import ALEX_VARIABLE, lpips, psnr
from odebc.matrix import candidates
from odebc.sr3 import SR3

ROOT = Path(__file__).parents[1]
real = pytest.mark.skipif(not os.environ.get(ALEX_VARIABLE), reason=f'needs {ALEX_VARIABLE}')


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))  # as Python does for a script

    def run(path, *args):
        monkeypatch.setattr(sys, 'argv', [path, *map(str, args)])
        runpy.run_path(str(ROOT / path), run_name='__main__')

    return run


def test_training_by_the_clock(tool, photo_folder, tmp_path):
    args = ['tools/train_by_clock.py', '--images', photo_folder, '--out', tmp_path]
    tool(*args, '--seconds', 0.1, '--size', 32, '--batch', 8)
    found, start = SR3.from_pretrained(tmp_path), SR3.from_pretrained('small')
    assert found.samples == start.samples + 8 * found.record['steps']
    assert found.record['recipe']['size'] == 32
    assert not torch.equal(found.net.F.last.weight, start.net.F.last.weight)
    with pytest.raises(SystemExit):
        tool(*args, '--batch', 12)


def test_what_a_gpu_is_asked_to_do_runs_here(photo_folder, tmp_path):
    "The script of nine minutes, with tiny numbers"
    args = [sys.executable, ROOT / 'tools/on_a_gpu.py']
    args += ['--images', photo_folder, '--out', tmp_path]
    args += '--start small-mid --batch 8 --size 32 --training-size 32 --rounds 1'.split()
    args += '--only training precision --training 0.1 --seconds 1500'.split()
    done = subprocess.run(args, capture_output=True, encoding='utf8', timeout=600)
    report = (tmp_path / 'report.txt').read_text(encoding='utf8')
    assert done.returncode == 0, report
    assert 'training: status 0' in report and 'bfloat16, channels last' in report
    assert SR3.from_pretrained(tmp_path / 'vanilla').record['samples'] > 0


def test_throughput(tool, capsys):
    tool('benchmarks/train.py', '--batch', 2, '--size', 32, '--rounds', 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if 'ratio' in line]
    assert lines[0].split()[-1] == '1.00'


def test_what_the_degradation_costs(tool, capsys):
    how = '--config plain --batch 2 --size 32 --rounds 1 --precision float32'.split()
    tool('benchmarks/degradation.py', *how)
    share = re.search(r'share ([\d.]+)%', capsys.readouterr().out)
    assert 0 < float(share[1]) < 500


@real
def test_evaluation_says_of_what_it_is_and_replaces_only_its_own(tool, photo_folder, tmp_path):
    path = tmp_path / 'rows.json'
    command = ['tools/evaluate.py', 'DDIM-2', '--images', photo_folder, '--out', path]

    def evaluate(size, *args):
        tool(*command, '--crops', 2, '--size', size, *args)
        return json.loads(path.read_text())

    rows = evaluate(32)
    assert [r['sampler'] for r in rows] == ['bicubic', 'DDIM-2']
    assert rows[0]['ratio'] == 1
    assert rows[1]['lpips'] != rows[0]['lpips']
    assert {r['weights'] for r in rows} == {SR3.from_pretrained('small').fingerprint}
    assert [r['size'] for r in evaluate(64)] == [32, 32, 64, 64]
    kinds = [(r['size'], r['schedule']) for r in evaluate(32, '--schedule', 'cosine')]
    assert kinds[::2] == kinds[1::2] == [(32, 'linear'), (64, 'linear'), (32, 'cosine')]
    again = evaluate(32)
    assert len(again) == 6 and all(a['lpips'] == b['lpips'] for a, b in zip(again[-2:], rows))


@real
def test_distilling_the_stand_in(tool, photo_folder, tmp_path):
    out = tmp_path / 'out'
    folders = ['--images', photo_folder, '--out', out, '--work', tmp_path]
    tool('tools/distil.py', *folders, '--photographs', 4, '--batches', 4, '--steps', 2)
    assert len(json.loads((out / 'record.json').read_text())['loss']) == 5
    assert (out / 'lpips_lite.safetensors').stat().st_size < 2e6


@real
def test_the_way_ends_at_the_result(tool, photo_folder, tmp_path):
    path = tmp_path / 'way.json'
    args = ['--images', photo_folder, '--out', path, '--crops', 4, '--every', 2]
    for label in ('DDIM-3', 'DDPM-4'):
        tool('tools/way.py', label, *args)
    ddim, ddpm = json.loads(path.read_text())
    assert (ddim['crops'], len(ddim['t']), len(ddpm['ratio'])) == (2, 3, 4)
    assert ddim['t'] == sorted(ddim['t'], reverse=True)
    small = SR3.from_pretrained('small')
    photos = list(image_folder(photo_folder, 64).values())
    z = crops(photos, 4, 64, torch.Generator().manual_seed(0))[::2]
    with torch.no_grad():
        x_0 = small.h(candidates(4, z.shape[1:], seed=7)[::2], degrade(z), 'DDIM-3')
    assert ddim['psnr'][-1] == pytest.approx(psnr(x_0, z).mean().item(), abs=0.1)
    assert abs(ddim['psnr'][0] - ddim['psnr'][-1]) > 0.2
    ratio = lpips(x_0, z).mean() / lpips(upsample(degrade(z)), z).mean()
    assert ddim['ratio'][-1] == pytest.approx(ratio.item(), rel=0.1)


@real
def test_agreement_keeps_the_scores_and_of_what_they_are(tool, photo_folder, tmp_path):
    path = tmp_path / 'matrix.safetensors'
    how = '--model', 'small', '--precision', 'float32', '--sampler', 'DDIM-2', '--out', path
    tool('tools/agreement.py', *how, '--images', photo_folder, '--k', 2, '--r', 3)
    with safe_open(path, 'pt') as file:
        D, facts = file.get_tensor('LPIPS'), file.metadata()
    small = SR3.from_pretrained('small')
    assert json.loads(facts['weights']) == small.fingerprint
    photos = list(image_folder(photo_folder, 64).values())
    z = tiles(photos, 3, 64, torch.Generator().manual_seed(0))
    x_T = candidates(2, z.shape[1:])
    x_0 = small.h(x_T[1:], degrade(z), 'DDIM-2')
    assert D.shape == (2, 3) and not torch.equal(D[0], D[1])
    torch.testing.assert_close(D[1].float(), lpips(x_0, z).float(), atol=1e-4, rtol=1e-3)


def test_an_answer_of_the_kernel_that_went_unnoticed_is_found(monkeypatch):
    """On a busy machine jupyter's client may sleep until the time is up although the answer is
    there; pages then took 15 minutes
    """

    class Channel:
        asked = 0

        async def get_msg(self, timeout):
            self.asked += 1
            if self.asked > 1:
                return 'the answer'
            await asyncio.sleep(timeout)
            raise Empty

    async def started(self):
        return SimpleNamespace(shell_channel=Channel())

    monkeypatch.setattr('nbclient.NotebookClient.async_start_new_kernel_client', started)

    client = runpy.run_path(str(ROOT / 'tools/execute.py'))['Client']

    async def ask():
        kernel = await client(nbformat.v4.new_notebook()).async_start_new_kernel_client()
        return await asyncio.wait_for(kernel.shell_channel.get_msg(timeout=600), 30)

    assert asyncio.run(ask()) == 'the answer'


def test_drawings_are_stored_with_few_colours_and_noise_is_not():
    smaller = runpy.run_path(str(ROOT / 'tools/execute.py'))['smaller']

    def stored(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels.byte().numpy()).save(buffer, 'PNG')
        text = base64.b64encode(buffer.getvalue()).decode()
        return nbformat.v4.new_output('display_data', {'image/png': text})

    side = torch.arange(40.0) - 20
    rings = (side[:, None] ** 2 + side**2).sqrt().round()
    shades = torch.stack([8 * rings, 255 - 8 * rings, 4 * rings], -1)
    noise = 255 * torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(0))
    drawing, photograph = stored(shades), stored(noise)
    before = drawing.data['image/png'], photograph.data['image/png']
    after = smaller(drawing).data['image/png'], smaller(photograph).data['image/png']
    assert len(after[0]) < len(before[0]) and after[1] == before[1]
    seen = Image.open(io.BytesIO(base64.b64decode(after[0]))).convert('RGB')
    again = torch.tensor(list(seen.tobytes())).view(40, 40, 3)
    assert (again - shades).abs().max() <= 8
    text = nbformat.v4.new_output('stream', text='no picture')
    assert smaller(text) == text


def test_a_film_is_stored_with_all_its_pictures():
    "Which are a PNG, too"
    pictures = [Image.new('P', (40, 40), number) for number in range(3)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, 'PNG', save_all=True, append_images=pictures[1:])
    data = {'image/png': base64.b64encode(buffer.getvalue()).decode()}
    smaller = runpy.run_path(str(ROOT / 'tools/execute.py'))['smaller']
    kept = smaller(nbformat.v4.new_output('display_data', dict(data))).data['image/png']
    assert kept == data['image/png']
    assert Image.open(io.BytesIO(base64.b64decode(kept))).n_frames == 3


def test_the_map_of_pages_says_the_minutes_of_each_page(tool, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    with pytest.raises(SystemExit) as done:
        tool('tools/map.py', '--check')
    assert done.value.code == 0, done.value.code


def test_lines_are_counted_in_every_room(tool, capsys):
    tool('tools/lines.py')
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(' | ')[0] for row in rows[2:]] == [
        f'| {room}' for room in 'modules course hood tests tools benchmarks'.split()
    ]
