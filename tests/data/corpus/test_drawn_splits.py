"""Splits by group, within classes and by source: what may not be divided is not, and shares hold."""

import json
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlabml.data import (
    Corpus,
    Location,
    Pack,
    Splitting,
    open_plan,
    open_splits,
    prepare_store,
    split_names,
    train_texts,
    verify_splits,
)
from xlabml.data.corpus.drawn_splits import draw_splits
from xlabml.data.corpus.units import Records
from xlabml.data.store import content_hash, hash_words
from xlabml.errors import SettingsError

RATIOS = {'train': 0.6, 'val': 0.2, 'test': 0.2}


def records(documents, source='source', batch=7):
    """What a source reads: (text, columns) of each document, a few at a time."""

    def read():
        for start in range(0, len(documents), batch):
            some = documents[start : start + batch]
            hashes = hash_words(b''.join(content_hash(text.encode()) for text, _ in some))
            yield Records(source, range(start, start + len(some)), hashes, [columns for _, columns in some])

    return read


def draw(*sources, **how):
    readers = [records(documents, f'source {i}') for i, documents in enumerate(sources)]
    return draw_splits(Splitting(RATIOS, **how), readers).tolist()


def by(names, splits):
    found = defaultdict(list)
    for name, split in zip(names, splits):
        found[name].append(split)
    return found


documents_with_groups = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30)), min_size=1, max_size=120).map(
    lambda pairs: [(f'text {text}', {'author': f'author {author}'}) for text, author in pairs]
)


@given(documents_with_groups, documents_with_groups)
@settings(max_examples=50, deadline=None)
def test_a_group_is_never_divided_and_an_added_document_moves_no_other(documents, more):
    alone, together = draw(documents, group='author'), draw([*documents, *more], group='author')
    assert together[: len(documents)] == alone
    for splits in by([columns['author'] for _, columns in [*documents, *more]], together).values():
        assert len(set(splits)) == 1


