"""The minutes in the map of pages (`nbs/00_tour.ipynb`), as each page says them itself in its
first cell, or else as `tools/lessons.py` counts them.

    python tools/map.py [--check]
"""

import argparse
import re
import sys
import nbformat
from lessons import ROOT, measure

TOUR = ROOT / 'nbs/00_tour.ipynb'
ROW = re.compile(r'^(\| \[(\w+)\]\(\w+\.ipynb\) \|.*\| )[\d?]+ \|$', re.M)


def minutes(name):
    "To read a page"
    path = ROOT / f'nbs/{name}.ipynb'
    first = nbformat.read(path, as_version=4).cells[0].source
    said = re.search(r'(\d+) minutes to read', first)
    return int(said[1]) if said else measure(path)['minutes']


def with_minutes(text):
    "The map, each row with the minutes of its page"
    return ROW.sub(lambda row: f'{row[1]}{minutes(row[2])} |', text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--check', action='store_true', help='change nothing, only compare')
    args = parser.parse_args()
    nb = nbformat.read(TOUR, as_version=4)
    (cell,) = [cell for cell in nb.cells if ROW.search(cell.source)]
    new = with_minutes(cell.source)
    if args.check:
        sys.exit('run python tools/map.py' if new != cell.source else 0)
    cell.source = new
    nbformat.write(nb, TOUR)


if __name__ == '__main__':
    main()
