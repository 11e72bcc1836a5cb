"""Batches of every kind of targets: they reach the device whole, and what a task cannot use is refused."""

import lightning.pytorch as L
import pytest
import torch
from token_batches import plain, token_batch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from xlabml.batches import (
    IGNORED,
    Batch,
    ClassTargets,
    Layout,
    PairTargets,
    TokenTargets,
    batch_of_rows,
    check_batch,
    check_classes,
    check_ids,
    check_pairs,
    token_targets,
)

IDS = torch.arange(8).view(1, 8)
LAYOUT = Layout(torch.tensor([0, 3, 6, 8], dtype=torch.int32), 8, torch.tensor([True, True, False]))
PAIRS = PairTargets(torch.tensor([1.0, 0.5, 0.0]), None, torch.ones(3, 2), torch.arange(3), 1)
CLASSES = ClassTargets(torch.tensor([2, IGNORED]), torch.tensor([1.0, 0.5]))
TARGETS = [TokenTargets(IDS, torch.arange(3)), PAIRS, CLASSES]


def batch_of(targets):
    segments = torch.tensor([4, 9, -1]), torch.tensor([0, 1, -1]), torch.tensor([0, 1, 0])
    return Batch(IDS, LAYOUT, *segments, targets, 2.5, 7)


@pytest.mark.parametrize('targets', TARGETS, ids=lambda targets: type(targets).__name__)
def test_lightning_moves_every_tensor_of_a_batch_to_the_device(targets):
    moved = L.LightningModule().transfer_batch_to_device(batch_of(targets), torch.device('meta'), 0)
    assert type(moved.targets) is type(targets)
    here, there = (
        [part for part in torch.utils._pytree.tree_leaves(batch) if isinstance(part, torch.Tensor)]
        for batch in (batch_of(targets), moved)
    )
    assert len(here) == len(there) >= 8
    assert {part.device.type for part in there} == {'meta'}
    assert moved.layout.max_length == 8
    assert (moved.n_counted, moved.seed) == (2.5, 7)


@pytest.mark.parametrize('targets', TARGETS, ids=lambda targets: type(targets).__name__)
def test_worker_processes_hand_batches_over_unchanged(targets):
    batch = batch_of(targets)
    (found,) = DataLoader([batch], batch_size=None, num_workers=1)
    assert plain(found) == plain(batch)
    assert type(found.targets) is type(targets)


def test_pinning_reaches_every_tensor_of_a_batch(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self, *_: pinned.append(self) or self)
    found = pin_memory(batch_of(PAIRS))
    assert plain(found) == plain(batch_of(PAIRS))
    assert len(pinned) == 9  # ids, the layout's two, documents, example, role, and the three of the targets


@pytest.mark.parametrize(
    ('name', 'token', 'ending'),
    [('ids', 20, 'model'), ('targets', -7, 'ignored positions to -100'), ('ids', -1, 'model')],
)
def test_a_token_that_the_vocabulary_lacks_is_refused(name, token, ending):
    batch = token_batch(torch.zeros(2, 4, dtype=torch.long), torch.full((2, 4), IGNORED))
    check_ids(batch, 20)
    (batch.ids if name == 'ids' else batch.targets.ids)[1, 3] = token
    with pytest.raises(ValueError, match=rf'token {token} in row 1, position 3 of the {name} .* of 20; .*{ending}$'):
        check_ids(batch, 20)


def test_inputs_are_checked_for_every_kind_of_targets():
    check_ids(batch_of(CLASSES), 8)
    with pytest.raises(ValueError, match='token 7 in row 0, position 7 of the ids'):
        check_ids(batch_of(CLASSES), 7)


@pytest.mark.parametrize(
    ('labels', 'weights', 'message'),
    [
        ([0, 3], [1.0, 1.0], r'the label 3 of example 1 of a batch is none of the 3 classes'),
        ([-1, 0], [1.0, 1.0], r'the label -1 of example 0'),
        ([[0.5, 0.5, 0.0], [1.5, 0.0, 0.0]], [1.0, 1.0], r'the label \[1\.5, 0\.0, 0\.0\] of example 1'),
        ([[0.5, 0.5], [1.0, 0.0]], [1.0, 1.0], r'probabilities of 2 classes; the classifier has 3'),
        ([0, 1], [1.0, -0.5], r'the weight of example 1 of a batch is -0\.5; it must be 0 or more'),
        ([0, 1], [float('nan'), 1.0], r'the weight of example 0 of a batch is nan'),
    ],
)
def test_classes_that_a_classifier_lacks_are_refused(labels, weights, message):
    check_classes(CLASSES, 3)
    check_classes(ClassTargets(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([0.0])), 3)
    with pytest.raises(ValueError, match=message):
        check_classes(ClassTargets(torch.tensor(labels), torch.tensor(weights)), 3)


@pytest.mark.parametrize('name', ['score', 'vector'])
def test_scores_and_vectors_that_are_not_finite_are_refused(name):
    check_pairs(PAIRS)
    values = getattr(PAIRS, name).clone()
    values[1] = float('nan')
    with pytest.raises(ValueError, match=f'the {name} of segment 1 of a batch is not finite'):
        check_pairs(PAIRS._replace(**{name: values}))


def test_a_language_model_refuses_other_targets_by_name():
    assert token_targets(batch_of(TARGETS[0])) is TARGETS[0]
    with pytest.raises(
        ValueError, match=r'ClassTargets, but a language model trains on TokenTargets; set data\.examples'
    ):
        token_targets(batch_of(CLASSES))


def test_rows_are_a_batch_whose_tokens_predict_the_next_ones():
    rows = torch.tensor([[1, 2, 3, 4], [5, 6, IGNORED, IGNORED]])
    batch = batch_of_rows(rows, seed=3)
    check_batch(batch)
    assert plain(batch)[:1] == [[[1, 2, 3], [5, 6, IGNORED]]]
    assert batch.targets.ids.tolist() == [[2, 3, 4], [6, IGNORED, IGNORED]]
    assert (batch.n_counted, batch.seed) == (4.0, 3)


def starts(*values, longest=8):
    return Layout(torch.tensor(values), longest)


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'ids': IDS[0]}, r'the ids of a batch has the shape \(8,\); it must be \(b, n\).*\[None\]'),
        ({'ids': IDS.float()}, r'is of torch.float32; token ids are whole numbers'),
        ({'targets': TokenTargets(IDS[:, 1:], torch.arange(3))}, r'have the shape \(1, 7\), and its ids \(1, 8\)'),
        ({'n_counted': -1.0}, 'n_counted of a batch is -1.0'),
        ({'role': torch.zeros(5)}, 'role of a batch has 5 entries for 3 segments'),
        ({'layout': starts(0, 6, 3, 8)}, 'segment 1 of a layout has the length -3'),
        ({'layout': starts(0, 3, 6, 7)}, r'starts of a layout are \[0\] … \[7\]; they must go from 0 to the 8 slots'),
        ({'layout': starts(0, 3, 6, 8, longest=-2)}, 'max_length of a layout is -2'),
    ],
)
def test_parts_of_a_batch_that_do_not_fit_are_refused_by_name(changed, message):
    check_batch(batch_of(TARGETS[0]))
    with pytest.raises(ValueError, match=message):
        check_batch(batch_of(TARGETS[0])._replace(**changed))
