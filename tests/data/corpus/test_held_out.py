"""A text that is held out is found in the train split, whatever source, part or batch it is in."""

import numpy as np
import pytest

from xlabml.data import Corpus, Location, Overlap, check_held_out, find_overlap


@pytest.mark.parametrize('batch', [7, 1 << 18])
@pytest.mark.parametrize('which', ['corpus', 'two_stores'])
def test_what_is_shared_is_counted_and_named(request, tmp_path, write_jsonl, texts, monkeypatch, batch, which):
    monkeypatch.setattr('xlabml.data.corpus.held_out._BATCH_DOCUMENTS', batch)
    corpus = request.getfixturevalue(which)
    train = corpus.documents('train').tolist()
    shared = [train[3], train[200]]
    source = write_jsonl(tmp_path / 'test.jsonl', ['new', texts[shared[1]], texts[shared[0]], *map(str, range(20))])
    found = find_overlap(corpus, source)
    assert found.n_documents == 2
    assert set(found.pairs) == {(2, corpus.name(shared[0])), (1, corpus.name(shared[1]))}
    with pytest.raises(
        ValueError, match=r'2 documents of the train split are in .*test\.jsonl.* row \d \(there .*take them'
    ):
        check_held_out(corpus, source)


def test_other_splits_and_other_texts_do_not_count(corpus, tmp_path, write_jsonl, texts):
    source = write_jsonl(tmp_path / 'test.jsonl', [*(texts[i] for i in corpus.documents('test')), 'new'])
    assert find_overlap(corpus, source) == Overlap(0, [])
    check_held_out(corpus, source)
    (tmp_path / 'none.jsonl').write_text('{"text": ""}')
    assert find_overlap(corpus, Location(str(tmp_path / 'none.jsonl'))) == Overlap(0, [])


def test_a_document_that_is_in_no_split_does_not_count(two_stores, tmp_path, write_jsonl, texts):
    dropped, kept = two_stores.documents('train')[[-3, -2]].tolist()
    copies = np.zeros(len(two_stores), np.uint8)
    copies[dropped] = 1
    corpus = Corpus(two_stores.stores, two_stores.ratios, copies)
    source = write_jsonl(tmp_path / 'test.jsonl', [texts[dropped], texts[kept]])
    assert find_overlap(corpus, source) == Overlap(1, [(1, corpus.name(kept))])
    check_held_out(corpus, write_jsonl(tmp_path / 'dropped.jsonl', [texts[dropped]]))
