"""Texts laid into flat rows, one after the other: segments, and the shapes of the tensors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

MIN_SLOTS = 128
_MIN_SEGMENTS = 16


class TextRows(NamedTuple):
    """Texts laid into rows.

    Args:
        starts: Of all segments, as in Layout.
        segment: Of each text.
        begins: The first slot of each text, counted over all rows.
        n_segments: Of all rows.
    """

    starts: np.ndarray
    segment: Int64[np.ndarray, ' t']
    begins: Int64[np.ndarray, ' t']
    n_segments: int

    @classmethod
    def of(
        cls,
        lengths: Int64[np.ndarray, ' t'],
        row: Int64[np.ndarray, ' t'],
        n_rows: int,
        row_slots: int,
        max_length: int,
    ) -> 'TextRows':
        """Lay texts into rows, one after the other; the padding of a row is cut into segments of max_length."""
        n_texts = np.bincount(row, minlength=n_rows)
        used = np.bincount(row, lengths, n_rows).astype(np.int64)
        free = row_slots - used
        n_padding = -(-free // max_length)
        per_row = round_up(int((n_texts + n_padding).max()), _MIN_SEGMENTS)
        first = np.cumsum(n_texts) - n_texts
        segment = row * per_row + np.arange(len(row)) - first[row]
        sizes = np.zeros(n_rows * per_row, np.int64)
        sizes[segment] = lengths
        for i in range(n_rows):
            here = i * per_row + int(n_texts[i])
            n = int(n_padding[i])
            sizes[here : here + n] = np.minimum(max_length, free[i] - np.arange(n) * max_length)
        starts = np.zeros(len(sizes) + 1, np.int32)
        starts[1:] = np.cumsum(sizes)
        return cls(starts, segment, starts[segment].astype(np.int64), len(sizes))

    def spread(self, values: np.ndarray, padding: int) -> np.ndarray:
        """Values of texts as values of segments."""
        found = np.full((self.n_segments, *values.shape[1:]), padding, values.dtype)
        found[self.segment] = values
        return found


class DrawnTexts(NamedTuple):
    """The texts of a batch.

    Args:
        numbers: Of its groups.
        example: Of each text, its group's index among these.
        text: The number of each text in the index.
        n_prompt: Of each text, how many of its first slots are its prompt's, the start included; 0: it has none.
        rows: Where the texts stand.
    """

    numbers: Int64[np.ndarray, ' e']
    example: Int64[np.ndarray, ' t']
    text: Int64[np.ndarray, ' t']
    n_prompt: Int64[np.ndarray, ' t']
    rows: TextRows


def fill_rows(lengths: Int64[np.ndarray, ' t'], row_slots: int | None) -> tuple[Int64[np.ndarray, ' t'], int, int]:
    """The row of each text, the slots of a row, and how many rows there are."""
    if row_slots is None:
        return np.zeros(len(lengths), np.int64), round_up(int(lengths.sum()), MIN_SLOTS), 1
    row = 0
    used = 0
    rows = []
    for length in lengths.tolist():
        if used + length > row_slots:
            row = row + 1
            used = 0
        rows.append(row)
        used = used + length
    if row == 0:
        return np.array(rows, np.int64), min(row_slots, round_up(used, MIN_SLOTS)), 1
    return np.array(rows, np.int64), row_slots, row + 1


def round_up(n: int, least: int) -> int:
    """The next multiple of an eighth of the power of two below n, and of `least`."""
    step = max(least, (1 << max(0, n.bit_length() - 1)) // 8)
    return max(1, -(-n // step)) * step
