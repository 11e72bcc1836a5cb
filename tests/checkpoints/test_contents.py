"""The parts of a checkpoint, and the one place that knows its keys."""

import ast
from pathlib import Path

import pytest
import torch

import xlabml
from xlabml import checkpoints
from xlabml.checkpoints import Contents, Part, contents

CHECKPOINT = {
    'xlabml_format': checkpoints.FORMAT,
    'state_dict': {'network.a': torch.ones(2)},
    'hyper_parameters': {'n_vocab': 3, '_class_path': 'a.Task'},
    'datamodule_hyper_parameters': {'max_len': 8, '_class_path': 'a.Data'},
    'XLabDataModule': {'tokenizer': torch.tensor([1, 2], dtype=torch.uint8), 'step': 5, 'row': 9},
    'network': {'class_path': 'a.Head', 'init_args': {'n_vocab': 3}},
    'facts': {'classes': ['spam', 'ham']},
    'guards': {'skipped': [0, 1]},
    'config': {'trainer': {'max_steps': 9}},
    'run_folder': '/runs/1',
    'run_id': 'abc',
    'best_checkpoint': 'step=0000003.ckpt',
    'global_step': 5,
    'epoch': 1,
    'callbacks': {'Curves': {'sums': {}}},
    'optimizer_states': [{'param_groups': [{'lr': 0.25}]}],
    'current_model_state': {'network.a': torch.zeros(2)},
}


def test_each_key_is_in_one_part():
    found = Contents.of(CHECKPOINT)
    assert found.task == Part('a.Task', {'n_vocab': 3})
    assert found.network == Part('a.Head', {'n_vocab': 3})
    assert found.facts == {'classes': ['spam', 'ham']}
    assert found.data == {'max_len': 8}
    assert found.weights is CHECKPOINT['state_dict']
    assert found.tokenizer_bytes() == b'\1\2'
    assert found.place == {'step': 5, 'row': 9}
    assert found.guards == {'skipped': [0, 1]}
    assert found.run == ({'trainer': {'max_steps': 9}}, '/runs/1', 'abc', 'step=0000003.ckpt')
    assert set(found.training) == {'global_step', 'epoch', 'callbacks', 'optimizer_states', 'current_model_state'}
    assert (found.step, found.is_export, found.learning_rate()) == (5, False, 0.25)
    assert found.callback_state('Curves') == {'sums': {}}
    assert found.callback_state('Spikes') == {}
    assert found.trained_weights is CHECKPOINT['current_model_state']


def test_an_exported_file_has_no_place_and_no_run():
    found = Contents.of({name: value for name, value in CHECKPOINT.items() if name in contents.EXPORTED})
    assert found.is_export
    assert found.run == ({}, None, None, None)
    assert (found.place, found.guards, found.trained_weights) == ({}, {}, None)
    with pytest.raises(ValueError, match='the checkpoint holds no tokenizer'):
        found.tokenizer_bytes()


def test_what_hooks_write_is_read_back():
    checkpoint = {'callbacks': {'Curves': {'sums': {}}}, 'loops': {'fit_loop': {}}, 'hyper_parameters': {}}
    contents.put_task(checkpoint, Part('a.Head', {'n': 1}), {'skipped': [1, 2]}, {'classes': ['a']})
    contents.put_run(checkpoint, {'seed_everything': 3}, '/runs/2', 'def')
    contents.put_best(checkpoint, None)
    contents.put_callback(checkpoint, 'Curves', tokens=4.0)
    checkpoint['XLabDataModule'] = contents.pack_data(b'tokens', {'step': 7})
    found = Contents.of(checkpoint)
    assert found.network == Part('a.Head', {'n': 1})
    assert found.guards == {'skipped': [1, 2]}
    assert found.run == ({'seed_everything': 3}, '/runs/2', 'def', None)
    assert found.callback_state('Curves') == {'sums': {}, 'tokens': 4.0}
    assert (found.tokenizer_bytes(), found.place) == (b'tokens', {'step': 7})
    assert contents.unpack_data(checkpoint['XLabDataModule']) == (b'tokens', {'step': 7})
    assert 'loops' not in checkpoint


_EVERYDAY = {'callbacks', 'config', 'epoch', 'network', 'tokenizer'}
_KEYS = {value for name, value in vars(contents).items() if name.isupper() and isinstance(value, str)} - _EVERYDAY
"""Keys that are no everyday words."""

_KNOW_THEM = {'checkpoints/contents.py', 'settings.py'}  # `settings` writes the class among the hyper-parameters


def indexed(path):
    """The keys by which a file indexes dictionaries, or makes them."""
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        keys = []
        if isinstance(node, ast.Subscript):
            keys = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            keys = node.args[:1] if node.func.attr in ('get', 'pop', 'setdefault') else []
        elif isinstance(node, ast.Dict):
            keys = [key for key in node.keys if key is not None]
        yield from (key.value for key in keys if isinstance(key, ast.Constant))


def test_no_other_file_indexes_a_checkpoint_by_its_keys():
    root = Path(xlabml.__file__).parent
    files = {path.relative_to(root).as_posix(): path for path in root.rglob('*.py')}
    found = {name: _KEYS.intersection(indexed(path)) for name, path in files.items() if name not in _KNOW_THEM}
    assert {name: keys for name, keys in found.items() if keys} == {}
