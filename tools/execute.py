"Execute pages in place. Widgets leave no state behind: a page must read without a kernel, and stay small."
import os
import sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient

WIDGET = 'application/vnd.jupyter.widget-view+json'

def execute(path):
    nb = nbformat.read(path, as_version=4)
    NotebookClient(nb, timeout=600, resources={'metadata': {'path': str(path.parent)}}).execute()
    nb.metadata.pop('widgets', None)
    for cell in nb.cells:
        if cell.cell_type == 'code': cell.outputs = [o for o in cell.outputs if WIDGET not in o.get('data', {})]
    nbformat.write(nb, path)

if __name__ == '__main__':
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # a page must not stand still where another process is busy
    for page in map(Path, sys.argv[1:]):
        print(page, flush=True)
        execute(page)
