"""What metadata saves: the rows that are compared, sums of each kind by document, intervals."""

import json
import math

import numpy as np
import pytest
import torch
from token_batches import batch_of

from xlabml.batches import IGNORED
from xlabml.data import Conditioned, Corpus, EvalBatches, Location, Pack, Reading, prepare_store
from xlabml.data.conditioned import variants as variants_room
from xlabml.data.conditioned.variants import make_variants, some_documents
from xlabml.errors import RequestError, SettingsError
from xlabml.evaluation import MetadataBits, MetadataPosterior, Sums, TokenOutputs, format_savings, sum_segments
from xlabml.evaluation.metadata import sum_documents
from xlabml.evaluation.savings import compare
from xlabml.heads import language_model
from xlabml.metadata import Posterior, Prefix, Title, Topic
from xlabml.pipelines import MetadataRanker
from xlabml.pipelines.conditioning import Conditioning
from xlabml.tokenizer import train_tokenizer


def text_of(i):
    return f'the cat {i} sat ' * (20 if i % 7 == 6 else 1 + i % 7)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bits')
    records = [{'text': text_of(i), 'title': f'cat {i}', 'topic': f't{i % 3}'} for i in range(40)]
    (folder / 'a.jsonl').write_text('\n'.join(map(json.dumps, records)))
    texts = [record['text'] + 'Title: Topic: ||| ' for record in records]
    tokenizer = train_tokenizer(texts, folder / 'one.model', 300)
    form = Conditioned([Title(), Topic()])
    store = prepare_store(form.source(Location(str(folder / 'a.jsonl'))), tokenizer, folder / 's', form.columns)
    return (
        form,
        Corpus([store], {'train': 0.4, 'val': 0.3, 'test': 0.3}),
        Reading(tokenizer, Pack(64), folder / 'plans', 0),
    )


class OneRank:
    def total(self, values):
        return values

    def everything(self, values):
        return [values]


