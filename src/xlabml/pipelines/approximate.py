"""Approximate search beyond a million vectors, by the library faiss (extra `ann`): a graph of neighbours in a file.

Source: HNSW, Malkov & Yashunin 2016, https://arxiv.org/abs/1603.09320.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from xlabml import artifacts
from xlabml.errors import DataError, NotSupportedError

from .nearest import Hits, Vectors, find_nearest

if TYPE_CHECKING:
    from types import ModuleType

_N_LINKS = 32
_BUILD_WIDTH = 200
_SEARCH_WIDTH = 128
"""How many candidates a search keeps; more is slower, and misses less."""

_BLOCK = 65_536
_N_PROBES = 100


class ApproximateIndex:
    """Finds most of the vectors of the largest products with a query, without looking at all of them.

    Args:
        index: faiss's.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, vectors: Vectors) -> 'ApproximateIndex':
        """Make an index of float32 or float16 vectors, in memory or mapped.

        Raises:
            NotSupportedError: faiss is not installed.
        """
        faiss = _library()
        index = faiss.IndexHNSWFlat(vectors.shape[1], _N_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILD_WIDTH
        for start in range(0, len(vectors), _BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + _BLOCK], np.float32))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> 'ApproximateIndex':
        """Read what `save` wrote.

        Raises:
            NotSupportedError: faiss is not installed.
            DataError: The file holds something else.
        """
        faiss = _library()
        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            raise DataError(f'{path} is no index of faiss, or is damaged; delete it, and search again') from error

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        with artifacts.replacing(path, sync=True) as beside:
            _library().write_index(self._index, str(beside))

    def search(self, queries: Float32[np.ndarray, 'q d'], k: int) -> Hits:
        """The k best that it finds of each query; arguments as of `find_nearest`."""
        self._index.hnsw.efSearch = max(_SEARCH_WIDTH, 2 * k)
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, self._index.ntotal))
        return Hits(scores, rows)

    def recall(self, vectors: Vectors, k: int = 10) -> float:
        """The share of the k nearest that it finds, of 100 rows spread over the vectors, against exact search."""
        n = min(_N_PROBES, len(vectors))
        probes = np.asarray(vectors[[i * len(vectors) // n for i in range(n)]], np.float32)
        exact = find_nearest(probes, vectors, k).rows
        found = self.search(probes, k).rows
        return float(
            np.mean([len({*some} & {*other}) / len(some) for some, other in zip(exact.tolist(), found.tolist())])
        )


def require_library() -> None:
    """Refuse approximate search where it cannot be had.

    Raises:
        NotSupportedError: faiss is not installed.
    """
    _library()


def _library() -> 'ModuleType':
    try:
        import faiss
    except ImportError as error:
        raise NotSupportedError(
            "approximate search needs faiss, the extra `ann`: pip install 'xlabml[ann]'; without --approximate the "
            'search is exact'
        ) from error
    return faiss
