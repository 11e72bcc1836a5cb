"""A network mixed with a linear model: weights by hand, saved as arrays, broken files refused."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import LinearBlend, PreferenceModel, SequenceClassifier
from xlabml.heads.loading import prepare_load
from xlabml.tfidf import Tfidf, TfidfModel, TfidfPreference
from xlabml.transformer import Transformer


def make_model(n_classes=3):
    tfidf = Tfidf.of(['a cat sat', 'a dog sat', 'the cat sat'], 50)
    generator = np.random.default_rng(0)
    shape = (n_classes, len(tfidf.idf))
    return TfidfModel(tfidf, generator.standard_normal(shape).astype(np.float32), np.zeros(n_classes, np.float32))


def make_outputs(n=600, k=3):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, k, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.multinomial((one + 2 * other).softmax(-1), 1, generator=generator)[:, 0]
    return one, other, labels


def test_weights_are_those_of_the_smallest_loss():
    one, other, labels = make_outputs()
    blend = LinearBlend('single-label', 3)
    assert torch.equal(blend(one, other), one.log_softmax(-1))
    blend.fit(one * 5, other / 3, labels)
    mixed = F.cross_entropy(blend(one * 5, other / 3), labels)
    assert mixed < F.cross_entropy(one + 2 * other, labels) + 0.002
    assert blend.weights[:2].tolist() == pytest.approx([1 / 5, 6], rel=0.25)
    # Alone the network has a temperature of its own.
    alone = F.cross_entropy(blend.alone(one * 5), labels)
    assert mixed + 0.2 < alone < F.cross_entropy(one * 5, labels) - 0.5


def test_where_all_are_right_weights_stay_finite_and_a_mistake_elsewhere_costs_little():
    labels = torch.arange(100) % 2
    blend = LinearBlend('single-label', 2)
    one = torch.where(labels[:, None] == torch.arange(2), 3.0, -3.0).double()
    blend.fit(one, one / 2, labels)
    # Platt's targets of 100 examples: 101 / 102.
    probs = blend(one, one / 2).softmax(-1)
    assert probs.max(-1).values.tolist() == pytest.approx([101 / 102] * 100, abs=1e-4)
    assert blend.soften(labels)[1].tolist() == pytest.approx([1 / 102, 101 / 102])
    several = LinearBlend('multi-label', 2).soften(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert several.tolist() == [[0.75, 0.25], [0.25, 0.25]]


def test_a_model_that_misleads_counts_nothing():
    one, other, labels = make_outputs()
    blend = LinearBlend('single-label', 3)
    blend.fit(one + 2 * other, -other, labels)
    assert blend.weights[1] == 0
    assert blend.weights[0] == pytest.approx(blend.weights[3])
    for few in (labels[:5], labels):
        blend.fit(one[: len(few)] * (torch.nan if len(few) > 5 else 1), other[: len(few)], few)
        assert blend.weights.tolist() == [1, 0, 0, 1]


def test_several_labels_shares_and_numbers_are_mixed_too():
    one, other, labels = make_outputs()
    several = LinearBlend('multi-label', 3)
    present = (torch.rand(one.shape, generator=torch.Generator().manual_seed(1)) < (one + other).sigmoid()).float()
    several.fit(one, other, present)
    assert several.weights[:2].tolist() == pytest.approx([1, 1], rel=0.35)
    shares = LinearBlend('single-label', 3)
    shares.fit(one, other, F.one_hot(labels, 3).float())
    hard = LinearBlend('single-label', 3)
    hard.fit(one, other, labels)
    torch.testing.assert_close(shares.weights, hard.weights)
    numbers = LinearBlend('regression', 1)
    numbers.fit(one[:, :1], other[:, :1], 2 * one[:, :1] + 0.5 * other[:, :1] + 3)
    assert numbers.weights[:3].tolist() == pytest.approx([2, 0.5, 3], abs=1e-6)
    assert numbers(one[:1, :1], other[:1, :1]).item() == pytest.approx(
        2 * one[0, 0].item() + 0.5 * other[0, 0].item() + 3
    )


def build(**options):
    classes = ['a', 'b', 'c']
    trunk = {'d_model': 8, 'n_layers': 1, 'n_heads': 2}
    return SequenceClassifier.build(20, 8, classes, trunk=partial(Transformer, **trunk), **options)


def test_it_is_saved_with_the_network_as_arrays_and_needs_no_buffers():
    network = build(blend='tfidf')
    assert not [name for name, _ in network.named_buffers() if name.startswith('blend')]
    assert list(build().state_dict()) == [name for name in network.state_dict() if name != 'blend.weights']
    network.blend.model = make_model()
    network.blend.weights = torch.tensor([0.5, 2, 0, 1], dtype=torch.float64)
    saved = network.state_dict()
    again = build(blend='tfidf')
    prepare_load(again, saved)
    shapes = {name: tensor.shape for name, tensor in saved.items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    fresh = build(blend='tfidf')
    fresh.load_state_dict(saved)
    texts = [('the cat sat',), ('a dog',)]
    assert torch.equal(fresh.blend.beside(texts), network.blend.beside(texts))
    assert torch.equal(fresh.blend.weights, network.blend.weights)


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'weights': torch.ones(3)}, 'are not four finite numbers'),
        ({'idf': torch.ones(2)}, 'is broken'),
        ({'intercepts': torch.zeros(2), 'coefficients': torch.zeros(2, 4)}, 'is broken|has 2 outputs'),
        ({'words': torch.tensor([255, 255], dtype=torch.uint8)}, 'is broken'),
    ],
)
def test_what_is_broken_in_a_file_is_refused(changed, message):
    network = build(blend='tfidf')
    network.blend.model = make_model()
    weights = {name.removeprefix('blend.'): value for name, value in network.state_dict().items() if 'blend' in name}
    with pytest.raises(CheckpointError, match=message):
        LinearBlend('single-label', 3).prepare_load({**weights, **changed})
    with pytest.raises(SettingsError, match=r"model\.blend is 'bm25'"):
        build(blend='bm25')


def make_preference():
    tfidf = make_model().tfidf
    weights = np.random.default_rng(1).standard_normal(len(tfidf.idf)).astype(np.float32)
    return TfidfPreference(tfidf, weights, np.array([-0.5], np.float32))


def test_a_mixture_of_preferences_is_mirrored_to_the_last_bit_and_saved():
    one, other, labels = make_outputs()
    other = torch.stack([other[:, 0], torch.full_like(other[:, 1], 0.3), -other[:, 0]], dim=1)
    blend = LinearBlend('preference', 3)
    blend.fit(one, other, labels)
    assert (blend.weights[:2] > 0).all()
    mixed = blend(one, other)
    assert torch.equal(mixed, blend(one.flip(-1), other.flip(-1)).flip(-1))
    own, linear, *_ = blend.weights
    torch.testing.assert_close(mixed, own * one.log_softmax(-1) + linear * other.log_softmax(-1))

    blend.model = make_preference()
    scores = torch.tensor([0.5, -2.0], dtype=torch.float64)
    by_both = blend.mix_scores(scores, ['the cat sat', 'a dog'])
    by_linear = blend.model.scores(['the cat sat', 'a dog'])
    assert by_both.tolist() == pytest.approx(blend.weights[0] * scores + blend.weights[1] * torch.from_numpy(by_linear))

    def build_one():
        trunk = partial(Transformer, d_model=8, n_layers=1, n_heads=2)
        return PreferenceModel.build(20, 8, trunk=trunk, blend='tfidf')

    network = build_one()
    network.blend = blend
    again = build_one()
    again.load_state_dict(network.state_dict())
    texts = [('p', 'the cat sat', 'a dog'), ('p', 'a dog', 'the cat sat')]
    assert torch.equal(again.blend.beside(texts), blend.beside(texts))
    assert torch.equal(again.blend.beside(texts)[0], again.blend.beside(texts)[1].flip(-1))
    assert torch.equal(again.blend.weights, blend.weights)
    wrong = {name: torch.from_numpy(array.copy()) for name, array in make_model().arrays().items()}
    with pytest.raises(CheckpointError, match='is a TfidfModel, but the task is preference'):
        LinearBlend('preference', 3).prepare_load({'weights': torch.ones(4), **wrong})
