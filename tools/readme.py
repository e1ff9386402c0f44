"""Print README.md as made from nbs/index.ipynb: its text, code and text outputs, with links
from the repository's root.
"""

import re
import sys
from pathlib import Path
import nbformat

NOTE = '<!-- made from nbs/index.ipynb by `make notebooks`; edit that page -->\n'


def linked(text):
    return re.sub(r'\]\(((?:hood/)?\w+\.ipynb)\)', r'](nbs/\1)', text)


def readme(path=Path(__file__).parents[1] / 'nbs/index.ipynb'):
    parts = [NOTE]
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == 'markdown':
            parts.append(linked(cell.source))
            continue
        if '#| echo: false' not in cell.source:
            parts.append(f'```python\n{cell.source}\n```')
        for data in (o.data for o in cell.outputs if 'data' in o):
            if 'text/markdown' in data:
                parts.append(linked(data['text/markdown']))
            else:
                parts.append(f"```\n{data['text/plain']}\n```")
    return '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    sys.stdout.reconfigure(encoding='utf8')  # README.md is UTF-8, whatever the terminal is
    sys.stdout.write(readme())
