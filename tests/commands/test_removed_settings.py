"""Settings of earlier versions: files may hold their defaults, and a value is refused where it matters."""

import json

import pytest
import torch
import yaml

from xlabml import checkpoints, moved
from xlabml.commands.errors import UsageError
from xlabml.commands.parsing import make_parsers, parse

DEFAULTS = {name: default for name, (default, _) in moved.REMOVED['data'].items()}
SET = {'first_batch_tokens': 64, 'batch_warmup_steps': 9}


@pytest.fixture
def file(tmp_path):
    """Makes a file of settings of the data."""

    def write(**data):
        path = tmp_path / 'settings.yaml'
        path.write_text(yaml.safe_dump({'data': data}, sort_keys=False))
        return f'--config={path}'

    return write


def test_a_file_that_names_the_defaults_means_what_it_meant(file):
    found = parse(['fit', file(max_len=64, **DEFAULTS)]).values.data
    assert found.max_len == 64
    assert not set(DEFAULTS) & set(vars(found))


@pytest.mark.parametrize('typed', ['file', 'flag', 'python'])
def test_a_run_with_one_that_is_set_is_refused_by_name(file, typed):
    arguments = {
        'file': ['fit', file(**SET)],
        'flag': ['fit', *(f'--data.{name}={value}' for name, value in SET.items())],
        'python': {'data': SET},
    }[typed]
    with pytest.raises(
        UsageError, match=r'data\.first_batch_tokens \(64\), data\.batch_.* were removed: .* leave them'
    ):
        parse(arguments, make_parsers(()) if typed == 'python' else None)


def test_other_commands_do_without_one_that_is_set(file):
    found = parse(['validate', file(first_len=8, len_warmup_steps=3), '--data.max_len=64']).values.data
    assert found.max_len == 64
    assert not set(DEFAULTS) & set(vars(found))


def test_a_checkpoint_of_a_run_that_set_one_evaluates_and_is_not_resumed(xlab, root):
    path = checkpoints.find('last', root)
    checkpoint = torch.load(path, weights_only=True)
    old = {**checkpoint['datamodule_hyper_parameters'], **DEFAULTS, 'first_len': 8, 'len_warmup_steps': 4}
    old_path = root / 'old.ckpt'
    torch.save({**checkpoint, 'xlabml_format': 3, 'datamodule_hyper_parameters': old}, old_path)
    status, printed = xlab('validate', f'--ckpt_path={old_path}', '--trainer.accelerator=cpu')
    assert status == 0, printed
    rows = [json.loads(line) for line in next(root.glob('logs/version_0/eval.jsonl')).read_text().splitlines()]
    (now,) = {row['val_loss'] for row in rows if row['step'] == 12}
    assert now > 0
    status, printed = xlab('fit', f'--ckpt_path={old_path}', '--trainer.accelerator=cpu')
    assert status == 1
    assert 'data.first_len (8), data.len_warmup_steps (4) were removed' in printed
    assert f'--init_from {old_path}' in printed
