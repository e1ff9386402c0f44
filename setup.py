"Everything that a person may want to change stands in settings.ini."

import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py

config = ConfigParser(delimiters=['='], interpolation=None)
config.read(Path(__file__).parent / 'settings.ini', encoding='utf8')
cfg = config['DEFAULT']


def words(key):
    return cfg[key].split()


def elsewhere(text):
    "Pictures and links of the README, for a page that is not beside the repository"
    raw = cfg['git_url'].replace('github.com', 'raw.githubusercontent.com')
    link = r'\]\((?!\w+:|#)([^)\s]+)\)'
    text = re.sub(rf'(!\[[^]]*){link}', rf"\1]({raw}/{cfg['branch']}/\2)", text)
    return re.sub(link, rf"]({cfg['git_url']}/blob/{cfg['branch']}/\1)", text)


readme = (Path(__file__).parent / 'README.md').read_text(encoding='utf8')
KINDS = '.safetensors', '.json', '.csv', '.md', '.png', '.jpg', '.webp'


class BuildWithData(build_py):
    "What stands in data/ (models, scores, photographs) is odebc.assets in the wheel"

    def shipped(self):
        "target -> source"
        target = Path(self.build_lib) / 'odebc' / 'assets'
        paths = [path for path in sorted(Path('data').rglob('*')) if path.suffix in KINDS]
        return {str(target / path.relative_to('data')): str(path) for path in paths}

    def run(self):
        super().run()
        if self.editable_mode:
            return  # a clone's data/ is read where it stands
        for target, source in self.shipped().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode=1):
        return super().get_outputs(include_bytecode) + [*self.shipped()]

    def get_output_mapping(self):
        return super().get_output_mapping() | self.shipped()

    def get_source_files(self):
        return super().get_source_files() + [*self.shipped().values()]


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    # the package; and the photographs, of which two are in the public domain
    license_expression='Apache-2.0 AND CC0-1.0 AND CC-BY-2.0',
    license_files=['LICENSE', 'data/photographs/LICENCES.md'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    keywords=words('keywords'),
    project_urls=dict(Documentation=cfg['doc_host'] + cfg['doc_baseurl']),
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Framework :: Jupyter',
        'Intended Audience :: Education',
        'Intended Audience :: Science/Research',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
    long_description=elsewhere(readme),
    long_description_content_type='text/markdown',
    python_requires=f">={cfg['min_python']}",
    # one package folder under one root: an editable install is then a .pth file with the
    # clone's path, by which the package is found before a mere folder of the same name in the
    # working directory; setuptools' other way, an import hook, comes after that folder
    packages=['odebc', 'odebc.app', 'odebc.experiments', 'odebc.assets'],
    package_data={'odebc': ['py.typed'], 'odebc.app': ['browser/*']},
    package_dir={'': '.'},
    cmdclass=dict(build_py=BuildWithData),
    install_requires=words('requirements'),
    extras_require=dict(
        lab=words('lab_requirements'),
        test=[
            w
            for extra in ('lab', 'site', 'hub', 'test')
            for w in words(f'{extra}_requirements')
        ],
        site=words('lab_requirements') + words('site_requirements'),
        hub=words('hub_requirements'),
        browser=words('browser_requirements'),
        rivals=words('rivals_requirements'),
    ),
    entry_points=dict(
        console_scripts=words('console_scripts'), nbdev=['odebc=odebc._modidx:d']
    ),
)
