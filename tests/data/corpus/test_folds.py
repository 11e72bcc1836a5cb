"""Folds: each document is tested in one of them, whole groups, and within each class; what does not go is refused."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlabml.data import Location, NearDuplicates, Splitting, prepare_store, split_names
from xlabml.data.corpus import Corpus, open_near_duplicates, open_splits
from xlabml.data.corpus.drawn_splits import draw_splits
from xlabml.data.corpus.splits import splits_of_fold
from xlabml.data.corpus.units import Records
from xlabml.data.groups import LabelledTexts
from xlabml.data.store import content_hash, hash_words
from xlabml.datamodules.arguments import check_fold
from xlabml.errors import SettingsError

TRAIN, VAL, TEST = range(3)
RATIOS = {'train': 0.6, 'val': 0.2, 'test': 0.2, 'predict': 0.0}


def draw(documents, n, **how):
    """The splits of (text, columns) in each of n folds."""
    hashes = hash_words(b''.join(content_hash(text.encode()) for text, _ in documents))
    records = Records('source', range(len(documents)), hashes, [columns for _, columns in documents])
    ratios = check_fold([0, n], RATIOS, [], False, True)
    return [draw_splits(Splitting(ratios, fold=(i, n), **how), [lambda: iter([records])]).tolist() for i in range(n)]


@given(st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_each_place_is_tested_once_and_the_rest_is_divided_in_proportion(n, seed):
    hashes = np.random.default_rng(seed).integers(0, 2**64, (4000, 2), np.uint64)
    edges = [k * 2**64 // n + shift for k in range(n + 1) for shift in (-1, 0, 1)]
    hashes[: len(edges), 0] = np.array([edge % 2**64 for edge in edges], np.uint64)
    found = np.stack([splits_of_fold(hashes, {'train': 0.75, 'val': 0.25}, (i, n)) for i in range(n)])
    assert ((found == TEST).sum(0) == 1).all()
    shares = [(found == split).mean() for split in (TRAIN, VAL)]
    np.testing.assert_allclose(shares, [0.75 * (1 - 1 / n), 0.25 * (1 - 1 / n)], atol=0.015)
    # No part of train is always train: each fold begins elsewhere.
    assert not (found == TRAIN).all(0).any()


@given(st.lists(st.integers(8, 40), min_size=1, max_size=5), st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_each_class_is_tested_once_in_equal_parts(sizes, n, seed):
    documents = [(f'{seed} {label} {i}', {'label': label}) for label, size in enumerate(sizes) for i in range(size)]
    folds = draw(documents, n, stratify='label')
    for label, size in enumerate(sizes):
        here = [i for i, (_, columns) in enumerate(documents) if columns['label'] == label]
        counts = [Counter(fold[i] for i in here) for fold in folds]
        assert sum(count[TEST] for count in counts) == size
        assert all(abs(count[TEST] - size / n) < 1 for count in counts)
        assert all(abs(count[TRAIN] - 0.75 * (size - count[TEST])) <= 0.5 for count in counts)


def test_groups_are_tested_whole():
    documents = [(f'text {i}', {'author': i % 60}) for i in range(300)]
    for fold in draw(documents, 5, group='author'):
        assert all(len({fold[i] for i in range(author, 300, 60)}) == 1 for author in range(60))
    with pytest.raises(SettingsError, match='make fewer than 5 folds'):
        draw([(f'{i}', {'label': i % 2}) for i in range(7)], 5, stratify='label')


@pytest.mark.parametrize(
    ('fold', 'changed', 'message'),
    [
        ([5, 5], {}, r'data\.fold is \[5, 5\]; give a number from 0'),
        ([0, 1], {}, r'data\.fold is \[0, 1\]'),
        ([0], {}, r'data\.fold is \[0\]'),
        ([0, 5], {'is_stream': True}, 'a stream has no folds'),
        ([0, 5], {'ratios': {**RATIOS, 'predict': 0.1, 'test': 0.1}}, 'has a share for predict'),
        ([0, 5], {'ratios': {**RATIOS, 'train': 0.0}}, 'has nothing for train'),
        ([0, 5], {'sources': [Location('own.csv', only='test')]}, r'own\.csv is fixed to test \(only\)'),
        ([0, 5], {'sources': [Location('book.txt', document='line')]}, r'book\.txt is one text that is cut'),
    ],
)
def test_what_does_not_go_with_folds_is_refused(fold, changed, message):
    given = {'ratios': RATIOS, 'sources': [], 'is_stream': False, 'by_content': True, **changed}
    with pytest.raises(SettingsError, match=message):
        check_fold(fold, *given.values())


def make_corpus(tmp_path, tokenizer, splitting, *sources, near=None):
    """Labelled records of some sources, each with what it is fixed to, as a corpus."""
    form = LabelledTexts(label='stars')
    stores = []
    for i, records in enumerate(sources):
        path = tmp_path / f'{i}.jsonl'
        path.write_text('\n'.join(map(json.dumps, records)))
        columns = sorted({*splitting.columns, *form.columns})
        stores.append(prepare_store(form.source(Location(str(path))), tokenizer, tmp_path / f'store-{i}', columns))
    pairs = None if near is None else open_near_duplicates(stores, near, None, tmp_path / 'near')
    return Corpus(stores, splitting.ratios, None, pairs, open_splits(stores, splitting, tmp_path / 'splits'))


def test_labelled_texts_are_split_within_classes_and_by_group_and_an_own_test_file_stays(tmp_path, tokenizer):
    own = [{'text': f'the cat {i}', 'stars': 'good', 'author': f'own {i}'} for i in range(6)]
    records = [
        {'text': f'a dog {i} sat', 'stars': ('bad', 'good', 'good')[i // 2 % 3], 'author': i // 2} for i in range(240)
    ]
    splitting = Splitting({'train': 0.5, 'val': 0.25, 'test': 0.25}, 'author', 'stars', (None, 'test'))
    corpus = make_corpus(tmp_path, tokenizer, splitting, records, own)
    of_split = {name: set(corpus.documents(name).tolist()) for name in ('train', 'val', 'test')}
    assert set(range(240, 246)) < of_split['test']
    for label, n in (('bad', 80), ('good', 160)):
        here = {i for i in range(240) if records[i]['stars'] == label}
        assert [len(of_split[name] & here) / n for name in of_split] == [0.5, 0.25, 0.25]
    splits = corpus.splits(np.arange(240)).reshape(-1, 2)
    assert (splits[:, 0] == splits[:, 1]).all()
    assert split_names[:3] == ('train', 'val', 'test')


def test_near_duplicates_of_labelled_texts_are_on_one_side(tmp_path, tokenizer):
    pytest.importorskip('rensa')
    words = [f'{letter}{number}' for letter in 'abcdefgh' for number in range(40)]
    texts = [' '.join(random.Random(i).choices(words, k=80)) for i in range(20)]
    records = [{'text': text, 'stars': str(i % 2)} for i, text in enumerate(texts)]
    records += [{**record, 'text': f'{record["text"]} a'} for record in records]
    splitting = Splitting({'train': 0.5, 'val': 0.0, 'test': 0.5}, stratify='stars')
    near = NearDuplicates(0.7, 5, 256, 'drop')
    corpus = make_corpus(tmp_path, tokenizer, splitting, records, near=near)
    kept = [i for name in ('train', 'test') for i in corpus.documents(name).tolist()]
    assert sorted(kept) == list(range(20))
