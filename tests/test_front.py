"What the front door shows is true: its picture, its numbers, its code."

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
import nbformat
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from odebc.data import photographs, split
from odebc.metrics import default_distance

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tools'))
import front  # noqa: E402

README = (ROOT / 'README.md').read_text(encoding='utf8')
PICTURES = ROOT / 'docs/pictures'
CODE = re.compile(r'```python\n(.*?)```', re.S)
WITH_CODE = [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md'), *ROOT.glob('C*.md')]


@pytest.fixture(scope='module')
def solved():
    return front.solved()


def test_the_picture_is_what_the_network_makes(solved):
    "All of it but the numbers, which depend on the distance that is there"
    columns, _ = solved
    told = json.loads((PICTURES / 'front.json').read_text(encoding='utf8'))
    shown = np.asarray(Image.open(PICTURES / 'front.png').convert('RGB'), dtype=float)
    again = np.asarray(front.drawn_picture(columns, told), dtype=float)
    assert shown.shape == again.shape
    assert np.abs(shown - again).mean() < 1
    assert (PICTURES / 'front.png').stat().st_size <= 200_000


def test_its_numbers(solved):
    _, numbers = solved
    told = json.loads((PICTURES / 'front.json').read_text(encoding='utf8'))
    assert (told['typical'], told['found']) == front.starts()
    if default_distance().name != 'LPIPS':
        pytest.skip('the numbers are those of LPIPS itself')
    for title in front.TITLES[1:4]:
        assert numbers[title] == pytest.approx(told[title], abs=0.01)


def test_what_the_caption_says():
    "A start in the middle, the best one, and photographs that the search did not see"
    D = load_file(files('odebc.assets') / front.SCORES)['LPIPS']
    assert D.shape == (200, 40) and front.R == 32
    means = D[:, :32].mean(1)
    typical, found = front.starts()
    assert found == means.argmin() and (means < means[typical]).sum() == 100
    # the middle one is no worse on unseen pictures than others are
    assert D[typical, 32:].mean() < D[:, 32:].mean()
    assert {name for name, *_ in front.SQUARES} == set(split(photographs())[1])


def test_the_film_is_small_and_moves():
    path = PICTURES / 'sliders.webp'
    film = Image.open(path)
    assert path.stat().st_size <= 1_000_000 and film.n_frames > 20
    first = np.asarray(film.convert('RGB'), dtype=float)
    film.seek(film.n_frames - 1)
    assert np.abs(np.asarray(film.convert('RGB'), dtype=float) - first).mean() > 1


@pytest.mark.parametrize('path', WITH_CODE, ids=lambda path: path.name)
def test_code_runs_as_it_stands(path, tmp_path):
    "In an empty folder, block after block"
    blocks = CODE.findall(path.read_text(encoding='utf8'))
    if path.name == 'handout.md':
        blocks = []  # three lines of DDIM, from the tour
    code = '\n'.join(blocks)
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        cwd=tmp_path,
        encoding='utf8',
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    if path.name == 'README.md':
        assert len(code.strip().splitlines()) == 7  # six, and an empty one
        # the last line: torch may tell of a download before it
        assert done.stdout.splitlines()[-1].startswith('Worth a search: the best of 200')


def test_minutes_are_those_of_the_pages():
    rows = re.findall(r'^\| \[(\w+)\]\(nbs/\w+\.ipynb\) .*\| (\d+) \| \[Colab\]', README, re.M)
    pages = sorted(path.stem for path in (ROOT / 'nbs').glob('[0-9]*.ipynb'))
    assert [name for name, _ in rows] == pages
    for name, minutes in rows:
        first = nbformat.read(ROOT / f'nbs/{name}.ipynb', as_version=4).cells[0].source
        assert f'{minutes} minutes to read' in first, f'{name}: run make notebooks'


def test_the_two_commands_stand_there():
    assert '```sh\nmake demo\nmake test\n```' in README
    assert len(README.split()) < 1500


def test_the_words_about_the_results():
    "Half, an eighth, behind the best DDPM row, and not to be told from it"
    from odebc.experiments.results import against_ddpm, certainty

    standings = against_ddpm('small') + against_ddpm('small-mid')
    sure = certainty(standings)
    gain = {}
    for row, (_, p) in zip(standings, sure):
        if (row.test, row.sampler) == ('BSD100', 'DDIM-50'):
            gain[row.network] = -row.gain.value / (row.level + row.random.value)
            assert row.found.value > 0 or row.network == 'small'
            assert (p < 0.05) == (row.network == 'small-mid')
            assert row.network == 'small-mid' or row.rival == 'DDPM-250'
    assert 0.48 < gain['small-mid'] < 0.52 and 0.11 < gain['small'] < 0.14


def test_what_is_said_of_the_papers_own_size():
    from odebc.experiments.results import Shipped
    from odebc.variance import parts, worth, Worth

    told = json.loads((ROOT / 'data/search/map-vanilla.json').read_text(encoding='utf8'))
    smooth = Worth.of(told['places'][-1]['worth']).share
    others = load_file(ROOT / 'data/results/vanilla/matrix.safetensors')['LPIPS']
    found = worth(parts(others), 200, 16).share
    assert told['places'][-1]['size'] == 256 and others.shape == (100, 10)
    assert [f'{x:.0%}' for x in (found.value, smooth.value)] == ['5%', '15%']
    vanilla = Shipped('vanilla')
    at_random = vanilla.random('BSD100', 'DDIM-50').mean()
    gain = 1 - vanilla.scores('BSD100', 'DDIM-50 found').mean() / at_random
    assert (
        0.09 < gain < 0.11 and 'in another [a tenth at 256²](nbs/18_own_size.ipynb)' in README
    )
    assert f'{smooth.value:.0%} ({smooth.low:.0%} … {smooth.high:.0%})' in README
    assert (
        f'{found.value:.0%} at 256², {found.low:.0%} … {found.high:.0%}'.replace('%', ' %')
        in README
    )


def test_every_page_of_the_hood_is_listed():
    text = (ROOT / 'docs/hood.md').read_text(encoding='utf8')
    for page in (ROOT / 'nbs/hood').glob('*.ipynb'):
        assert f'](../nbs/hood/{page.name})' in text, page.name


def test_cards_say_what_the_records_say():
    import cards

    assert set(cards.FOR) == {p.parent.name for p in (ROOT / 'data').glob('*/config.json')} - {
        'lpips_lite'
    }
    for name in cards.FOR:
        text = (ROOT / f'data/{name}/README.md').read_text(encoding='utf8')
        assert text == cards.card(name), f'run tools/cards.py: {name}'


def test_the_citation_is_of_this_version():
    "`cffconvert --validate` does the rest, in a workflow"
    import yaml

    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf8'))
    settings = (ROOT / 'settings.ini').read_text(encoding='utf8')
    assert f'version = {cited["version"]}\n' in settings
    assert cited['cff-version'] == '1.2.0' and cited['license'] == 'Apache-2.0'
    (paper,) = cited['references']
    assert paper['year'] == 2024 and len(paper['authors']) == 5


def test_every_benchmark_is_in_the_table():
    import bench

    scripts = {path.name for path in (ROOT / 'benchmarks').glob('*.py')}
    assert {script for script, *_ in bench.RUNS.values()} == scripts
    assert set(bench.RUNS) == set(bench.FIGURES)
    for script, *options in bench.RUNS.values():
        text = (ROOT / 'benchmarks' / script).read_text(encoding='utf8')
        for option in re.findall(r'--[a-z-]+', ' '.join(options)):
            assert f"'{option}'" in text, (script, option)


def test_a_benchmark_that_does_not_say_its_figure_is_an_error(monkeypatch, tmp_path):
    import bench

    (tmp_path / 'benchmarks').mkdir()
    script = tmp_path / 'benchmarks/upscale.py'
    monkeypatch.setattr(bench, 'ROOT', tmp_path)
    script.write_text("print('base, DDIM-10: 1.25 megapixels a minute, 10 calls')")
    (row,) = bench.measured('upscale', quick=False)
    assert '| 1.25 |' in row
    script.write_text("print('nothing')")
    with pytest.raises(SystemExit, match='did not say megapixels'):
        list(bench.measured('upscale', quick=False))
