"""How long lines are: the median and the ninetieth percentile of those in bodies of functions,
the longest line, and how many are over the limit. Pages, modules, tests, tools, benchmarks.
"""

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    'modules': 'odebc/**/*.py',
    'course': 'nbs/*.ipynb',
    'hood': 'nbs/hood/*.ipynb',
    'tests': 'tests/*.py',
    'tools': 'tools/*.py',
    'benchmarks': 'benchmarks/*.py',
}
LIMIT = 95


def source(path):
    "Code of a file; of a page that of its cells, without commands to the notebook"
    text = path.read_text(encoding='utf8')
    if path.suffix == '.py':
        return text
    cells = [c for c in json.loads(text)['cells'] if c['cell_type'] == 'code']
    code = '\n'.join(''.join(c['source']) for c in cells)
    return re.sub(r'^(\s*)[%!].*', r'\1pass', code, flags=re.M)


def body_lines(code):
    "Lines inside functions: no signatures, no docstrings, no comments, no empty ones"
    lines = code.splitlines()
    inside = set()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for statement in node.body:
            docstring = isinstance(statement, ast.Expr) and isinstance(
                statement.value, ast.Constant
            )
            if not docstring:
                inside |= set(range(statement.lineno - 1, statement.end_lineno))
    texts = [lines[i] for i in sorted(inside)]
    return [line for line in texts if line.strip() and not line.strip().startswith('#')]


def main():
    print(f'| | lines in bodies | median | 90 % | longest of all | over {LIMIT} |')
    print('| --- | --- | --- | --- | --- | --- |')
    for room, pattern in ROOMS.items():
        files = [f for f in sorted(ROOT.glob(pattern)) if f.name != '_modidx.py']
        codes = [source(f) for f in files]
        bodies = sorted(len(line) for code in codes for line in body_lines(code))
        lengths = [len(line) for code in codes for line in code.splitlines()]
        median, most = (bodies[int(share * len(bodies))] for share in (0.5, 0.9))
        over = sum(n > LIMIT for n in lengths)
        print(f'| {room} | {len(bodies)} | {median} | {most} | {max(lengths)} | {over} |')


if __name__ == '__main__':
    main()
