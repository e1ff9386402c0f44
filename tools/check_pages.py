"""Test every page as nbdev_test does, each in a process of its own, which ends with the traces
of its threads when it takes too long. Where a page has exercises, their answers have to pass
their checks, and the wrong answers have to fail.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import nbformat
from lessons import answered, exercises

PAGES = Path(__file__).parents[1] / 'nbs'
TEST = (
    'import sys; from nbdev.test import nbdev_test; nbdev_test(path=sys.argv[1], n_workers=0)'
)


def check(
    page: Path,  # a notebook
    limit: float,  # seconds
) -> bool:  # whether all of its cells did what they should
    "Run the cells of one page; says how long it took, or what went wrong"
    nb = nbformat.read(page, as_version=4)
    if not exercises(nb):
        return run(page, limit)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / page.name
        nbformat.write(answered(nb), copy)
        return run(copy, limit)


def run(page, limit):
    start = time.monotonic()
    # a group of its own: what the page starts ends with it
    process = subprocess.Popen(
        [sys.executable, '-X', 'faulthandler', '-c', TEST, str(page)],
        cwd=PAGES.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding='utf8',
        errors='replace',
        start_new_session=True,
    )
    try:
        told = process.communicate(timeout=limit)[0]
        late = ''
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # Python writes where its threads stand
        told = last_words(process)
        late = f'did not end within {limit:.0f} s; '
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    failed = process.returncode != 0
    seconds = time.monotonic() - start
    print(f"{page.name}: {late}{'FAILED after ' if failed else ''}{seconds:.0f} s", flush=True)
    if failed:
        print(told, flush=True)
    return not failed


def last_words(process):
    "What an aborted process wrote"
    try:
        return process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired as e:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        return (e.output or b'').decode(errors='replace')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pages', nargs='*', type=Path, help='all by default')
    parser.add_argument('--limit', type=float, default=900, help='seconds for a page')
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()
    pages = args.pages or sorted(PAGES.rglob("[!_]*.ipynb"))
    with ThreadPoolExecutor(args.processes) as pool:
        good = list(pool.map(lambda page: check(page.resolve(), args.limit), pages))
    bad = [page.name for page, fine in zip(pages, good) if not fine]
    sys.exit(f"these pages failed: {', '.join(bad)}" if bad else 0)


if __name__ == '__main__':
    main()
