"""A classifier that begins with another one: its trunk always, its head where the classes are the same."""

import functools

import pytest
import torch

from xlabml.checkpoints import Contents
from xlabml.heads import LinearHead, MLPHead, PreferenceModel, SequenceClassifier
from xlabml.heads.loading import describe_head, initialize
from xlabml.transformer import Transformer

TRUNK = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2, causal=False)


def make(seed, classes, **options):
    torch.manual_seed(seed)
    network = SequenceClassifier.build(50, 16, classes, trunk=TRUNK, **options)
    with torch.no_grad():
        network.head.output.weight.normal_()
    return network


def begin(network, other, classes):
    weights = {f'network.{name}': tensor for name, tensor in other.state_dict().items()}
    part = describe_head(type(other), {'classes': classes})
    return initialize(network, Contents.of({'state_dict': weights})._replace(network=part), 'x.ckpt', True)


def test_the_same_classes_take_the_head(tmp_path):
    network = make(0, ['a', 'b'])
    other = make(1, ['a', 'b'])
    begun = begin(network, other, ['a', 'b'])
    assert begun.new == []
    assert begun.has_its_outputs
    assert torch.equal(network.head.output.weight, other.head.output.weight)


@pytest.mark.parametrize(
    ('classes', 'head'),
    [(['a', 'b', 'c'], LinearHead), (['b', 'a'], LinearHead), (['x', 'y'], LinearHead), (['a', 'b'], MLPHead)],
    ids=['more', 'another order', 'other names', 'another head'],
)
def test_other_classes_or_another_head_are_new_and_said(classes, head):
    network = make(0, classes, head=head)
    own = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}
    other = make(1, ['a', 'b'])
    begun = begin(network, other, ['a', 'b'])
    assert 'the classes or the head are others, so the weights of the head are new' in begun.describe()
    assert all(torch.equal(tensor, own[name]) for name, tensor in network.head.state_dict().items())
    assert all(name.startswith(('head.', 'calibration.')) for name in begun.new)
    name = 'blocks.0.attention.projection.weight'
    assert torch.equal(network.trunk.state_dict()[name], other.trunk.state_dict()[name])


def test_a_preference_begins_with_the_trunk_of_a_classifier():
    torch.manual_seed(0)
    network = PreferenceModel.build(50, 16, trunk=TRUNK)
    begun = begin(network, make(1, ['a', 'b']), ['a', 'b'])
    assert not begun.has_its_outputs
    assert {name.partition('.')[0] for name in begun.new} == {'head', 'ties', 'calibration'}


@pytest.mark.parametrize(('head', 'is_kept'), [(LinearHead, True), (MLPHead, False)], ids=['linear', 'another head'])
def test_the_scores_of_answers_begin_with_the_numbers_of_a_regression(head, is_kept):
    network = PreferenceModel.build(50, 16, trunk=TRUNK, head=head)
    other = make(1, None, task='regression')
    weights = {f'network.{name}': tensor for name, tensor in other.state_dict().items()}
    part = describe_head(type(other), {'task': 'regression', 'classes': None})
    begun = initialize(network, Contents.of({'state_dict': weights})._replace(network=part), 'x.ckpt', True)
    ids = torch.arange(12).view(2, 6)
    numbers = other.eval()(ids)[:, 0]
    scores = network.eval().score(ids, None, torch.tensor([0, 0]), torch.tensor([0, 1]), 1)[0]
    assert torch.equal(scores, numbers) == is_kept
    assert begun.has_its_outputs == is_kept
    new = {'ties', 'calibration'} if is_kept else {'ties', 'calibration', 'head'}
    assert {name.partition('.')[0] for name in begun.new} == new


def test_the_weights_of_a_mixture_are_those_of_its_own_run():
    network = make(0, ['a', 'b'], blend='tfidf')
    other = make(1, ['a', 'b'], blend='tfidf')
    other.blend.weights = torch.tensor([0.2, 0.9, 0.0, 0.8], dtype=torch.float64)
    assert begin(network, other, ['a', 'b']).new == []
    assert network.blend.weights.tolist() == [1, 0, 0, 1]
