"""Stretches of the endless sequence of rows that a run leaves out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


class Gaps:
    """Counts the places of a sequence without those in some stretches of it, in constant memory.

    Args:
        stretches: First place, and the one after the last, of each; in any order, they may overlap or be empty.
    """

    def __init__(self, stretches: Sequence[tuple[int, int]]) -> None:
        merged: list[list[int]] = []
        for start, end in sorted((start, end) for start, end in stretches if start < end):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        starts, ends = np.array(merged, np.int64).reshape(-1, 2).T
        self._jumps = np.concatenate([[0], np.cumsum(ends - starts)])  # by how much counting is behind after i of them
        self._starts = starts
        self._ends = ends
        self._met = starts - self._jumps[:-1]  # how many places are counted before each

    def places(self, counts: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        """The places of these indices after skipping, from 0."""
        return counts + self._jumps[np.searchsorted(self._met, counts, 'right')]

    def place(self, count: int) -> int:
        """The place of an index after skipping."""
        return count + int(self._jumps[np.searchsorted(self._met, count, 'right')])

    def before(self, place: int) -> int:
        """How many places before this one are outside of all stretches."""
        i = int(np.searchsorted(self._starts, place, 'right'))
        inside = max(0, int(self._ends[i - 1]) - place) if i else 0
        return place - int(self._jumps[i]) + inside
