"""Retrieval data sets as BEIR and NanoBEIR lay them out."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xlabml.data import BeirFolder
from xlabml.data.groups import GROUP, TextGroups
from xlabml.data.sources import read_corpus, read_qrels, read_queries
from xlabml.errors import DataError, SettingsError

CORPUS = [('d1', 'A', 'one'), ('d2', '', 'two'), ('d3', 'C', 'three')]
QUERIES = [('q1', 'first?'), ('q2', 'second?'), ('q3', 'third?')]
QRELS = [('q1', 'd1', 1), ('q1', 'd2', 0), ('q1', 'd3', 2), ('q2', 'd2', 0)]


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def beir(tmp_path):
    write_lines(tmp_path / 'corpus.jsonl', [{'_id': i, 'title': title, 'text': text} for i, title, text in CORPUS])
    write_lines(tmp_path / 'queries.jsonl', [{'_id': i, 'text': text} for i, text in QUERIES])
    (tmp_path / 'qrels').mkdir()
    rows = ['\t'.join(map(str, row)) for row in (('query-id', 'corpus-id', 'score'), *QRELS)]
    (tmp_path / 'qrels' / 'train.tsv').write_text('\n'.join(rows) + '\n')
    return tmp_path


@pytest.fixture
def nano(tmp_path):
    """As NanoBEIR: parquet folders, no titles and no scores."""
    tables = {
        'corpus': {'_id': [i for i, *_ in CORPUS], 'text': [text for *_, text in CORPUS]},
        'queries': {'_id': [i for i, _ in QUERIES], 'text': [text for _, text in QUERIES]},
        'qrels': {'query-id': ['q1', 'q2'], 'corpus-id': ['d3', 'd1']},
    }
    for name, table in tables.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(table), tmp_path / name / 'train-00000-of-00001.parquet')
    return tmp_path


def test_the_three_parts_are_read(beir):
    assert list(read_corpus(beir)) == [('d1', 'A one'), ('d2', 'two'), ('d3', 'C three')]
    assert list(read_corpus(beir, {'d2'})) == [('d2', 'two')]
    assert read_queries(beir) == dict(QUERIES)
    assert read_qrels(beir, 'train') == {'q1': {'d1': 1, 'd2': 0, 'd3': 2}, 'q2': {'d2': 0}}


def test_queries_come_with_the_texts_that_were_judged(beir):
    source = BeirFolder(str(beir))
    found = list(source.documents(['query', 'positive', 'negatives']))
    assert [document.columns for document in found] == [
        {'query': 'first?', 'positive': ['A one', 'C three'], 'negatives': ['two']}
    ]
    assert [path.name for path in source.files()] == ['corpus.jsonl', 'queries.jsonl', 'train.tsv']
    groups = TextGroups({'anchor': 'query', 'positive': 'positive', 'negatives': 'negatives'}).source(source)
    [document] = groups.documents([GROUP])
    assert document.text == 'first?A oneC threetwo'
    assert document.columns == {GROUP: {'roles': [0, 1, 1, 2]}}


def test_parquet_folders_without_titles_and_scores_are_read(nano):
    assert [d.columns for d in BeirFolder(str(nano)).documents(['query_id', 'positive'])] == [
        {'query_id': 'q1', 'positive': ['three']},
        {'query_id': 'q2', 'positive': ['one']},
    ]


def test_what_is_missing_is_named(beir):
    with pytest.raises(SettingsError, match=r'has no qrels as BEIR .* qrels/train.tsv; check the path and the split'):
        read_qrels(beir, 'dev')
    (beir / 'qrels' / 'train.tsv').write_text('query-id\tcorpus-id\tscore\nq1\td9\t1\n')
    with pytest.raises(DataError, match="document 'd9', judged for query 'q1', is not in the corpus"):
        list(BeirFolder(str(beir)).documents(['query']))
    (beir / 'qrels' / 'train.tsv').write_text('query-id\tcorpus-id\tscore\nq1\td1\tyes\n')
    with pytest.raises(DataError, match="row 0: the relevance 'yes' is no number"):
        read_qrels(beir, 'train')
    with pytest.raises(SettingsError, match=r'has no corpus .* there is nothing'):
        list(read_corpus(beir / 'nowhere'))
