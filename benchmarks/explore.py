"""Milliseconds from a slider's event to the finished redraw, in the kernel: median and 95th
percentile for everything that is served from the cached scores.
"""

import argparse
import random
import time
from odebc.app.explore import noise_app, search_app, trajectory_app


def settle(app):
    "Until nothing runs in the background"
    app.job.wait()
    if app.problem.value:
        raise SystemExit(app.problem.value)


def moves(app, sliders, n, seed=0, clear=lambda: None):
    "Milliseconds of n random moves; the callback runs where the value is set, to its end"
    rng = random.Random(seed)
    times = []
    while len(times) < n:
        slider = rng.choice(sliders)
        value = rng.choice([v for v in positions(slider) if v != slider.value])
        clear()
        start = time.perf_counter()
        slider.value = value
        times.append(1e3 * (time.perf_counter() - start))
    if app.problem.value:
        raise SystemExit(app.problem.value)
    return sorted(times)


def positions(slider):
    "All values of a control"
    if not hasattr(slider, 'options'):
        return [round(slider.min + i * (slider.max - slider.min) / 20, 2) for i in range(21)]
    return [o[1] if isinstance(o, tuple) else o for o in slider.options]


def line(what, times):
    middle = times[len(times) // 2]
    high = times[int(0.95 * len(times))]
    return f'{what:60} median {middle:6.1f} ms, 95 % {high:6.1f} ms, of {len(times)}'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--n', type=int, default=100, help='moves')
    args = parser.parse_args()
    app = search_app()
    settle(app)
    app.ahead.wait()
    choices = [app.sampler, app.distance]
    print(line('search_app, sampler and distance, drawn ahead', moves(app, choices, 20)))
    times = moves(app, [app.R, app.K], args.n, clear=app.draw.cache_clear)
    print(line('search_app, R and K, nothing kept', times), flush=True)
    times = moves(app, [app.R, app.K], args.n)
    print(line('search_app, R and K, pictures kept', times), flush=True)
    settle(app)
    app.go.click()
    while app.found is None:
        if app.problem.value:
            raise SystemExit(app.problem.value)
        time.sleep(0.1)
    times = moves(app, [app.R, app.K], args.n, clear=app.draw.cache_clear)
    print(line('search_app, R and K, nothing kept, during a live search', times), flush=True)
    app.cancel.click()
    app.live.wait()
    settle(app)
    app = trajectory_app()
    settle(app)
    print(line('trajectory_app, t', moves(app, [app.t], args.n)), flush=True)
    app = noise_app()
    settle(app)
    times = moves(app, [app.share, app.tau], args.n)
    print(line('noise_app, the noise itself', times), flush=True)
    app.job.cancel()
    app.job.wait()


if __name__ == '__main__':
    main()
