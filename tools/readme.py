"Print README.md as made from nbs/index.ipynb: its text, code and text outputs, with links from the repository's root."
import re
import sys
from pathlib import Path
import nbformat

NOTE = '<!-- made from nbs/index.ipynb by `make notebooks`; edit that page -->\n'

def readme(path=Path(__file__).parents[1]/'nbs/index.ipynb'):
    parts = [NOTE]
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == 'markdown': parts.append(re.sub(r'\]\((\w+\.ipynb)\)', r'](nbs/\1)', cell.source)); continue
        parts.append(f'```python\n{cell.source}\n```')
        parts += ['```\n' + o.data['text/plain'] + '\n```' for o in cell.outputs if 'data' in o]
    return '\n\n'.join(parts) + '\n'

if __name__ == '__main__': sys.stdout.write(readme())
