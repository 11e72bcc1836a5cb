"""What metadata saves: the rows that are compared, sums of each kind by document, intervals."""

import json
import math

import numpy as np
import pytest
import torch
from token_batches import batch_of

from xlabml.batches import IGNORED
from xlabml.data import Conditioned, Corpus, EvalBatches, Location, Pack, Reading, prepare_store
from xlabml.data.conditioned.variants import make_variants
from xlabml.errors import SettingsError
from xlabml.evaluation import MetadataBits, Sums, TokenOutputs, format_savings
from xlabml.evaluation.metadata import compare
from xlabml.metadata import Title, Topic
from xlabml.tokenizer import train_tokenizer


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bits')
    records = [
        {'text': f'the cat {i} sat ' * (1 + i % 7), 'title': f'cat {i}', 'topic': f't{i % 3}'} for i in range(40)
    ]
    (folder / 'a.jsonl').write_text('\n'.join(map(json.dumps, records)))
    texts = [record['text'] + 'Title: Topic: ||| ' for record in records]
    tokenizer = train_tokenizer(texts, folder / 'one.model', 300)
    form = Conditioned([Title(), Topic()])
    store = prepare_store(form.source(Location(str(folder / 'a.jsonl'))), tokenizer, folder / 's', form.columns)
    return form, Corpus([store], {'train': 0.5, 'val': 0.5}), Reading(tokenizer, Pack(64), folder / 'plans', 0)


class OneRank:
    def total(self, values):
        return values

    def everything(self, values):
        return [values]


def evaluate(made, rows_per_batch):
    """The evaluator over all batches, each target taking 3 nats less half of its kind's number."""
    form, corpus, reading = made
    variants = make_variants(form, corpus, 'val', reading)
    evaluator = MetadataBits(n_draws=50)
    evaluator._names = variants.names
    evaluator._n_documents = variants.n_documents
    evaluator.start()
    batches = EvalBatches(variants, rows_per_batch)
    for i in range(len(batches)):
        batch = batches[i]
        slots = torch.arange(batch.ids.numel())
        segment = torch.searchsorted(batch.layout.starts, slots, right=True) - 1
        kind = batch.documents[segment].clamp(min=0) // len(corpus)
        nats = torch.where(batch.targets.ids.flatten() == IGNORED, 0.0, 3.0 - 0.5 * kind).view(batch.ids.shape)
        evaluator.update(TokenOutputs(Sums(nats.sum(), nats.sum(), {}), nats), batch)
    return evaluator, evaluator.result(OneRank()), variants


def test_each_kind_has_the_same_text_and_its_own_metadata(made):
    form, corpus, reading = made
    variants = make_variants(form, corpus, 'val', reading)
    assert variants.names == ['without', 'all', 'title', 'topic', 'together', 'shuffled']
    batch = batch_of(variants, np.arange(len(variants)))
    is_text = batch.documents >= 0
    kind = (batch.documents[is_text] // len(corpus)).numpy()
    n_bytes = np.bincount(kind, batch.targets.n_bytes[is_text].numpy())
    assert len(set(n_bytes[[0, 1, 2, 3, 5]].tolist())) == 1
    assert n_bytes[4] > n_bytes[0]
    assert len(make_variants(form, corpus, 'val', reading, most=3)) < len(variants)


def test_figures_do_not_depend_on_the_batches(made):
    evaluator, figures, variants = evaluate(made, 1)
    _, again, _ = evaluate(made, 7)
    assert figures == pytest.approx(again, rel=1e-9)
    assert figures['metadata_saved/all'] == pytest.approx(0.5 / 3, rel=1e-6)
    assert figures['metadata_saved/title'] == pytest.approx(1 / 3, rel=1e-6)
    assert 'metadata_saved/without' not in figures
    table = format_savings(evaluator.last)
    assert [line.split()[0] for line in table.splitlines()] == ['metadata', *variants.names]
    assert '+16.67%' in table


def test_savings_are_paired_by_document():
    documents = torch.tensor([0, 1, 1, 10, 11])  # documents 0 and 1 without, and with; 1 is in two rows
    nats = torch.tensor([2.0, 1.0, 3.0, 1.0, 4.0]) * math.log(2)
    saved = compare(documents, nats, torch.tensor([2, 1, 1, 2, 2]), ['without', 'all'], 10, 500, 0)
    assert [one.bits_per_byte for one in saved] == pytest.approx([6 / 4, 5 / 4])
    assert tuple(saved[1].saved) == pytest.approx((1 / 6, 0.0, 0.5), abs=1e-6)
    # A document that was seen without alone is left out.
    more = compare(torch.tensor([0, 1, 10]), nats[:3], torch.tensor([2, 1, 2]), ['without', 'all'], 10, 5, 0)
    assert more[1].bits_per_byte == pytest.approx(3 / 2)


def test_another_format_is_refused():
    class Data:
        examples = object()

    with pytest.raises(SettingsError, match='is object; set it to Conditioned'):
        MetadataBits().examples(Data())
    with pytest.raises(SettingsError, match='val_documents 0'):
        MetadataBits(val_documents=0)
