"""Ranks and their figures equal a sorted list worked through by hand, for any block size, ties against the model."""

import math

import numpy as np
import pytest

from xlabml.evaluation import ranking
from xlabml.evaluation.ranking import make_relevance, rank_relevant, ranking_figures


def figures_of(scores, relevant, at, metrics=('recall', 'precision', 'mrr', 'ndcg', 'map')):
    relevance = make_relevance(relevant)
    ranks = rank_relevant(lambda some: scores[some], relevance, scores.shape[1])
    return ranking_figures(ranks, relevance, at, metrics)


def test_figures_are_those_worked_out_by_hand():
    # Order of documents: 3, 1, 0, 2, 4. Relevant: 1 (gain 1), 2 (gain 3), at ranks 2 and 4.
    scores = np.array([[0.5, 0.8, 0.3, 0.9, 0.1]])
    found = {name: value[0] for name, value in figures_of(scores, [{1: 1.0, 2: 3.0}], (1, 3, 4)).items()}
    log = math.log2
    best = 3 + 1 / log(3)
    assert found == pytest.approx(
        {
            'recall_at_1': 0.0, 'precision_at_1': 0.0, 'mrr_at_1': 0.0, 'ndcg_at_1': 0.0, 'map_at_1': 0.0,
            'recall_at_3': 0.5, 'precision_at_3': 1 / 3, 'mrr_at_3': 0.5, 'ndcg_at_3': 1 / log(3) / best,
            'map_at_3': 1 / 2 / 2,
            'recall_at_4': 1.0, 'precision_at_4': 0.5, 'mrr_at_4': 0.5, 'ndcg_at_4': (1 / log(3) + 3 / log(5)) / best,
            'map_at_4': (1 / 2 + 2 / 4) / 2,
        }
    )  # fmt: skip


@pytest.mark.parametrize('most_counted', [0, 16])
@pytest.mark.parametrize('block', [1, 100, 10_000])
def test_ranks_are_those_of_a_sorted_list(monkeypatch, most_counted, block):
    monkeypatch.setattr(ranking, '_MOST_COUNTED', most_counted)
    monkeypatch.setattr(ranking, '_BLOCK_SCORES', block)
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (20, 30)).astype(np.float32)  # many ties
    relevant = [
        dict(zip(generator.permutation(30)[: generator.integers(0, 6)].tolist(), [1.0, 2.0, 1.0, 3.0, 2.0]))
        for _ in range(20)
    ]
    relevance = make_relevance(relevant)
    ranks = rank_relevant(lambda some: scores[some], relevance, 30)
    expected = []
    for row, gains in zip(scores, relevant):
        order = sorted(range(30), key=lambda document: (-row[document], gains.get(document, 0)))
        # Of equal score and gain any may come first: what counts is the set of ranks.
        by_gain = {}
        for document in gains:
            by_gain.setdefault((row[document], gains[document]), []).append(order.index(document) + 1)
        pools = {key: sorted(some) for key, some in by_gain.items()}
        expected += [pools[row[document], gains[document]].pop(0) for document in gains]
    by_key = {}
    for query in range(20):
        entries = range(relevance.starts[query], relevance.starts[query + 1])
        for entry in entries:
            key = query, scores[query, relevance.documents[entry]], relevance.gains[entry]
            by_key.setdefault(key, []).append((ranks[entry], expected[entry]))
    for pairs in by_key.values():
        assert sorted(a for a, _ in pairs) == sorted(b for _, b in pairs)


def test_a_model_that_gives_everything_one_score_finds_nothing():
    assert figures_of(np.zeros((3, 20)), [[0], [5], [19]], (10,), ('recall', 'mrr'))['recall_at_10'].tolist() == [
        0,
        0,
        0,
    ]


def test_a_score_that_is_nan_ranks_last():
    scores = np.array([[math.nan, 0.1, 0.2]])
    assert rank_relevant(lambda some: scores[some], make_relevance([[0]]), 3).tolist() == [3]


def test_a_query_without_relevant_documents_has_no_figure():
    found = figures_of(np.array([[0.1, 0.2], [0.1, 0.2]]), [[], [1]], (1,))
    for values in found.values():
        assert np.isnan(values[0])
        assert values[1] == 1


@pytest.mark.parametrize(
    ('relevant', 'message'), [([[1, 1]], 'twice'), ([{1: 0.0}], 'not above 0'), ([{1: math.nan}], 'not above 0')]
)
def test_relevance_that_makes_no_sense_is_refused(relevant, message):
    with pytest.raises(ValueError, match=message):
        make_relevance(relevant)
