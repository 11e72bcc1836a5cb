"""Rows of a plan as the tensors that a model reads: ids, targets and where each document begins."""

import numpy as np
import torch
from jaxtyping import Int64

from xlabml.batches import IGNORED, Batch, Layout
from xlabml.tokenizer import Tokenizer

from .corpus import Corpus
from .plan_rows import PlanRows, ranges


class Rows:
    """The rows of a split, ready to be made into batches.

    Args:
        corpus: Holds the tokens.
        plan: Says what is in each row.
        tokenizer: The one that the stores were made with.

    Raises:
        ValueError: It is another one.
    """

    def __init__(self, corpus: Corpus, plan: PlanRows, tokenizer: Tokenizer) -> None:
        if tokenizer.hash != corpus.tokenizer_hash:
            raise ValueError(
                f'the token stores were made with another tokenizer, of {corpus.n_vocab} tokens, than this one of '
                f'{len(tokenizer)}; run prepare_data with it, or take the other'
            )
        self.corpus, self.plan = corpus, plan
        self._sos, self._eos, self._pad = (
            tokenizer[piece] for piece in (tokenizer.sos_token, tokenizer.eos_token, tokenizer.pad_token)
        )
        self._piece_bytes = np.array([len(piece) for piece in tokenizer.piece_bytes], np.int64)

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def length(self) -> int:
        """Slots in a row."""
        return self.plan.length

    @property
    def fingerprint(self) -> str:
        """A short name for what is in the rows."""
        return self.plan.fingerprint

    def count(self, row_numbers: Int64[np.ndarray, ' b']) -> int:
        """How many targets count in these rows; no token is looked at."""
        return self.plan.count(row_numbers)

    def batch(self, row_numbers: Int64[np.ndarray, ' b'], n_targets: int, seed: int = 0) -> Batch:
        """Some rows as a batch, with b * max_documents segments: the pieces of a row, its padding, the next row …, and
        empty ones at the end.

        Args:
            row_numbers: Which rows; -1 is one that is all padding.
            n_targets: How many targets the whole optimizer step counts.
            seed: What the step's randomness is drawn from.
        """
        plan, n = self.plan, self.plan.length
        n_rows, n_segments = len(row_numbers), len(row_numbers) * plan.max_documents
        first = plan.row_starts[row_numbers]
        n_pieces = np.where(row_numbers < 0, 0, plan.row_starts[row_numbers + 1] - first)
        pieces = ranges(first, n_pieces)
        row = np.repeat(np.arange(n_rows), n_pieces)
        lengths = plan.lengths[pieces].astype(np.int64)
        free = n - np.bincount(row, lengths, n_rows).astype(np.int64)

        n_paddings = np.cumsum(free > 0)
        n_paddings_before: np.ndarray = n_paddings - (free > 0)
        segment = np.arange(len(pieces)) + n_paddings_before[row]
        padding = (np.cumsum(n_pieces) + n_paddings_before)[free > 0]
        segment_lengths = np.zeros(n_segments, np.int64)
        segment_lengths[segment], segment_lengths[padding] = lengths, free[free > 0]
        starts = np.zeros(n_segments + 1, np.int32)
        starts[1:] = np.cumsum(segment_lengths)
        is_text = np.zeros(n_segments, np.bool_)
        is_text[segment] = True
        documents = np.full(n_segments, -1, np.int64)
        documents[segment] = plan.documents[pieces]

        inputs, targets = self._read(plan.documents[pieces], plan.begins[pieces], lengths)
        counted = ranges(np.zeros_like(lengths), lengths) >= np.repeat(plan.first_counted[pieces], lengths)
        ends = np.cumsum(lengths)
        said = np.concatenate([[0], np.cumsum(self._piece_bytes[targets] * counted)])
        n_bytes = np.zeros(n_segments, np.int64)
        n_bytes[segment] = said[ends] - said[ends - lengths]

        slots = ranges(starts[segment].astype(np.int64), lengths)
        ids = np.full(n_rows * n, self._pad, np.int64)
        ids[slots] = inputs
        asked = np.full(n_rows * n, IGNORED, np.int64)
        asked[slots] = np.where(counted, targets, IGNORED)
        layout = Layout(torch.from_numpy(starts), n, torch.from_numpy(is_text))
        return Batch(
            torch.from_numpy(ids).view(n_rows, n),
            torch.from_numpy(asked).view(n_rows, n),
            layout,
            torch.from_numpy(documents),
            torch.from_numpy(n_bytes),
            n_targets,
            seed,
        )

    def _read(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
    ) -> tuple[Int64[np.ndarray, ' tokens'], Int64[np.ndarray, ' tokens']]:
        """What is read and what is asked for in each slot of the pieces, back to back."""
        starts, n_tokens = self.corpus.token_spans(documents)
        ends = starts + n_tokens
        places, place_ends = ranges(starts + begins, lengths), np.repeat(ends, lengths)
        targets = self.corpus.tokens_at(np.minimum(places, place_ends - 1))
        targets[places == place_ends] = self._eos
        inputs = np.empty_like(targets)
        inputs[1:] = targets[:-1]
        before = self.corpus.tokens_at(starts + np.maximum(begins - 1, 0))
        inputs[np.cumsum(lengths) - lengths] = np.where(begins == 0, self._sos, before)
        return inputs, targets
