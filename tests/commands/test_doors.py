"""Every command runs as a process, from a folder of its own, through the files that users type."""

import json
import os
import re
from pathlib import Path

import processes
import pytest

from xlabml.commands import fit, manage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def door(tmp_path_factory):
    """Run one of the top-level files in a folder that the whole module shares."""
    folder, cache = tmp_path_factory.mktemp('doors'), tmp_path_factory.mktemp('cache')

    def run(name, *arguments, status=0):
        done = processes.run(
            ROOT / name, *arguments, folder=folder, environment={**os.environ, 'XLABML_CACHE': str(cache)}
        )
        assert done.returncode == status, (name, arguments, done.stdout, done.stderr)
        assert 'Traceback' not in done.stderr
        return done.stdout + done.stderr

    run.folder, run.cache = folder, cache
    return run


@pytest.fixture(scope='module')
def flags(corpus):
    return [
        f'--data.sources=[{{path: {corpus}/texts.jsonl}}]',
        '--data.n_vocab=320',
        '--data.splits={train: 0.8, val: 0.1, test: 0.1}',
        '--data.max_len=32',
        '--data.batch_tokens=128',
    ]


@pytest.fixture(scope='module')
def trained(door, flags):
    printed = door(
        'xlab.py',
        'fit',
        *flags,
        '--model.trunk.d_model=16',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.max_steps=4',
        '--trainer.val_check_interval=2',
        '--trainer.log_every_n_steps=1',
    )
    return re.search(r'best checkpoint: (\S+)', printed)[1]


def test_the_data_commands(door, flags):
    printed = door('xlab.py', 'train_tokenizer', *flags)
    path = Path(re.search(r'tokenizer: (\S+)', printed)[1])
    before = path.read_bytes()
    assert 'there already' in door('xlab.py', 'train_tokenizer', *flags)
    assert path.read_bytes() == before
    assert str(door.cache) in door('xlab.py', 'prepare_data', *flags)
    assert '300 valid documents, 0 left out' in door('xlab.py', 'validate_data', *flags)
    printed = door('xlab.py', 'compute_stats', *flags, '--split=test', '--sample_size=10')
    assert 'drawn at random' in printed


def test_validate_data_writes_what_is_left_out(door, flags, tmp_path):
    bad = tmp_path / 'bad.jsonl'
    bad.write_text('{"text": "fine"}\n{"text": ""}\n{"text": 3}\n{"text": "\\ud800"}\n')
    arguments = [
        *flags[1:],
        f'--data.sources=[{{path: {bad}}}]',
        f'--output_path={tmp_path}/invalid.csv',
        '--dump',
    ]
    printed = door('xlab.py', 'validate_data', *arguments)
    assert '1 valid documents, 3 left out' in printed
    lines = (tmp_path / 'invalid.csv').read_text().splitlines()
    assert lines[0] == 'index,reason,text'
    assert [line.split(',')[0] for line in lines[1:]] == ['1', '2', '3']
    assert 'is not overwritten' in door('xlab.py', 'validate_data', *arguments, status=2)


def test_fit_evaluate_predict(door, trained):
    assert 'bits/byte' in door('xlab.py', 'test', '--ckpt_path', 'last')
    assert 'bits/byte' in door('xlab.py', 'validate', '--ckpt_path', trained)
    printed = door('xlab.py', 'predict', '--ckpt_path', trained)
    path = door.folder / re.search(r'predictions: (\S+)', printed)[1]
    assert json.loads(path.read_text().splitlines()[0])['tokens'] > 0
    assert 'has finished its 4 steps' in door('xlab.py', 'fit', '--ckpt_path', 'last', '--trainer.max_steps=4')


def test_infer_and_export(door, trained):
    sampled = door('infer.py', trained, 'the cat', '-l', '5', '-s', '1')
    assert sampled.startswith('the cat')
    exported = re.search(r'\S+\.safetensors', door('manage.py', 'export-checkpoint', trained))[0]
    assert door('infer.py', exported, 'the cat', '-l', '5', '-s', '1') == sampled
    for flag in ('-g', '-b'):
        assert door('infer.py', 'last', 'the cat', flag, '-l', '5').startswith('the cat')
    assert 'bits/byte' in door('xlab.py', 'test', '--ckpt_path', exported)


@pytest.mark.parametrize('name', ['xlab.py', 'infer.py', 'manage.py'])
def test_help(door, name):
    assert 'usage' in door(name, '--help').lower()


def test_the_readmes_snippet_runs_from_another_folder(door, trained, tmp_path):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(encoding='utf-8'), re.DOTALL)
    assert len(blocks) == 1
    path = door.folder / trained
    exported = re.search(
        r'\S+\.safetensors', door('manage.py', 'export-checkpoint', trained, '--output=x.safetensors')
    )[0]
    for ckpt in (path, door.folder / exported):
        text = re.sub(r"'logs/[^']*'", 'ckpt', blocks[0]) + 'assert isinstance(piece, str)\n'
        (tmp_path / 'snippets.py').write_text(f'ckpt = {str(ckpt)!r}\n{text}')
        done = processes.run(
            tmp_path / 'snippets.py',
            folder=tmp_path,
            environment={**os.environ, 'XLABML_CACHE': str(tmp_path / 'cache')},
        )
        assert done.returncode == 0, done.stderr


def test_every_command_line_of_the_readme_has_commands_and_flags_that_exist(capfd):
    """Those that need the network or a GPU are not run, but what they type is looked up (tests/test_docs_pages.py reads
    all of every line)."""
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    mains = {'xlab.py': fit.main, 'manage.py': manage.main}
    commands = set(re.findall(r'^\./(\w+\.py) ([a-z_-]+)', readme, re.MULTILINE))
    for name, command in commands:
        if name in mains:
            assert mains[name]([command, '--help']) == 0, (name, command)
            assert command in capfd.readouterr().out
    for path in re.findall(r'conf/[\w/]+\.yaml', readme):
        assert (ROOT / path).exists(), path
    assert {command for _, command in commands} >= {'fit', 'test', 'prepare_data', 'compute_stats', 'export-checkpoint'}
