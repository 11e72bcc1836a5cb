"""A classifier of texts in windows: windows learn, texts are evaluated; chunks change nothing."""

from types import SimpleNamespace

import pytest
import torch
from pair_batches import pair_batch
from test_classifier_task import CLASSES, gradients, make_classifier

from xlabml.batches import ClassTargets
from xlabml.data.groups import LabelledTexts
from xlabml.errors import SettingsError
from xlabml.losses import ClassCrossEntropy

N_WINDOWS = 3


def make_batch(labels, row_slots=None):
    ids = torch.randint(4, 50, (len(labels), N_WINDOWS, 4), generator=torch.Generator().manual_seed(0))
    batch = pair_batch(ids.tolist(), row_slots)  # rows of a multiple of 12 slots hold whole examples
    # The second example has one window: its others are padding.
    missing = (batch.example == 1) & (batch.role > 0)
    layout = batch.layout._replace(is_text=batch.layout.is_text & ~missing)
    batch = batch._replace(example=torch.where(missing, -1, batch.example), layout=layout)
    batch = batch._replace(documents=torch.where(missing, -1, batch.documents))
    return batch._replace(targets=ClassTargets(torch.tensor(labels), torch.ones(len(labels))))


def test_the_loss_of_a_text_is_the_mean_of_that_of_its_windows():
    model = make_classifier(max_windows=N_WINDOWS)
    batch = make_batch([0, 1, 2])
    n = len(batch.targets.labels)
    logits = model.network(batch.ids, batch.layout, batch.example, batch.role, n, by_window=True)
    losses = [ClassCrossEntropy()(logits[i], torch.full((N_WINDOWS,), i)) for i in range(n)]
    expected = losses[0].mean() + losses[1][0] + losses[2].mean()
    sums = model.loss(batch)
    assert sums.objective.item() == pytest.approx(expected.item())
    assert sums.count == n


def test_what_is_evaluated_is_of_texts():
    model = make_classifier(max_windows=N_WINDOWS)
    batch = make_batch([0, 1, 2])
    outputs = model.outputs(batch)
    logits = model.network(batch.ids, batch.layout, batch.example, batch.role, 3, by_window=True)
    probs = logits.softmax(-1)
    torch.testing.assert_close(outputs.logits.softmax(-1)[0], probs[0].mean(0))
    torch.testing.assert_close(outputs.logits.softmax(-1)[1], probs[1, 0])
    assert len(outputs.documents) == len(outputs.labels) == len(CLASSES)
    found = model.predictions(batch).values['probability_0']
    torch.testing.assert_close(found, outputs.logits.softmax(-1)[:, 0])


def test_chunks_have_the_loss_and_the_gradient_of_one_pass():
    model = make_classifier(max_windows=N_WINDOWS)
    whole = gradients(model, make_batch([0, 1, 2, 0]))
    batch = make_batch([0, 1, 2, 0], row_slots=24)
    assert len(batch.ids) > 1
    chunks = gradients(model, batch)
    assert chunks[0] == pytest.approx(whole[0], rel=1e-10)
    for one, other in zip(chunks[1], whole[1]):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.outputs(batch).logits, model.outputs(make_batch([0, 1, 2, 0])).logits)


def test_other_windows_than_those_of_the_data_are_refused():
    model = make_classifier(max_windows=N_WINDOWS)
    model.trainer = SimpleNamespace(datamodule=SimpleNamespace(examples=LabelledTexts(label='stars', max_windows=2)))
    with pytest.raises(SettingsError, match=r'model\.max_windows is 3, but data\.examples\.max_windows is 2'):
        model.setup('fit')
