"""Files damaged in any way: nothing runs, nothing is imported, written or deleted, and every refusal is one of ours."""

import contextlib
import json
import os
import re
import shutil
import tempfile
import warnings

import numpy as np
import processes
import pytest
import torch
from mutations import draw_of, mutate_bytes, mutate_checkpoint, mutate_export, mutate_values
from watched import at_most, watched

from xlabml import checkpoints
from xlabml.commands import fit
from xlabml.commands.saved import Seals, saved_settings
from xlabml.data import TokenStore
from xlabml.datamodules import XLabDataModule
from xlabml.models import XLabModel
from xlabml.pipelines import TextGenerator
from xlabml.tokenizer import Tokenizer
from xlabml.untrusted.building import naming

OURS = (ValueError, OSError)
"""`at_most` raises neither."""

MOST_SECONDS = 20


@pytest.fixture(scope='module')
def files(tmp_path_factory, tiny, corpus):
    """A checkpoint, an export, a store's folder and a tokenizer of a tiny run."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XLABML_CACHE', str(folder / 'cache'))
        assert fit.main(['fit', *tiny, f'--trainer.default_root_dir={folder}', '--spikes.action=warn']) == 0
    path = checkpoints.find('last', folder)
    return {
        'checkpoint': path.read_bytes(),
        'values': torch.load(path, weights_only=True),
        'export': checkpoints.export(path).path.read_bytes(),
        'store': next((folder / 'cache' / 'stores').rglob('manifest.json')).parent,
        'tokenizer': (corpus / 'tiny.model').read_bytes(),
        'settings': (path.parents[1] / 'config.yaml').read_bytes(),
    }


def write(kind, seed, files, folder):
    """The damaged file."""
    draw = draw_of(kind, seed)
    path = folder / f'damaged.{"ckpt" if kind == "checkpoint" else kind}'
    if kind == 'checkpoint':
        mutate_checkpoint(files['checkpoint'], files['values'], path, draw)
    elif kind == 'export':
        mutate_export(files['export'], path, draw)
    elif kind == 'store':
        shutil.copytree(files['store'], path)
        manifest = path / 'manifest.json'
        content = manifest.read_bytes()
        if draw.random() < 0.3:
            manifest.write_bytes(mutate_bytes(content, draw))
        else:
            manifest.write_text(json.dumps(mutate_values(json.loads(content), draw, tensors=False)))
    elif draw.random() < 0.5 and kind == 'settings':
        path.write_bytes(mutate_bytes(files[kind], draw))
    elif kind == 'settings':
        import yaml

        path.write_text(
            yaml.safe_dump(mutate_values(yaml.safe_load(files[kind]), draw, tensors=False)), errors='replace'
        )
    else:
        path.write_bytes(mutate_bytes(files[kind], draw))
    return path


def read_checkpoint(path):
    """All that is ever made of a checkpoint or an export, short of a run."""

    def settings():
        with naming(path):
            contents = checkpoints.load(path)
            checkpoints.require_whole(contents, path, path.suffix == '.ckpt')
            saved_settings(contents, Seals())

    yield settings
    yield lambda: XLabModel.load_from_checkpoint(path)
    yield lambda: XLabDataModule.load_from_checkpoint(path)
    yield lambda: list(TextGenerator.load(path).stream('the cat', 2, seed=0))
    yield lambda: checkpoints.export(path, path.with_name('exported'))


def read_store(path):
    def read():
        store = TokenStore.open(path)
        store.verify()
        return [store.columns(i) for i in range(len(store))], np.asarray(store.tokens).sum()

    yield read


def read_tokenizer(path):
    def read():
        tokenizer = Tokenizer.load(path)
        return tokenizer.decode(tokenizer.encode('the cat sees'))

    yield read


def read_settings(path):
    def read():
        arguments = ['--trainer.max_steps=1', f'--trainer.default_root_dir={path.parent / "run"}']
        status = fit.main(['fit', '-c', str(path), *arguments, '--data.sources=[{path: /nowhere/texts.jsonl}]'])
        assert status in (1, 2), status

    yield read


READ = {
    'checkpoint': read_checkpoint,
    'export': read_checkpoint,
    'store': read_store,
    'tokenizer': read_tokenizer,
    'settings': read_settings,
}


def check(kind, seed, files, folder, capfd):
    """Whether a file was refused by any door."""
    path = write(kind, seed, files, folder)
    (folder / 'run').mkdir()
    before = sorted(one.name for one in folder.iterdir())
    errors: list[Exception] = []
    for read in READ[kind](path):
        with (
            watched(os.environ['XLABML_CACHE'], folder, f'{tempfile.gettempdir()}/xlabml-') as found,
            at_most(MOST_SECONDS),
        ):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')
                    read()
            except Exception as error:
                errors.append(error)
        path.with_name('exported').unlink(missing_ok=True)
        assert not found, (kind, seed, found)
    printed = ''.join(capfd.readouterr())
    assert 'Traceback' not in printed, printed
    assert sorted(one.name for one in folder.iterdir()) == before, (kind, seed)
    for error in errors:
        assert isinstance(error, OURS), (kind, seed, repr(error))
        assert type(error).__module__.startswith(('xlabml', 'builtins')), (kind, seed, repr(error))
        assert str(path) in str(error), (kind, seed, error)
        assert len(str(error)) < 2000
    return bool(errors)


FAST = {'checkpoint': 100, 'export': 40, 'store': 25, 'tokenizer': 25, 'settings': 10}
SLOW = {'checkpoint': 1000, 'export': 400, 'store': 250, 'tokenizer': 250, 'settings': 100}


@pytest.mark.parametrize('kind', FAST)
def test_no_damaged_file_does_harm(kind, files, tmp_path, capfd, monkeypatch):
    check_all(kind, range(FAST[kind]), files, tmp_path, capfd, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize('part', range(10))
@pytest.mark.parametrize('kind', SLOW)
def test_no_file_damaged_in_any_way_does_harm(kind, part, files, tmp_path, capfd, monkeypatch):
    n = SLOW[kind] // 10
    check_all(kind, range(1000 + n * part, 1000 + n * (part + 1)), files, tmp_path, capfd, monkeypatch)


def check_all(kind, seeds, files, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n_refused = 0
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        n_refused += check(kind, seed, files, folder, capfd)
        shutil.rmtree(folder)
    # Else the damage is none. Settings are refused by their command's status, which the reader looks at.
    assert n_refused > len(seeds) // 3 or kind == 'settings'


COMMANDS = ['fit', 'validate', 'predict', 'infer', 'export']


@pytest.mark.parametrize('seed', range(4))
def test_a_command_ends_with_a_line_and_a_status(seed, files, tmp_path):
    path = write('checkpoint', 5000 + seed, files, tmp_path)
    run_command(COMMANDS[seed % len(COMMANDS)], path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(100))
def test_every_command_ends_with_a_line_and_a_status(seed, files, tmp_path):
    path = write('checkpoint' if seed % 3 else 'export', 6000 + seed, files, tmp_path)
    for command in COMMANDS:
        run_command(command, path, tmp_path)


def run_command(command, path, folder):
    """In a process of its own: whatever the file does, it ends as a command that fails, or as one that did its work."""
    module, arguments = {
        'infer': ('infer', [str(path), 'the cat', '-g', '-l', '3']),
        'export': ('manage', ['export-checkpoint', str(path), '--output', str(folder / 'exported')]),
        'fit': ('fit', ['fit', f'--ckpt_path={path}', '--trainer.max_steps=14']),
    }.get(command, ('fit', [command, f'--ckpt_path={path}']))
    result = processes.run(f'xlabml.commands.{module}', *arguments, folder=folder)
    printed = result.stdout + result.stderr
    assert result.returncode in (0, 1, 2), printed
    assert 'Traceback' not in printed, printed
    if result.returncode:
        assert printed.splitlines()[-1].startswith(('xlab: ', 'xlab-infer: ', 'xlab-manage: ')), printed
        assert not re.search(r'^xlab[a-z-]*: [A-Z]\w+(Error|Exception)', printed, re.M), printed  # one that is not ours
    with contextlib.suppress(FileNotFoundError):
        (folder / 'exported').unlink()
    assert not (folder / 'pwned').exists()
