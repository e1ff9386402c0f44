import os
import signal
import pytest
from odebc.data import photographs, to_image


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has it ignored, and processes inherit that
os.environ.setdefault('ODEBC_PRECISION', 'float32')  # what a test compares must not depend on what is faster here; tests/test_precision.py chooses


@pytest.fixture(scope='session')
def photo_folder(tmp_path_factory):
    "Three real photographs as PNG files"
    folder = tmp_path_factory.mktemp('photos')
    for name, x in list(photographs().items())[:3]: to_image(x[:, :160, :200]).save(folder/f'{name}.png')
    return folder
