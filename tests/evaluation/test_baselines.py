"""The table of BM25, a model and both: a model that knows what BM25 does not lifts the fused figures."""

import numpy as np
import pytest

from xlabml.evaluation import has_sklearn
from xlabml.evaluation.baselines import format_table, search_table
from xlabml.evaluation.ranking import make_relevance

BASELINES = ['BM25', 'BM25 of word parts', *(['character TF-IDF', 'LSA-32'] if has_sklearn() else [])]


def make_case(n=60):
    """Documents of which half name their number in words; vectors that know the other half."""
    generator = np.random.default_rng(0)
    documents = [f'entry word{i} about things' if i % 2 else 'entry about things' for i in range(n)]
    queries = [f'word{i} please' for i in range(n)]
    known = np.arange(n)[:, None] % 2 == 0
    of_documents = generator.normal(size=(n, 16))
    of_queries = np.where(known, of_documents, generator.normal(size=(n, 16)))
    return queries, documents, make_relevance([[i] for i in range(n)]), {'model': (of_queries, of_documents)}


def test_the_table_has_each_system_and_what_it_adds():
    rows = {row.name: row for row in search_table(*make_case(), at=(1,))}
    assert list(rows) == [*BASELINES, 'model', 'model + BM25']
    assert rows['BM25'].figures['recall_at_1'].value == pytest.approx(0.5)
    assert rows['model'].figures['recall_at_1'].value == pytest.approx(0.5, abs=0.06)
    fused = rows['model + BM25']
    assert fused.figures['recall_at_1'].value > 0.95
    assert fused.over_bm25['recall_at_1'].low > 0.3
    assert rows['BM25'].over_bm25['recall_at_1'] == (0, 0, 0)


def test_a_gain_is_the_mean_difference_on_the_same_queries():
    rows = {row.name: row for row in search_table(*make_case(), at=(1,))}
    ours = rows['model + BM25'].values['recall_at_1']
    theirs = rows['model'].values['recall_at_1']
    gain = rows['model + BM25'].over(rows['model'])['recall_at_1']
    assert gain.value == pytest.approx((ours - theirs).mean())
    assert gain.low > 0.3
    lost = rows['model'].over(rows['model + BM25'])['recall_at_1']
    assert lost.value == pytest.approx(-gain.value)


def test_the_table_for_people_has_a_line_a_system():
    lines = format_table(search_table(*make_case(), at=(1,))).splitlines()
    assert [line.split('  ')[0] for line in lines] == ['', *BASELINES, 'model', 'model + BM25']
    assert lines[0].split() == ['recall_at_1', 'recall_at_1', 'over', 'BM25']
    assert lines[1].split()[1] == '0.500'
