"What is kept on disk: several writers, full disks, killed processes, files of other tasks."

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
import pytest
import torch
from tiny import Z, h, mse
from waiting import FRESH, begin, end, ended, family, finished, send, wait_until
from odebc import store
from odebc.errors import CannotWrite, OdebcError
from odebc.runner import BoundaryCondition
from odebc.search import search
from odebc.sr3 import SR3
from odebc.store import (
    Content,
    Store,
    packed_by_torch,
    unpacked,
    unpacked_by_torch,
    write_atomically,
)
from odebc.store import write_together

# --- two writers

WRITERS = '''
import sys, time
from pathlib import Path
from odebc.store import write_atomically
folder, letter, trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for n in range(trials):
    (folder/f'{letter} is at {n}').touch()
    while len(list(folder.glob(f'? is at {n}'))) < 2: time.sleep(.001)
    write_atomically(folder/f'file {n}', letter.encode()*4_000_000)
'''


def test_two_writers_never_mix_their_bytes(tmp_path):
    args = [sys.executable, '-c', WRITERS, tmp_path]
    both = [begin([*args, letter, '20'], FRESH) for letter in 'AB']
    for process in both:
        ended(process)
        assert process.returncode == 0
    for n in range(20):
        content = (tmp_path / f'file {n}').read_bytes()
        assert content in (b'A' * 4_000_000, b'B' * 4_000_000)
    assert not [p for p in tmp_path.iterdir() if p.name.endswith('.part')]


SEARCHES = '''
import sys, time
from pathlib import Path
from odebc.search import search
from tiny import Z, h, mse
folder, seed, trials = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for n in range(trials):
    (folder/f'{seed} is at {n}').touch()
    while len(list(folder.glob(f'? is at {n}'))) < 2: time.sleep(.001)
    how = dict(seed=seed, path=folder/f'{n}.safetensors', batch=4)
    try: search(h, Z, Z, 12, mse, 'exhaustive', **how)
    except ValueError as e: print('refused', n, e)
    else: print('written', n)
'''


def test_of_two_searches_with_one_file_one_is_told(tmp_path):
    "Nothing is lost in silence: the file holds the search that says so"
    args = [sys.executable, '-c', SEARCHES, tmp_path]
    outs = [tmp_path / f'out {seed}' for seed in (0, 1)]
    both = []
    for seed, out in enumerate(outs):
        with out.open('w') as file:
            both.append(begin([*args, str(seed), '20'], FRESH, stdout=file))
    for process in both:
        ended(process)
        assert process.returncode == 0
    told = [out.read_text().splitlines() for out in outs]
    for n in range(20):
        found = BoundaryCondition.load(tmp_path / f'{n}.safetensors')
        mine, other = told[found.seed][n], told[1 - found.seed][n]
        assert mine == f'written {n}' and found.finished
        assert other.startswith(f'refused {n}') and 'another seed' in other


SAME_TASK = """
import sys, time
from pathlib import Path
from odebc.search import search
from tiny import Z, h, mse
folder, me, trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for n in range(trials):
    (folder/f'{me} is at {n}').touch()
    while len(list(folder.glob(f'? is at {n}'))) < 2: time.sleep(.001)
    how = dict(path=folder/f'{n}.safetensors', batch=4)
    try: search(h, Z, Z, 12, mse, 'exhaustive', **how)
    except ValueError as e: print('refused', n, e)
    else: print('written', n)
"""


def test_two_searches_of_one_task_at_once(tmp_path):
    "One goes on, the other is told what to do; does it, and finds the work of the first"
    args = [sys.executable, '-c', SAME_TASK, tmp_path]
    both = [
        begin([*args, name, '10'], FRESH, stdout=(tmp_path / f'out {name}').open('w'))
        for name in 'AB'
    ]
    for process in both:
        ended(process)
        assert process.returncode == 0
    told = [(tmp_path / f'out {name}').read_text().splitlines() for name in 'AB']
    lines = list(zip(*told))
    for n, pair in enumerate(lines):
        path = tmp_path / f'{n}.safetensors'
        assert f'written {n}' in pair and BoundaryCondition.load(path).finished
        for line in pair:
            assert line == f'written {n}' or REMEDY in line and str(path) in line
        again = search(h, Z, Z, 12, mse, 'exhaustive', path=path, stop=lambda: True)
        assert again.finished, 'the remedy works: nothing is left to do'
    assert any(REMEDY in line for pair in lines for line in pair)


REMEDY = (
    'was written by another process meanwhile: let one of the two go on alone, and when it '
    'has ended run the other again, which goes on from the file; or give another file'
)


def test_a_file_that_was_not_gone_on_with_is_not_written_over(tmp_path):
    path = tmp_path / 'kept'
    Store(path, dict(seed=0), what='a search').save({}, step=3)
    says = 'holds a search that was begun before: go on with it, or give another file'
    with pytest.raises(OdebcError, match=says):
        Store(path, dict(seed=0), what='a search').save({}, step=4)
    assert unpacked(path).notes['step'] == 3


# --- the lock on a folder

