"""Execute pages in place. Widgets leave no state behind: a page must read without a kernel,
and stay small.
"""

import base64
import io
import os
import sys
import time
from pathlib import Path
from queue import Empty
import nbformat
from PIL import Image, ImageChops, ImageStat
from nbclient import NotebookClient

WIDGET = 'application/vnd.jupyter.widget-view+json'


def at_rest(output):
    "Of a widget what it shows without a kernel, if anything"
    data = output.get('data', {})
    if WIDGET not in data:
        return output
    if "text/html" in data:
        output.data = {"text/html": data["text/html"]}
        return output
    if "image/png" not in data:
        return
    picture = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=70)
    output.data = {'image/jpeg': base64.b64encode(buffer.getvalue()).decode()}
    return output


def smaller(output):
    "A drawing stored with a palette of 128 colours, a third of its size, if that is not seen"
    if 'image/png' not in output.get('data', {}):
        return output
    stored = base64.b64decode(output.data['image/png'])
    picture = Image.open(io.BytesIO(stored))
    if picture.is_animated:
        return output
    picture = picture.convert('RGB')
    drawing = picture.quantize(128, dither=Image.Dither.NONE)
    away = ImageStat.Stat(ImageChops.difference(picture, drawing.convert('RGB'))).rms
    buffer = io.BytesIO()
    drawing.save(buffer, 'PNG', optimize=True)
    if max(away) < 4 and buffer.tell() < len(stored):
        output.data['image/png'] = base64.b64encode(buffer.getvalue()).decode()
    return output


class Client(NotebookClient):
    """On a busy machine it may miss that the kernel has answered, and wait until the time is
    up: ask every second
    """

    async def async_start_new_kernel_client(self):
        kernel = await super().async_start_new_kernel_client()
        answer = kernel.shell_channel.get_msg

        async def ask(timeout=None):
            end = None if timeout is None else time.monotonic() + timeout
            while True:
                try:
                    return await answer(timeout=1)
                except Empty:
                    if end is not None and time.monotonic() > end:
                        raise

        kernel.shell_channel.get_msg = ask
        return kernel


def execute(path):
    nb = nbformat.read(path, as_version=4)
    Client(nb, timeout=600, resources={'metadata': {'path': str(path.parent)}}).execute()
    nb.metadata.pop('widgets', None)
    for cell in nb.cells:
        if cell.cell_type == 'code':
            cell.outputs = [smaller(still) for still in map(at_rest, cell.outputs) if still]
    nbformat.write(nb, path)


if __name__ == '__main__':
    # a page must not stand still where another process is busy
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    # figures must not depend on what is faster here
    os.environ.setdefault('ODEBC_PRECISION', 'float32')
    for page in map(Path, sys.argv[1:]):
        print(page, flush=True)
        execute(page)
