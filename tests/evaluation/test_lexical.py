"""Baselines of a search without a model; those of scikit-learn where it is installed."""

import numpy as np
import pytest

from xlabml.bm25 import BM25
from xlabml.evaluation import lexical, lexical_systems

DOCUMENTS = ['the encoders of text', 'a cat on a mat', 'encoding of pictures', 'dogs and cats', '!!!', 'a mat of straw']
QUERIES = ['encoder', 'catlike', '???']


def test_without_scikit_learn_there_is_bm25_alone(monkeypatch):
    monkeypatch.setattr(lexical, 'has_sklearn', lambda: False)
    systems = lexical_systems(QUERIES, DOCUMENTS)
    assert list(systems) == ['BM25', 'BM25 of word parts']
    np.testing.assert_array_equal(systems['BM25'](slice(0, 2)), BM25(DOCUMENTS).scores(QUERIES[:2]))


def test_characters_find_words_of_another_form():
    pytest.importorskip('sklearn')
    systems = lexical_systems(QUERIES, DOCUMENTS)
    assert list(systems) == ['BM25', 'BM25 of word parts', 'character TF-IDF', 'LSA-5']
    scores = systems['character TF-IDF'](slice(0, 3))
    assert scores.shape == (3, 6)
    assert scores[0].argmax() == 0
    assert scores[1].argmax() in (1, 3)
    assert (scores[2] == 0).all()
    assert systems['BM25'](slice(0, 2)).max() == 0  # no word is the same
    assert systems['BM25 of word parts'](slice(0, 2)).argmax(axis=1).tolist() == [0, 1]


def test_lsa_finds_by_words_that_go_together():
    pytest.importorskip('sklearn')
    topics = ['engine wheel brake', 'wheel brake tyre', 'brake tyre engine', 'sonnet rhyme verse', 'rhyme verse stanza']
    scores = lexical.semantic_scores(['engine', 'stanza'], topics, 2)(slice(0, 2))
    assert scores[0, 1] > 0.9 > 0.1 > abs(scores[0, 4])  # no word in common with either
    assert scores[1, 3] > 0.9


@pytest.mark.parametrize('documents', [['!!!', '...'], ['one']])
def test_what_has_no_words_or_is_one_text_has_no_lsa(documents):
    pytest.importorskip('sklearn')
    systems = lexical_systems(['one'], documents)
    assert not any(name.startswith('LSA') for name in systems)
    assert systems['BM25'](slice(0, 1)).shape == (1, len(documents))
