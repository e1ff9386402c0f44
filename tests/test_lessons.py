"A lesson is short, has pictures beside its sliders, three exercises with answers, no walls."

import re
import sys
from pathlib import Path
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tools'))
from lessons import answered, exercises, KINDS, lessons, measure  # noqa: E402

PAGES = lessons()
INSTALL = '%pip install -q "odebc[lab] @ git+https://github.com/odebc/odebc"'
COLAB = 'https://colab.research.google.com/github/odebc/odebc/blob/main/nbs/{}.ipynb'
LONGEST_CELL = {'09_train': 20}  # the loop of training stands in one piece
MOST_CELLS = {'04_argument': 60}


def page(path):
    return nbformat.read(path, as_version=4)


def test_the_course_is_complete():
    assert [p.stem[:2] for p in PAGES] == [f'{n:02}' for n in (*range(12), 14, 16, 17, 18)]


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_bounds(path):
    found = measure(path)
    assert found['cells'] <= MOST_CELLS.get(path.stem, 45)
    assert found['longest line'] <= 95
    assert found['longest cell'] <= LONGEST_CELL.get(path.stem, 15)
    assert found['visible tests'] <= 12
    assert found['KB'] < 300
    assert found['strips'] == found['sliders']


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_it_says_what_it_is_for_and_how_long_it_takes(path):
    first = page(path).cells[0].source
    assert re.search(r'^> After this page you ', first, re.M)
    said = re.search(r'(\d+) minutes to read', first)
    assert abs(int(said[1]) - measure(path)['minutes']) <= 3
    assert COLAB.format(path.stem) in first


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_it_asks_and_it_tells(path):
    text = '\n'.join(c.source for c in page(path).cells if c.cell_type == 'markdown')
    for part in ('What do you expect?', 'What you should see.', '## Recap', '## Exercises'):
        assert part in text, part


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_on_colab_it_installs_the_package_first(path):
    "Before any cell imports the package"
    code = [c.source for c in page(path).cells if c.cell_type == 'code']
    (place,) = [i for i, source in enumerate(code) if INSTALL in source]
    assert "if importlib.util.find_spec('odebc') is None:" in code[place]
    assert not any('import' in source for source in code[:place])


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_three_exercises_with_a_right_and_a_wrong_answer(path):
    "`tools/check_pages.py` runs them"
    found = exercises(page(path))
    assert [e.number for e in found] == [1, 2, 3]
    assert [e.kind for e in found] == list(KINDS)
    for e in found:
        assert e.answer.strip() and e.wrong.strip() and 'check(' in e.checks
        assert e.answer.strip() != e.wrong.strip()


def test_the_results_are_told_in_few_words():
    (path,) = [p for p in PAGES if p.stem == '11_results']
    texts = [c.source for c in page(path).cells if c.cell_type == 'markdown']
    assert sum(len(text.split()) for text in texts) <= 1200


def with_exercise(answer, wrong):
    question = '# Exercise 1: compute\nn = ...\n\n# check\ncheck(n, lambda n: n == 4, "no")'
    folded = f'<details><summary>Answer 1</summary>\n\n```python\n{answer}\n```\n'
    cells = [
        nbformat.v4.new_code_cell('from odebc.lesson import check'),
        nbformat.v4.new_code_cell(question),
        nbformat.v4.new_markdown_cell(f'{folded}<!-- wrong\n{wrong}\n-->\n</details>'),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def played(nb):
    names = {}
    for cell in nb.cells:
        if cell.cell_type == 'code':
            exec(cell.source, names)
    return names


def test_answers_are_played():
    assert played(answered(with_exercise('n = 2 + 2', 'n = 5')))['n'] is ...
    with pytest.raises(AssertionError, match='a wrong answer passes exercise 1'):
        played(answered(with_exercise('n = 4', 'n = 8 // 2')))
    with pytest.raises(AssertionError, match='^no$'):
        played(answered(with_exercise('n = 3', 'n = 5')))
