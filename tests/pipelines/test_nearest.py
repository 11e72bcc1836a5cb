"""Exact search against sorting everything; int8 and bits against the vectors that they are of."""

import numpy as np
import pytest

from xlabml.pipelines import Calibration, find_nearest, nearest
from xlabml.pipelines.quantization import from_binary, quantize, to_binary


def make_vectors(n, d=32, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


CORPUS = make_vectors(500)
QUERIES = make_vectors(9, seed=1)
CALIBRATION = Calibration.fit(CORPUS)


def by_sorting(scores, k):
    return np.argsort(-scores, axis=1, kind='stable')[:, :k]


@pytest.mark.parametrize('block', [1, 7, 500, 10_000])
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'int8'])
def test_the_nearest_are_those_of_sorting_everything(monkeypatch, block, dtype):
    monkeypatch.setattr(nearest, '_BLOCK', block)
    calibration = CALIBRATION if dtype == 'int8' else None
    stored = quantize(CORPUS, dtype, calibration)
    values = CALIBRATION.from_int8(stored) if calibration else stored.astype(np.float32)
    hits = find_nearest(QUERIES, stored, 10, calibration)
    scores = QUERIES @ values.T
    assert np.array_equal(hits.rows, by_sorting(scores, 10))
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, hits.rows, axis=1), atol=1e-6)


@pytest.mark.parametrize('block', [3, 1000])
def test_of_equal_scores_the_first_rows_come_first(monkeypatch, block):
    monkeypatch.setattr(nearest, '_BLOCK', block)
    corpus = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    assert find_nearest(np.array([[1.0, 0.5]]), corpus, 3).rows.tolist() == [[0, 2, 3]]
    assert find_nearest(np.array([[0.5, 1.0]]), corpus, 3).rows.tolist() == [[1, 4, 0]]
    assert find_nearest(np.array([[0.5, 1.0]]), corpus, 100).rows.tolist() == [[1, 4, 0, 2, 3, 5]]


def test_bits_find_most_of_the_nearest_once_they_are_scored_again():
    bits = quantize(CORPUS, 'binary', CALIBRATION)
    exact = find_nearest(QUERIES, CORPUS, 10)

    def share(hits):
        return np.mean([len({*one} & {*other}) for one, other in zip(hits.rows, exact.rows)]) / 10

    rescored = find_nearest(QUERIES, bits, 10, CALIBRATION, rescore_with=CORPUS, oversample=20)
    assert share(rescored) > 0.9
    assert share(rescored) > share(find_nearest(QUERIES, bits, 10, CALIBRATION, oversample=1))
    full = find_nearest(QUERIES, bits, 10, CALIBRATION, rescore_with=CORPUS, oversample=50)
    assert np.array_equal(full.rows, exact.rows)
    np.testing.assert_allclose(full.scores, exact.scores, atol=1e-6)
    own = find_nearest(QUERIES, bits, 10, oversample=50)
    assert np.array_equal(own.rows, by_sorting(QUERIES @ from_binary(bits, 32).T, 10))


def test_the_nearest_by_bits_are_those_that_differ_in_the_fewest():
    bits = to_binary(CORPUS)
    differ = (np.unpackbits(to_binary(QUERIES), axis=1)[:, None] != np.unpackbits(bits, axis=1)[None]).sum(-1)
    hits = find_nearest(QUERIES, bits, 1, oversample=1)
    assert np.array_equal(hits.rows, by_sorting(-differ, 1))


def test_levels_stand_for_values_to_half_a_step():
    found = CALIBRATION.from_int8(CALIBRATION.to_int8(CORPUS))
    step = (CALIBRATION.high - CALIBRATION.low) / 255
    assert (np.abs(found - CORPUS) <= step / 2 + 1e-6).all()
    beyond = CALIBRATION.to_int8(CORPUS * 100)
    assert {*np.unique(beyond)} <= {*range(-128, 128)}
    assert beyond.min() == -128
    constant = Calibration.fit(np.ones((100, 3), np.float32))
    assert np.array_equal(constant.from_int8(constant.to_int8(np.ones((1, 3)))), np.ones((1, 3)))


def test_bits_are_ones_above_the_middle():
    shifted = CORPUS + 5
    assert to_binary(shifted).min() == 255
    bits = np.unpackbits(to_binary(shifted, Calibration.fit(shifted)), axis=1)
    assert abs(bits.mean() - 0.5) < 0.01
    assert np.array_equal(from_binary(np.array([[0b10100000]], np.uint8), 3), [[1, -1, 1]])


def test_a_calibration_is_kept_in_a_file(tmp_path):
    CALIBRATION.save(tmp_path / 'c.npy')
    for one, other in zip(Calibration.load(tmp_path / 'c.npy'), CALIBRATION):
        assert np.array_equal(one, other)
    np.save(tmp_path / 'd.npy', CORPUS)
    with pytest.raises(ValueError, match=r'd\.npy is no calibration: it holds float32 \(500, 32\)'):
        Calibration.load(tmp_path / 'd.npy')
    np.save(tmp_path / 'e.npy', np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r'e\.npy is no calibration'):
        Calibration.load(tmp_path / 'e.npy')


@pytest.mark.parametrize(('call', 'message'), [
    (lambda: find_nearest(np.zeros((2, 32)), CORPUS), 'query 0 is a zero vector'),
    (lambda: find_nearest(np.full((1, 32), np.nan), CORPUS), 'query 0 is not finite'),
    (lambda: find_nearest(QUERIES, CORPUS, 0), 'k is 0'),
    (lambda: find_nearest(QUERIES[:, :4], CORPUS), 'queries of 4 channels cannot search float32 vectors of 32'),
    (lambda: find_nearest(QUERIES, CALIBRATION.to_int8(CORPUS)), 'int8 ones need their calibration'),
    (lambda: find_nearest(QUERIES, to_binary(CORPUS), rescore_with=CORPUS[:3]), r'must have 500 rows of 32'),
    (lambda: Calibration.fit(CORPUS[:99]), 'a calibration of 99 vectors says little'),
    (lambda: CALIBRATION.to_int8(CORPUS[:, :4]), 'of vectors of 32, but these have 4'),
    (lambda: quantize(CORPUS, 'float16', CALIBRATION), 'a calibration is given, but dtype is float16'),
])  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