HOLDS = """
import os, sys, time
from odebc.store import alone_in
with alone_in(sys.argv[1]):
    if 'and a child' in sys.argv and os.fork() == 0: time.sleep(300)
    print('holds it', flush=True)
    time.sleep(300)
"""


def holding(folder, *how):
    "A process that has the lock, with a child that has inherited it if so wished"
    process = begin([sys.executable, '-c', HOLDS, folder, *how], FRESH, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'holds it\n'
    return process


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    process = holding(tmp_path)
    process.kill()
    process.wait(60)
    begun = time.monotonic()
    write_atomically(tmp_path / 'file', b'new')
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize('how', ['suspended', 'and a child'])
def test_a_lock_that_nobody_will_give_back_does_not_block(how, tmp_path, monkeypatch):
    "A process that was suspended in the middle of a write, or killed, but for its child"
    monkeypatch.setattr(store, 'PATIENCE', 0.5)
    process = holding(tmp_path, how)
    members = family(process)
    process.send_signal(signal.SIGSTOP if how == 'suspended' else signal.SIGKILL)
    try:
        begun = time.monotonic()
        with pytest.warns(UserWarning, match='has been locked for .* suspended') as told:
            write_atomically(tmp_path / 'file', b'new')
            assert time.monotonic() - begun > 0.5
            for n in range(20):
                write_atomically(tmp_path / 'file', str(n).encode())
        assert time.monotonic() - begun < 5, 'it does not wait again at every write'
        assert len(told) == 1 and (tmp_path / 'file').read_bytes() == b'19'
    finally:
        send(members, signal.SIGKILL)
        end(process)
    wait_until(lambda: write_alone(tmp_path), 'the lock is free, and is taken again')


def write_alone(folder):
    write_atomically(folder / 'file', b'newer')
    return folder not in store.given_up


# --- killed in the middle of a write

KILLED = '''
import hashlib, sys
from odebc.store import write_atomically
n = 0
while True:
    body = bytes([n % 256])*8_000_000
    write_atomically(sys.argv[1], hashlib.sha256(body).digest() + body)
    n += 1
'''


def test_killed_in_the_middle_of_a_write(tmp_path):
    path = tmp_path / 'file'
    chance = random.Random(0)
    for _ in range(10):
        process = begin([sys.executable, '-c', KILLED, path], FRESH)
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.5 + chance.random() * 0.1)
        process.kill()
        ended(process)
        content = path.read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]
    left = [p for p in tmp_path.iterdir() if p != path]
    assert all(p.name.startswith('.file.') and p.name.endswith('.part') for p in left)
    for p in left:
        os.utime(p, (0, 0))
    write_atomically(path, b'new')
    assert os.listdir(tmp_path) == ['file'], 'leftovers of killed processes are removed'


# --- a full disk

FULL = '''
import resource, sys
limit = int(sys.argv[1])
sys.argv = ['odebc', *sys.argv[2:]]
from odebc.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main()
'''


def on_a_full_disk(limit, *args):
    "A command that cannot write files of more than so many bytes"
    done = finished([sys.executable, '-c', FULL, str(limit), *map(str, args)], env=FRESH)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert 'Traceback' not in done.stderr and 'make room' in last
    return last


def contents(folder):
    return {p: p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}


def test_a_search_on_a_full_disk(tmp_path):
    path = tmp_path / 'x_T.safetensors'
    args = ['search', '--k', '4', '--r', '2', '--unseen', '2', '--sampler', 'DDIM-1']
    args += ['--distance', 'lpips-lite', '--precision', 'float32', '--out', path]
    assert str(path) in on_a_full_disk(5000, *args)
    assert not contents(tmp_path)


def test_a_training_on_a_full_disk(tmp_path, photo_folder):
    "The record is never newer than the weights"
    args = ['train', '--images', photo_folder, '--batch', '2', '--size', '32', '--steps']
    from odebc.cli import app
    from typer.testing import CliRunner

    out = ['--out', tmp_path, '--precision', 'float32']
    assert CliRunner().invoke(app, [*map(str, [*args, 2, *out])]).exit_code == 0
    before = contents(tmp_path)
    last = on_a_full_disk(1_000_000, *args, 4, *out)
    assert str(tmp_path / 'checkpoint.pt') in last
    assert contents(tmp_path) == before
    SR3.from_pretrained(tmp_path)


def test_an_enlargement_on_a_full_disk(tmp_path, photo_folder):
    picture = sorted(photo_folder.iterdir())[0]
    out = tmp_path / 'out'
    args = ['upscale', picture, '--out', out, '--sampler', 'DDIM-1', '--seed', '0']
    last = on_a_full_disk(20_000, *args, '--precision', 'float32')
    assert f'{picture.stem}_x4.png' in last
    assert not list(out.glob('*.png')), 'no half picture'


def test_results_on_a_full_disk(tmp_path):
    last = on_a_full_disk(2000, 'results', '--quick', '--out', tmp_path)
    assert str(tmp_path) in last


def test_weights_and_record_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    model = SR3.from_pretrained('small')
    model.save_pretrained(tmp_path)
    before = contents(tmp_path)
    model.record = dict(model.record, data='newer')
    write = Path.write_bytes

    def full(path, data):
        if 'model.safetensors' in path.name:
            raise OSError(28, 'No space left on device')
        return write(path, data)

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(CannotWrite, match='model.safetensors.*No space left'):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == before


