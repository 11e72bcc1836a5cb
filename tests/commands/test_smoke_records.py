"""What `--smoke` tries: the first documents, and of a source with columns those spread over its beginning."""

import json
from collections import Counter

import pytest

from xlabml.commands.smoke import _first_records
from xlabml.data import Location


@pytest.fixture
def sorted_by_topic(tmp_path):
    path = tmp_path / 'sorted.jsonl'
    rows = ({'text': f'text {i} of a topic', 'topic': 'abcd'[i // 1000]} for i in range(4000))
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    return Location(str(path))


def test_a_source_that_is_sorted_by_a_column_shows_each_of_its_values(sorted_by_topic):
    records, texts = _first_records(sorted_by_topic, ['topic'])
    counts = Counter(record['topic'] for record in records)
    assert set(counts) == set('abcd')
    assert max(counts.values()) <= min(counts.values()) + 1
    assert 200 <= len(records) <= 400
    assert texts == [record['text'] for record in records]


def test_of_texts_alone_no_more_than_the_first_are_read(sorted_by_topic):
    _, texts = _first_records(sorted_by_topic, [])
    assert texts == [f'text {i} of a topic' for i in range(400)]
