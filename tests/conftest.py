import os
import signal

# before torch is loaded, and for the processes that the tests start: threads that wait for
# others must not use up the time of a busy machine. A demo of 40 seconds took 175 beside other
# work without this
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import pytest
from hypothesis import HealthCheck, settings
from odebc.data import photographs
from odebc.images import to_image


# a shell that starts the tests in the background has this ignored, and processes inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
# what a test compares must not depend on what is faster here; tests/test_precision.py chooses
os.environ.setdefault('ODEBC_PRECISION', 'float32')

# a machine that is busy draws examples slowly, and that is no fault
settings.register_profile('busy', suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile('busy')


def pytest_configure(config):
    config.addinivalue_line('markers', 'rivals: needs the extra `rivals`, skips without it')


@pytest.fixture(scope='session')
def browser():
    "One for all tests: a second one beside it cannot be had"
    from serving import chromium  # only where the extra `browser` is installed

    with chromium() as found:
        yield found


@pytest.fixture(scope='session')
def photo_folder(tmp_path_factory):
    "Three real photographs as PNG files"
    folder = tmp_path_factory.mktemp('photos')
    for name, x in list(photographs().items())[:3]:
        to_image(x[:, :160, :200]).save(folder / f'{name}.png')
    return folder
