"Everything that a person may want to change stands in settings.ini."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

config = ConfigParser(delimiters=['='], interpolation=None)
config.read(Path(__file__).parent/'settings.ini', encoding='utf8')
cfg = config['DEFAULT']
words = lambda key: cfg[key].split()
readme = (Path(__file__).parent/'README.md').read_text(encoding='utf8')

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], license_expression='Apache-2.0', license_files=['LICENSE'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], keywords=words('keywords'),
    project_urls=dict(Documentation=cfg['doc_host'] + cfg['doc_baseurl']), classifiers=['Development Status :: 3 - Alpha', 'Framework :: Jupyter', 'Intended Audience :: Education', 'Intended Audience :: Science/Research', 'Topic :: Scientific/Engineering :: Image Processing'],
    long_description=readme.replace('](nbs/', f"]({cfg['git_url']}/blob/{cfg['branch']}/nbs/"), long_description_content_type='text/markdown',
    python_requires=f">={cfg['min_python']}",
    # the shipped models and results stand in data/ and travel in the wheel as the package odebc.assets
    packages=['odebc', 'odebc.assets'], package_dir={'odebc.assets': 'data'}, package_data={'odebc.assets': [f'**/*.{kind}' for kind in ('safetensors', 'json', 'csv', 'md', 'png', 'jpg')]},
    install_requires=words('requirements'),
    extras_require=dict(lab=words('lab_requirements'), test=words('lab_requirements') + words('test_requirements'), browser=words('browser_requirements')),
    entry_points=dict(console_scripts=words('console_scripts'), nbdev=['odebc=odebc._modidx:d']),
)
