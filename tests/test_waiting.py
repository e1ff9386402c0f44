"""What hangs ends in a failure that says where: a process, a thread in it, a test that blocks
signals, a page.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
import psutil
import pytest
from tiny import tell
from waiting import begin, ended, finished, wait_until

ROOT = Path(__file__).parents[1]

GRANDCHILD = '''
import os, sys, threading
def stuck_for_ever():
    lock = threading.Lock()
    lock.acquire()
    with open(sys.argv[1], 'w') as out: out.write(f'{os.getpid()}.')
    lock.acquire()
stuck_for_ever()
'''
CHILD = 'import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])'


def test_a_line_that_a_process_tells_is_written_in_one_piece(monkeypatch):
    pieces = []
    with monkeypatch.context() as m:
        m.setenv('RANK', '1')
        m.setattr('os.write', lambda *args: pieces.append(args))
        tell('a line', 2)
    assert pieces == [(1, b'1 a line 2\n')]


def test_a_process_that_hangs_is_ended_with_all_that_it_started_and_tells_where(tmp_path):
    (tmp_path / 'grandchild.py').write_text(GRANDCHILD)
    path = tmp_path / 'number'
    command = [sys.executable, '-c', CHILD, tmp_path / 'grandchild.py', path]
    process = begin(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: path.exists() and path.read_text().endswith('.'), 'the grandchild')
    with pytest.raises(AssertionError, match='has not ended after 2 s[^$]*in stuck_for_ever'):
        ended(process, 2)
    number = int(path.read_text()[:-1])

    def gone():
        if not psutil.pid_exists(number):
            return True
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE

    wait_until(gone, 'the end of the grandchild')


def test_what_never_comes_is_named():
    with pytest.raises(AssertionError, match='waited 0.05 s in vain for this: rain'):
        wait_until(lambda: False, 'rain', 0.05)


HANGS = '''
import signal, threading, pytest
def stuck_for_ever():
    lock = threading.Lock()
    for _ in range(2): lock.acquire()
def test_stuck(): stuck_for_ever()
def test_stuck_where_no_signal_comes():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    stuck_for_ever()
'''


@pytest.mark.parametrize(
    'name, limits',
    [
        ('test_stuck', '-o timeout=3'),
        ('test_stuck_where_no_signal_comes', '-o timeout=3 -o faulthandler_timeout=6'),
    ],
)
def test_a_test_that_hangs_fails_and_tells_where(name, limits, tmp_path):
    "With the project's own settings, but for the seconds"
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    (tmp_path / 'test_hangs.py').write_text(HANGS)
    pytest_here = [sys.executable, '-m', 'pytest', '-v', *limits.split()]
    done = finished([*pytest_here, f'test_hangs.py::{name}'], cwd=tmp_path, seconds=120)
    assert done.returncode and name in done.stdout
    where = 'test_hangs.py(:5: Failed|", line 5 in stuck_for_ever)'
    assert re.search(where, done.stdout + done.stderr)


def test_every_test_has_a_limit(request):
    "Also where the plugin is missing: pytest would pass over the setting in silence"
    assert request.config.pluginmanager.hasplugin('timeout')
    setting = request.config.getini
    assert 0 < float(setting('timeout')) < float(setting('faulthandler_timeout'))
    assert setting('faulthandler_exit_on_timeout')


def page(path, *cells):
    "A notebook"
    kernel = dict(name='python3', language='python', display_name='python3')
    rest = dict(cell_type='code', metadata={}, outputs=[], execution_count=None)
    cells = [dict(rest, id=f'{i:08d}', source=cell) for i, cell in enumerate(cells)]
    facts = dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel))
    path.write_text(json.dumps(facts | dict(cells=cells)))
    return path


def test_a_page_that_hangs_is_named_and_the_others_are_tested(tmp_path):
    hangs = page(
        tmp_path / 'hangs.ipynb',
        'import threading',
        'def stuck_for_ever(lock):\n    for _ in range(2): lock.acquire()',
        'stuck_for_ever(threading.Lock())',
    )
    others = (
        page(tmp_path / 'wrong.ipynb', 'assert 1 == 2'),
        page(tmp_path / 'right.ipynb', 'assert 1 == 1'),
    )
    check = [sys.executable, ROOT / 'tools/check_pages.py']
    done = finished([*check, *others])
    assert done.returncode == 1 and done.stderr.endswith('these pages failed: wrong.ipynb\n')
    assert re.search(r'^right.ipynb: \d+ s$', done.stdout, re.M)
    done = finished([*check, '--limit', 30, hangs])
    assert done.returncode == 1 and done.stderr.endswith('these pages failed: hangs.ipynb\n')
    assert 'hangs.ipynb: did not end within 30 s' in done.stdout
    assert 'line 2 in stuck_for_ever' in done.stdout


RUNS = 'run', 'call', 'check_call', 'check_output'


def endless(path):
    "Lines of a file that may wait for ever, or that fork"
    for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [name.name for name in node.names] + [getattr(node, 'module', None) or '']
            if any(name.partition('.')[0] == 'multiprocessing' for name in names):
                yield node.lineno
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        limited = any(keyword.arg == 'timeout' for keyword in node.keywords)
        of = getattr(node.func.value, 'id', None)
        name = node.func.attr
        if of == 'subprocess' and name in RUNS and not limited:
            yield node.lineno
        if name in ('wait', 'communicate', 'join') and not node.args and not limited:
            yield node.lineno
        if of == 'os' and name in ('fork', 'wait', 'waitpid'):
            yield node.lineno


def test_no_test_and_no_tool_forks_or_waits_without_a_limit(tmp_path):
    paths = [*(ROOT / 'tests').glob('*.py'), *(ROOT / 'tools').glob('*.py')]
    found = [f'{path.relative_to(ROOT)}:{line}' for path in paths for line in endless(path)]
    assert not found
    bad = [
        'import multiprocessing',
        'from multiprocessing import Process',
        'subprocess.run(command)',
        'process.wait()',
        'process.communicate()',
        'thread.join()',
        'os.fork()',
    ]
    good = "process.wait(9); subprocess.run(command, timeout=9); ', '.join(words)"
    (tmp_path / 'bad.py').write_text('\n'.join([*bad, good]))
    assert list(endless(tmp_path / 'bad.py')) == list(range(1, len(bad) + 1))
