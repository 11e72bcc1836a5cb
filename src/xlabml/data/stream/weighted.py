"""A stream whose sources come in fixed shares of the training tokens, each from windows of its own shards."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from xlabml.artifacts import folders
from xlabml.batches import Batch
from xlabml.data.order import Interleaving, Place
from xlabml.data.rows import Examples, Passes, join_batches, take_rows

from .stream import StreamedRows
from .window import Window

_KEPT_PERIODS = 2


class Track:
    """The rows of one source, window after window, as one sequence.

    Args:
        rows: The windows.
    """

    def __init__(self, rows: StreamedRows) -> None:
        self.rows = rows
        self._ends: list[int] = []  # of the windows whose number of rows is known: how many rows come up to its end

    def windows(self, n_rows: int) -> list[int]:
        """How many rows each window has up to that which the first n_rows end in."""
        while (self._ends[-1] if self._ends else 0) < n_rows:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self.rows.n_rows(len(self._ends)))
        n = int(np.searchsorted(self._ends, n_rows, 'left')) + 1 if n_rows else 0
        return np.diff([0, *self._ends[:n]]).tolist()

    def find(self, index: Int64[np.ndarray, ' e']) -> tuple[Int64[np.ndarray, ' e'], Int64[np.ndarray, ' e']]:
        """The window of each row, and its number there, by its index in the sequence."""
        self.windows(int(index.max()) + 1)
        window = np.searchsorted(self._ends, index, 'right')
        place = index - np.array([0, *self._ends])[window]
        number = np.empty_like(index)
        for one in np.unique(window).tolist():
            here = window == one
            number[here] = self.rows.order(one, place[here])
        return window, number


class _Some(NamedTuple):
    """Examples of a period that one window has.

    Args:
        window: It.
        where: Which of the examples they are.
        numbers: Of the rows in the window.
    """

    window: Window
    where: Int64[np.ndarray, ' e']
    numbers: Int64[np.ndarray, ' e']


class Period(Examples):
    """The examples of a period of the mixture, those of each source one after the other.

    Args:
        tracks: The rows of each source that has a weight.
        interleaving: How many each has in a period.
        pass_index: Which period.
        fingerprint: A short name for the examples.
    """

    def __init__(
        self, tracks: Mapping[int, Track], interleaving: Interleaving, pass_index: int, fingerprint: str
    ) -> None:
        self.tracks = tracks
        self.interleaving = interleaving
        self.pass_index = pass_index
        self._fingerprint = fingerprint
        self._starts = np.array([0, *accumulate(interleaving.per_period.tolist())])

    def __len__(self) -> int:
        return self.interleaving.period

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def source_starts(self) -> list[int]:
        return self._starts.tolist()

    @property
    def source_counted(self) -> list[int]:
        numbers = np.arange(len(self))
        counts = self.counts(numbers, np.zeros(len(self), np.uint64))
        return [int(counts[start:end].sum()) for start, end in zip(self._starts, self._starts[1:])]

    def counts(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']
    ) -> Float64[np.ndarray, ' e'] | Int64[np.ndarray, ' e']:
        found = np.zeros(len(numbers))
        for window, where, inside in self._find(numbers):
            found[where] = window.counts(inside, keys[where])
        return found

    def batch(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e'], n_counted: float, seed: int = 0
    ) -> Batch:
        parts = list(self._find(numbers))
        batches = [window.batch(inside, keys[where], n_counted, seed) for window, where, inside in parts]
        return take_rows(join_batches(batches), np.argsort(np.concatenate([part.where for part in parts])))

    def _find(self, numbers: Int64[np.ndarray, ' e']) -> Iterator[_Some]:
        """The examples of these numbers, window by window."""
        sources = np.searchsorted(self._starts, numbers, 'right') - 1
        for source in np.unique(sources).tolist():
            where = np.flatnonzero(sources == source)
            n_before = self.pass_index * int(self.interleaving.per_period[source])
            track = self.tracks[source]
            windows, inside = track.find(n_before + numbers[where] - self._starts[source])
            for window in np.unique(windows).tolist():
                here = windows == window
                yield _Some(track.rows.open(window), where[here], inside[here])

    def name(self, document: int) -> str:
        return next(iter(self.tracks.values())).rows.name(document)

    def render(self, number: int) -> list[tuple[str, str]]:
        ((window, _, inside),) = self._find(np.array([number]))
        return window.render(int(inside[0]))


class WeightedStream(Passes):
    """The training rows of a stream whose sources have weights; a pass is a period of the mixture.

    Each source with a weight has a sequence of rows of its own, which comes window after window, and goes through its
    shards at the pace of its share. So a place is found from how many rows the earlier windows of each
    source have: a checkpoint holds these numbers, and no earlier window is read again.

    Args:
        streams: The windows of each source that has a weight.
        interleaving: Which source each place is of.
    """

    def __init__(self, streams: Mapping[int, StreamedRows], interleaving: Interleaving) -> None:
        self.tracks = {source: Track(rows) for source, rows in streams.items()}
        self.interleaving = interleaving
        self.n_each = interleaving.period
        self._periods: dict[int, Period] = {}
        for rows in streams.values():
            rows.neighbours = [other for other in streams.values() if other is not rows]

    @property
    def fingerprint(self) -> str:
        streams = [[source, track.rows.fingerprint] for source, track in self.tracks.items()]
        return folders.short_hash([streams, self.interleaving.per_period.tolist()])

    def n_rows(self, pass_index: int) -> int:
        return self.interleaving.period

    def open(self, pass_index: int) -> Period:
        if pass_index not in self._periods:
            self._periods[pass_index] = Period(self.tracks, self.interleaving, pass_index, self.fingerprint)
            for old in list(self._periods)[:-_KEPT_PERIODS]:
                del self._periods[old]
        return self._periods[pass_index]

    def order(self, pass_index: int, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        starts = np.array(self.open(pass_index).source_starts)
        return starts[self.interleaving.source[places]] + self.interleaving.rank[places]

    def name(self, document: int) -> str:
        return self.open(0).name(document)

    def epochs(self, end: Place) -> list[float | None]:
        taken = self._taken(end)
        return [self.tracks[i].rows.epochs_of(n) if i in self.tracks else 0.0 for i, n in enumerate(taken)]

    def memory(self, place: Place) -> dict[str, list[list[int]]]:
        taken = self._taken(place)
        return {'windows': [self.tracks[i].windows(n) if i in self.tracks else [] for i, n in enumerate(taken)]}

    def recall(self, state: Mapping[str, Any]) -> None:
        for source, counts in enumerate(state.get('windows', [])):
            if source in self.tracks:
                self.tracks[source].rows.expect(counts)

    def _taken(self, place: Place) -> list[int]:
        """How many rows of each source come before a place."""
        return self.interleaving.taken(place.pass_index * self.interleaving.period + place.row).tolist()

    def close(self) -> None:
        """Close the windows, and stop fetching."""
        for track in self.tracks.values():
            track.rows.close()