# --- stores


@pytest.mark.parametrize('how', [{}, dict(read=unpacked_by_torch, pack=packed_by_torch)])
def test_a_store_refuses_another_task_and_takes_its_own(how, tmp_path):
    path = tmp_path / 'kept'
    Store(path, dict(weights='a', seed=0), **how).save({}, step=3)
    assert Store(path, dict(seed=0, weights='a'), **how).load().notes['step'] == 3
    with pytest.raises(OdebcError, match=r'another weights \(a, not b\)'):
        Store(path, dict(weights='b', seed=0), **how).load()
    accepted = Store(path, dict(weights='b', seed=0), accept=['weights'], **how)
    assert accepted.load().notes['step'] == 3
    assert accepted.facts['accepted'] == ['weights']
    former = Store(path, dict(weights='b', seed=0), former=dict(weights='a'), **how)
    assert former.load() and 'accepted' not in former.facts
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OdebcError, match='kept does not hold'):
        Store(path, dict(weights='a', seed=0), **how).load()


def test_files_without_a_place(tmp_path):
    (tmp_path / 'taken').touch()
    for path in (tmp_path / 'taken' / 'x', tmp_path):
        with pytest.raises(CannotWrite, match=f'cannot write {path}'):
            write_atomically(path, b'')
    with pytest.raises(CannotWrite):
        write_together({tmp_path / 'new': b'1', tmp_path / 'taken' / 'x': b'2'})
    assert sorted(os.listdir(tmp_path)) == ['taken']


def test_a_file_of_a_search_is_data_alone(tmp_path):
    search(h, Z, Z, 4, mse, path=tmp_path / 'x_T.safetensors')
    content = unpacked(tmp_path / 'x_T.safetensors')
    assert set(content.tensors) == {'x_T', 'scores'}
    assert content.facts == json.loads(json.dumps(content.facts))
    assert content.facts['map'] == 'tiny' and content.facts['distance'] == 'MSE'
    assert all(isinstance(x, torch.Tensor) for x in content.tensors.values())


def test_permissions_and_links_stay(tmp_path):
    secret = tmp_path / 'secret'
    write_atomically(secret, b'1')
    secret.chmod(0o600)
    write_atomically(secret, b'2')
    assert secret.stat().st_mode & 0o777 == 0o600
    link = tmp_path / 'link'
    link.symlink_to(secret)
    write_atomically(link, b'3')
    assert link.is_symlink() and secret.read_bytes() == b'3'


def test_together_is_all_or_nothing(tmp_path):
    (tmp_path / 'folder').mkdir()
    with pytest.raises(CannotWrite, match='folder'):
        write_together({tmp_path / 'new': b'1', tmp_path / 'folder': b'2'})
    assert os.listdir(tmp_path) == ['folder']
    write_together({})


def test_what_only_may_differ_is_not_said_to_be_accepted(tmp_path):
    path = tmp_path / 'kept'
    Store(path, dict(steps=1, seed=0), outcome=('steps',)).save({})
    store = Store(path, dict(steps=2, seed=0), outcome=('steps',))
    assert store.load() and 'accepted' not in store.facts


def test_what_another_has_written_outlives_every_later_save(tmp_path):
    def merge(theirs, ours):
        return Content(ours.facts, theirs.tensors | ours.tensors, ours.notes)

    def scores(*names):
        return {name: torch.ones(1) for name in names}

    path = tmp_path / 'kept'
    one, two = (Store(path, dict(seed=0), merge=merge) for _ in range(2))
    one.load()
    two.load()
    one.save(scores('a'))
    two.save(scores('b'))
    two.save(scores('b', 'c'))  # its file is as it wrote it itself, with a in it
    assert set(unpacked(path).tensors) == set('abc')
    one.save(scores('a', 'd'))
    one.save(scores('a', 'd', 'e'))
    two.save(scores('b', 'c'))
    assert set(unpacked(path).tensors) == set('abcde')


def test_two_laboratories_in_one_folder_keep_the_scores_of_both(tmp_path):
    from odebc.data import photographs, split
    from odebc.experiments.lab import MEASURED, Lab, Protocol, bicubic, drawn

    protocol = Protocol(2, 2, 2, 2, ['DDIM-1'], [], 1, (2, 2, 'DDIM-1'), 1)
    ours, theirs = (list(side.values()) for side in split(photographs()))
    model = SR3.from_pretrained('small')
    one, two = (Lab(model, protocol, ours, dict(a=theirs), tmp_path) for _ in range(2))
    one.scores('a', 'bicubic', bicubic(model))
    two.scores('a', 'DDIM-1', drawn(model, 'DDIM-1'))
    assert len(unpacked(tmp_path / MEASURED).tensors) == 2
    before = (tmp_path / MEASURED).stat().st_mtime_ns
    again = Lab(model, protocol, ours, dict(a=theirs), tmp_path)
    assert len(again.known) == 2 and (tmp_path / MEASURED).stat().st_mtime_ns == before
