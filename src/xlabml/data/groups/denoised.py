"""Texts beside themselves with tokens deleted: what a denoising autoencoder learns from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt64

from xlabml.batches import IGNORED, Batch, Layout, ReconstructionTargets
from xlabml.data.corpus import Corpus
from xlabml.data.rows import Reading, ranges

from .batching import Batching, InOrder
from .dropping import choose_kept
from .formats import GroupFormat
from .groups import Groups, TextLimits
from .index import make_index
from .records import Columns
from .text_rows import MIN_SLOTS, TextRows, round_up

_ROLE = 'text'


class DenoisedTexts(GroupFormat):
    """Whole texts, each twice: without most of its tokens, and whole, to be reconstructed from the vector of the first.

    A batch has two rows, in which text i is segment i: the noisy texts (sos, the tokens that are left, eos), which have
    no targets; and the texts (sos and the tokens, targets the tokens and eos).
    Source: TSDAE, Wang et al. 2021, https://arxiv.org/abs/2104.06979, section 3 (60 % of the tokens are deleted).

    Args:
        text: The column of the text.
        delete_ratio: The share of tokens that are deleted, each by itself; one is always left.
        max_tokens: The most tokens of a text; what is behind is cut off. None: as many as data.max_len holds.
        leave_out_empty: Whether records with an empty text are left out and counted; else they are refused.
        batching: Which texts come together in a step.

    Raises:
        ValueError: A value is out of range.
    """

    targets = ReconstructionTargets
    unused = (*GroupFormat.unused, 'device_batch_tokens')

    def __init__(
        self,
        text: str = 'text',
        delete_ratio: float = 0.6,
        max_tokens: int | None = None,
        leave_out_empty: bool = False,
        batching: Callable[[], Batching] = InOrder,
    ) -> None:
        super().__init__()
        if not 0 <= delete_ratio < 1:
            raise ValueError(f'data.examples.delete_ratio is {delete_ratio}; give a share from 0 to below 1')
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f'data.examples.max_tokens is {max_tokens}; it must be at least 1')
        self.text = text
        self.delete_ratio = delete_ratio
        self.max_tokens = max_tokens
        self.leave_out_empty = leave_out_empty
        self.batching = batching()

    @property
    def records(self) -> Columns:
        return Columns({_ROLE: (self.text,)}, leave_out=self.leave_out_empty)

    def limits(self, max_len: int, row_slots: int | None) -> TextLimits:
        room = max_len - 2
        return TextLimits((_ROLE,), (min(room, self.max_tokens or room),), (None,), max_len)

    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> 'Denoised':
        limits = self.limits(reading.plan.length, None)
        index = make_index(corpus, reading.folder)
        found = Denoised(corpus, index, corpus.documents(split), reading.tokenizer, limits)
        found.delete_ratio = self.delete_ratio
        return found

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), 'delete_ratio': self.delete_ratio, 'max_tokens': self.max_tokens}


class Denoised(Groups):
    """The texts of a split, each with its noisy twin; what is deleted follows from the key of an example."""

    delete_ratio = 0.0

    def counts(self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        """The tokens of each text, and its end."""
        found = np.zeros(len(numbers), np.int64)
        is_text = numbers >= 0
        found[is_text] = self._lengths(self.documents[numbers[is_text]])[1] + 1
        return found

    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        keys = keys[numbers >= 0]
        numbers = numbers[numbers >= 0]
        begins, n_tokens = self._lengths(self.documents[numbers])
        tokens = self.corpus.tokens_at(ranges(begins, n_tokens))
        stays = choose_kept(keys, n_tokens, self.delete_ratio)
        owner = np.repeat(np.arange(len(numbers)), n_tokens)
        n_left = np.bincount(owner, stays, len(numbers)).astype(np.int64)

        e = len(numbers)
        lengths = np.concatenate([n_left + 2, n_tokens + 1])  # sos and eos around the first, sos before the second
        row = np.repeat(np.arange(2), e)
        n = round_up(int(np.bincount(row, lengths, 2).max()), MIN_SLOTS)
        rows = TextRows.of(lengths, row, 2, n, self.limits.max_len)
        ids = np.full(2 * n, self._pad, np.int64)
        targets = np.full(2 * n, IGNORED, np.int64)
        sos, eos = self._ends
        ids[rows.begins] = sos
        ids[rows.begins[:e] + lengths[:e] - 1] = eos
        ids[ranges(rows.begins[:e] + 1, n_left)] = tokens[stays]
        ids[ranges(rows.begins[e:] + 1, n_tokens)] = tokens
        targets[ranges(rows.begins[e:], n_tokens)] = tokens
        targets[rows.begins[e:] + n_tokens] = eos

        n_bytes = np.concatenate([np.zeros(e), np.bincount(owner, self._piece_bytes[tokens], e)]).astype(np.int64)
        documents = rows.spread(np.tile(self.documents[numbers], 2), -1)
        return Batch(
            torch.from_numpy(ids).view(2, n),
            Layout(torch.from_numpy(rows.starts), self.limits.max_len, torch.from_numpy(documents >= 0)),
            torch.from_numpy(documents),
            torch.from_numpy(rows.spread(np.tile(np.arange(e), 2), -1)),
            torch.from_numpy(rows.spread(row, 0)),
            ReconstructionTargets(torch.from_numpy(targets).view(2, n), torch.from_numpy(rows.spread(n_bytes, 0))),
            n_counted,
            seed,
        )

    @property
    def _piece_bytes(self) -> Int64[np.ndarray, ' ids']:
        sizes: Int64[np.ndarray, ' ids'] = self.tokenizer.piece_sizes
        return sizes

    def _lengths(self, documents: Int64[np.ndarray, ' e']) -> tuple[Int64[np.ndarray, ' e'], Int64[np.ndarray, ' e']]:
        """Where the text of each document begins, and how many of its tokens are read."""
        text = self.index.offsets[documents]  # a document has one
        return self.index.begins[text], np.minimum(self.index.lengths[text], self.limits.max_tokens[0])