def test_groups_take_their_shares_over_many_of_them():
    documents = [(f'text {i}', {'author': i // 2}) for i in range(20_000)]
    counts = np.bincount(draw(documents, group='author'), minlength=3) / len(documents)
    np.testing.assert_allclose(counts[:3], [0.6, 0.2, 0.2], atol=0.01)


def test_a_number_and_its_text_are_one_group():
    assert len({*draw([(f'{i}', {'n': value}) for i in range(20) for value in (7, '7')], group='n')}) == 1


@given(st.lists(st.integers(5, 40), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_each_class_has_its_share_in_each_split_but_for_rounding(sizes, seed):
    documents = [(f'{seed} {label} {i}', {'label': label}) for label, n in enumerate(sizes) for i in range(n)]
    random.Random(seed).shuffle(documents)
    found = by([columns['label'] for _, columns in documents], draw(documents, stratify='label'))
    for label, n in enumerate(sizes):
        counts = Counter(found[label])
        for index, share in enumerate(RATIOS.values()):
            assert abs(counts[index] - share * n) < 1


@given(st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_a_document_more_moves_at_most_one_of_its_class_over_each_threshold(seed):
    draw_from = random.Random(seed)
    documents = [(f'{seed} {i}', {'label': draw_from.randrange(2)}) for i in range(60)]
    extra = (f'{seed} extra', {'label': 0})
    before = draw(documents, stratify='label')
    after = draw([*documents, extra], stratify='label')[:-1]
    moved = [k for k, (one, other) in enumerate(zip(before, after)) if one != other]
    assert all(documents[k][1]['label'] == 0 for k in moved)
    assert len(moved) <= 2


def test_groups_have_their_shares_within_classes():
    documents = [(f'{i}', {'author': i // 3, 'label': i // 3 % 2}) for i in range(300)]
    splits = draw(documents, group='author', stratify='label')
    assert all(len(set(some)) == 1 for some in by([columns['author'] for _, columns in documents], splits).values())
    for some in by([columns['label'] for _, columns in documents], splits).values():
        assert Counter(some) == {0: 90, 1: 30, 2: 30}


def test_one_text_with_two_labels_is_in_one_split():
    documents = [(f'{i % 40}', {'label': i // 40}) for i in range(80)] + [(f'b{i}', {'label': 1}) for i in range(40)]
    splits = draw(documents, stratify='label')
    assert splits[:40] == splits[40:80]


def test_a_source_is_in_the_split_that_it_is_fixed_to_and_takes_its_groups_along():
    own = [(f'own {i}', {'author': i}) for i in range(5)]
    others = [(f'other {i}', {'author': i % 50}) for i in range(200)]
    assert draw(others, own, only=(None, 'test'))[200:] == [2] * 5
    splits = draw(others, own, only=(None, 'test'), group='author')
    plain = draw(others, group='author')
    for (_, columns), split, before in zip(others, splits, plain):
        assert split == (2 if columns['author'] < 5 else before)
    assert splits[200:] == [2] * 5


def test_what_is_fixed_counts_in_no_class():
    own = [(f'own {i}', {'author': f'o{i}', 'label': 0}) for i in range(50)]
    others = [(f'other {i}', {'author': i, 'label': 0}) for i in range(50)]
    taken = [('taken', {'author': 'o7', 'label': 0})]
    how = {'group': 'author', 'stratify': 'label'}
    splits = draw(own, [*taken, *others], only=('val', None), **how)
    assert splits[:51] == [1] * 51
    assert splits[51:] == draw(others, **how)
    assert Counter(splits[51:]) == {0: 30, 1: 10, 2: 10}


@pytest.mark.parametrize(
    ('sources', 'how', 'message'),
    [
        (
            [[('a', {'author': 'x'}), ('b', {'author': None})]],
            {'group': 'author'},
            r"source 0, row 1, has nothing in the column 'author'; give every document .*data\.group",
        ),
        (
            [[('a', {'label': {1}})]],
            {'stratify': 'label'},
            r"source 0, row 0, has a set, which JSON cannot hold, in the column 'label'",
        ),
        (
            [[('a', {'author': 'x'})], [('b', {'author': 'y'}), ('c', {'author': 'x'})]],
            {'group': 'author', 'only': ('val', 'test')},
            r'source 0, row 0, and source 1, row 1, are of one group .*different splits \(only: val and test\)',
        ),
        (
            [[(f'{i}', {'author': i % 9, 'label': 'ab'[i > 30]}) for i in range(60)]],
            {'group': 'author', 'stratify': 'label'},
            r"source 0, row \d+, of class 'a', and source 0, row 3\d, of class 'b' .*are of one group",
        ),
        (
            [[(f'{i}', {'label': 'common'}) for i in range(60)] + [(f'r{i}', {'label': 'rare'}) for i in range(2)]],
            {'stratify': 'label'},
            r"1 of the 2 classes in the column 'label' \(data\.stratify\) have too few documents of different texts "
            r"for one of them to be in the split 'test': 'rare' \(2\); give it a larger share than 0\.2 in data",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(sources, how, message):
    with pytest.raises(SettingsError, match=message):
        draw(*sources, **how)


@pytest.fixture
def written(tmp_path):
    """Two files of labelled texts, the second with some that are not valid."""
    draw_from, paths = random.Random(3), []
    for name, n, n_authors in (('a', 120, 11), ('b', 60, 4)):
        rows = [
            {'text': f'{name} {i} {draw_from.random()}', 'author': f'author {i % n_authors}', 'label': i % 3}
            for i in range(n)
        ]
        if name == 'b':
            rows[5]['text'], rows[9]['text'] = '', None
            rows[5]['author'] = None  # it is left out all the same
        paths.append(tmp_path / f'{name}.jsonl')
        paths[-1].write_text('\n'.join(map(json.dumps, rows)))
    return paths


@pytest.mark.parametrize(
    'how',
    [
        {'group': 'author'},
        {'stratify': 'label'},
        {'only': (None, 'test')},
        {'group': 'author', 'only': (None, 'test')},
        {'stratify': 'label', 'only': ('train', None)},
    ],
)
def test_a_tokenizer_learns_from_the_documents_that_are_trained_on_and_no_others(how, written, tokenizer, tmp_path):
    splitting = Splitting(RATIOS, **how)
    sources = [Location(str(path), only=only) for path, only in zip(written, splitting.only or (None, None))]
    stores = [
        prepare_store(source, tokenizer, tmp_path / f'{i}', splitting.columns) for i, source in enumerate(sources)
    ]
    drawn = open_splits(stores, splitting, tmp_path / 'splits')
    corpus = Corpus(stores, RATIOS, drawn=drawn)
    lines = [path.read_text().split('\n') for path in written]
    train = []
    for document in corpus.documents('train').tolist():
        store, number = corpus.locate(document)
        train.append(json.loads(lines[stores.index(store)][store.rows[number]])['text'])
    assert list(train_texts(sources, splitting)) == train
    assert train
    numbers = np.arange(len(corpus))
    assert corpus.splits(numbers).tolist() == drawn.splits.tolist()
    for name in RATIOS:
        assert (corpus.splits(corpus.documents(name)) == split_names.index(name)).all()


def test_splits_are_kept_found_again_and_verified(written, tokenizer, tmp_path):
    splitting = Splitting(RATIOS, stratify='label')
    store = prepare_store(Location(str(written[0])), tokenizer, tmp_path / 'store', splitting.columns)
    assert verify_splits([store], splitting, tmp_path / 'splits') is None
    first = open_splits([store], splitting, tmp_path / 'splits')
    store.columns = lambda document: pytest.fail('it is drawn anew')
    assert open_splits([store], splitting, tmp_path / 'splits').splits.tolist() == first.splits.tolist()
    assert verify_splits([store], splitting, tmp_path / 'splits').splits.tolist() == first.splits.tolist()
    (folder,) = [path for path in (tmp_path / 'splits').iterdir() if path.is_dir()]
    data = bytearray((folder / 'splits.bin').read_bytes())
    data[0] ^= 1
    (folder / 'splits.bin').write_bytes(data)
    with pytest.raises(ValueError, match=r'splits\.bin is not what manifest\.json says'):
        verify_splits([store], splitting, tmp_path / 'splits')


def test_the_rows_of_a_plan_are_others_where_splits_are_drawn_in_another_way(written, tokenizer, tmp_path):
    store = prepare_store(Location(str(written[0])), tokenizer, tmp_path / 'store', ['author', 'label'])
    corpora = [Corpus([store], RATIOS)]
    for how in ({'group': 'author'}, {'stratify': 'label'}):
        drawn = open_splits([store], Splitting(RATIOS, **how), tmp_path / 'splits')
        corpora.append(Corpus([store], RATIOS, drawn=drawn))
    plans = [open_plan(Pack(32), corpus, 'train', False, tmp_path / 'plans') for corpus in corpora]
    assert len({plan.folder for plan in plans}) == 3
    for corpus, plan in zip(corpora, plans):
        assert {*plan.documents.tolist()} == {*corpus.documents('train').tolist()}
