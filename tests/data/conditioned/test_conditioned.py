"""Rows of documents with metadata: what stands where, what is a target, what is drawn, and what a pass is."""

import json
import os
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from token_batches import batch_of

from xlabml.batches import IGNORED
from xlabml.commands.data import show_part
from xlabml.data import (
    BatchSequence,
    Chunk,
    Concat,
    Conditioned,
    Corpus,
    Epochs,
    Independent,
    Location,
    NextTokens,
    Pack,
    Reading,
    SomeOfPresent,
    prepare_store,
)
from xlabml.data.conditioned import make_index, shuffle_documents
from xlabml.data.conditioned.records import METADATA
from xlabml.data.conditioned.sampling import document_draws
from xlabml.errors import SettingsError
from xlabml.metadata import (
    Entity,
    KeyValue,
    LocalKeyValue,
    Preprocessor,
    Template,
    Timestamp,
    TimestampFromUrl,
    Title,
    Topic,
)

L = 48


def types(**of_topic):
    return [Title(), Topic(**of_topic), LocalKeyValue('note'), Entity(control='entity')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('conditioned')


@pytest.fixture(scope='module')
def records(texts):
    found = []
    for i, text in enumerate(texts):
        n = len(text)
        notes = [{'value': f'n{i % 5}', 'start': n // 4, 'end': n // 2}] if i % 2 and n > 12 else []
        entity = [{'value': f'E_{i}', 'start': n // 3, 'end': n // 2}] if i % 3 == 0 and n > 12 else None
        title = None if i % 7 == 0 else f'title {i}'
        found.append({'text': text, 'title': title, 'topic': f't{i % 4}', 'note': notes, 'entity': entity})
    return found


@pytest.fixture(scope='module')
def make(folder, records, tokenizer):
    """A format -> its corpus, each store made once."""
    path = folder / 'records.jsonl'
    path.write_text('\n'.join(map(json.dumps, records)))
    made = {}

    def make_corpus(form):
        source = form.source(Location(str(path)))
        name = json.dumps(source.fingerprint(), default=str)
        if name not in made:
            made[name] = prepare_store(source, tokenizer, folder / f'store-{len(made)}', form.columns)
        return Corpus([made[name]], {'train': 0.8, 'val': 0.2})

    return make_corpus


@pytest.fixture(scope='module')
def reading(tokenizer, folder):
    return Reading(tokenizer, Pack(L), folder / 'plans', 5)


def sequences(rows, blank=False):
    """Of each document, window by window, what its slots read and what they are to predict."""
    numbers = np.arange(len(rows)) + len(rows) * blank
    batch = batch_of(rows, numbers)
    ids, targets = batch.ids.flatten(), batch.targets.ids.flatten()
    starts = batch.layout.starts.tolist()
    segments = [(d, slice(a, b)) for d, a, b in zip(batch.documents.tolist(), starts, starts[1:]) if d >= 0 and a < b]
    pieces = [piece for row in range(len(rows)) for piece in rows.plan.pieces(row)]
    found = {}
    for (document, slots), (_, same, begin, _) in zip(segments, pieces, strict=True):
        assert document == same
        found.setdefault(document, []).append((begin, ids[slots].tolist(), targets[slots].tolist()))
    return {document: [pair[1:] for pair in sorted(some)] for document, some in found.items()}, batch


def expected(corpus, tokenizer, document, kinds, form, row_length=L):
    """A document's prefix and body, written out with the store's pieces: tokens, and whether each is of the text."""
    about, ids, pieces = corpus.columns(document)[METADATA], corpus.tokens(document).tolist(), corpus.pieces(document)
    texts = [ids[a:b] for a, b in pieces.tolist()]
    n = about['text']
    items = [(t, place, texts[n + i]) for i, (t, place) in enumerate(about['items']) if kinds[t]]
    entries = [tokens for _, place, tokens in items if place == -1]
    separator, end = tokenizer.encode(form.separator), tokenizer.encode(form.end)
    prefix = []
    for i, entry in enumerate(entries):
        prefix += entry + (end if i == len(entries) - 1 else separator)
    if len(prefix) > row_length // 2:
        prefix = prefix[: row_length // 2 - len(end)] + end
    body = []
    for number in range(n + 1):
        body += [(token, False) for _, place, tokens in items if place == number for token in tokens]
        if number < n:
            body += [(token, True) for token in texts[number]]
    body += [(token, False) for _, place, tokens in items if place == -2 for token in tokens]
    return prefix, [*body, (tokenizer.special_ids['eos'], True)]


@pytest.mark.parametrize('every_window', [True, False])
def test_a_document_is_its_prefix_and_its_text_with_markers_and_the_text_alone_is_predicted(
    make, reading, tokenizer, every_window
):
    form = Conditioned(types(), every_window=every_window)
    corpus = make(form)
    rows = form.examples(corpus, 'val', 'val', 0, reading)
    found, batch = sequences(rows)
    sos = tokenizer.special_ids['sos']
    kept = rows.view.kept(np.arange(len(corpus)))
    assert set(found) == set(corpus.documents('val').tolist())
    n_markers = n_windows = 0
    for document, windows in found.items():
        prefix, body = expected(corpus, tokenizer, document, kept[document], form)
        tokens = [token for token, _ in body]
        n_markers += sum(not is_text for _, is_text in body)
        n_windows += len(windows) > 1
        at = 0
        for number, (ids, targets) in enumerate(windows):
            assert len(ids) <= L
            n_prefix = len(prefix) if number == 0 or every_window else 0
            if number == 0:
                assert ids[: n_prefix + 1] == [sos, *prefix][: len(ids)]
            elif every_window:
                assert ids[:n_prefix] == prefix
                assert ids[n_prefix] == tokens[at - 1]
            assert targets[:n_prefix] == [IGNORED] * n_prefix
            here = body[at : at + len(ids) - n_prefix]
            assert targets[n_prefix:] == [token if is_text else IGNORED for token, is_text in here]
            assert ids[n_prefix + 1 :] == [token for token, _ in here[:-1]]
            at += len(here)
        assert at == len(body)
    assert n_markers > 0
    assert n_windows > 0
    n_targets = int((batch.targets.ids != IGNORED).sum())
    assert rows.counts(np.arange(len(rows)), np.zeros(len(rows), np.uint64)).sum() == n_targets
    texts = [corpus.columns(d)[METADATA]['bytes'] for d in found]
    assert int(batch.targets.n_bytes.sum()) == sum(texts)


def test_without_its_metadata_a_document_is_as_the_plain_format_has_it(make, reading):
    form = Conditioned(types())
    corpus = make(form)
    rows = form.rows(form.fixed_view(corpus, reading, []), corpus, 'val', 'val', reading)
    found, _ = sequences(rows)
    eos = reading.tokenizer.special_ids['eos']
    for document, windows in found.items():
        n_text = corpus.pieces(document)[corpus.columns(document)[METADATA]['text'] - 1, 1]
        tokens = [*corpus.tokens(document)[:n_text].tolist(), eos]
        assert [t for _, targets in windows for t in targets] == tokens
        assert [i for ids, _ in windows for i in ids] == [reading.tokenizer.special_ids['sos'], *tokens[:-1]]


def test_the_text_decides_the_split_and_its_tokens_spell_it(make, records, tokenizer, corpus):
    ours = make(Conditioned(types()))
    assert ours.documents('val').tolist() == Corpus(corpus.stores, ours.ratios).documents('val').tolist()
    for document in range(0, 300, 29):
        n_text = ours.pieces(document)[ours.columns(document)[METADATA]['text'] - 1, 1]
        assert tokenizer.decode(ours.tokens(document)[:n_text].tolist()) == records[document]['text']


def test_in_the_cooldown_the_same_rows_have_their_text_alone(make, reading, tokenizer):
    form = Conditioned(types(trainable=True), keep_ratio=1.0)
    corpus = make(form)
    rows = form.examples(corpus, 'train', 'train', 0, reading)
    with_it, _ = sequences(rows)
    without, batch = sequences(rows, blank=True)
    for document, windows in without.items():
        n_text = corpus.pieces(document)[corpus.columns(document)[METADATA]['text'] - 1, 1]
        tokens = [*corpus.tokens(document)[:n_text].tolist(), tokenizer.special_ids['eos']]
        assert [t for _, targets in windows for t in targets if t != IGNORED] == tokens
        read = [i for ids, targets in windows for i, t in zip(ids, targets) if t != IGNORED]
        assert read == [tokenizer.special_ids['sos'], *tokens[:-1]]
        assert [len(ids) for ids, _ in windows] == [len(ids) for ids, _ in with_it[document]]
    counts = rows.counts(np.arange(len(rows)) + len(rows), np.zeros(len(rows), np.uint64))
    assert counts.sum() == int((batch.targets.ids != IGNORED).sum())


def test_what_is_trainable_or_comes_after_the_text_is_a_target_in_training_alone(make, reading, tokenizer):
    reading = reading._replace(plan=Pack(192))
    form = Conditioned([Title(trainable=True), Topic(after=True)], keep_ratio=1.0)
    corpus = make(form)
    trained, batch = sequences(form.examples(corpus, 'train', 'train', 0, reading))
    rows = form.examples(corpus, 'train', 'train', 0, reading)
    assert rows.counts(np.arange(len(rows)), np.zeros(len(rows), np.uint64)).sum() == int(
        (batch.targets.ids != IGNORED).sum()
    )
    kept = form.view(corpus, 'train', 0, reading).kept(np.arange(len(corpus)))
    document = next(d for d, windows in trained.items() if len(windows) == 1 and kept[d].all())
    ((_, targets),) = trained[document]
    title = tokenizer.encode(f'Title: title {document}')
    behind = [*tokenizer.encode(form.end), *tokenizer.encode(f'Topic: t{document % 4}')]
    assert targets[: len(title)] == title
    assert targets[len(title)] == IGNORED
    assert targets[-1 - len(behind) : -1] == behind
    evaluated, _ = sequences(form.rows(form.fixed_view(corpus, reading, form.keys), corpus, 'train', 'val', reading))
    ((_, seen),) = evaluated[document]
    assert seen[: len(title)] == [IGNORED] * len(title)
    text = targets[len(title) + len(tokenizer.encode(form.end)) : -1 - len(behind)]
    assert [t for t in seen if t != IGNORED] == [*text, targets[-1]]
    joint = form.fixed_view(corpus, reading, form.keys, 'all')
    ((_, seen),) = sequences(form.rows(joint, corpus, 'train', 'val', reading))[0][document]
    assert seen[len(title) :][: len(tokenizer.encode(form.end))] == tokenizer.encode(form.end)
    assert seen[-1 - len(behind) :] == targets[-1 - len(behind) :]


def test_a_prefix_takes_at_most_half_a_window_and_keeps_its_end(tmp_path, tokenizer, reading):
    path = tmp_path / 'long.jsonl'
    path.write_text(json.dumps({'text': 'a cat sat ' * 30, 'title': 'far ' * 90}))
    form = Conditioned([Title()])
    corpus = Corpus(
        [prepare_store(form.source(Location(str(path))), tokenizer, tmp_path / 's', form.columns)], {'train': 1.0}
    )
    rows = form.rows(form.fixed_view(corpus, reading, ['title']), corpus, 'train', 'val', reading)
    found, _ = sequences(rows)
    end = tokenizer.encode(form.end)
    for number, (ids, targets) in enumerate(found[0]):
        assert targets[: L // 2] == [IGNORED] * (L // 2)
        assert targets[L // 2] != IGNORED
        assert ids[L // 2 + (number == 0) - len(end) :][: len(end)] == end
    assert any('1 of 1 have more than half a window' in line for line in rows.describe())


def rates(form, n, seed=0, p=0):
    """How often each type is kept of n documents of which all have all types."""
    draws = document_draws(np.random.default_rng(0).integers(0, 2**63, n).astype(np.uint64), seed, p)
    return form.draw(draws, np.ones((n, 3), bool), ['a', 'b', 'c'])


def test_independent_rates_are_the_configured_ones_and_types_are_independent():
    n = 20_000
    kept = rates(Independent(0.5, {'a': 0.1, 'b': 0.9}), n)
    for share, wanted in zip(kept.mean(0), (0.1, 0.9, 0.5)):
        assert abs(share - wanted) < 3 * np.sqrt(wanted * (1 - wanted) / n)
    assert np.abs(np.corrcoef(kept.T) - np.eye(3)).max() < 0.03


def test_some_of_present_keeps_each_number_as_often_and_types_by_weight():
    n = 20_000
    kept = rates(SomeOfPresent({'a': 3.0}), n)
    for k in (1, 2, 3):
        assert abs((kept.sum(1) == k).mean() - 1 / 3) < 3 * np.sqrt(2 / 9 / n)
    # One type: 3/5; two: both others are left out of three with 1/5 · 1/4 each way, so that a is in 1 - 2 · 1/5 · 1/4.
    wanted = (3 / 5 + (1 - 2 * 1 / 5 * 1 / 4) + 1) / 3
    assert abs(kept[:, 0].mean() - wanted) < 3 * np.sqrt(wanted * (1 - wanted) / n)
    rare = rates(SomeOfPresent(overall={'a': 0.0}), n)
    assert not rare[:, 0].any()
    assert rare[:, 1:].any(1).all()


def test_rare_types_are_kept_as_often_where_weights_are_inverse_frequencies(make, reading):
    form = Conditioned(types(), sampling=lambda: SomeOfPresent({'title': 2.0}, inverse_frequency=True))
    corpus = make(form)
    documents = corpus.documents('train')
    shares = form.view(corpus, 'train', 0, reading).present(documents).mean(0)
    drawn = form.view(corpus, 'train', 0, reading).composition.keep.sampling
    assert drawn.weights == pytest.approx(dict(zip(form.keys, [2.0, 1.0, 1.0, 1.0] / shares)))
    plain = Conditioned(types(), sampling=SomeOfPresent)
    assert plain.view(corpus, 'train', 0, reading).composition.keep.sampling is plain.sampling
    assert 'inverse_frequency' not in plain.settings()['sampling']


def test_what_is_kept_is_drawn_anew_in_each_pass_from_seed_pass_and_document_and_measured(make, reading):
    form = Conditioned(types(), keep_ratio=0.3)
    corpus = make(form)
    documents = corpus.documents('train')
    kept = [form.view(corpus, 'train', p, reading).kept(documents) for p in (0, 1, 0)]
    assert (kept[0] == kept[2]).all()
    assert (kept[0] != kept[1]).any()
    assert (form.view(corpus, 'train', 0, reading._replace(seed=6)).kept(documents) != kept[0]).any()
    some = documents[10:20]
    assert (form.view(corpus, 'train', 0, reading).kept(some) == kept[0][10:20]).all()
    rows = form.examples(corpus, 'train', 'train', 0, reading)
    measured = rows.measure()
    assert measured['metadata/any'] == kept[0].any(1).mean()
    share = np.mean([form.examples(corpus, 'train', 'train', p, reading).measure()['metadata/topic'] for p in range(9)])
    assert abs(share - 0.3) < 3 * np.sqrt(0.21 / (9 * len(documents)))


def test_each_pass_has_a_plan_of_its_own_and_a_resumed_run_reads_the_same_rows(make, reading):
    form = Conditioned(types(), cooldown_ratio=0.25)
    corpus = make(form)
    first = form.examples(corpus, 'train', 'train', 0, reading)
    passes = form.arrange(Epochs(first, 5), reading)
    assert passes.n_rows(0) == len(first)
    per_step = 4
    n_steps = 3 * len(first) // per_step
    passes.end_at(n_steps)
    whole = BatchSequence(passes, per_step, per_step, 5)
    batches = [whole[i] for i in range(n_steps)]
    cut = n_steps // 2
    place = whole.place(cut)
    again = form.arrange(Epochs(first, 5), reading)
    again.recall(passes.memory(place))
    again.end_at(n_steps)
    rest = BatchSequence(again, per_step, per_step, 5, first_step=cut, start=place)
    for i in range(n_steps - cut):
        assert torch.equal(rest[cut + i].ids, batches[cut + i].ids)
        assert torch.equal(rest[cut + i].targets.ids, batches[cut + i].targets.ids)
        assert rest[cut + i].n_counted == batches[cut + i].n_counted
    end = torch.tensor(reading.tokenizer.encode(form.end))
    has = [bool((batch.ids.unfold(1, len(end), 1) == end).all(2).any()) for batch in batches]
    last = n_steps - round(n_steps / 4)
    assert sum(has[:last]) > 0.5 * last
    assert not any(has[last:])
    # A pass reads each document once.
    seen = torch.cat([batch.documents for batch in batches[: len(first) // per_step]])
    ends = sum(int((batch.targets.ids == reading.tokenizer.special_ids['eos']).sum()) for batch in batches)
    assert seen.max() < len(corpus)
    assert ends > 2.5 * len(corpus.documents('train'))


def test_shuffled_metadata_is_that_of_another_document_of_the_split(make, reading):
    form = Conditioned(types())
    corpus = make(form)
    documents = corpus.documents('val')
    donors = shuffle_documents(documents, len(corpus), 0)
    assert sorted(donors[documents].tolist()) == documents.tolist()
    assert (donors[documents] != documents).all()
    view = form.fixed_view(corpus, reading, form.keys, donors=donors)
    found, _ = sequences(form.rows(view, corpus, 'val', 'val', reading))
    document = next(d for d in documents.tolist() if donors[d] % 7)
    title = reading.tokenizer.encode(f'Title: title {donors[document]}')
    assert found[document][0][0][1 : 1 + len(title)] == title


def test_values_of_few_are_facts_of_the_data_in_training(make):
    form = Conditioned(types())
    assert form.facts(make(form)) == {'choices': {'topic': ['t0', 't1', 't2', 't3']}}


@pytest.mark.parametrize('plan', [Concat(L), Chunk(L, L // 2)])
def test_a_plan_whose_windows_begin_anywhere_has_no_prefix_on_each(make, reading, plan):
    form = Conditioned(types())
    with pytest.raises(SettingsError, match=f'data.plan is {type(plan).__name__}'):
        form.examples(make(form), 'val', 'val', 0, reading._replace(plan=plan))
    first_only = Conditioned(types(), every_window=False)
    rows = first_only.examples(make(first_only), 'val', 'val', 0, reading._replace(plan=plan))
    assert batch_of(rows, np.arange(len(rows))).ids.shape == (len(rows), L)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ({'types': []}, 'data.examples.types is empty'),
        ({'types': [Title(), Title()]}, 'has title twice'),
        ({'types': [Title()], 'keep_ratio': 2.0}, 'keep_ratio is 2.0'),
        ({'types': [Title()], 'sampling': lambda: Independent(ratios={'url': 0.5})}, "ratios names 'url'"),
        ({'types': [Title()], 'sampling': lambda: SomeOfPresent({'url': 0.5})}, "weights names 'url'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(arguments, said):
    with pytest.raises(SettingsError, match=said):
        Conditioned(**arguments)


def test_the_store_does_not_depend_on_what_is_drawn():
    one = Conditioned([KeyValue('a'), Template('b', '{value}')], keep_ratio=0.1, sampling=SomeOfPresent)
    other = Conditioned([KeyValue('a', trainable=True), Template('b', '{value}')], keep_ratio=0.9, every_window=False)
    path = Location(__file__)
    assert one.source(path).fingerprint() == other.source(path).fingerprint()
    assert NextTokens().columns == ()


def test_an_example_is_shown_with_its_metadata_coloured_and_its_targets_underlined(make, reading, monkeypatch):
    form = Conditioned(types(), keep_ratio=1.0)
    corpus = make(form)
    rows = form.examples(corpus, 'train', 'train', 0, reading)
    number = next(n for n in range(len(rows)) if any(part.is_metadata for _, ps in rows.paint(n) for part in ps))
    (_, parts), *_ = [pair for pair in rows.paint(number) if any(part.is_metadata for part in pair[1])]
    assert {(part.is_metadata, part.is_counted) for part in parts} == {(True, False), (False, True)}
    monkeypatch.setenv('FORCE_COLOR', '1')
    shown = ''.join(map(show_part, parts))
    assert '\033[36mTitle: title ' in shown or '\033[36mTopic: t' in shown
    assert '\033[4m' in shown
    monkeypatch.delenv('FORCE_COLOR')
    assert '‹T' in ''.join(map(show_part, parts))


class Shout(Preprocessor):
    """A user's preprocessor: the text in capitals; some records break it."""

    writes_text = True
    reads = ('loud',)
    makes = ('note',)

    def process(self, text, record):
        if record['loud'] == 'broken':
            raise KeyError('loud')
        return text.upper(), {'note': [{'value': 'n', 'start': 0, 'end': 1}]}


def test_records_are_preprocessed_before_they_are_read_and_failures_are_counted(tmp_path, tokenizer):
    urls = ['https://a.org/2018/12/x', None, 3, 'https://a.org/x']
    loud = ['yes', 'yes', 'yes', 'broken']
    found = [{'text': f'the cat {i}', 'url': urls[i % 4], 'loud': loud[i % 4]} for i in range(40)]
    (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, found)))
    form = Conditioned([Timestamp(), LocalKeyValue('note')], preprocessors=[TimestampFromUrl(), Shout()])
    source = form.source(Location(str(tmp_path / 'a.jsonl')))
    store = prepare_store(source, tokenizer, tmp_path / 's', form.columns, n_processes=1)
    assert len(store) == 30  # the broken ones have no text
    corpus = Corpus([store], {'train': 1.0})
    rows = form.examples(corpus, 'train', 'train', 0, Reading(tokenizer, Pack(L), tmp_path / 'plans', 5))
    assert rows.view.index.lost == {'TimestampFromUrl: TypeError': {'count': 10, 'rows': ANY}}
    everything = form.fixed_view(corpus, Reading(tokenizer, Pack(L), tmp_path / 'plans', 5), form.keys)
    assert everything.present(np.arange(30)).sum(0).tolist() == [10, 30]
    assert source.fingerprint() != Conditioned(form.types).source(Location(str(tmp_path / 'a.jsonl'))).fingerprint()
    with pytest.raises(SettingsError, match=r'schema is v1; set it to columns'):
        Conditioned([Title()], 'v1', preprocessors=[TimestampFromUrl()])


def test_an_index_with_one_byte_changed_is_named_when_it_is_verified(make, tmp_path, tokenizer):
    """Its size and time are as before, so that a start does not find it."""
    form = Conditioned(types())
    corpus = make(form)
    reading = Reading(tokenizer, Pack(L), tmp_path / 'plans', 5)
    assert form.verify(corpus, reading) is None
    index = make_index(corpus, tokenizer, reading.folder)
    assert form.verify(corpus, reading) == [
        f'metadata: {index.folder} is as it was written ({len(index.types):,} items)'
    ]
    path = index.folder / 'places.bin'
    time = path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(time, time))
    make_index(corpus, tokenizer, reading.folder)
    with pytest.raises(ValueError, match=rf'places\.bin is not what manifest\.json says .*delete {index.folder}'):
        form.verify(corpus, reading)
