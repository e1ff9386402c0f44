"The shipped model travels in the wheel and loads from it in an empty directory."

import os
import sys
import zipfile
from pathlib import Path
from waiting import finished

ROOT = Path(__file__).parents[1]


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
