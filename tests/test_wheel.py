"""What `pip install` gives: the whole of it, working from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The wheel, built from a copy of what git tracks, and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    for name in ('pyproject.toml', 'README.md', 'LICENSE', 'src'):
        source.mkdir(exist_ok=True)
        subprocess.run(['cp', '-r', str(ROOT / name), str(source / name)], check=True)
    subprocess.run(['rm', '-rf', *map(str, source.glob('src/*.egg-info'))], check=True)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', str(folder), str(source)], check=True)
    wheel = next(folder.glob('xlabml-*.whl'))
    subprocess.run([*pip, 'install', '--no-deps', '--target', str(folder / 'site'), str(wheel)], check=True)
    return wheel, folder / 'site'


def test_the_wheel_holds_code_and_package_data_and_nothing_else(installed):
    names = zipfile.ZipFile(installed[0]).namelist()
    assert 'xlabml/commands/defaults.yaml' in names
    assert 'xlabml/py.typed' in names
    assert {name.split('/')[0] for name in names if not name.split('/')[0].endswith('.dist-info')} == {'xlabml'}


def test_the_console_scripts_run_from_any_folder(installed, tmp_path):
    def run(*words):
        done = subprocess.run(
            [sys.executable, str(installed[1] / 'bin' / words[0]), *words[1:]],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(installed[1])},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    where = subprocess.run(
        [sys.executable, '-c', 'import xlabml; print(xlabml.__file__)'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(installed[1])},
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(installed[1]))
    (tmp_path / 'texts').mkdir()
    for i in range(120):
        (tmp_path / 'texts' / f'{i}.txt').write_text(f'text number {i} is about the number {i * i}')
    run(
        'xlab',
        'fit',
        '--data.sources=[{path: texts}]',
        '--data.n_vocab=310',
        '--data.max_len=32',
        '--data.batch_tokens=64',
        '--data.splits={train: 0.8, val: 0.1, test: 0.1}',
        '--model.trunk.d_model=16',
        '--model.trunk.n_heads=2',
        '--trainer.max_steps=2',
        '--trainer.accelerator=cpu',
    )
    assert run('xlab-infer', 'last', 'text number', '-l', '3').startswith('text number')
    assert 'sha256' in run('xlab-manage', 'export-checkpoint', 'last')