def evaluate(made, rows_per_batch):
    """The evaluator over all batches, each target taking 3 nats less half of its kind's number."""
    form, corpus, reading = made
    evaluator = MetadataBits(n_draws=50)
    variants = evaluator.variants(form, corpus, reading, False)
    evaluator._made = variants
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
    variants = make_variants(form, corpus, corpus.documents('val'), reading, [['title', 'topic']])
    assert variants.names == ['without', 'all', 'title', 'topic', 'title+topic', 'together', 'shuffled']
    batch = batch_of(variants, np.arange(len(variants)))
    is_text = batch.documents >= 0
    kind = (batch.documents[is_text] // len(corpus)).numpy()
    n_bytes = np.bincount(kind, batch.targets.n_bytes[is_text].numpy())
    assert len(set(n_bytes[[0, 1, 2, 3, 4, 6]].tolist())) == 1
    assert n_bytes[5] > n_bytes[0]
    # The kinds stand side by side: half of the rows have each.
    half = batch_of(variants, np.arange(len(variants) // 2))
    assert set((half.documents[half.documents >= 0] // len(corpus)).tolist()) == set(range(7))
    assert len(some_documents(corpus, 'val', 3)) == 3
    with pytest.raises(SettingsError, match=r"sets names 'url'.*\(title, topic\)"):
        make_variants(form, corpus, corpus.documents('val'), reading, [['url']])


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
    sums = sum_documents(documents, nats, torch.tensor([2, 1, 1, 2, 2]), 2, 10)
    saved = compare(sums.nats, sums.n_bytes[0], ['without', 'all'], 500, 0)
    assert [one.bits_per_byte for one in saved] == pytest.approx([6 / 4, 5 / 4])
    assert tuple(saved[1].saved) == pytest.approx((1 / 6, 0.0, 0.5), abs=1e-6)
    # A document that was seen without alone is left out.
    some = sum_documents(torch.tensor([0, 1, 10]), nats[:3], torch.tensor([2, 1, 2]), 2, 10)
    assert some.documents.tolist() == [0]
    assert compare(some.nats, some.n_bytes[0], ['without', 'all'], 5, 0)[1].bits_per_byte == pytest.approx(3 / 2)


def test_a_value_is_found_again_where_its_texts_are_likelier_with_it(made):
    form, corpus, reading = made
    evaluator = MetadataPosterior('topic', val_documents=12)
    variants = evaluator.variants(form, corpus, reading, True)
    evaluator._made = variants
    assert variants.names == ['t0', 't1', 't2']
    evaluator.start()
    batch = batch_of(variants, np.arange(len(variants)))
    counts, _ = sum_segments(torch.zeros(batch.ids.shape), batch.targets.ids, batch.layout)
    kind = batch.documents.clamp(min=0) // len(corpus)
    own = torch.tensor(
        [
            int(corpus.columns(d % len(corpus))['@metadata']['values']['topic'][1])
            for d in batch.documents.clamp(min=0).tolist()
        ]
    )
    nats = torch.where(kind == own, 50.0, 53.0) * (counts > 0)  # of a segment, put on its first slot
    slots = torch.zeros(batch.ids.numel())
    slots[batch.layout.starts[:-1][counts > 0]] = nats[counts > 0]
    evaluator.update(TokenOutputs(Sums(nats.sum(), nats.sum(), {}), slots.view(batch.ids.shape)), batch)
    figures = evaluator.result(OneRank())
    assert figures['metadata_accuracy/topic'] == 1
    assert figures['metadata_log_loss/topic'] < 0.1
    assert set(evaluator.facts) == {'metadata_posterior/topic'}
    for key, why in (('url', r"'url', which is none .*\(title, topic\)"), ('title', 'name a type of at most')):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(variants_room, 'MAX_VALUES', 3)
            with pytest.raises(SettingsError, match=why):
                MetadataPosterior(key).variants(form, corpus, reading, False)


def test_a_ranked_text_is_read_as_in_the_evaluation(made):
    form, corpus, reading = made
    evaluator = MetadataPosterior('topic', val_documents=12)
    variants = evaluator.variants(form, corpus, reading, False)
    torch.manual_seed(0)
    model = language_model(len(reading.tokenizer), 64).eval().requires_grad_(False)
    batch = batch_of(variants, np.arange(len(variants)))
    _, nats = sum_segments(model.nats(batch.ids, batch.targets.ids, batch.layout), batch.targets.ids, batch.layout)
    evaluator._made = variants
    evaluator.start()
    evaluator._seen = [
        (batch.documents[batch.documents >= 0], nats[batch.documents >= 0], batch.targets.n_bytes[batch.documents >= 0])
    ]
    sums = evaluator.sums(OneRank())
    posterior = Posterior(('t0', 't1', 't2'), (-1.0, -1.0, -1.0), 1.0, 1.0)  # a fitted one would believe chance little
    wanted = posterior.probabilities(-sums.nats.numpy().T)
    prefix = Prefix(form.types, choices={'topic': ['t0', 't1', 't2'], 'title': ['a', 'b']})
    ranker = MetadataRanker(model, reading.tokenizer, Conditioning(prefix, reading.tokenizer, 64, {'topic': posterior}))
    texts = [text_of(corpus.stores[0].rows[document]) for document in sums.documents.tolist()]
    assert max(len(reading.tokenizer.encode(text)) for text in texts) > 64  # some are read in windows
    for batch_tokens in (1, 500):
        found = ranker.rank(texts, 'topic', batch_tokens)
        got = np.array([[one[value] for value in posterior.values] for one in found])
        np.testing.assert_allclose(got, wanted, rtol=1e-4)
    for key, why in (('title', 'were not calibrated'), ('url', "no values of 'url' to rank; it has those of topic")):
        with pytest.raises(RequestError, match=why):
            ranker.rank(texts, key)
    with pytest.raises(RequestError, match='text 0 is'):
        ranker.rank([''], 'topic')


def test_another_format_is_refused():
    class Data:
        examples = object()

    with pytest.raises(SettingsError, match='is object; set it to Conditioned'):
        MetadataBits().examples(Data())
    with pytest.raises(SettingsError, match='val_documents 0'):
        MetadataBits(val_documents=0)
