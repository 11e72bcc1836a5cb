"""Exact search in vectors of any type, block by block, so that a corpus need not fit the memory. numpy alone."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Shaped

from xlabml.errors import RequestError

from .quantization import Calibration, from_binary, to_binary

Vectors: TypeAlias = Shaped[np.ndarray, '_ _']
"""float32, float16, int8, or uint8 of bits; an array in memory or mapped."""

_BLOCK = 16_384
_OVERSAMPLE = 10


class Hits(NamedTuple):
    """The nearest vectors of each query, the nearest first; of equal ones the earlier.

    Args:
        scores: Products with the query: cosines, where both have length 1.
        rows: Their numbers in the corpus.
    """

    scores: Float32[np.ndarray, 'q k']
    rows: Int64[np.ndarray, 'q k']


def find_nearest(
    queries: Float[np.ndarray, 'q d'],
    corpus: Vectors,
    k: int = 10,
    calibration: Calibration | None = None,
    rescore_with: Vectors | None = None,
    oversample: int = _OVERSAMPLE,
) -> Hits:
    """The k rows of a corpus whose products with each query are largest.

    A query stays in float32, whatever the corpus is in: int8 is turned back into values, and of bits the nearest
    oversample · k by Hamming distance are scored again, by the signs that they stand for or by better vectors.

    Args:
        queries: As `encode` returns them.
        corpus: Of any type that `encode` returns.
        k: At most as many as there are.
        calibration: That of the corpus, where it is int8, or bits with one.
        rescore_with: Vectors of the same rows in float32, float16 or int8, mapped from a file perhaps, by which the
            candidates of a corpus of bits are scored; None: by their bits.
        oversample: How many candidates there are, as a multiple of k.

    Raises:
        RequestError: A query is zero or not finite, or the shapes do not go together.
    """
    if k < 1 or oversample < 1:
        raise RequestError(f'k is {k} and oversample {oversample}; give 1 or more')
    queries = np.asarray(queries, np.float32)
    _check_queries(queries)
    d = queries.shape[1]
    width = (d + 7) // 8 if corpus.dtype == np.uint8 else d
    if corpus.shape[1] != width or (corpus.dtype == np.int8 and calibration is None):
        raise RequestError(
            f'queries of {d} channels cannot search {corpus.dtype} vectors of {corpus.shape[1]} columns'
            + ('; int8 ones need their calibration' if corpus.dtype == np.int8 and calibration is None else '')
        )
    k = min(k, len(corpus))
    if corpus.dtype != np.uint8:
        return _scan(len(corpus), len(queries), k, lambda rows: queries @ _floats(corpus[rows], calibration).T)
    if rescore_with is not None and (len(rescore_with) != len(corpus) or rescore_with.shape[1] != d):
        raise RequestError(f'rescore_with is {rescore_with.shape}; it must have {len(corpus)} rows of {d}')
    bits = to_binary(queries, calibration)
    candidates = _scan(
        len(corpus), len(queries), min(len(corpus), oversample * k), lambda rows: _agreement(bits, corpus[rows])
    )
    return _rescore(queries, candidates.rows, k, corpus if rescore_with is None else rescore_with, calibration)


def _scan(n_rows: int, n_queries: int, k: int, score: Callable[[slice], Float32[np.ndarray, 'q m']]) -> Hits:
    """The best k of all rows, keeping k a query between blocks."""
    best = np.full((n_queries, 0), -np.inf, np.float32)
    rows = np.zeros((n_queries, 0), np.int64)
    for start in range(0, n_rows, _BLOCK):
        block = slice(start, min(start + _BLOCK, n_rows))
        scores = np.concatenate([best, score(block)], axis=1)
        numbers = np.concatenate(
            [rows, np.broadcast_to(np.arange(block.start, block.stop), scores[:, rows.shape[1] :].shape)], axis=1
        )
        best, rows = _top(scores, numbers, k)
    return Hits(best, rows)


def _top(
    scores: Float32[np.ndarray, 'q m'], rows: Int64[np.ndarray, 'q m'], k: int
) -> tuple[Float32[np.ndarray, 'q k'], Int64[np.ndarray, 'q k']]:
    """The k largest of each line, falling; of equal ones the first rows."""
    if scores.shape[1] > k:
        # Of scores that equal the k-th, a partition would keep any: all are kept until rows decide.
        least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        n = int((scores >= least).sum(axis=1).max())
        kept = np.argsort(scores < least, axis=1, kind='stable')[:, :n]
        scores = np.take_along_axis(scores, kept, axis=1)
        rows = np.take_along_axis(rows, kept, axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _agreement(queries: Vectors, corpus: Vectors) -> Float32[np.ndarray, 'q m']:
    """Minus the number of bits in which two differ."""
    different = np.zeros((len(queries), len(corpus)), np.int32)
    for column in range(corpus.shape[1]):
        different += np.bitwise_count(queries[:, column, None] ^ corpus[None, :, column])
    return -different.astype(np.float32)


def _rescore(
    queries: Float32[np.ndarray, 'q d'],
    candidates: Int64[np.ndarray, 'q m'],
    k: int,
    vectors: Vectors,
    calibration: Calibration | None,
) -> Hits:
    """The k best of each query's candidates by their products."""
    found_scores = []
    found_rows = []
    for query, rows in zip(queries, candidates):
        rows = np.sort(rows)
        some = vectors[rows]
        values = from_binary(some, len(query)) if some.dtype == np.uint8 else _floats(some, calibration)
        scores, best = _top((values @ query)[None], rows[None], k)
        found_scores.append(scores[0])
        found_rows.append(best[0])
    return Hits(np.stack(found_scores), np.stack(found_rows))


def _floats(vectors: Vectors, calibration: Calibration | None) -> Float32[np.ndarray, 'n d']:
    if vectors.dtype == np.int8:
        assert calibration is not None
        return calibration.from_int8(vectors)
    return np.asarray(vectors, np.float32)


def _check_queries(queries: Float32[np.ndarray, 'q d']) -> None:
    if not np.isfinite(queries).all():
        raise RequestError(f'query {int((~np.isfinite(queries)).any(axis=1).argmax())} is not finite')
    length: Float64[np.ndarray, ' q'] = np.linalg.norm(queries.astype(np.float64), axis=1)
    if not length.all():
        raise RequestError(
            f'query {int((length == 0).argmax())} is a zero vector, which is as near to one text as to any other'
        )
