"""Masking: the share is exact for every length, words are whole, spans hang together."""

import numpy as np
import pytest

from xlabml.data.order import scramble
from xlabml.data.rows import SpanMasking, TokenMasking, WordMasking
from xlabml.data.rows.masking import Words


def make_keys(n, seed=0):
    return scramble(np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed))


@pytest.mark.parametrize('masking', [TokenMasking(), SpanMasking(), SpanMasking(0.5, 3), SpanMasking(1.0)])
@pytest.mark.parametrize('length', [1, 2, 7, 50])
@pytest.mark.parametrize('ratio', [0.15, 0.3, 1.0])
def test_the_share_is_the_same_for_texts_of_every_length(masking, length, ratio):
    n = 42_000 // length
    masked = masking.draw(ratio, make_keys(n * length), np.full(n, length), None).reshape(n, length)
    assert masked.mean() == pytest.approx(ratio, abs=0.015)
    # No place of a text is masked less often than another.
    assert np.abs(masked.mean(0) - ratio).max() < 5 * 0.5 / np.sqrt(n)


def test_spans_are_as_long_as_they_are_drawn():
    """Rare spans seldom touch: the runs of masked tokens are the spans."""
    masked = SpanMasking(0.2, 10).draw(0.01, make_keys(400_000), np.array([400_000]), None)
    edges = np.flatnonzero(np.diff(masked.astype(int)))
    runs = np.diff(edges)[0::2] if not masked[0] else np.diff(edges)[1::2]
    expected = (1 - 0.8**10) / 0.2
    assert runs.mean() == pytest.approx(expected, rel=0.05)
    assert runs.max() >= 10


def test_a_span_stays_in_its_piece():
    """With pieces of which only one is drawn from, no other is masked."""
    lengths = np.array([5, 0, 3, 8])
    keys = np.full(16, 2**64 - 1, np.uint64)  # uniform is almost 1: no span begins
    keys[6] = 0  # the second token of the piece of three
    masked = SpanMasking(0.001, 10).draw(0.3, keys, lengths, None)
    assert masked.tolist() == [False] * 5 + [True] * 3 + [False] * 8
    one = SpanMasking(1.0, 10).draw(0.3, keys, lengths, None)
    assert np.flatnonzero(one).tolist() == [6]


def test_words_begin_where_people_see_them_begin():
    #         0      1      2    3    4   5     6      7    8    9
    words = Words([piece.encode() for piece in (' un', 'seen', ',', ' it', "'", 's', ' ', '\u6771', '1', ' a-')])
    ids = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1])
    expected = [1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1]
    assert words.starts(ids, np.array([11])).tolist() == [bool(x) for x in expected]
    assert words.starts(np.array([1, 1, 1]), np.array([2, 0, 1])).tolist() == [True, False, True]


def test_a_character_in_bytes_is_no_border():
    words = Words([b' x', b'\xe6', b'\x9d', b'\xb1'])
    assert words.starts(np.array([0, 1, 2, 3, 0]), np.array([5])).tolist() == [True, False, False, False, True]


def test_a_very_long_word_is_masked_in_parts():
    words = Words([b'a'])
    assert np.flatnonzero(words.starts(np.zeros(40, np.int64), np.array([40]))).tolist() == [0, 16, 32]


def test_a_word_is_masked_whole():
    starts = np.random.default_rng(0).random(30_000) < 0.4
    starts[0] = True
    masked = WordMasking().draw(0.3, make_keys(30_000), np.array([30_000]), starts)
    word = np.cumsum(starts) - 1
    of_word = np.bincount(word, masked) / np.bincount(word)
    assert set(of_word.tolist()) == {0.0, 1.0}
    assert masked.mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'end_ratio': 0.0}, r'data\.examples\.masking\.end_ratio is 0\.0; give a probability'),
        ({'max_tokens': 0}, r'data\.examples\.masking\.max_tokens is 0; give 1 or more'),
    ],
)
def test_spans_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpanMasking(**arguments)
