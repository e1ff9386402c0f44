"""Write the apps that need no kernel, `nbs/explore/*.html`, from the cached scores and the
shipped networks: after every change of the apps or of the scores. A minute or two.
"""

import argparse
from pathlib import Path
from odebc.app.still import write_pages
from odebc.app.workshop import Workshop

ROOT = Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=ROOT / 'nbs/explore')
    args = parser.parse_args()
    write_pages(args.out, Workshop())


if __name__ == '__main__':
    main()
