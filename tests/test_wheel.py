"The shipped model travels in the wheel and loads from it in an empty directory."

import os
import re
import sys
import zipfile
from pathlib import Path
from waiting import finished

ROOT = Path(__file__).parents[1]
BLOB = 'github.com/odebc/odebc/blob/main/'
RAW = 'raw.githubusercontent.com/odebc/odebc/main/'


def test_checkpoint_loads_from_the_wheel(tmp_path):
    build = 'pip wheel -q --no-deps --no-build-isolation -w'.split()
    finished([sys.executable, '-m', *build, tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob('*.whl')
    assert wheel.stat().st_size < 60e6
    listed = finished(['git', 'ls-files', '-z', 'data'], cwd=ROOT, check=True).stdout
    shipped = listed.split('\0')[:-1]
    assert len(shipped) > 20
    names = {'odebc/assets' + name.removeprefix('data') for name in shipped}
    modules = {f.relative_to(ROOT).as_posix() for f in (ROOT / 'odebc').rglob('*.py')}
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert names | modules | {'odebc/py.typed'} <= inside
    (metadata,) = [name for name in inside if name.endswith('.dist-info/METADATA')]
    description = zipfile.ZipFile(wheel).read(metadata).decode()
    links = re.findall(r'\]\(([^)#\s]+)\)', description)
    ours = [re.fullmatch(f'https://({BLOB}|{RAW})(.+)', link) for link in links]
    assert len([found for found in ours if found]) > 20
    assert all((ROOT / found[2]).exists() for found in ours if found)
    assert all(link.startswith('https://') for link in links)
    assert {found[1] for found in ours if found and found[2].startswith('docs/pic')} == {RAW}
    zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
    code = "import odebc.sr3 as t; print(t.__file__, t.SR3.from_pretrained().shape)"
    (tmp_path / 'empty').mkdir()
    env = os.environ | {'PYTHONPATH': str(tmp_path / 'site')}
    here = dict(cwd=tmp_path / 'empty', env=env)
    done = finished([sys.executable, '-c', code], **here, check=True)
    assert str(tmp_path / 'site') in done.stdout and '(3, 64, 64)' in done.stdout


def test_the_repository_stays_small():
    command = ['git', 'ls-files', '-z']
    listed = finished(command, cwd=ROOT, check=True, errors='surrogateescape').stdout
    files = listed.split('\0')[:-1]
    assert sum((ROOT / f).stat().st_size for f in files) < 80e6
