"""Print README.md as made from nbs/index.ipynb: its text, code and text outputs, with links
from the repository's root.
"""

import posixpath
import re
import sys
from pathlib import Path
import nbformat

NOTE = '<!-- made from nbs/index.ipynb by `make notebooks`; edit that page -->\n'


def linked(text):
    "Links of a page in nbs/, as they are from the root"

    def at_root(match):
        return f"]({posixpath.normpath(posixpath.join('nbs', match[1]))})"

    return re.sub(r'\]\((?!\w+:|#)([^)\s]+)\)', at_root, text)


def readme(path=Path(__file__).parents[1] / 'nbs/index.ipynb'):
    parts = [NOTE]
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == 'markdown':
            parts.append(linked(cell.source))
            continue
        if '#| echo: false' not in cell.source:
            parts.append(f'```python\n{cell.source}\n```')
        for output in cell.outputs:
            data = output.get('data', {})
            if 'text/markdown' in data:
                parts.append(linked(data['text/markdown']))
            else:
                text = output.get('text', data.get('text/plain', '')).strip()
                parts.append(f'```text\n{text}\n```')
    return '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    sys.stdout.reconfigure(encoding='utf8')  # README.md is UTF-8, whatever the terminal is
    sys.stdout.write(readme())
