"""The texts of groups are to be had whole by their hashes, and a test of a search is read beside BM25 over them."""

from typing import NamedTuple

import pytest
import torch

from xlabml.callbacks.search_table import describe_search
from xlabml.data.groups import TextGroups
from xlabml.data.order import EVALUATION, example_keys
from xlabml.evaluation import Retrieval

LONG = ' '.join(f'word{i}' for i in range(40))


@pytest.fixture
def groups(make_groups):
    records = [{'query': f'question {name}', 'pos': f'{name} {LONG}', 'neg': f'no {name}'} for name in 'abcdefgh']
    records.append({'query': 'question a', 'pos': 'another answer', 'neg': 'no a'})
    return make_groups(TextGroups({'anchor': 'query', 'positive': 'pos', 'negatives': 'neg'}), records, max_len=16)


def whole_batch(groups):
    numbers = torch.arange(len(groups)).numpy()
    return groups.batch(numbers, example_keys(0, EVALUATION, numbers), 1.0)


def test_texts_are_whole_whatever_the_limits_cut(groups):
    texts = groups.texts_by_hash()
    assert {f'a {LONG}', 'question a', 'another answer', 'no a'} <= set(texts.values())
    assert len(texts) == 8 * 3 + 1
    batch = whole_batch(groups)
    is_text = batch.example >= 0
    assert set(batch.targets.text_hash[is_text].tolist()) == set(texts)
    queries = batch.targets.text_hash[is_text & (batch.role == 0)].tolist()
    assert all(texts[one].startswith('question') for one in queries)


class Outputs(NamedTuple):
    vectors: torch.Tensor


class OneRank:
    """Gathers what there is."""

    def everything(self, values):
        return [values]

    def total(self, values):
        return values


def test_a_search_is_described_beside_bm25(groups):
    batch = whole_batch(groups)
    retrieval = Retrieval([1], ['recall'])
    retrieval.start()
    torch.manual_seed(0)
    vectors = torch.randn(len(batch.example), 8)
    is_anchor = (batch.role == 0) & (batch.example >= 0)
    vectors[is_anchor] = vectors[batch.role == 1]  # anchors like their positives, in the order of the groups
    retrieval.update(Outputs(vectors), batch)
    figures = retrieval.result(OneRank())
    lines = describe_search(retrieval.last, groups.texts_by_hash(), [1], ['recall']).splitlines()
    assert lines[0] == '8 queries, 17 documents'
    found = {line.split('  ')[0]: line for line in lines[2:]}
    assert {'BM25', 'vectors', 'vectors + BM25'} <= set(found)
    assert float(found['vectors'].split()[1]) == pytest.approx(figures['recall_at_1'], abs=5e-4)
    # Of BM25's queries all name a letter that two documents have: the short one, `no a`, is no answer.
    assert found['BM25'].split()[1] == '0.000'
