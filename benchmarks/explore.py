"""The explorer in a browser: milliseconds from a slider's event to the painted picture, for
each control, at places where it has not been; and the time from opening the page to the first
slider that answers, as a ratio to a bare page that imports torch.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
import nbformat

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tests'))
from serving import app, chromium, in_voila, MINUTE, opened, server  # noqa: E402

# two frames: after the second one the first has been painted
MOVES = '''async ({ label, n }) => {
  const inputs = [...document.querySelectorAll('.odebc input[type=range]')];
  const input = inputs.find((i) => i.offsetParent && i.labels[0]?.textContent === label);
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const [first, last] = [Number(input.min), Number(input.max)];
  const places = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  places.sort(() => Math.random() - 0.5);
  const times = [];
  for (let i = 0; i < n; i++) {
    const start = performance.now();
    input.value = places[i % places.length];
    input.dispatchEvent(new Event('input', { bubbles: true }));
    await frame();
    await frame();
    times.push(performance.now() - start);
    await new Promise((done) => setTimeout(done, 30));
  }
  return times;
}'''
# what becomes of a changed noise, ten calls of the network: a guess on the way, the result,
# and its numbers
SOLVED = '''async (n) => {
  const place = document.querySelector('.odebc-noise');
  const inputs = [...place.querySelectorAll('input[type=range]')];
  const input = inputs.find((i) => i.labels[0]?.textContent === 'length τ');
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const times = [];
  for (let i = 0; i < n; i++) {
    const start = performance.now();
    input.value = 20 + i;
    input.dispatchEvent(new Event('input', { bubbles: true }));
    const { tau } = place.odebc.state();
    do await frame();
    while (place.odebc.guessed()?.tau !== tau);
    await frame();
    const guess = performance.now() - start;
    while (place.odebc.seen()?.tau !== tau) await frame();
    await frame();
    const picture = performance.now() - start;
    while (place.getAttribute('aria-busy') === 'true') await frame();
    await frame();
    times.push([guess, picture, performance.now() - start]);
  }
  return times;
}'''
PARTS = 'the first picture of what comes of it', 'that picture whole', 'its numbers'
BARE = '''import torch
import ipywidgets
ipywidgets.IntSlider(description='n')'''


def line(what, times):
    times = sorted(times)
    middle, high = times[len(times) // 2], times[int(0.95 * len(times))]
    return f'{what:50} median {middle:6.1f} ms, 95 % {high:6.1f} ms, of {len(times)}'


def latencies(page, n):
    "By app and control"
    for title, labels in {
        'Search': ['R, pairs', 'K, candidates'],
        'Trajectory': ['t'],
        'Noise': ['angle φ', 'length τ', 'grey part ×', 'roll'],
    }.items():
        app(page, title)
        page.wait_for_timeout(8000)
        for label in labels:
            times = page.evaluate(MOVES, dict(label=label, n=n))
            print(line(f'{title}, {label}', times), flush=True)
    for what, times in zip(PARTS, zip(*page.evaluate(SOLVED, n))):
        print(line(f'Noise, {what}', times), flush=True)
    box = app(page, 'Search')
    box.get_by_role('button', name='all of both').click()  # a search that lasts
    box.get_by_role('button', name='search live').click()
    page.wait_for_timeout(10_000)
    times = page.evaluate(MOVES, dict(label='K, candidates', n=n))
    print(line('Search, K, candidates, during a live search', times), flush=True)
    box.get_by_role('button', name='cancel').first.click()
    start = time.monotonic()
    box.get_by_role('button', name='search live', disabled=False).wait_for()
    print(f'cancelled after {time.monotonic() - start:.2f} s', flush=True)


def until_it_answers(browser, url, selector):
    "Seconds from opening to a control that can be moved"
    start = time.monotonic()
    page, errors = opened(browser, url)
    page.locator(selector).first.wait_for(timeout=5 * MINUTE)
    seconds = time.monotonic() - start
    page.close()
    if errors:
        raise SystemExit(errors)
    return seconds


def opening(browser, folder, repeats):
    "The two pages by turns"
    pages = {'explorer': ROOT / 'nbs/12_explore.ipynb', 'bare': folder / 'bare.ipynb'}
    cells = [nbformat.v4.new_code_cell(source) for source in BARE.splitlines()]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), pages['bare'])
    answers = {'explorer': '.odebc-candidate', 'bare': '.noUi-handle'}
    times = {name: [] for name in pages}
    for _ in range(repeats):
        for name, path in pages.items():
            place = folder / f'{name}{len(times[name])}'
            place.mkdir()

            def command(options, path=path):
                return [sys.executable, '-m', 'voila', str(path), *options.split()]

            with server(place, command, ROOT, '/voila/static/voila.js') as url:
                times[name].append(until_it_answers(browser, url, answers[name]))
    middle = {name: sorted(all_)[repeats // 2] for name, all_ in times.items()}
    explorer, bare = middle['explorer'], middle['bare']
    print(f'opened: {explorer:.1f} s, bare page {bare:.1f} s, ratio {explorer / bare:.2f}')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--n', type=int, default=40, help='moves of each slider')
    parser.add_argument('--repeats', type=int, default=3, help='of opening the page')
    args = parser.parse_args()
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / 'voila').mkdir()
        with in_voila(browser, folder / 'voila', 'light') as (page, errors):
            page.set_viewport_size(dict(width=1280, height=800))
            latencies(page, args.n)
            if errors:
                raise SystemExit(errors)
        if args.repeats:
            opening(browser, folder, args.repeats)


if __name__ == '__main__':
    main()
