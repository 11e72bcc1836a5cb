"""Where the rows of a run stand: places in an endless sequence of passes, counted without those that are left out."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from .gaps import Gaps


class Place(NamedTuple):
    """A place in the order of a pass.

    Args:
        pass_index: The pass, from 0.
        row: The place in its order, from 0; its number of rows is the place after the last.
    """

    pass_index: int
    row: int


START = Place(0, 0)

Stretch = tuple[Place, Place]
"""Consecutive places, from the first up to and without the second."""


class Places:
    """The places of a sequence from a start on, without some stretches; index 0 is the first that is left.

    Where all passes have as many rows, any place is found in constant time; else the passes before it are counted, each
    once.

    Args:
        n_rows: How many rows a pass has.
        n_each: How many every pass has; None: that is not known, or they differ.
        start: Where the sequence begins.
        skipped: Stretches that are left out, in any order; they may overlap, or lie before the start.
    """

    def __init__(
        self,
        n_rows: Callable[[int], int],
        n_each: int | None = None,
        start: Place = START,
        skipped: Sequence[Stretch] = (),
    ) -> None:
        self.start = start
        self._n_rows = n_rows
        self._n_each = n_each
        self._skipped = [(max(first, start), end) for first, end in skipped if max(first, start) < end]
        if n_each is not None:
            self._first = start.pass_index * n_each + start.row
            self._gaps = Gaps([(_number(first, n_each), _number(end, n_each)) for first, end in self._skipped])
        self._passes: list[_Pass] = []  # from the start's on, as far as they were counted

    def take(self, index: int, most: int) -> tuple[int, Int64[np.ndarray, ' rows']]:
        """The places of index, index + 1, … that lie in one pass: the pass, and at most `most` rows of it."""
        if self._n_each is not None:
            places = self._gaps.places(self._first + np.arange(index, index + most))
            passes, rows = np.divmod(places, self._n_each)
            return int(passes[0]), rows[: np.searchsorted(passes, passes[0], 'right')]
        i, part = self._find(index)
        counts = np.arange(index - part.begin, min(index - part.begin + most, part.n_left))
        return self.start.pass_index + i, part.gaps.places(part.first + counts)

    def after(self, index: int) -> Place:
        """The place after that of index - 1, which need not be one that is read; the start where index is 0."""
        if not index:
            return self.start
        pass_index, rows = self.take(index - 1, 1)
        return Place(pass_index, int(rows[0]) + 1)

    def index(self, place: Place) -> int:
        """The number of places from the start up to one, without it, that are not left out."""
        if self._n_each is not None:
            number = self._first + max(0, _number(place, self._n_each) - self._first)
            return int(self._gaps.before(number)) - self._first
        n = 0
        i = 0
        while self.start.pass_index + i < place.pass_index:
            part = self._count(i)
            n = part.begin + part.n_left
            i = i + 1
        part = self._count(i)
        return n + int(part.gaps.before(max(place.row, part.first))) - part.first

    def _find(self, index: int) -> tuple[int, '_Pass']:
        """The pass of a place, counted from the start's, and what is left of it."""
        while not self._passes or index >= self._passes[-1].begin + self._passes[-1].n_left:
            self._count(len(self._passes))
        i = bisect_right(self._passes, index, key=lambda part: part.begin) - 1
        return i, self._passes[i]

    def _count(self, i: int) -> '_Pass':
        while len(self._passes) <= i:
            pass_index = self.start.pass_index + len(self._passes)
            n = self._n_rows(pass_index)
            first = self.start.row if not self._passes else 0
            here = [
                (start.row if start.pass_index == pass_index else 0, end.row if end.pass_index == pass_index else n)
                for start, end in self._skipped
                if start.pass_index <= pass_index <= end.pass_index
            ]
            gaps = Gaps([(start, min(end, n)) for start, end in here])
            before = self._passes[-1].begin + self._passes[-1].n_left if self._passes else 0
            self._passes.append(_Pass(before, gaps, first, max(0, int(gaps.before(n)) - first)))
        return self._passes[i]


class _Pass(NamedTuple):
    """A pass.

    Args:
        begin: The index of its first place.
        gaps: What of it is left out.
        first: Its first place, in its order.
        n_left: How many places it has from that on that are not left out.
    """

    begin: int
    gaps: Gaps
    first: int
    n_left: int


def _number(place: Place, n_each: int) -> int:
    return place.pass_index * n_each + place.row
