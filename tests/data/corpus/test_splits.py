"""A document's own hash decides its split, and nothing else."""

import numpy as np
import pytest

from xlabml.data import check_ratios, splits_of
from xlabml.data.corpus.splits import splits_of_few
from xlabml.data.store import content_hash, hash_words

RATIOS = {'train': 0.9, 'val': 0.05, 'test': 0.05}


def hashes_of(texts):
    return hash_words(b''.join(content_hash(text.encode()) for text in texts))


def test_the_first_word_of_the_hash_is_the_place_in_the_ratios():
    places = [0.0, 0.4999, 0.5, 0.7499, 0.75, 0.9999]
    hashes = np.array([[int(place * 2**64), 0] for place in places], np.uint64)
    assert splits_of(hashes, {'train': 0.5, 'test': 0.25}).tolist() == [0, 0, 2, 2, -1, -1]
    assert splits_of(hashes, {'predict': 1.0}).tolist() == [3] * 6
    assert splits_of(np.array([[2**64 - 1, 0]], np.uint64), RATIOS).tolist() == [2]


def test_a_documents_split_does_not_depend_on_the_others():
    texts = [f'text {i}' for i in range(2_000)]
    alone = [splits_of(hashes_of([text]), RATIOS)[0] for text in texts[:50]]
    assert splits_of(hashes_of(texts), RATIOS)[:50].tolist() == alone
    assert splits_of(hashes_of(texts[:1] * 3), RATIOS).tolist() == alone[:1] * 3


def test_shares_are_those_that_were_asked_for():
    splits = splits_of(hashes_of(f'text {i}' for i in range(20_000)), RATIOS)
    np.testing.assert_allclose(np.bincount(splits) / len(splits), [0.9, 0.05, 0.05], atol=0.006)


def test_a_larger_train_share_moves_no_document_out_of_train():
    hashes = hashes_of(f'text {i}' for i in range(1_000))
    small, large = (splits_of(hashes, {'train': ratio}) == 0 for ratio in (0.5, 0.6))
    assert (large | ~small).all()


@pytest.mark.parametrize(
    ('ratios', 'message'),
    [
        ({'dev': 0.1}, "there is no split 'dev' in data.splits; the splits are train, val, test, predict"),
        ({'val': -0.1}, 'data.splits.val is -0.1'),
        ({'val': 50.0}, 'data.splits.val is 50.0; it is a share'),
        (
            {'train': 0.9, 'val': 0.2},
            r'data.splits sum to 1.1 \(train 0.9, val 0.2; what is not named keeps its default\)',
        ),
    ],
)
def test_bad_ratios_are_refused(ratios, message):
    with pytest.raises(ValueError, match=message):
        check_ratios(ratios)


def test_of_few_documents_the_nearest_fill_an_empty_split():
    ratios = {'train': 0.9, 'val': 0.05, 'test': 0.05}
    hashes = np.array([[int(place * 2**64), 0] for place in (0.1, 0.5, 0.895, 0.2, 0.895)], np.uint64)
    hashes[4] = hashes[2]  # a copy
    assert splits_of_few(hashes, ratios).tolist() == [0, 2, 1, 0, 1]
    assert splits_of_few(hashes, {'train': 1.0}) is None
    assert splits_of_few(hashes[:1], ratios) is None  # train keeps one
    last = np.full((1, 2), 2**64 - 1, np.uint64)
    assert splits_of_few(last, ratios).tolist() == [0]  # and has one
    assert splits_of_few(np.repeat(hashes, 201, axis=0), ratios) is None  # more than FEW
    filled = np.concatenate([hashes, np.array([[int(0.92 * 2**64), 1], [int(0.99 * 2**64), 1]], np.uint64)])
    assert splits_of_few(filled, ratios) is None
