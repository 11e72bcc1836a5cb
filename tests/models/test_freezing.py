"""Freezing by layers: what stays to the bit, what thaws at which step, and for which tasks."""

import functools

import pytest
import torch
from test_classifier_task import FAST, make_batch, make_classifier, train

from xlabml.errors import SettingsError
from xlabml.models import Embedder, XLabModel
from xlabml.models.trunk_task import Freezing
from xlabml.transformer import Learned, LoRA, Transformer

pytestmark = pytest.mark.filterwarnings('ignore:You defined a `validation_step`')


class Watched(list):
    """Notes after each step which weights have changed since the one before."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.before = self.copy_weights()

    def copy_weights(self):
        return {name: parameter.clone() for name, parameter in self.model.network.named_parameters()}

    def note(self):
        now = self.copy_weights()
        self.append({name for name in now if not torch.equal(now[name], self.before[name])})
        self.before = now


def watch(model, folder, n_steps):
    watched = Watched(model)
    is_training = []

    def on_train_batch_end(*_):
        watched.note()
        is_training.append([block.training for block in model.network.trunk.blocks])

    model.on_train_batch_end = on_train_batch_end
    train(model, folder, [make_batch([0, 1, 2])], n_steps)
    return watched, is_training


def moved(names):
    return {'.'.join(name.split('.')[1:3]) for name in names if name.startswith('trunk.')}


@pytest.mark.parametrize(
    ('freeze', 'steps'),
    [
        ('gradual:2', [set(), set(), {'blocks.1'}, {'blocks.1'}, {'blocks.1', 'blocks.0'}, {'blocks.1', 'blocks.0'}]),
        ('gradual:1,3', [set(), {'blocks.1'}, {'blocks.1'}, {'blocks.1', 'blocks.0'}, {'blocks.1', 'blocks.0'}]),
    ],
)
def test_layers_thaw_from_the_top_at_their_steps(tmp_path, freeze, steps):
    model = make_classifier(double=False, dropout=0.5, freeze=freeze, **FAST)
    watched, is_training = watch(model, tmp_path, len(steps) + 1)
    found = [moved(names) - {'norm.weight', 'norm'} for names in watched]
    assert found[: len(steps)] == steps
    last = {'blocks.1', 'blocks.0'} | ({'embedding.weight'} if freeze == 'gradual:2' else set())
    assert found[-1] == last  # the embeddings at last, where they are named
    assert all('head.output.weight' in names for names in watched)
    assert is_training[: len(steps)] == [['blocks.0' in step, 'blocks.1' in step] for step in steps]


def test_gradients_of_frozen_layers_are_no_part_of_the_norm(tmp_path):
    norms = {}
    for freeze in ('gradual:5', 'all'):
        model = make_classifier(double=False, freeze=freeze, **FAST)
        train(model, tmp_path, [make_batch([0, 1, 2])], 1)
        norms[freeze] = model.grad_norm
    model = make_classifier(double=False, **FAST)
    train(model, tmp_path, [make_batch([0, 1, 2])], 1)
    assert norms['gradual:5'] < model.grad_norm
    assert norms['all'] < model.grad_norm


def test_bottom_holds_positions_that_are_learned_too():
    trunk = Transformer(50, 16, d_model=16, n_layers=2, n_heads=2, positions=Learned, embedding_norm=True)
    held = {name for part in Freezing(trunk, 'bottom:1').at(0) for name, _ in part.named_parameters()}
    frozen = {id(parameter) for part in Freezing(trunk, 'bottom:1').at(0) for parameter in part.parameters()}
    names = {name.partition('.')[0] for name, parameter in trunk.named_parameters() if id(parameter) in frozen}
    assert names == {'embedding', 'positions', 'embedding_norm', 'blocks'}
    assert held


@pytest.mark.parametrize(
    ('freeze', 'message'),
    [
        ('gradual', r"model\.freeze is 'gradual'; give none, all"),
        ('gradual:0', 'gradual:0'),
        ('gradual:5,3', 'steps in their order'),
        ('gradual:1,2,3,4', 'at most 3'),
    ],
)
def test_steps_that_are_none_are_refused(freeze, message):
    with pytest.raises(SettingsError, match=message):
        make_classifier(freeze=freeze)


def test_nothing_left_to_train_is_refused():
    trunk = functools.partial(Transformer, d_model=16, n_layers=2, n_heads=2)
    for model in (XLabModel(50, 16, trunk=trunk, freeze='all'), Embedder(50, 16, trunk=trunk, freeze='all')):
        with pytest.raises(ValueError, match='has nothing to train but its trunk'):
            model.check_training(10)
    XLabModel(50, 16, trunk=trunk, freeze='all', tied=False).check_training(10)


def test_adapters_under_a_frozen_trunk_are_refused():
    with pytest.raises(SettingsError, match='holds the adapters too'):
        make_classifier(trunk=functools.partial(Transformer, d_model=16, n_heads=2, adapters=LoRA), freeze='all')


def test_a_language_model_has_rates_by_layer():
    model = XLabModel(50, 16, trunk=functools.partial(Transformer, d_model=16, n_heads=2), layer_decay=0.5)
    rates = {group['name']: set() for group in model.build_optimizer().param_groups}
    for group in model.build_optimizer().param_groups:
        rates[group['name']].add(group['lr'])
    assert len(rates['matrices']) == 4


def test_rates_by_layer_keep_what_is_said_of_each_parameter():
    model = XLabModel(50, 16, trunk=functools.partial(Transformer, d_model=16, n_heads=2), layer_decay=0.5)
    others = [group for group in model.build_optimizer().param_groups if group['name'] == 'others']
    tables = [
        parameter
        for group in others
        for parameter, is_embedding in zip(group['params'], group['is_embedding'], strict=True)
        if is_embedding
    ]
    assert [id(table) for table in tables] == [id(model.network.trunk.embedding.weight)]
