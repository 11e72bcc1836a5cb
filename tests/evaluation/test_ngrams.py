"""Bits of a language model, of n-grams and of their mixtures, over the documents of a split."""

import math

import numpy as np
import pytest
import torch
from token_batches import token_batch

from xlabml.batches import IGNORED, Layout
from xlabml.evaluation import Sums
from xlabml.evaluation.language import TokenOutputs
from xlabml.evaluation.ngrams import ROWS, NgramBits, format_ngrams, mixed_nats
from xlabml.ngram import Documents, Gate, KneserNey, Mixture, count_ngrams, open_ngrams

N_VOCAB = 10


class Alone:
    def total(self, values):
        return values

    def everything(self, values):
        return [values]


@pytest.fixture(scope='module')
def mixture(tmp_path_factory):
    draw = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp('n') / 'grams'
    count_ngrams(Documents([draw.integers(4, 10, 12) for _ in range(20)], N_VOCAB, 1, 2, 'ours'), folder, 3)
    return Mixture(KneserNey(open_ngrams(folder)), Gate(draw.normal(size=Gate.n_features(3)), 0.3, 1))


def packed():
    """Two documents and padding in one row: sos 5 6, sos 9, pad pad."""
    ids = torch.tensor([[1, 5, 6, 1, 9, 3, 3]])
    targets = torch.tensor([[5, 6, 2, 9, 2, IGNORED, IGNORED]])
    layout = Layout(torch.tensor([0, 3, 5, 7]), 7)
    return token_batch(ids, targets, documents=torch.tensor([7, 4, -1]), layout=layout)


def outputs_of(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    is_counted = batch.targets.ids != IGNORED
    nats = torch.rand(batch.ids.shape, generator=generator) * 3 * is_counted
    zero = torch.zeros(())
    return TokenOutputs(Sums(zero, zero, {}), nats, torch.rand(batch.ids.shape, generator=generator))


def test_each_document_has_its_own_contexts(mixture):
    batch = packed()
    outputs = outputs_of(batch)
    found = mixed_nats(mixture, batch, outputs.nats, outputs.entropy)
    torch.testing.assert_close(found[0], outputs.nats.double())
    contexts = [[1], [1, 5], [1, 5, 6], [1], [1, 9]]
    for i, context in enumerate(contexts):
        target = int(batch.targets.ids[0, i])
        expected = -math.log(mixture.ngrams.next(context).probabilities[target])
        assert float(found[1, 0, i]) == pytest.approx(expected)
        model = math.exp(-float(outputs.nats[0, i]))
        assert float(found[2, 0, i]) == pytest.approx(-math.log(0.7 * model + 0.3 * math.exp(-expected)))
    assert found[:, 0, 5:].abs().sum() == 0


def test_figures_are_sums_over_documents_whatever_the_batches(mixture):
    batch = packed()
    outputs = outputs_of(batch)
    evaluator = NgramBits(mixture, n_draws=50)
    evaluator.start()
    evaluator.update(outputs, batch)
    evaluator.update(outputs_of(batch, 1), batch._replace(documents=torch.tensor([7, 5, -1])))
    figures = evaluator.result(Alone())
    assert set(figures) == set(evaluator.names())
    nats = sum(float(one.nats.double().sum()) for one in (outputs, outputs_of(batch, 1)))
    assert figures['ngram_bits_per_byte/model'] == pytest.approx(nats / math.log(2) / (4 * 24))
    rows = mixed_nats(mixture, batch, outputs.nats, outputs.entropy).sum((1, 2))
    rows += mixed_nats(mixture, batch, outputs_of(batch, 1).nats, outputs_of(batch, 1).entropy).sum((1, 2))
    for row, total in zip(ROWS, rows.tolist()):
        assert figures[f'ngram_bits_per_byte/{row}'] == pytest.approx(total / math.log(2) / (4 * 24))
    assert figures['ngram_saved/gated'] == pytest.approx(1 - float(rows[3] / rows[0]))
    assert figures['ngram_saved_low/gated'] <= figures['ngram_saved/gated'] <= figures['ngram_saved_high/gated']
    table = format_ngrams(evaluator.last, 0.3).splitlines()
    assert len(table) == 5
    assert max(map(len, table)) < 80
    evaluator.start()
    evaluator.update(outputs, batch)
    assert evaluator.result(Alone())['ngram_bits_per_byte/model'] == pytest.approx(
        float(outputs.nats.double().sum()) / math.log(2) / 48
    )
