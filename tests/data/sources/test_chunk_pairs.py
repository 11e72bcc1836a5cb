"""Chunks of documents as pairs: where they are cut, what they are drawn from, and which texts have none."""

import json
import random

import pytest

from xlabml.data import ChunkPairs, Location, NextChunks
from xlabml.data.groups import GROUP, GroupRecords, TextGroups
from xlabml.errors import SettingsError


def make_texts(n, seed=0):
    rng = random.Random(seed)
    return [' '.join(f'w{i}x{rng.randint(0, 9)}' for i in range(rng.randint(60, 300))) for _ in range(n)]


@pytest.fixture
def write(tmp_path):
    def make(*texts):
        path = tmp_path / 'texts.jsonl'
        path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
        return Location(str(path))

    return make


def test_a_pair_is_two_stretches_of_whole_words_of_one_text_that_do_not_overlap(write):
    texts = make_texts(200)
    words = [text.split() for text in texts]
    swapped = 0
    for record, text, some in zip(
        ChunkPairs(write(*texts), 200).documents(['anchor', 'positive']), texts, words, strict=True
    ):
        places = []
        for name in ('anchor', 'positive'):
            chunk = record.columns[name]
            assert 100 < len(chunk) <= 200
            assert set(chunk.split()) <= set(some)
            places.append((text.index(chunk), text.index(chunk) + len(chunk)))
        (_, end), (start, _) = sorted(places)
        assert end < start
        swapped += places[0] > places[1]
    assert 60 < swapped < 140


def test_chunks_come_from_everywhere_in_a_text(write):
    text = ' '.join(f'{i:05}' for i in range(2_000))  # 12,000 characters
    starts = [
        int(record.columns['anchor'].split()[0])
        for seed in range(200)
        for record in ChunkPairs(write(text), 600, seed=seed).documents(['anchor'])
    ]
    assert min(starts) < 100
    assert max(starts) > 1_700
    assert 800 < sum(starts) / len(starts) < 1_100


def test_what_is_drawn_follows_from_the_seed_and_the_text_alone(write):
    texts = make_texts(5)
    one = [record.columns for record in ChunkPairs(write(*texts)).documents(['anchor', 'positive', 'document'])]
    source = write(*texts[::-1])
    other = [record.columns for record in ChunkPairs(source).documents(['anchor', 'positive', 'document'])]
    assert one == other[::-1]
    assert one != [r.columns for r in ChunkPairs(source, seed=1).documents(['anchor', 'positive', 'document'])][::-1]
    assert ChunkPairs(source).fingerprint() != ChunkPairs(source, seed=1).fingerprint()
    assert len({record['document'] for record in one}) == 5


def test_the_next_chunk_is_what_follows_and_another_is_of_the_document_before(write):
    texts = make_texts(300)
    labels = []
    before = None
    for record, text in zip(NextChunks(write(*texts), 200).documents(['a', 'b', 'label']), texts, strict=True):
        a, b, label = (record.columns[name] for name in ('a', 'b', 'label'))
        if label:
            assert f'{a} {b}' in text
        else:
            assert b in before
        labels.append(label)
        before = text
    assert labels[0] == 1
    assert 110 < sum(labels) < 190


@pytest.mark.parametrize('kind', [ChunkPairs, NextChunks])
def test_a_text_too_short_for_two_chunks_has_none_and_is_left_out_and_counted(write, kind):
    source = kind(write('a few words only', *make_texts(2)), 200)
    roles = {'anchor': 'anchor', 'positive': 'positive'} if kind is ChunkPairs else {'a': 'a', 'b': 'b'}
    columns = TextGroups(roles, leave_out_empty=True).records
    records = list(GroupRecords(source, columns).documents([GROUP]))
    assert [record.text == '' for record in records] == [True, False, False]
    with pytest.raises(ValueError, match=r'set data\.examples\.leave_out_empty to true'):
        list(GroupRecords(source, TextGroups(roles).records).documents([GROUP]))


def test_parts_read_as_the_whole(write):
    source = ChunkPairs(write(*make_texts(20)))
    parts = [record.columns for part in source.parts(['anchor']) for record in source.read(part, ['anchor'])]
    assert parts == [record.columns for record in source.documents(['anchor'])]


def test_a_long_word_is_cut_where_it_must_be(write):
    (record,) = ChunkPairs(write('x' * 1_000), 200).documents(['anchor', 'positive'])
    assert len(record.columns['anchor']) == len(record.columns['positive']) == 200


def test_refusals(write):
    with pytest.raises(ValueError, match='chunk_chars is 10 and min_chars 60'):
        ChunkPairs(write('a'), 10)
    with pytest.raises(SettingsError, match=r"no column 'query'; its columns are anchor, positive, document, source"):
        next(ChunkPairs(write('a')).documents(['query']))
