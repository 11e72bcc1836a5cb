"""Near-duplicates, against sets of n-grams compared one by one."""

import random

import numpy as np
import pytest

from xlabml.data import (
    Corpus,
    NearDuplicates,
    NearPairs,
    check_near_duplicates,
    describe_near_duplicates,
    near_duplicates,
    open_copies,
    open_near_duplicates,
    prepare_store,
    shared_between_splits,
)

pytest.importorskip('rensa')

SPLITS = {'train': 0.6, 'val': 0.4}
WORDS = [f'{letter}{number}' for letter in 'abcdefgh' for number in range(40)]


@pytest.fixture(scope='module')
def some_texts():
    """Forty texts, most of them in several versions with a few words changed."""
    draw = random.Random(0)
    texts = []
    for _ in range(40):
        words = draw.choices(WORDS, k=draw.randrange(60, 200))
        for n_changed in draw.sample(range(30), draw.randrange(1, 6)):
            version = list(words)
            for at in draw.sample(range(len(words)), min(n_changed, len(words))):
                version[at] = draw.choice(WORDS)
            texts.append(' '.join(version))
    draw.shuffle(texts)
    return [*texts, 'a1', 'a1 b2', texts[3], texts[3]]


@pytest.fixture(scope='module')
def store(tmp_path_factory, some_texts, tokenizer, write_jsonl):
    folder = tmp_path_factory.mktemp('near')
    return prepare_store(write_jsonl(folder / 'texts.jsonl', some_texts), tokenizer, folder / 'store')


def ngrams(store, i, n):
    ids = store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist()
    return {tuple(ids[k : k + n]) for k in range(max(1, len(ids) - n + 1))}


def jaccards(store, n):
    """Similarity of each pair (later, earlier)."""
    sets = [ngrams(store, i, n) for i in range(len(store))]
    return {(j, i): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for j in range(len(sets)) for i in range(j)}


@pytest.mark.parametrize('threshold', [0.5, 0.8, 1.0])
@pytest.mark.parametrize('n', [5, 8])
def test_what_is_found_is_what_is_alike(store, tmp_path, threshold, n):
    settings = NearDuplicates(threshold, n, 256)
    found = open_near_duplicates([store], settings, None, tmp_path)
    pairs = {(int(j), int(i)): float(s) for j, i, s in zip(found.later, found.earlier, found.similarity)}
    true = jaccards(store, n)
    assert all(abs(true[pair] - similarity) < 0.16 for pair, similarity in pairs.items())  # five deviations
    assert all(similarity >= threshold for similarity in pairs.values())
    clear = [pair for pair, similarity in true.items() if similarity >= min(1.0, threshold + 0.1)]
    assert len(clear) >= 3
    assert len(pairs.keys() & set(clear)) >= 0.95 * len(clear)
    assert all(true[pair] > threshold - 0.16 for pair in pairs)


def test_ngrams_of_documents_do_not_cross_their_ends():
    tokens = np.array([1, 2, 3, 1, 2, 3, 9, 1, 2], np.uint16)
    hashes, bounds = near_duplicates.ngram_hashes(tokens, np.array([0, 3, 6, 7, 9]), 2)
    assert bounds.tolist() == [0, 2, 4, 5, 6]  # 12 23 | 12 23 | 9 | 12
    assert hashes[0] == hashes[2] == hashes[5]
    assert hashes[1] == hashes[3]
    assert len(set(hashes.tolist())) == 3


def test_bands_find_a_pair_at_the_threshold():
    # 18 bands of 7: 1 - (1 - 0.8^7)^18 = 0.986; bands of 8, 16 of them, find 0.947
    assert NearDuplicates(0.8, 5, 128).bands() == (18, 7)
    assert NearDuplicates(1.0, 5, 16).bands() == (1, 16)
    with pytest.raises(ValueError, match=r'n_permutations is 4, too few to find documents that are 0\.1 alike'):
        NearDuplicates(0.1, 5, 4)


