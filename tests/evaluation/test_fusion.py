"""The terms of BM25 and the share of the vectors find the most, whatever the blocks; of equal shares the middle."""

import numpy as np
import pytest

from xlabml.bm25 import Fusion, fuse
from xlabml.evaluation import fit_fusion, fusion, make_relevance


def weight_of(vectors, words, relevance, n_documents):
    return fit_fusion(vectors, {'words': words}, relevance, n_documents).vector_weight


def reciprocal_rank(vectors, words, relevant, weight):
    fused = fuse([vectors, words], [weight, 1 - weight])
    return np.mean([1 / np.sum(row >= max(row[list(own)])) for row, own in zip(fused, relevant)])


@pytest.fixture(scope='module')
def search():
    generator = np.random.default_rng(0)
    relevant = [{query, query + 20} for query in range(40)]
    truth = np.zeros((40, 60))
    for query, own in enumerate(relevant):
        truth[query, list(own)] = 1.0
    vectors = truth + 0.45 * generator.standard_normal(truth.shape)
    words = 3 * truth + 2.5 * generator.standard_normal(truth.shape)
    return vectors, words, relevant


@pytest.mark.parametrize('block', [1, 130, 10_000])
def test_the_weight_is_the_best_of_all(search, monkeypatch, block):
    monkeypatch.setattr(fusion, '_BLOCK_SCORES', block)
    vectors, words, relevant = search
    relevance = make_relevance([sorted(own) for own in relevant])
    found = weight_of(vectors.__getitem__, words.__getitem__, relevance, 60)
    of_weight = {weight: reciprocal_rank(vectors, words, relevant, weight) for weight in fusion.WEIGHTS}
    assert of_weight[found] == pytest.approx(max(of_weight.values()))
    assert of_weight[found] > max(of_weight[0.0], of_weight[0.5], of_weight[1.0])
    assert weight_of(words.__getitem__, vectors.__getitem__, relevance, 60) == pytest.approx(1 - found)


def test_of_equal_weights_it_is_the_middle_one():
    scores = np.eye(3)
    relevance = make_relevance([[0], [1], [2]])
    assert weight_of(scores.__getitem__, scores.__getitem__, relevance, 3) == 0.5
    noise = np.array([[0.0, 1.0, 2.0]] * 3)
    assert weight_of(noise.__getitem__, scores.__getitem__, relevance, 3) < 0.5
    assert weight_of(scores.__getitem__, noise.__getitem__, relevance, 3) > 0.5


def test_only_the_first_queries_are_asked(monkeypatch):
    monkeypatch.setattr(fusion, 'MOST_QUERIES', 2)
    relevance = make_relevance([[0], [], [2]])
    asked = []

    def scores(some):
        asked.append((some.start, some.stop))
        return np.eye(3)[some]

    assert weight_of(scores, scores, relevance, 3) == 0.5
    assert set(asked) == {(0, 2)}


def test_the_terms_that_find_more_are_chosen_and_of_equal_ones_the_first(search):
    vectors, words, relevant = search
    relevance = make_relevance([sorted(own) for own in relevant])
    rest = vectors.__getitem__, relevance, 60
    poor = np.random.default_rng(1).standard_normal(words.shape)
    weight = weight_of(vectors.__getitem__, words.__getitem__, relevance, 60)

    def choose(**lexical):
        return fit_fusion(rest[0], {name: one.__getitem__ for name, one in lexical.items()}, *rest[1:])

    assert choose(words=poor, parts=words) == Fusion(weight, 'parts')
    assert choose(words=words, parts=poor) == Fusion(weight, 'words')
    assert choose(words=words, parts=words) == Fusion(weight, 'words')
