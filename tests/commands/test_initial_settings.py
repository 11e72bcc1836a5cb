"""What a new run takes over from the checkpoint that it begins with."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from xlabml.checkpoints import Part
from xlabml.commands.initial import Initial, initial_settings
from xlabml.commands.saved import Seals
from xlabml.errors import SettingsError

POOLING = {'class_path': 'xlabml.heads.AttentionPooling', 'init_args': {'n_heads': 2}}
TRUNK = {'class_path': 'xlabml.transformer.Transformer', 'init_args': {'d_model': 16, 'causal': True}}


def initial(**arguments):
    network = Part('xlabml.heads.TextEncoder', {'n_vocab': 320, 'max_len': 32, 'trunk': TRUNK, **arguments})
    return Initial(Path('first.ckpt'), SimpleNamespace(network=network, data={'max_len': 32, 'n_vocab': 320}))


@pytest.mark.parametrize('task', ['xlabml.models.Embedder', 'xlabml.models.Classifier'])
def test_what_makes_vectors_is_taken_over_where_the_task_has_it(task):
    seals = Seals()
    first = initial(pooling=POOLING, normalize=False, prompts={'query': 'q: '})
    found = seals.open(initial_settings(first, task, False, seals))
    arguments = found['model']['init_args']
    assert arguments['pooling'] == POOLING
    # Whether it is causal is the task's, and what follows from that is as it was in the trunk whose weights they are.
    assert arguments['trunk']['init_args'] == {'d_model': 16, 'shift_width': 3}
    assert found['data'] == {'max_len': 32, 'n_vocab': 320}
    expected = {'normalize': False, 'prompts': {'query': 'q: '}} if task.endswith('Embedder') else {}
    assert {name: arguments[name] for name in arguments.keys() - {'trunk', 'pooling'}} == expected


def test_a_language_model_takes_over_the_trunk_alone():
    found = initial_settings(initial(pooling=POOLING), 'xlabml.models.XLabModel', True, Seals())
    assert list(found['model']['init_args']) == ['trunk']
    assert found['data'] == {'max_len': 32}


def test_a_table_takes_over_its_width():
    network = Part('xlabml.heads.StaticEncoder', {'n_vocab': 320, 'max_len': 32, 'd_vector': 24, 'normalize': False})
    first = Initial(Path('first.ckpt'), SimpleNamespace(network=network, data={'max_len': 32, 'n_vocab': 320}))
    found = initial_settings(first, 'xlabml.models.StaticEmbedder', False, Seals())
    assert found['model']['init_args'] == {'d_vector': 24, 'normalize': False}
    assert found['data'] == {'max_len': 32, 'n_vocab': 320}
    assert 'model' not in initial_settings(first, 'xlabml.models.Embedder', False, Seals())


@pytest.mark.parametrize('task', ['xlabml.models.XLabModel', 'xlabml.models.MaskedLanguageModel'])
def test_a_trunk_that_the_task_does_not_take_is_refused_with_tasks_that_do(task):
    trunk = {'class_path': 'xlabml.transformer.HuggingFaceEncoder', 'init_args': {'model_type': 'bert', 'config': {}}}
    with pytest.raises(SettingsError, match=r'HuggingFaceEncoder, but .* --model Classifier or --model Embedder'):
        initial_settings(initial(trunk=trunk), task, False, Seals())
    assert initial_settings(initial(trunk=trunk), 'xlabml.models.Classifier', False, Seals())['model']
