"Diffusion ODEs for image super-resolution, and the search for their best starting noise."

from importlib import import_module

__version__ = "0.1.0"

PUBLIC = {  # name -> module; loaded when it is asked for
    'Schedule': 'schedule',
    'sampler': 'samplers',
    'SR3': 'sr3',
    'SolutionMap': 'maps',
    'solution_map': 'maps',
    'candidates': 'matrix',
    'score_matrix': 'matrix',
    'BoundaryCondition': 'runner',
}
__all__ = [*PUBLIC]


def __getattr__(name):
    if name not in PUBLIC:
        raise AttributeError(f"module 'odebc' has no attribute {name!r}")
    return getattr(import_module(f'odebc.{PUBLIC[name]}'), name)


def __dir__():
    return [*globals(), *PUBLIC]
