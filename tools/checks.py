"""Where arguments are checked: the share of each module's characters that stand in checks,
`if …: raise …`, inside functions that do other work. A function whose name begins with
`check` does nothing else. `-v` shows each of them.
"""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / 'odebc'
REFUSALS = """OdebcError ValueError TypeError CannotWrite Damaged MapFailed
MissingExtra""".split()
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
# what is raised because something else has failed says so, and checks no argument
ELSEWHERE = *FUNCTIONS, ast.ClassDef, ast.ExceptHandler


def inside(node):
    "What belongs to a function, and to no other one inside it"
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ELSEWHERE):
            yield child
            yield from inside(child)


def refuses(branch):
    "Whether statements end in a refusal"
    raised = branch[-1].exc if branch and isinstance(branch[-1], ast.Raise) else None
    return getattr(getattr(raised, 'func', raised), 'id', None) in REFUSALS


def place(*nodes):
    "(line, column) at which the first begins, and at which the last ends"
    first, last = nodes[0], nodes[-1]
    return (first.lineno, first.col_offset), (last.end_lineno, last.end_col_offset)


def within(node, area):
    return area[0] <= place(node)[0] and place(node)[1] <= area[1]


def check(node):
    "Where a check stands: the question and the branch that refuses; None if it is no check"
    if isinstance(node, ast.If) and refuses(node.body):
        last = node.orelse if refuses(node.orelse) else node.body
        return place(node, last[-1])
    if isinstance(node, ast.If) and refuses(node.orelse):
        return place(*node.orelse)
    return None


def only_for(statement, area, function):
    "Whether a statement makes what the check after it asks for or says, and nothing else"
    if not isinstance(statement, ast.Assign):
        return False
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    stored = [n for n in names if isinstance(n.ctx, ast.Store)]
    made = {n.id for n in stored if within(n, place(statement))}
    used = [n for n in names if n.id in made and isinstance(n.ctx, ast.Load)]
    return bool(made) and all(within(n, area) for n in used)


def checks_of(function):
    "Where the checks of a function stand, each with the statement that prepares it"
    for node in [function, *inside(function)]:
        for part in ('body', 'orelse', 'finalbody'):
            block = getattr(node, part, None)
            block = block if isinstance(block, list) else []
            for before, statement in zip([None, *block], block):
                area = check(statement)
                if area and only_for(before, area, function):
                    area = place(before)[0], area[1]
                if area:
                    yield area


def checks_in_bodies(code):
    "(first line, characters) of each check that stands in a function that does other work"
    lines = code.splitlines()
    found = []
    for function in [n for n in ast.walk(ast.parse(code)) if isinstance(n, FUNCTIONS)]:
        if not function.name.lstrip('_').startswith('check'):
            for (first, column), (last, _) in checks_of(function):
                text = '\n'.join(lines[first - 1 : last])
                found.append((first, len(text) - column))
    return sorted(found)


def modules():
    "Module -> its code"
    files = [f for f in sorted(PACKAGE.rglob('*.py')) if f.name != '_modidx.py']
    return {f.relative_to(PACKAGE).as_posix(): f.read_text(encoding='utf8') for f in files}


def shares():
    "Module -> characters in checks inside bodies, and in all; the last is the total"
    found = {
        name: (sum(n for _, n in checks_in_bodies(code)), len(code))
        for name, code in modules().items()
    }
    return found | dict(total=tuple(map(sum, zip(*found.values()))))


def main():
    print('| module | characters | in checks | share |')
    print('| --- | --- | --- | --- |')
    for name, (part, whole) in shares().items():
        if part:
            print(f'| {name} | {whole} | {part} | {100 * part / whole:.1f} % |')
    if '-v' in sys.argv:
        for name, code in modules().items():
            for line, n in checks_in_bodies(code):
                print(f'{name}:{line}: {n}: {code.splitlines()[line - 1].strip()}')


if __name__ == '__main__':
    main()
