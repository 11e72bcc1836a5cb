"""Labelled texts that are too long for the model, read in windows: each is a segment, its role is its number.

Of two texts the first stands in every window, within its share of the tokens, and the second is cut up.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from xlabml.artifacts.hashes import short_hash
from xlabml.batches import Batch
from xlabml.budget import count_windows, share_window
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Reading, ranges

from .groups import TextLimits
from .labelled import Fields, LabelledGroups
from .text_rows import TextRows, fill_rows


class _Windows(NamedTuple):
    """The windows of some examples, one after the other.

    Args:
        example: Of each window, the index of its example.
        number: Its place among those of its example.
        begin: Where it begins in the last text.
        kept: How many tokens of that text it has.
        shared: How many tokens of the first of two texts stand before them.
    """

    example: Int64[np.ndarray, ' w']
    number: Int64[np.ndarray, ' w']
    begin: Int64[np.ndarray, ' w']
    kept: Int64[np.ndarray, ' w']
    shared: Int64[np.ndarray, ' w']


class WindowedGroups(LabelledGroups):
    """The labelled texts of a split. An example has a segment for each window of its text: sos, window, eos; or of two
    texts: sos, text, sep, window of the pair, eos.

    Args:
        corpus: As in LabelledGroups, like the next five; two texts are joined.
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
        keys = keys[numbers >= 0]
        numbers = numbers[numbers >= 0]
        documents = self.documents[numbers]
        text = self._fields_of(documents)  # e f
        example, role, begin, kept, shared = self._windows(self.index.lengths[text])  # w each
        is_pair = self._n_texts > 1
        n_slots = kept + shared + 2 + is_pair

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

        # Tokens of each window: of the first of two texts, a separator, and of the last text.
        starts = rows.begins + 1
        if is_pair:
            ids[ranges(starts, shared)] = self.corpus.tokens_at(ranges(self.index.begins[text[example, 0]], shared))
            starts = starts + shared + 1
            ids[starts - 1] = self._sep
        first = self.index.begins[text[example, -1]] + begin
        ids[ranges(starts, kept)] = self.corpus.tokens_at(ranges(first, kept))
        n_cut = torch.from_numpy((self.index.lengths[text] - self._kept(documents)).sum(1))
        flat = ids.reshape(n_rows, row_slots)
        batch = self._as_batch(flat, rows, example, role, numbers, n_cut, n_counted, seed)
        return self._without_some(batch, keys)

    def render(self, number: int) -> list[tuple[str, str]]:
        """The texts of an example as the model reads them, its label, and how many windows it has."""
        found = super().render(number)
        windows = self._windows(self.index.lengths[self._fields_of(self.documents[[number]])])
        return [*found, ('windows', str(len(windows.number)))]

    def _windows(self, lengths: Int64[np.ndarray, 'e f']) -> _Windows:
        """The windows of examples whose texts have these lengths."""
        shared, room = share_window(lengths, self.limits.max_len, self.fields.room)
        n_windows = count_windows(lengths[:, -1], room, self.max_windows, self.overlap)
        example = np.repeat(np.arange(len(lengths)), n_windows)
        number = np.arange(len(example)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
        begin = number * (room - self.overlap)[example]
        kept = np.minimum(room[example], lengths[example, -1] - begin)
        return _Windows(example, number, begin, kept, shared[example])

    def _kept(self, documents: Int64[np.ndarray, ' e']) -> Int64[np.ndarray, 'e f']:
        """How many tokens of each text its windows have together."""
        lengths = self.index.lengths[self._fields_of(documents)]
        shared, room = share_window(lengths, self.limits.max_len, self.fields.room)
        n_windows = count_windows(lengths[:, -1], room, self.max_windows, self.overlap)
        last = np.minimum(lengths[:, -1], n_windows * (room - self.overlap) + self.overlap)
        last = np.where(n_windows == 1, np.minimum(lengths[:, -1], room), last)
        return last[:, None] if self._n_texts == 1 else np.stack([shared, last], axis=1)
