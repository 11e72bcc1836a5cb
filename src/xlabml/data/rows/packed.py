"""Rows of a plan as the tensors that a model reads: ids, targets and where each document begins."""

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from xlabml.batches import IGNORED, Batch, Layout, TokenTargets
from xlabml.data.corpus import Corpus
from xlabml.tokenizer import Tokenizer

from .formats import Examples
from .plan_rows import PlanRows, RowPieces, ranges
from .token_views import NextTokenView, TokenView


class Rows(Examples):
    """The rows of a split, ready to be made into batches.

    Args:
        corpus: Holds the tokens.
        plan: The pieces in each row.
        tokenizer: The one that the stores were made with.
        view: The token sequences of the documents; None: those of next-token prediction.

    Raises:
        ValueError: The tokenizer is another one.
    """

    def __init__(self, corpus: Corpus, plan: PlanRows, tokenizer: Tokenizer, view: TokenView | None = None) -> None:
        self.view = NextTokenView(corpus, tokenizer) if view is None else view
        self.corpus = corpus
        self.plan = plan
        self.tokenizer = tokenizer
        self._pad = tokenizer.special_ids['pad']

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def length(self) -> int:
        """Slots in a row."""
        return self.plan.length

    @property
    def fingerprint(self) -> str:
        """A short name for the rows."""
        return self.plan.fingerprint

    @property
    def source_starts(self) -> list[int]:
        return self.plan.source_rows

    @property
    def source_counted(self) -> list[int]:
        return self.plan.source_counted

    def counts(self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        if self.view.counts_all:
            return self.plan.counts(numbers)
        pieces = self.plan.pieces_of(numbers)
        counted = self.view.counts(pieces, self._piece_keys(pieces, keys))
        return np.bincount(pieces.row, counted, len(numbers)).astype(np.int64)

    def name(self, document: int) -> str:
        return self.corpus.name(document)

    def render(self, number: int) -> list[tuple[str, str]]:
        """The documents of a row, each its name and the part of its text that is there."""
        found = []
        for _, document, begin, length in self.plan.pieces(number):
            ids = self.corpus.tokens(document)[begin : begin + length].tolist()
            found.append((self.corpus.name(document), self.tokenizer.decode(ids)))
        return found

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        """Rows as a batch, with b * max_documents segments: the pieces of a row, its padding, the next row …, and empty
        ones at the end.

        Args:
            numbers: Of the rows; -1 is one that is all padding.
            keys: The key of each row: what is drawn follows from it and a slot's place in the row.
            n_counted: The number of targets that the whole optimizer step counts.
            seed: The seed of the step's randomness.

        Raises:
            ValueError: A store or the plan holds what xlabml does not write; `validate_data` says which.
        """
        plan = self.plan
        n = self.plan.length
        n_rows = len(numbers)
        n_segments = n_rows * plan.max_documents
        pieces = plan.pieces_of(numbers)
        row = pieces.row
        lengths = pieces.lengths
        n_pieces = np.bincount(row, minlength=n_rows)
        free = n - np.bincount(row, lengths, n_rows).astype(np.int64)

        n_paddings = np.cumsum(free > 0)
        n_paddings_before: np.ndarray = n_paddings - (free > 0)
        segment = np.arange(len(row)) + n_paddings_before[row]
        padding = (np.cumsum(n_pieces) + n_paddings_before)[free > 0]
        segment_lengths = np.zeros(n_segments, np.int64)
        segment_lengths[segment] = lengths
        segment_lengths[padding] = free[free > 0]
        documents = np.full(n_segments, -1, np.int64)
        documents[segment] = pieces.documents
        example = np.full(n_segments, -1, np.int64)
        example[segment] = row
        slots = ranges((np.cumsum(segment_lengths) - segment_lengths)[segment], lengths)
        starts = np.zeros(n_segments + 1, np.int32)
        starts[1:] = np.cumsum(segment_lengths)

        piece_keys = self._piece_keys(pieces, keys)
        inputs, targets, n_bytes = self.view.read(pieces.documents, pieces.begins, lengths, piece_keys)
        counted = ranges(np.zeros_like(lengths), lengths) >= np.repeat(pieces.first_counted, lengths)
        ids = np.full(n_rows * n, self._pad, np.int64)
        ids[slots] = inputs
        wanted = np.full(n_rows * n, IGNORED, np.int64)
        wanted[slots] = np.where(counted, targets, IGNORED)
        bytes_after = np.zeros(n_rows * n + 1, np.int64)
        bytes_after[slots + 1] = n_bytes * counted
        segment_bytes = np.diff(np.cumsum(bytes_after)[starts])
        layout = Layout(torch.from_numpy(starts), n, torch.from_numpy(documents >= 0))
        return Batch(
            torch.from_numpy(ids).view(n_rows, n),
            layout,
            torch.from_numpy(documents),
            torch.from_numpy(example),
            torch.zeros(len(documents), dtype=torch.int64),
            TokenTargets(torch.from_numpy(wanted).view(n_rows, n), torch.from_numpy(segment_bytes)),
            n_counted,
            seed,
        )

    def _piece_keys(self, pieces: RowPieces, keys: UInt64[np.ndarray, ' e']) -> UInt64[np.ndarray, ' pieces']:
        """The key of each piece: that of its row and of its place there."""
        return keys[pieces.row] + pieces.positions.astype(np.uint64)
