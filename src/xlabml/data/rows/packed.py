"""Rows of a plan as the tensors that a model reads: ids, targets and where each document begins."""

import numpy as np
import torch
from jaxtyping import Bool, Int64

from xlabml.batches import IGNORED, Batch, Layout, TokenTargets
from xlabml.data.corpus import Corpus
from xlabml.tokenizer import Tokenizer

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
        self._sos, self._eos, self._pad = (tokenizer.special_ids[name] for name in ('sos', 'eos', 'pad'))
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

    def count(self, row_numbers: Int64[np.ndarray, ' b']) -> float:
        """The number of targets that count in these rows; reads no token."""
        return float(self.plan.count(row_numbers))

    def batch(
        self, row_numbers: Int64[np.ndarray, ' b'], n_counted: float, seed: int = 0, longest: int | None = None
    ) -> Batch:
        """Some rows as a batch, with b * max_documents segments: the pieces of a row, its padding, the next row …, and
        empty ones at the end.

        Args:
            row_numbers: Which rows; -1 is one that is all padding.
            n_counted: How many targets the whole optimizer step counts.
            seed: What the step's randomness is drawn from.
            longest: Pieces of more slots are cut into segments of so many, padding too, with b * length // longest
                segments more; a later one begins with the target before it, as a later piece does. None: none is cut.

        Raises:
            ValueError: A store or the plan holds what xlabml does not write; `validate_data` says which.
        """
        plan, n = self.plan, self.plan.length
        n_rows, n_segments = len(row_numbers), len(row_numbers) * plan.max_documents
        first = plan.row_starts[row_numbers]
        n_pieces = np.where(row_numbers < 0, 0, plan.row_starts[row_numbers + 1] - first)
        self._require((n_pieces >= 0) & (n_pieces < plan.max_documents))
        pieces = ranges(first, n_pieces)
        row = np.repeat(np.arange(n_rows), n_pieces)
        lengths = plan.lengths[pieces].astype(np.int64)
        self._require((lengths >= 1) & (lengths <= n))
        free = n - np.bincount(row, lengths, n_rows).astype(np.int64)
        self._require(free >= 0)

        n_paddings = np.cumsum(free > 0)
        n_paddings_before: np.ndarray = n_paddings - (free > 0)
        segment = np.arange(len(pieces)) + n_paddings_before[row]
        padding = (np.cumsum(n_pieces) + n_paddings_before)[free > 0]
        segment_lengths = np.zeros(n_segments, np.int64)
        segment_lengths[segment], segment_lengths[padding] = lengths, free[free > 0]
        documents = np.full(n_segments, -1, np.int64)
        documents[segment] = plan.documents[pieces]
        example = np.full(n_segments, -1, np.int64)
        example[segment] = row
        slots = ranges((np.cumsum(segment_lengths) - segment_lengths)[segment], lengths)
        if longest is not None and longest < n:
            n_segments += n_rows * n // longest
            segment_lengths, documents, example = _cut(segment_lengths, documents, example, longest, n_segments)
        starts = np.zeros(len(documents) + 1, np.int32)
        starts[1:] = np.cumsum(segment_lengths)

        inputs, targets, is_end = self._read(plan.documents[pieces], plan.begins[pieces], lengths)
        counted = ranges(np.zeros_like(lengths), lengths) >= np.repeat(plan.first_counted[pieces], lengths)
        ids = np.full(n_rows * n, self._pad, np.int64)
        ids[slots] = inputs
        asked = np.full(n_rows * n, IGNORED, np.int64)
        asked[slots] = np.where(counted, targets, IGNORED)
        said = np.zeros(n_rows * n + 1, np.int64)
        said[slots + 1] = self._bytes_of(targets, is_end, plan.documents[pieces], lengths) * counted
        layout = Layout(torch.from_numpy(starts), min(n, longest or n), torch.from_numpy(documents >= 0))
        return Batch(
            torch.from_numpy(ids).view(n_rows, n),
            layout,
            torch.from_numpy(documents),
            torch.from_numpy(example),
            torch.zeros(len(documents), dtype=torch.int64),
            TokenTargets(torch.from_numpy(asked).view(n_rows, n), torch.from_numpy(np.diff(np.cumsum(said)[starts]))),
            n_counted,
            seed,
        )

    def _read(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
    ) -> tuple[Int64[np.ndarray, ' tokens'], Int64[np.ndarray, ' tokens'], Bool[np.ndarray, ' tokens']]:
        """Input and target of each slot of the pieces, back to back, and whether the target is an end of text."""
        self._require((documents >= 0) & (documents < len(self.corpus)) & (begins >= 0))
        starts, n_tokens = self.corpus.token_spans(documents)
        self._require((starts >= 0) & (begins + lengths <= n_tokens + 1))
        ends = starts + n_tokens
        self._require(ends <= self.corpus.n_tokens)
        places, place_ends = ranges(starts + begins, lengths), np.repeat(ends, lengths)
        targets = self.corpus.tokens_at(np.minimum(places, place_ends - 1))
        is_end = places == place_ends
        targets[is_end] = self._eos
        inputs = np.empty_like(targets)
        inputs[1:] = targets[:-1]
        before = self.corpus.tokens_at(starts + np.maximum(begins - 1, 0))
        inputs[np.cumsum(lengths) - lengths] = np.where(begins == 0, self._sos, before)
        n_vocab = len(self._piece_bytes)
        self._require(np.array([inputs.max(initial=0) < n_vocab, targets.max(initial=0) < n_vocab]))
        return inputs, targets, is_end

    def _bytes_of(
        self,
        targets: Int64[np.ndarray, ' tokens'],
        is_end: Bool[np.ndarray, ' tokens'],
        documents: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
    ) -> Int64[np.ndarray, ' tokens']:
        """How many raw bytes each target stands for: those of its token; and the end of text, of a tokenizer that may
        lose text, for what the document's tokens do not account for. Over a document the sum is its raw bytes."""
        n_bytes = self._piece_bytes[targets]
        rest = self.corpus.end_bytes(documents)
        if rest is not None:
            n_bytes[is_end] = np.repeat(rest, lengths)[is_end]
        return n_bytes

    def _require(self, are_right: Bool[np.ndarray, ' _']) -> None:
        if not are_right.all():
            where = ', '.join(str(store.folder) for store in self.corpus.stores)
            raise ValueError(
                f'rows {self.plan.folder or ""} of the texts in {where} are not as xlabml writes them; '
                'xlab validate_data names the folder to delete'
            )


def _cut(
    lengths: Int64[np.ndarray, ' s'],
    documents: Int64[np.ndarray, ' s'],
    example: Int64[np.ndarray, ' s'],
    longest: int,
    n_segments: int,
) -> tuple[Int64[np.ndarray, ' t'], Int64[np.ndarray, ' t'], Int64[np.ndarray, ' t']]:
    """Cut segments into parts of at most `longest` slots; empty segments fill their number up to n_segments."""
    n_parts = -(-lengths // longest)
    whole = np.repeat(np.arange(len(lengths)), n_parts)
    cut_lengths = np.zeros(n_segments, np.int64)
    cut_documents = np.full(n_segments, -1, np.int64)
    cut_example = np.full(n_segments, -1, np.int64)
    cut_lengths[: len(whole)] = np.minimum(longest, lengths[whole] - ranges(np.zeros_like(n_parts), n_parts) * longest)
    cut_documents[: len(whole)] = documents[whole]
    cut_example[: len(whole)] = example[whole]
    return cut_lengths, cut_documents, cut_example
