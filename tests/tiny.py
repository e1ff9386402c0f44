"Maps and pairs for searches that take no time: for tests, and for processes that they start."

import json
import os
import time
from pathlib import Path
import torch
from odebc.maps import solution_map
from odebc.metrics import Distance

Z = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


def squares(a, b):
    return (a - b).square().mean((1, 2, 3))


def rough(x_T, y):
    return y + 0.1 * x_T + 0.3 * y * x_T


def rougher(x_T, y):
    return rough(x_T, y) + 0.02 * x_T.roll(1, -1)


def as_h(fn):
    "A function that stands for `h`: by its name a file takes it for the same map"
    return solution_map(fn, name='tiny', nfe=4)


mse = Distance(squares, name='MSE')
h = as_h(rough)
cheap = solution_map(rougher, name='tiny, roughly', nfe=1)


def coarse_for(strategy):
    return cheap if strategy in ('multifidelity', 'gradient') else None


def tell(*words):
    """Print a line that begins with the rank of this process, in one piece: of several that
    print to one pipe each writes words and ends of lines as they come
    """
    line = ' '.join(map(str, [os.environ['RANK'], *words])) + '\n'
    os.write(1, line.encode())


def slow_maps(log, strategy, delay=0.0):
    """The map, and the cheaper one where a strategy needs it: each batch that begins is
    written down, and takes its time
    """

    def slow(known):
        def fn(x_T, y):
            start = x_T.flatten(1)[:, :2].double().tolist()
            seen = [known.nfe, start, y.flatten(1)[:, 0].tolist(), x_T.requires_grad]
            with Path(log).open('a') as lines:
                lines.write(json.dumps(seen) + '\n')
            time.sleep(delay)
            return known(x_T, y)

        return solution_map(fn, name=known.name, nfe=known.nfe)

    return slow(h), slow(cheap) if coarse_for(strategy) else None
