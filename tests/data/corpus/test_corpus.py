"""Several stores are one numbering of documents, and the tokenizer sees the train split alone."""

import pytest

from xlabml.data import Corpus, Location, prepare_store, split_names, splits_of, train_texts
from xlabml.tokenizer import train_tokenizer


def test_the_splits_part_the_documents(corpus, texts):
    parts = [corpus.documents(split).tolist() for split in ('train', 'val', 'test')]
    assert sorted(number for part in parts for number in part) == list(range(len(texts)))
    assert all(part == sorted(part) for part in parts)


def test_two_stores_give_what_one_gives(corpus, two_stores):
    for split in ('train', 'val', 'test'):
        documents = corpus.documents(split)
        assert two_stores.documents(split).tolist() == documents.tolist()
        assert two_stores.n_bytes(documents).tolist() == corpus.n_bytes(documents).tolist()
        starts, lengths = two_stores.token_spans(documents)
        assert (starts.tolist(), lengths.tolist()) == tuple(part.tolist() for part in corpus.token_spans(documents))
        assert two_stores.tokens_at(starts).tolist() == corpus.tokens_at(starts).tolist()
    assert [two_stores.tokens(i).tolist() for i in (0, 119, 120, 299)] == [
        corpus.tokens(i).tolist() for i in (0, 119, 120, 299)
    ]


def test_a_document_has_a_name_and_a_place(corpus, two_stores):
    assert corpus.name(130) == '130'
    assert two_stores.name(130) == f'{two_stores.stores[1].manifest["source"]}:10'
    assert two_stores.locate(120) == (two_stores.stores[1], 0)
    with pytest.raises(ValueError, match='there is no document 300; they are 0 to 299'):
        corpus.locate(300)


def test_stores_of_different_tokenizers_do_not_mix(store, source, texts, tmp_path):
    other = prepare_store(source, train_tokenizer(texts, tmp_path / 'other.model', 340), tmp_path / 'other')
    with pytest.raises(ValueError, match=r'different tokenizers, of \[350, 340\] tokens'):
        Corpus([store, other], {'train': 1.0})
    with pytest.raises(ValueError, match='there are no stores'):
        Corpus([], {'train': 1.0})


def test_the_tokenizer_is_trained_on_the_train_split_alone(corpus, source, texts, tmp_path):
    learned_from = list(train_texts([source], corpus.ratios))
    assert learned_from == [texts[i] for i in corpus.documents('train')]
    (tmp_path / 'bad.jsonl').write_text('{"text": ""}\n{"text": null}\n{"text": "\\ud800"}\n{"text": "fine"}')
    assert list(train_texts([Location(str(tmp_path / 'bad.jsonl'))], {'train': 1.0})) == ['fine']


def test_what_the_ratios_leave_out_is_in_no_split(store):
    splits = splits_of(store.hashes, {'val': 0.5})
    assert set(splits.tolist()) == {-1, split_names.index('val')}
