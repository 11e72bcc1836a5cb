"""Exact copies are found in one store and across several, in bounded memory, and are in no split."""

import numpy as np
import pytest

from xlabml.data import Corpus, mark_copies, open_copies, prepare_store
from xlabml.data.corpus import copies


@pytest.mark.parametrize('bucket', [3, 50, 1 << 20])
def test_copies_are_all_but_the_first(tmp_path, monkeypatch, bucket):
    monkeypatch.setattr('xlabml.data.corpus.copies._CHUNK_DOCUMENTS', bucket)
    monkeypatch.setattr('xlabml.data.corpus.buckets.BUCKET_RECORDS', bucket)
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 2**64, (40, 2), np.uint64)
    kinds[1] = kinds[0][0], kinds[1][1]  # half a hash alike is not alike
    drawn = draw.integers(0, 40, 100)
    seen, expected = set(), []
    for kind in drawn.tolist():
        expected.append(int(kind in seen))
        seen.add(kind)
    marks = mark_copies([kinds[drawn[:30]], kinds[drawn[30:30]], kinds[drawn[30:]]], tmp_path)
    assert marks.tolist() == expected
    assert not list(tmp_path.iterdir())


def test_nothing_has_no_copies(tmp_path):
    assert mark_copies([np.zeros((0, 2), np.uint64)], tmp_path).tolist() == []


def test_a_text_that_two_sources_have_is_in_one_split_once(tmp_path, tokenizer, write_jsonl):
    texts = [f'text {i % 70}' for i in range(100)]
    sources = [write_jsonl(tmp_path / f'{name}.jsonl', part) for name, part in (('a', texts[:60]), ('b', texts[40:]))]
    stores = [prepare_store(source, tokenizer, tmp_path / f'{i}') for i, source in enumerate(sources)]
    corpus = Corpus(stores, {'train': 0.5, 'val': 0.5}, open_copies(stores, tmp_path / 'copies'))
    parts = [
        [tokenizer.decode(corpus.tokens(i).tolist()) for i in corpus.documents(name).tolist()]
        for name in ('train', 'val')
    ]
    assert sorted(parts[0] + parts[1]) == sorted(set(texts))
    assert corpus.n_copies == 120 - 70
    assert len(Corpus(stores, {'train': 1.0}).documents('train')) == 120


def test_copies_are_looked_for_once(tmp_path, store, monkeypatch):
    open_copies([store], tmp_path)
    monkeypatch.setattr(copies, 'mark_copies', lambda *_: pytest.fail('looked for twice'))
    assert open_copies([store], tmp_path).tolist() == [0] * len(store)
