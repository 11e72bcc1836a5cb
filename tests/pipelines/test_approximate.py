"""Approximate search by faiss (skips without it): against exact search, and its file."""

import numpy as np
import pytest

from xlabml.errors import DataError
from xlabml.pipelines.approximate import ApproximateIndex
from xlabml.pipelines.nearest import find_nearest


def test_most_of_the_nearest_are_found_and_a_file_keeps_them(tmp_path):
    pytest.importorskip('faiss')
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = ApproximateIndex.build(vectors.astype(np.float16))
    exact = find_nearest(vectors[:50], vectors, 5)
    found = index.search(vectors[:50], 5)
    overlap = np.mean([len({*a} & {*b}) / 5 for a, b in zip(exact.rows, found.rows)])
    assert overlap > 0.95
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-2)
    assert index.recall(vectors) > 0.95
    assert index.recall(vectors[::-1]) < 0.1  # of other rows it finds none but by chance
    index.save(tmp_path / 'i.faiss')
    again = ApproximateIndex.load(tmp_path / 'i.faiss').search(vectors[:50], 5)
    np.testing.assert_array_equal(again.rows, found.rows)
    assert index.search(vectors[:2], 9000).rows.shape == (2, 3000)
    (tmp_path / 'bad.faiss').write_bytes(b'nothing')
    with pytest.raises(DataError, match=r'bad\.faiss is no index of faiss'):
        ApproximateIndex.load(tmp_path / 'bad.faiss')
