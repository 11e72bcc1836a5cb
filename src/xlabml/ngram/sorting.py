"""Distinct keys with their counts, of more keys than memory holds: sorted runs on disk, merged range by range."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Integer


class Runs:
    """Chunks of keys as sorted runs of distinct keys and their counts, in two files of a folder.

    Args:
        folder: Where the files are.
        n_limit: Keys that `merged` holds at a time, about.
    """

    def __init__(self, folder: Path, n_limit: int) -> None:
        self._paths = folder / 'run_keys.tmp', folder / 'run_counts.tmp'
        self._files = tuple(path.open('wb') for path in self._paths)
        self._sizes: list[int] = []
        self._n_limit = n_limit

    def add(self, keys: Integer[np.ndarray, ' n']) -> None:
        """Add a chunk of keys, in any order."""
        distinct, counts = np.unique(keys, return_counts=True)
        self._files[0].write(distinct.tobytes())
        self._files[1].write(counts.astype(np.uint32).tobytes())
        self._sizes.append(len(distinct))

    def merged(self) -> Iterator[tuple[Integer[np.ndarray, ' n'], Integer[np.ndarray, ' n']]]:
        """All distinct keys in order with their counts, a stretch at a time; the files are deleted behind it."""
        for file in self._files:
            file.close()
        runs = self._open_runs()
        places = [0] * len(runs)
        for pivot in self._pivots([keys for keys, _ in runs]):
            parts = []
            for i, (keys, counts) in enumerate(runs):
                end = len(keys) if pivot is None else int(np.searchsorted(keys, pivot))
                parts.append((keys[places[i] : end], counts[places[i] : end]))
                places[i] = end
            found = _sum_equal(*(np.concatenate(some) for some in zip(*parts)))
            if len(found[0]):
                yield found
        del runs
        for path in self._paths:
            path.unlink()

    def _open_runs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        if not sum(self._sizes):
            return []
        ends = np.cumsum(self._sizes)[:-1]
        maps = (np.memmap(path, dtype, 'r') for path, dtype in zip(self._paths, (np.int64, np.uint32)))
        return list(zip(*(np.split(np.asarray(values), ends) for values in maps)))

    def _pivots(self, runs: list[np.ndarray]) -> list[int | None]:
        """Keys to cut the runs at, so that all stretches together hold n_limit keys at most; None: the end.

        Between two neighbours of every `step`-th key of each run there are fewer than `step` keys of each run, so that
        2 · len(runs) neighbours have at most 3 · len(runs) · step keys.
        """
        if not runs:
            return []
        step = max(1, self._n_limit // (3 * len(runs)))
        samples = np.sort(np.concatenate([keys[::step] for keys in runs]))
        return [*samples[:: 2 * len(runs)][1:].tolist(), None]


def _sum_equal(
    keys: Integer[np.ndarray, ' n'], counts: Integer[np.ndarray, ' n']
) -> tuple[Integer[np.ndarray, ' m'], Integer[np.ndarray, ' m']]:
    """Distinct keys in order, with the sums of their counts."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[starts], np.add.reduceat(counts[order], starts, dtype=np.uint32)