def test_of_a_group_the_earliest_stays_and_buckets_change_nothing(store, some_texts, tmp_path, monkeypatch):
    settings, marks = NearDuplicates(0.7, 5, 128, 'drop'), []
    for i, bucket in enumerate((3, 50, 1 << 20)):
        monkeypatch.setattr('xlabml.data.corpus.buckets.BUCKET_RECORDS', bucket)
        monkeypatch.setattr('xlabml.data.corpus.near_duplicates._CHUNK_TOKENS', 100 * bucket)
        found = open_near_duplicates([store], settings, None, tmp_path / f'{i}')
        marks.append(found.marks().tolist())
        corpus = Corpus([store], SPLITS, None, found)
    assert marks[0] == marks[1] == marks[2]
    kept = np.concatenate([corpus.documents(split) for split in SPLITS])
    assert sorted(kept) == [i for i, mark in enumerate(marks[0]) if not mark]
    first = some_texts.index(some_texts[3])
    assert marks[0][-2:] == [1, 1]  # copies of an earlier one
    assert not any(later == first and earlier > first for later, earlier in zip(found.later, found.earlier))
    true = jaccards(store, 5)
    assert max(true[max(a, b), min(a, b)] for a in kept.tolist() for b in kept.tolist() if a != b) < 0.85


def test_documents_that_very_many_are_like_are_marked_all(tmp_path, tokenizer, write_jsonl, monkeypatch):
    monkeypatch.setattr('xlabml.data.corpus.near_duplicates._MAX_COMPARED', 2)
    texts = [' '.join([*WORDS[:100], f'{i}']) for i in range(50)]
    store = prepare_store(write_jsonl(tmp_path / 'a.jsonl', texts), tokenizer, tmp_path / 's')
    found = open_near_duplicates([store], NearDuplicates(0.8), None, tmp_path)
    assert found.marks().tolist() == [0] + [1] * 49


def test_exact_copies_are_left_to_drop_duplicates(store, tmp_path):
    copies = open_copies([store], tmp_path)
    assert copies.sum() == 2
    found = open_near_duplicates([store], NearDuplicates(0.8), copies, tmp_path)
    assert not copies[found.later].any()
    assert not copies[found.earlier].any()


def test_they_are_looked_for_once(store, tmp_path, monkeypatch):
    first = open_near_duplicates([store], NearDuplicates(0.8), None, tmp_path)
    monkeypatch.setattr(near_duplicates, '_write_signatures', lambda *_: pytest.fail('looked for twice'))
    again = open_near_duplicates([store], NearDuplicates(0.8, action='drop'), None, tmp_path)
    assert again.later.tolist() == first.later.tolist()
    assert not list(tmp_path.rglob('signatures'))


def by_hand(store, pairs):
    later, earlier = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    return NearPairs(later, earlier, np.full(len(pairs), 0.9, np.float32), len(store), 'by hand')


def test_what_splits_share_is_counted_by_document_and_refused(store):
    corpus = Corpus([store], SPLITS)
    train, val = corpus.documents('train').tolist(), corpus.documents('val').tolist()
    assert train[0] < val[-1]
    assert val[0] < train[-1]
    pairs = by_hand(
        store, [(val[-1], train[0]), (val[-1], train[0]), (train[-1], val[0]), (train[-1], train[0]), (val[1], val[0])]
    )
    assert shared_between_splits(corpus, pairs) == {('train', 'val'): 2, ('val', 'train'): 2}
    lines = describe_near_duplicates(corpus, pairs)
    assert lines[0] == f'3 of {len(store)} documents are near-duplicates of earlier ones'
    assert f'  {val[-1]} (val) is nearly {train[0]} (train), 90% alike' in lines
    assert lines[-1] == '2 documents of val have a near-duplicate in train'
    with pytest.raises(
        ValueError, match=rf'2 documents of val have .* {val[-1]} \(val\) is nearly {train[0]} \(train\)'
    ):
        check_near_duplicates(corpus, pairs)
    check_near_duplicates(corpus, by_hand(store, [(train[-1], train[0]), (val[1], val[0])]))
    dropped = Corpus([store], SPLITS, None, pairs)
    assert shared_between_splits(dropped, pairs) == {}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'threshold': 0.0}, 'threshold is 0.0; it is a share'),
        ({'threshold': 1.5}, 'threshold is 1.5; it is a share'),
        ({'ngram_tokens': 0}, 'ngram_tokens is 0; it must be at least 1'),
        ({'n_permutations': -1}, 'n_permutations is -1; it must be at least 1'),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NearDuplicates(**arguments)


def test_a_missing_library_is_named(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'rensa', None)
    with pytest.raises(ValueError, match=r'needs the package rensa .*pip install "xlabml\[dedup\]"'):
        open_near_duplicates([store], NearDuplicates(), None, tmp_path)
