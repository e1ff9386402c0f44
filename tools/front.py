"""Make what the README shows: `picture` three photographs from a typical and from the found
start, `film` the sliders of R and K in a browser (extra `browser`, and Chromium).

`picture` computes everything anew and writes its numbers beside it; a test makes them again.
"""

import argparse
import io
import json
import shutil
from importlib.resources import files
from pathlib import Path
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from odebc.data import degrade, photographs, upsample
from odebc.images import to_image
from odebc.matrix import candidate
from odebc.metrics import default_distance
from odebc.sr3 import SR3

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / 'docs/pictures'
NETWORK, SAMPLER = 'small-mid', 'DDIM-10'
SCORES = f'explore/{NETWORK}-{SAMPLER}.safetensors'  # the matrix that the explorer shows
R = 32  # its reference pairs; the rest is of photographs that are not searched on
# of each of those: photograph, row, column, how many pixels become one
SQUARES = ('china', 100, 240, 2), ('rocket', 60, 280, 2), ('chelsea', 60, 140, 2)
ZOOM, GAP, TOP, BELOW = 3, 8, 28, 26  # pixels
INK, PAPER = '#1a1a1a', '#ffffff'  # of its own, so that a dark page does not swallow it
TITLES = 'low resolution', 'bicubic', 'typical random start', 'the start found', 'original'


def square(name, row, column, shrink):
    "(1, 3, 64, 64)"
    side = 64 * shrink
    part = photographs()[name][None, :, row : row + side, column : column + side]
    return torch.nn.functional.avg_pool2d(part, shrink)


def starts():
    "Numbers of two candidates: in the middle, and the best, both by the reference pairs"
    D = load_file(files('odebc.assets') / SCORES)['LPIPS'][:, :R].mean(1)
    ranked = D.argsort().tolist()
    return ranked[len(ranked) // 2], ranked[0]


@torch.no_grad()
def solved():
    "Pictures by column, and their scores"
    model = SR3.from_pretrained(NETWORK)
    distance = default_distance()
    z = torch.cat([square(*place) for place in SQUARES])
    y = degrade(z)
    small = y.repeat_interleave(4, 2).repeat_interleave(4, 3)
    typical, found = starts()
    both = [model.h(candidate(k, model.shape)[None], y, SAMPLER) for k in (typical, found)]
    columns = [small, upsample(y), *both, z]
    numbers = dict(distance=distance.name, network=NETWORK, sampler=SAMPLER)
    numbers |= dict(typical=typical, found=found)
    for title, column in zip(TITLES[1:4], columns[1:4]):
        numbers[title] = [round(value, 4) for value in distance(column, z).tolist()]
    return columns, numbers


def drawn_picture(columns, numbers):
    "A row for each square, LPIPS below"
    side = 64 * ZOOM
    width = len(columns) * (side + GAP) + GAP
    height = TOP + len(SQUARES) * (side + BELOW)
    picture = Image.new('RGB', (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(17)
    for c, (title, column) in enumerate(zip(TITLES, columns)):
        left = GAP + c * (side + GAP)
        draw.text((left + side // 2, TOP // 2), title, INK, font, 'mm')
        for row, x in enumerate(column):
            top = TOP + row * (side + BELOW)
            large = to_image(x).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(large, (left, top))
            if title in numbers:
                told = f'{numbers["distance"]} {numbers[title][row]:.2f}'
                draw.text((left + side // 2, top + side + BELOW // 2), told, INK, font, 'mm')
    return picture


def write_picture(folder):
    columns, numbers = solved()
    drawn_picture(columns, numbers).save(folder / 'front.png', optimize=True)
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    (folder / 'front.json').write_text(f'{text}\n', encoding='utf8')
    print(text)


MOVE = """([label, place]) => {
  const inputs = [...document.querySelectorAll('.odebc input[type=range]')];
  const input = inputs.find((i) => i.labels[0]?.textContent === label);
  input.value = place;
  input.dispatchEvent(new Event('input', { bubbles: true }));
}"""
PAIRS, CANDIDATES = 'R, pairs', 'K, candidates'
LONG, SHORT = 1800, 120  # milliseconds
PART = dict(x=0, y=136, width=760, height=460)  # sliders, matrix, curves and table


def moves():
    "Slider, place, how long it is seen: more candidates for one pair, then more pairs"
    yield PAIRS, 0, SHORT
    for place in range(0, 27, 2):
        yield CANDIDATES, place, LONG if place in (0, 26) else SHORT
    for place in range(1, 20):
        yield PAIRS, place, LONG if place == 19 else SHORT


def write_film(folder):
    "R and K moved in the app that needs no kernel"
    from playwright.sync_api import sync_playwright

    names = 'chromium', 'chromium-browser', 'google-chrome'
    path = next(filter(None, map(shutil.which, names)), None)
    shots, pauses = [], []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=PART['width'], height=900))
        page.goto((ROOT / 'nbs/explore/search.html').as_uri())
        page.locator('.odebc-candidate').first.wait_for()
        for label, place, pause in moves():
            page.evaluate(MOVE, [label, place])
            page.wait_for_timeout(100)
            shots.append(Image.open(io.BytesIO(page.screenshot(clip=PART))).convert('RGB'))
            pauses.append(pause)
        browser.close()
    first, *others = shots[1:]  # the first move only sets the scene
    how = dict(save_all=True, append_images=others, duration=pauses[1:], loop=0)
    first.save(folder / 'sliders.webp', **how, quality=60, method=6, minimize_size=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=('picture', 'film'))
    parser.add_argument('--out', type=Path, default=PICTURES)
    args = parser.parse_args()
    dict(picture=write_picture, film=write_film)[args.what](args.out)


if __name__ == '__main__':
    main()
