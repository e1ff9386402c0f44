"What was measured of good starts: figures recomputed, and the tool on a small scale."

import importlib
import json
import sys
from importlib.resources import files
from pathlib import Path
import numpy as np
import pytest
import torch
from odebc.data import degrade, photographs, tiles
from odebc.matrix import candidates
from odebc.metrics import default_distance
from odebc.sr3 import SR3
from odebc.traits import energies, recipe, with_length

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))
TOLD = json.loads((files('odebc.assets') / 'search/good_starts.json').read_text())


@pytest.fixture
def tool(monkeypatch):
    tool = importlib.import_module('good_starts')
    monkeypatch.setattr(tool, 'SIZES', dict(small=(24, 2)))
    monkeypatch.setattr(tool, 'PHOTOGRAPHS', dict(small=3))
    return tool


def test_the_tool_measures_goes_on_and_writes(tool, photo_folder, tmp_path, monkeypatch):
    folder, out = tmp_path / 'runs', tmp_path / 'told.json'
    common = ['--networks', 'small', '--samplers', 'DDIM-2', '--folder', folder, '--out', out]

    def run(*words):
        words = [str(word) for word in ('good_starts.py', *words, *common)]
        monkeypatch.setattr(sys, 'argv', words)
        tool.main()

    run('cause', photo_folder)  # before anything is solved: what needs no found start
    run('solve', photo_folder)
    run('cause', photo_folder)
    kept = (folder / 'cause-small-DDIM-2.safetensors').stat().st_mtime_ns
    run('cause', photo_folder)
    assert (folder / 'cause-small-DDIM-2.safetensors').stat().st_mtime_ns == kept
    run('write')
    told = json.loads(out.read_text())
    (predicted,), (caused,) = told['predicted'], told['caused']
    assert predicted['starts'] == 24 and predicted['pairs'] == 2
    assert all(value <= 1 for value, error in predicted['explained'].values())
    assert caused['photographs'] == 3 and len(caused['gains']) == 25
    assert not told['contests']
    assert predicted['side'] == caused['side'] == 64
    told['predicted'].append(dict(network='another'))  # whose scores are not here
    out.write_text(json.dumps(told))
    run('write')
    again = json.loads(out.read_text())['predicted']
    assert again == [dict(network='another'), predicted]


def test_what_predicts_is_recomputed(tool):
    "From the matrices that ship"
    for row in TOLD['predicted']:
        if (row['network'], row['sampler']) in tool.KNOWN:
            again = tool.predicted(row['network'], row['sampler'], Path('none'))
            for group, (value, error) in row['explained'].items():
                assert again['explained'][group] == pytest.approx([value, error], abs=2e-3)
            assert again['ceiling'] == pytest.approx(row['ceiling'], abs=2e-3)
            assert again['tenths_by_length'] == pytest.approx(
                row['tenths_by_length'], abs=1e-3
            )


def test_scores_by_two_samplers_are_compared_for_the_same_starts(tool, monkeypatch):
    one, other = torch.randn(12, 5), torch.randn(20, 3)
    other[:12] += 2 * one[:, :3]
    known = {'DDIM-20': one, 'DDIM-50': other}
    monkeypatch.setattr(tool, 'matrix', lambda name, label, folder: (known.get(label), None))
    (told,) = tool.alike('base', 'DDIM-50', Path('none')).items()
    r = np.corrcoef(one[:, :3].mean(1), other[:12].mean(1))[0, 1]
    assert told == ('DDIM-20', pytest.approx([r, (1 - r**2) / 11**0.5], abs=1e-4))
    assert tool.alike('base', 'DDIM-10', Path('none')) == {}


def test_every_figure_has_its_error():
    for row in TOLD['predicted']:
        for value, error in [*row['explained'].values(), *row['correlations'].values()]:
            assert abs(value) < 10 and 0 < error < 10
    for row in TOLD['caused']:
        assert row['photographs'] >= 20
        assert all(error > 0 for _, error in row['gains'].values())
    for contest in TOLD['contests']:
        assert all(one['gain'][1] > 0 for one in contest['strategies'].values())
        assert all(len(one['by_seed']) >= 3 for one in contest['strategies'].values())
        for n in contest['strategies']['spectrum']['solves']:
            assert n <= contest['budget']


def test_a_plain_network_cannot_bear_long_starts():
    "The largest effect that was found, on photographs that ship, with other noises"
    model = SR3.from_pretrained('small-mid')
    z = tiles(list(photographs().values()), 4, 64, torch.Generator().manual_seed(1))
    noise = candidates(4, model.shape, seed=31)
    distance = default_distance()
    scores = {}
    for length in (0.98, 1.03):
        x_0 = model.h(with_length(noise, length), degrade(z), 'DPMS-10')
        scores[length] = distance(x_0, z).mean().item()
    assert scores[1.03] > 1.5 * scores[0.98]


def test_recipes_that_were_found_make_starts_of_any_size():
    for contest in TOLD['contests']:
        for found in contest['recipes']:
            made = recipe(**found, shape=(3, 96, 128))
            gains = torch.tensor(found['gains']).double()
            assert torch.allclose(energies(made).sqrt(), gains, rtol=1e-4)
