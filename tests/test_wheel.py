"The shipped model travels in the wheel and loads from it in an empty directory."
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_checkpoint_loads_from_the_wheel(tmp_path):
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, ROOT], check=True, capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    shipped = subprocess.run(['git', 'ls-files', '-z', 'data'], cwd=ROOT, check=True, capture_output=True, encoding='utf8').stdout.split('\0')[:-1]
    assert len(shipped) > 20 and {'odebc/assets' + name.removeprefix('data') for name in shipped} <= set(zipfile.ZipFile(wheel).namelist())
    zipfile.ZipFile(wheel).extractall(tmp_path/'site')
    code = "import odebc.train as t; print(t.__file__, t.SR3.from_pretrained().shape)"
    (tmp_path/'empty').mkdir()
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path/'empty', env=os.environ | {'PYTHONPATH': str(tmp_path/'site')}, capture_output=True, encoding='utf8')
    assert done.returncode == 0, done.stderr
    assert str(tmp_path/'site') in done.stdout and '(3, 64, 64)' in done.stdout


def test_the_repository_stays_small():
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, check=True, capture_output=True).stdout.split(b'\0')[:-1]
    assert sum((ROOT/os.fsdecode(f)).stat().st_size for f in files) < 40e6
