"""What each page of the course asks of its reader: visible cells, the longest line and cell,
visible tests, exercises with answers, sliders with strips, minutes to read, size.

    python tools/lessons.py [--time] [PAGE …]
"""

import argparse
import ast
import re
import textwrap
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
import nbformat

ROOT = Path(__file__).resolve().parents[1]
KINDS = 'predict', 'compute', 'code'
CHECK = '# check'  # the line below which an exercise checks
# of a careful reader, who stops to think: so that the sum is near what three newcomers needed
WORDS_A_MINUTE, LINES_A_MINUTE = 120, 13
FORMULA, EXERCISE = 2, 4  # minutes for a displayed formula, and for an exercise
TITLE = re.compile(r'# Exercise (\d+): (\w+)')
ANSWER = re.compile(r'<details>\s*<summary>Answer (\d+)</summary>(.*?)</details>', re.S)
WRONG = re.compile(r'<!-- wrong\n(.*?)-->', re.S)
FENCE = re.compile(r'```python\n(.*?)```', re.S)
SLIDER = re.compile(r'\b(interact|interactive|interactive_output)\(')


@dataclass
class Exercise:
    "One question of a page"

    number: int
    kind: str  # predict, compute or code
    cell: int  # place of its cell
    checks: str  # code below the line `# check`
    answer: str = ''  # code that passes
    wrong: str = ''  # code that looks right, and fails


def is_hidden(cell):
    return bool(re.match(r'#\| (hide|default_exp)', cell.source))


def is_exported(cell):
    return bool(re.match(r'#\| export', cell.source))


def exercises(
    nb,  # a page
) -> list[Exercise]:
    "The exercises of a page, with their answers"
    found = {}
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == 'code' and (title := TITLE.match(cell.source)):
            checks = cell.source.partition(f'\n{CHECK}')[2].partition('\n')[2]
            found[int(title[1])] = Exercise(int(title[1]), title[2], i, checks)
        for number, text in (
            ANSWER.findall(cell.source) if cell.cell_type == 'markdown' else ()
        ):
            exercise = found.get(int(number))
            if exercise is None:
                continue  # the page that explains what an exercise is
            exercise.wrong = '\n'.join(WRONG.findall(text))
            exercise.answer = '\n'.join(FENCE.findall(WRONG.sub('', text)))
    return list(found.values())


def answered(
    nb,  # a page
):  # the page with more cells
    """Below each exercise its answer, which must pass, its wrong answer, which must not, and
    the empty one again
    """
    nb = deepcopy(nb)
    for exercise in reversed(exercises(nb)):
        attempt = f'{exercise.wrong}\n{exercise.checks}'
        refused = (
            'import odebc.lesson\ntry:\n'
            + textwrap.indent(attempt, '    ')
            + '\nexcept odebc.lesson.NotYet:\n    pass\nelse:\n'
            + f'    raise AssertionError("a wrong answer passes exercise {exercise.number}")'
        )
        more = [f'{exercise.answer}\n{exercise.checks}', refused]
        again = nb.cells[exercise.cell].source
        cells = [nbformat.v4.new_code_cell(source) for source in more + [again]]
        nb.cells[exercise.cell + 1 : exercise.cell + 1] = cells
    return nb


def statements(source):
    "Lines of a cell that a reader has to read: no empty ones, no comments"
    lines = (line.strip() for line in source.splitlines())
    return [line for line in lines if line and not line.startswith('#')]


def has_picture(cell):
    data = (output.get('data', {}) for output in cell.get('outputs', []))
    return any(kind.startswith('image/') for each in data for kind in each)


def visible_tests(cells):
    "Calls of test_… and assert statements that stand between reader and thought"
    count = 0
    for cell in cells:
        for node in ast.walk(
            ast.parse(re.sub(r'^\s*[%!].*', 'pass', cell.source, flags=re.M))
        ):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            count += is_call and node.func.id.startswith('test_')
            count += isinstance(node, ast.Assert)
    return count


def sliders(nb):
    "How many sliders a page has, and how many of them a strip of pictures near by"
    visible = [c for c in nb.cells if not (c.cell_type == 'code' and is_hidden(c))]
    places = [
        i for i, c in enumerate(visible) if c.cell_type == 'code' and SLIDER.search(c.source)
    ]

    def has_strip(i):
        near = visible[max(i - 1, 0) : i] + visible[i + 1 : i + 4]
        return any(
            'strip(' in c.source and has_picture(c) for c in near if c.cell_type == 'code'
        )

    return len(places), sum(map(has_strip, places))


def measure(
    path: Path,  # a page
) -> dict:  # column -> value
    "Figures of one page"
    nb = nbformat.read(path, as_version=4)
    code = [c for c in nb.cells if c.cell_type == 'code' and not is_hidden(c)]
    prose = [c for c in nb.cells if c.cell_type == 'markdown']
    plain = [c for c in code if not is_exported(c)]
    questions = exercises(nb)
    words = sum(len(c.source.split()) for c in prose)
    lines = [statements(c.source) for c in code]
    all_sliders, with_strip = sliders(nb)
    return {
        'page': path.stem,
        'cells': len(code) + len(prose),
        'longest line': max(len(x) for c in code for x in c.source.splitlines()),
        'longest cell': max((len(statements(c.source)) for c in plain), default=0),
        'longest export': max(
            (len(statements(c.source)) for c in code if is_exported(c)), default=0
        ),
        'visible tests': visible_tests(code),
        'exercises': len(questions),
        'answered': sum(bool(q.answer and q.wrong) for q in questions),
        'sliders': all_sliders,
        'strips': with_strip,
        'minutes': round(
            words / WORDS_A_MINUTE
            + sum(map(len, lines)) / LINES_A_MINUTE
            + sum(c.source.count('$$') // 2 for c in prose) * FORMULA
            + len(questions) * EXERCISE
        ),
        'KB': round(path.stat().st_size / 1000),
    }


def seconds(path):
    "Of executing a page, exercises included"
    from check_pages import check

    start = time.monotonic()
    check(path.resolve(), 900)
    return round(time.monotonic() - start)


def lessons():
    "Pages of the course whose number is 00 to 11, 14, 16, 17 or 18"
    pages = (ROOT / 'nbs').glob('[01]*.ipynb')
    others = '14', '16', '17', '18'
    return sorted(p for p in pages if p.stem[:2] <= '11' or p.stem[:2] in others)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('pages', nargs='*', type=Path, help='all lessons by default')
    parser.add_argument('--time', action='store_true', help='execute them, too')
    args = parser.parse_args()
    rows = []
    for path in args.pages or lessons():
        rows.append(measure(path) | (dict(seconds=seconds(path)) if args.time else {}))
    print('| ' + ' | '.join(rows[0]) + ' |')
    print('|' + ' --- |' * len(rows[0]))
    for row in rows:
        print('| ' + ' | '.join(map(str, row.values())) + ' |')


if __name__ == '__main__':
    main()
