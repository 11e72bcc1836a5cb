"""Stores of tokenizers that may lose text: raw bytes counted to the last one, and what does not come back."""

import json

import foreign
import numpy as np
import pytest
from token_batches import batch_of

from xlabml.batches import IGNORED
from xlabml.data import (
    Chunk,
    Concat,
    Corpus,
    CutAtPattern,
    Location,
    Pack,
    Rows,
    SharedJob,
    describe_changed,
    open_plan,
    plan_store,
    prepare_store,
    validate,
)
from xlabml.tokenizer import Tokenizer

SPLITS = {'train': 1.0, 'val': 0.0, 'test': 0.0, 'predict': 0.0}
TEXTS = [
    'the cat sat on the mat',
    'The Quick  brown fox\njumps ',
    ' été ﬁne \u3000 \ufdfa\ufdfa',
    '   ',
    '\ufdfa',
    'isn\'t it 12,345? (yes), "no"',
    '\u2581a\u2581\u2581b',
    '世界 \U0001f469\u200d\U0001f467\0 <s> [CLS] <|endoftext|>',
    'the cat sat on the mat and ' * 40,
    '\x00',
]
LOSSY = ['mistral', 'unigram', 'bpe', 'word_model', 'byte_level', 'byte_level_prefix', 'word_piece', 'unigram_json']


@pytest.fixture(scope='module', params=LOSSY)
def tokenizer(request, tmp_path_factory):
    return Tokenizer.load(foreign.KINDS[request.param](tmp_path_factory.mktemp('foreign')))


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp('texts') / 'texts.jsonl'
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in TEXTS))
    return Location(str(path))


@pytest.fixture(scope='module')
def store(tmp_path_factory, tokenizer, source):
    return prepare_store(source, tokenizer, tmp_path_factory.mktemp('stores') / 'one', n_processes=1)


def kept(tokenizer):
    """The rows of which there is at least one token."""
    return [row for row, text in enumerate(TEXTS) if tokenizer.encode(text)]


def test_a_store_holds_the_ids_of_the_tokenizer_and_the_bytes_of_the_raw_texts(store, tokenizer):
    rows = kept(tokenizer)
    assert store.rows.tolist() == rows
    assert store.n_bytes.tolist() == [len(TEXTS[row].encode()) for row in rows]
    for i, row in enumerate(rows):
        ids = store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist()
        assert ids == tokenizer.encode(TEXTS[row])
        said = sum(len(tokenizer.piece_bytes[id]) for id in ids)
        assert said + store.end_bytes[i] == store.n_bytes[i]


def test_what_the_tokenizer_makes_nothing_of_is_left_out_and_counted(store, tokenizer):
    lost = [row for row in range(len(TEXTS)) if row not in kept(tokenizer)]
    assert store.manifest['invalid'] == ({'no token': {'count': len(lost), 'rows': lost}} if lost else {})


def test_documents_that_do_not_come_back_are_counted(store, tokenizer):
    texts = [TEXTS[row] for row in kept(tokenizer)]
    n = sum(tokenizer.decode(tokenizer.encode(text)) != text for text in texts)
    assert store.manifest['n_changed'] == n
    assert describe_changed(store.manifest).startswith(f'{n} of {len(texts)} documents ({n / len(texts):.2%})')
    assert Corpus([store], SPLITS).n_changed == n


@pytest.mark.parametrize(
    'plan', [Pack(16), Pack(300), Concat(16), Chunk(16), Chunk(16, 9)], ids=lambda plan: str(plan.settings())
)
def test_the_bytes_of_the_counted_targets_are_the_raw_bytes(store, tokenizer, tmp_path, plan):
    corpus = Corpus([store], SPLITS)
    rows = Rows(corpus, open_plan(plan, corpus, 'train', True, tmp_path), tokenizer)
    counted = dict.fromkeys(range(len(corpus)), 0)
    n_targets = dict(counted)
    for row in range(len(rows)):
        batch = batch_of(rows, np.array([row]), n_counted=1.0)
        for document, size, start, end in zip(
            batch.documents.tolist(), batch.targets.n_bytes.tolist(), batch.layout.starts[:-1], batch.layout.starts[1:]
        ):
            if document >= 0:
                counted[document] += size
                n_targets[document] += int((batch.targets.ids[0, start:end] != IGNORED).sum())
    for document, size in counted.items():
        assert n_targets[document] == len(corpus.tokens(document)) + 1
        assert size == len(TEXTS[store.rows[document]].encode())


def test_rows_have_the_special_tokens_of_the_tokenizer(store, tokenizer, tmp_path):
    corpus = Corpus([store], SPLITS)
    rows = Rows(corpus, open_plan(Chunk(2000), corpus, 'train', True, tmp_path), tokenizer)
    batch = batch_of(rows, np.array([0]), n_counted=1.0)
    document = int(batch.documents[0])
    n = len(corpus.tokens(document))
    assert batch.ids[0, 0] == tokenizer.special_ids['sos']
    assert batch.targets.ids[0, n] == tokenizer.special_ids['eos']
    assert set(batch.ids[0, n + 1 :].tolist()) == {tokenizer.special_ids['pad']}


def test_forked_processes_give_the_store_of_one(tokenizer, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 300)
    path = tmp_path / 'texts.jsonl'
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in TEXTS * 5))
    source = Location(str(path))
    assert len(source.parts()) > 4
    tokenizer.encode(TEXTS * 5, n_threads=2)  # threads that a fork would not take along
    one, two = (prepare_store(source, tokenizer, tmp_path / f's{n}', n_processes=n) for n in (1, 2))
    assert one.fingerprint == two.fingerprint
    names = ('n_changed', 'n_documents', 'invalid')
    assert [one.manifest[name] for name in names] == [two.manifest[name] for name in names]
    assert 'forked' not in capfd.readouterr().err
    two.verify()


def test_pieces_are_tokenized_apart_and_come_back_one_by_one(tokenizer, source, tmp_path):
    cut = prepare_store(CutAtPattern(source, ' '), tokenizer, tmp_path / 'cut', n_processes=1)
    for i, row in enumerate(cut.rows.tolist()):
        text, some = TEXTS[row], cut.tokens[cut.offsets[i] : cut.offsets[i + 1]].tolist()
        said = sum(len(tokenizer.piece_bytes[id]) for id in some)
        assert said + cut.end_bytes[i] == len(text.encode())
        assert cut.pieces(i)[-1, 1] == len(some)


def test_another_machine_makes_the_same_parts(store, tokenizer, source, tmp_path):
    job = plan_store(source, tokenizer)
    shared = SharedJob.named(job, str(tmp_path / 'shared'))
    shared.write(job)
    assert shared.encode(0, 1, n_threads=1) == len(job.parts) == 1
    here = job.__class__(job.source, tokenizer, job.columns, tmp_path / 'here', job.parts, job.begun)
    shared.gather(here, [0])
    tokens = (here.part_folder(0) / 'tokens.bin').read_bytes()
    assert tokens == (store.folder / 'tokens.bin').read_bytes()


def test_documents_are_valid_whatever_the_tokenizer(source):
    assert list(validate(source)) == [None] * len(TEXTS)
