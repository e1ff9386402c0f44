"""Waiting for processes and for what they do: with a limit, and a failure that says what was
awaited and where it stood. And a disk that is full.
"""

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
import psutil

TESTS = Path(__file__).parent
# a process that a test begins imports what this one imports, also where another copy is
# installed; two processes need not find two GPUs
PLACES = os.pathsep.join([str(TESTS), str(TESTS.parent)])
FRESH = os.environ | dict(PYTHONPATH=PLACES, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
FRESH.pop('TQDM_DISABLE', None)
TWO = [sys.executable, *'-m torch.distributed.run --standalone --nproc-per-node 2'.split()]

# seconds for a process that takes 30 on a quiet machine: also on a slow and busy one it must
# have ended then
LIMIT = 300


def wait_until(condition, what, seconds=LIMIT):
    "Look again and again until condition() is true, and return what it gave"
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f'waited {seconds} s in vain for this: {what}'
        time.sleep(0.01)
    return found


def begin(command, env=None, **options):
    "Start a process that tells where its threads stand when it is given up; `end` it"
    options['env'] = dict(os.environ if env is None else env, PYTHONFAULTHANDLER='1')
    return subprocess.Popen(list(map(str, command)), start_new_session=True, **options)


def family(process):
    "A process and all that it started"
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def send(processes, number):
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def settle(process, seconds=5):
    "Until a process has ended, but not for long: one that blocks the signal is killed later"
    limit = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < limit:
            time.sleep(0.02)


def end(process):
    "Kill it and all that it started; nothing happens where it has ended"
    send(family(process), signal.SIGKILL)
    process.wait(60)


def ended(process, seconds=LIMIT):
    """What a process wrote until its end: output and errors. A failure with the traces of all
    its threads if that takes longer
    """
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        members = family(process)
        for member in members:  # in turn: what two write at once is mixed word by word
            send([member], signal.SIGABRT)  # a Python process writes its traces
            settle(member)
        try:
            written = process.communicate(timeout=20)
        except subprocess.TimeoutExpired as e:
            written = e.output, e.stderr
        send(members, signal.SIGKILL)
        told = '\n'.join(map(as_text, written))
        message = f'{process.args} has not ended after {seconds} s\n{told}'
        raise AssertionError(message) from None
    finally:
        end(process)


def as_text(written):
    return written if isinstance(written, str) else (written or b'').decode(errors='replace')


def finished(command, seconds=LIMIT, check=False, **options):
    "Run a command to its end, as `subprocess.run` does, with its output as text"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process = begin(command, **(pipes | dict(encoding='utf8', errors='replace') | options))
    out, err = ended(process, seconds)
    assert not check or process.returncode == 0, (
        f'{process.args} ended with status {process.returncode}\n{out}\n{err}'
    )
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def told_by_two(folder, script, *args):
    "Run a script in two processes: the lines that each of them told, see `tiny.tell`"
    file = folder / 'script.py'
    file.write_text(script)
    lines = finished([*TWO, file, *args], env=FRESH, check=True).stdout.splitlines()
    return [[line[2:] for line in lines if line.startswith(f'{rank} ')] for rank in (0, 1)]


def written(process, what, seconds=LIMIT):
    """Read what a process writes to its errors until `what` is among it. The process has
    bufsize=0: nothing is read ahead
    """
    end = time.monotonic() + seconds
    seen = b''
    while what not in seen:
        ready = select.select([process.stderr], [], [], max(0, end - time.monotonic()))[0]
        news = process.stderr.read(4096) if ready else b''
        if not news:
            told = as_text(seen + ended(process, 20 if ready else 0)[1])
            raise AssertionError(f'{process.args} ended, and never wrote {what}\n{told}')
        seen += news
    return seen


@contextmanager
def file_limit(size):
    "No file may grow beyond it: what a full disk does, for this process alone"
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
