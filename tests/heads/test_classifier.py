"""Classifiers: their heads by hand, examples of one and two texts, what changes no logit."""

import functools

import pytest
import torch
from torch import nn
from trunks import MAX_LEN, N_VOCAB, make_ids, make_layout, make_trunk

from xlabml.errors import SettingsError
from xlabml.heads import (
    Calibration,
    CumulativeLink,
    LinearHead,
    MeanPooling,
    MLPHead,
    PairHead,
    SequenceClassifier,
)
from xlabml.training import parameter_groups
from xlabml.transformer import Transformer

D = 16


def fill(module, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def make_classifier(head=LinearHead, n_texts=1, k=3):
    return SequenceClassifier(
        make_trunk(causal=False), MeanPooling(D), fill(head(D, n_texts, k)), None, Calibration(k)
    ).eval()


def test_a_linear_head_reads_the_vectors_side_by_side():
    head = fill(LinearHead(2, 2, 3))
    u = torch.tensor([[1.0, 2.0]])
    v = torch.tensor([[3.0, 4.0]])
    wanted = head.output(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    torch.testing.assert_close(head(torch.stack([u, v], dim=1)), wanted)


def test_a_pair_head_compares_both_vectors():
    head = fill(PairHead(2, 2, 3))
    vectors = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    wanted = head.output(torch.tensor([[1.0, 2.0, 3.0, -1.0, 2.0, 3.0, 3.0, -2.0]]))
    torch.testing.assert_close(head(vectors), wanted)


def test_an_mlp_head_has_the_widths_of_its_source_or_those_asked_for():
    head = MLPHead(768, 2, 3)
    shapes = [tuple(parameter.shape) for name, parameter in head.named_parameters() if name.endswith('weight')]
    assert shapes == [(768, 1536), (384, 768), (3, 384)]
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_476_867  # 1.48 million
    head = fill(MLPHead(4, 1, 2, widths=[3], activation=nn.GELU))
    vectors = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(0))
    wanted = head.output(nn.functional.gelu(head.layers[0][0](vectors[:, 0])))
    torch.testing.assert_close(head(vectors), wanted)


@pytest.mark.parametrize('head', [LinearHead, MLPHead, PairHead])
def test_training_starts_from_equal_probabilities_and_the_head_is_optimized_as_one(head):
    made = head(8, 2, 3)
    assert not made(torch.randn(4, 2, 8)).any()
    groups = {group['name']: group['params'] for group in parameter_groups(made)}
    assert set(groups) == {'heads', 'others'}


def test_a_pair_head_of_one_text_is_refused():
    with pytest.raises(SettingsError, match='an example has 1 text'):
        PairHead(8, 1, 3)


def test_ordered_classes_are_between_rising_thresholds():
    link = CumulativeLink(4)
    torch.testing.assert_close(link(torch.zeros(1, 1)).exp(), torch.full((1, 4), 0.25))
    fill(link)
    score = torch.tensor([[-30.0], [-1.0], [0.3], [30.0]], dtype=torch.float64)
    below = torch.cat([torch.zeros(4, 1), (link.thresholds() - score).sigmoid(), torch.ones(4, 1)], dim=1)
    log_probs = link(score)
    torch.testing.assert_close(log_probs.exp(), below.diff(dim=1))
    assert log_probs.isfinite().all()
    assert (link.thresholds().diff() > 0).all()
    assert log_probs.argmax(1).tolist()[::3] == [0, 3]


def test_two_ordered_classes_are_a_logistic_regression():
    link = fill(CumulativeLink(2))
    score = torch.tensor([[0.7]])
    torch.testing.assert_close(link(score)[0, 1].exp(), (score - link.thresholds()).sigmoid()[0, 0])


def test_an_example_has_the_logits_that_it_has_alone():
    model = make_classifier()
    ids = make_ids(14)
    layout = make_layout([5, 2, 7], [True, False, True])
    logits = model(ids, layout, torch.tensor([1, -1, 0]), torch.zeros(3, dtype=torch.long), 2)
    torch.testing.assert_close(logits[1:], model(ids[:, :5]))
    torch.testing.assert_close(logits[:1], model(ids[:, 7:]))


def test_two_texts_of_an_example_are_told_apart_by_their_role():
    model = make_classifier(PairHead, n_texts=2)
    ids = make_ids(14)
    layout = make_layout([5, 2, 7])
    example = torch.tensor([0, -1, 0])
    logits = model(ids, layout, example, torch.tensor([1, 0, 0]), 1)
    u = model.pooling(model.trunk(ids[:, 7:]), make_layout([7]))
    v = model.pooling(model.trunk(ids[:, :5]), make_layout([5]))
    torch.testing.assert_close(logits, model.head(torch.stack([u, v], dim=1)))
    swapped = model(ids, layout, example, torch.tensor([0, 0, 1]), 1)
    assert not torch.allclose(swapped, logits)


def test_rows_are_examples_where_nothing_else_is_said():
    model = make_classifier()
    ids = make_ids(6, batch=3)
    assert model(ids).shape == (3, 3)
    torch.testing.assert_close(model(ids)[1:2], model(ids[1:2]))


@pytest.mark.parametrize(
    ('task', 'classes', 'shape'),
    [
        ('single-label', ['a', 'b', 'c'], (2, 3)),
        ('multi-label', ['a', 'b', 'c'], (2, 3)),
        ('ordinal', ['1', '2', '3'], (2, 3)),
        ('regression', None, (2, 1)),
    ],
)
def test_each_task_is_built_from_plain_values(task, classes, shape):
    trunk = functools.partial(Transformer, d_model=D, n_layers=1, n_heads=2)
    model = SequenceClassifier.build(N_VOCAB, MAX_LEN, classes, task, trunk=trunk).eval()
    logits = model(make_ids(5, batch=2))
    assert logits.shape == shape
    probs = model.probabilities(logits)
    if task in ('single-label', 'ordinal'):
        torch.testing.assert_close(probs, torch.full((2, 3), 1 / 3))
    elif task == 'multi-label':
        assert (probs == 0.5).all()
    else:
        assert torch.equal(probs, logits)
    assert model.max_len == MAX_LEN
    assert len(model.list_blocks()) == 1


def test_calibration_changes_the_probabilities_and_not_the_logits():
    model = make_classifier()
    logits = model(make_ids(6, batch=2))
    model.calibration.scale.fill_(0.5)
    assert torch.equal(model(make_ids(6, batch=2)), logits)
    torch.testing.assert_close(model.probabilities(logits), (0.5 * logits).softmax(-1))


@pytest.mark.parametrize(
    ('task', 'classes', 'message'),
    [
        ('single-label', ['a'], 'has 1 classes'),
        ('single-label', ['a', 'b', 'a'], "'a' twice"),
        ('single', ['a', 'b'], "model.task is 'single'"),
        ('regression', ['a', 'b'], 'has no model.classes'),
        ('multi-label', None, 'has 0 classes'),
    ],
)
def test_classes_that_do_not_fit_the_task_are_refused(task, classes, message):
    with pytest.raises(SettingsError, match=message):
        SequenceClassifier.build(N_VOCAB, MAX_LEN, classes, task)


def test_a_calibration_that_there_is_not_is_refused():
    with pytest.raises(SettingsError, match=r"model\.calibration is 'isotonic'"):
        SequenceClassifier.build(N_VOCAB, MAX_LEN, ['a', 'b'], calibration='isotonic')
