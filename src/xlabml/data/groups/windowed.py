"""Labelled texts that are too long for the model, read in windows: each is a segment, its role is its number."""

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch
from xlabml.budget import count_windows
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Reading, ranges

from .groups import TextLimits
from .labelled import Fields, LabelledGroups
from .text_rows import TextRows, fill_rows


class WindowedGroups(LabelledGroups):
    """The labelled texts of a split. An example has a segment for each window of its text: sos, window, eos.

    Args:
        corpus: As in LabelledGroups, like the next five; an example has one text.
        documents: The documents of the split.
        reading: Has the tokenizer.
        limits: How much of a record goes into an example.
        fields: How its text is read.
        split: The name of the split, for messages.
        max_windows: The most windows of a text; what lies behind them is cut.
        overlap: Tokens that a window shares with the one before.
    """

    def __init__(
        self,
        corpus: Corpus,
        documents: Int64[np.ndarray, ' groups'],
        reading: Reading,
        limits: TextLimits,
        fields: Fields,
        split: str,
        max_windows: int,
        overlap: int,
    ) -> None:
        super().__init__(corpus, documents, reading, limits, fields, split)
        self.max_windows = max_windows
        self.overlap = overlap

    @property
    def fingerprint(self) -> str:
        return short_hash([super().fingerprint, self.max_windows, self.overlap])

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        """Examples as a batch: none crosses a row. Arguments as in Groups.batch."""
        numbers = numbers[numbers >= 0]
        documents = self.documents[numbers]
        text = self._fields_of(documents)[:, 0]  # e
        example, role, begin, kept = self._windows(self.index.lengths[text])  # w each
        n_slots = kept + 2

        # Slots: rows hold whole examples.
        max_len = self.limits.max_len
        asked = self.limits.row_slots
        row_slots = None if asked is None else max(asked, self.max_windows * max_len)
        per_example = np.bincount(example, n_slots, len(numbers)).astype(np.int64)
        row, row_slots, n_rows = fill_rows(per_example, row_slots)
        rows = TextRows.of(n_slots, row[example], n_rows, row_slots, min(max_len, row_slots))
        ids = np.full(n_rows * row_slots, self._pad, np.int64)
        ids[rows.begins] = self._ends[0]
        ids[rows.begins + n_slots - 1] = self._ends[1]

        # Tokens of each window.
        first = self.index.begins[text][example] + begin
        ids[ranges(rows.begins + 1, kept)] = self.corpus.tokens_at(ranges(first, kept))
        n_cut = torch.from_numpy(self.index.lengths[text] - self._kept(documents)[:, 0])
        return self._as_batch(ids.reshape(n_rows, row_slots), rows, example, role, numbers, n_cut, n_counted, seed)

    def render(self, number: int) -> list[tuple[str, str]]:
        """The text of an example as the model reads it, its label, and how many windows it has."""
        found = super().render(number)
        documents = self.documents[[number]]
        n = len(self._windows(self.index.lengths[self._fields_of(documents)[:, 0]])[0])
        return [*found, ('windows', str(n))]

    def _windows(
        self, lengths: Int64[np.ndarray, ' e']
    ) -> tuple[Int64[np.ndarray, ' w'], Int64[np.ndarray, ' w'], Int64[np.ndarray, ' w'], Int64[np.ndarray, ' w']]:
        """Of each window of texts: its text, its number there, where it begins, and how many tokens it has."""
        room = self.limits.max_len - 2
        n_windows = count_windows(lengths, room, self.max_windows, self.overlap)
        text = np.repeat(np.arange(len(lengths)), n_windows)
        number = np.arange(len(text)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
        begin = number * (room - self.overlap)
        return text, number, begin, np.minimum(room, lengths[text] - begin)

    def _kept(self, documents: Int64[np.ndarray, ' e']) -> Int64[np.ndarray, 'e f']:
        """How many tokens of each text its windows have together."""
        lengths = self.index.lengths[self._fields_of(documents)]
        room = self.limits.max_len - 2
        n_windows = count_windows(lengths, room, self.max_windows, self.overlap)
        return np.minimum(lengths, n_windows * (room - self.overlap) + self.overlap)
