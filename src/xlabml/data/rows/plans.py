"""How documents become rows: cut into windows and padded (Chunk), packed as tightly as they fit (Pack), or laid back to
back (Concat).

A document of T tokens is a stream of T + 1 slots: sos and its tokens are inputs, its tokens and eos targets. A
piece is a stretch of that stream; a later piece of a document begins with the target before it, not with sos.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from xlabml.artifacts import folders, manifests
from xlabml.data.corpus import Corpus
from xlabml.data.store import Report

from .plan_rows import DTYPES, FORMAT, PIECE_ARRAYS, Pieces, PlanRows, find_fingerprint, open_rows, ranges, verify_rows
from .token_views import TokenView

_BLOCK_DOCUMENTS = 1 << 14


class Streams(NamedTuple):
    """A block of documents of one source.

    Args:
        documents: Their numbers.
        slots: What each takes: its tokens, and one for the end of text.
    """

    documents: Int64[np.ndarray, ' documents']
    slots: Int64[np.ndarray, ' documents']


class Plan(ABC):
    """The base of all plans.

    Args:
        length: Slots in a row, in tokens.
    """

    max_documents: int

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f'a row cannot have {length} tokens; set data.max_len to 1 or more')
        self.length = length

    def settings(self) -> dict[str, Any]:
        """Plain values: what the rows depend on, beside the documents."""
        return {'class': type(self).__name__, **vars(self)}

    def build(
        self,
        lengths: Int64[np.ndarray, ' documents'],
        documents: Int64[np.ndarray, ' documents'],
        counted_once: bool = False,
    ) -> PlanRows:
        """Lay documents out in rows, in memory.

        Args:
            lengths: Tokens of each document.
            documents: Their numbers.
            counted_once: Whether each target counts in one row only; where windows overlap, the later has it as
                context. Otherwise it counts in each.
        """
        starts = range(0, len(documents), _BLOCK_DOCUMENTS)
        some = [slice(start, start + _BLOCK_DOCUMENTS) for start in starts]
        blocks = [self.block(Streams(documents[here], lengths[here] + 1), counted_once) for here in some]
        pieces = Pieces(*map(np.concatenate, zip(*blocks))) if blocks else Pieces(*np.zeros((5, 0), np.int64))
        arrays = {name: np.concatenate([[0], array]) for name, array in pieces.row_ends(0, 0).items()}
        arrays |= {name: getattr(pieces, name) for name in PIECE_ARRAYS}
        fingerprint = folders.short_hash([self.length, [array.tolist() for array in arrays.values()]])
        return PlanRows(arrays, self.length, self.max_documents, fingerprint)

    @abstractmethod
    def block(self, streams: Streams, counted_once: bool) -> Pieces:
        """Lay out a block of documents, on its own: memory never grows with the corpus."""


class Pack(Plan):
    """Rows filled with whole documents as tightly as they fit; a longer one is cut at multiples of the length.

    Whole windows are rows of their own; what is left of each document goes, the longest first, into the row with the
    least room that still holds it (best-fit decreasing).

    Args:
        length: Slots in a row, in tokens.
        max_documents: No row has more segments; padding at its end counts as one.
    """

    def __init__(self, length: int, max_documents: int = 64) -> None:
        super().__init__(length)
        _check_max_documents(max_documents)
        self.max_documents = max_documents

    def block(self, streams: Streams, counted_once: bool) -> Pieces:
        # Whole windows: document i has n_whole[i] of them, which begin at 0, length, 2 length …
        n_whole, tails = np.divmod(streams.slots, self.length)
        whole_documents = np.repeat(streams.documents, n_whole)
        whole_begins = self.length * ranges(np.zeros_like(n_whole), n_whole)
        # Best-fit decreasing over the tails; one segment of each row stays free for padding.
        left = np.flatnonzero(tails)
        left = left[np.argsort(-tails[left], kind='stable')]
        rows = _best_fit(tails[left].tolist(), self.length, self.max_documents - 1)
        # Tails in the order of their rows, which follow the rows of whole windows.
        by_row = np.argsort(rows, kind='stable')
        left = left[by_row]
        return Pieces(
            np.concatenate([np.ones(len(whole_begins), np.int64), np.bincount(rows).astype(np.int64)]),
            np.concatenate([whole_documents, streams.documents[left]]),
            np.concatenate([whole_begins, n_whole[left] * self.length]),
            np.concatenate([np.full(len(whole_begins), self.length), tails[left]]),
            np.zeros(len(whole_begins) + len(left), np.int64),
        )


class Concat(Plan):
    """Rows filled with documents back to back, in their order, and cut wherever a row ends.

    Nothing is padded but the last row of a block, and rows of more documents than max_documents lets in. In return more
    documents are cut than with Pack: what stands in a row's first piece does not see its document's beginning.

    Args:
        length: Slots in a row, in tokens.
        max_documents: No row has more segments; padding at its end counts as one.
    """

    def __init__(self, length: int, max_documents: int = 64) -> None:
        super().__init__(length)
        _check_max_documents(max_documents)
        self.max_documents = max_documents

    def block(self, streams: Streams, counted_once: bool) -> Pieces:
        # Positions in the concatenation of all documents: ends of documents, of rows, and of pieces (either of them).
        ends = np.cumsum(streams.slots)
        cuts = np.array(_row_ends(ends.tolist(), self.length, self.max_documents - 1), np.int64)
        pieces = np.unique(np.concatenate([ends, cuts]))
        begins = np.concatenate([[0], pieces[:-1]])
        number = np.searchsorted(ends, begins, 'right')  # the document of each piece
        n_before = np.searchsorted(pieces, cuts, 'right')  # the number of pieces up to the end of each row
        return Pieces(
            np.diff(n_before, prepend=0),
            streams.documents[number],
            begins - (ends - streams.slots)[number],
            pieces - begins,
            np.zeros(len(pieces), np.int64),
        )


class Chunk(Plan):
    """Rows that are windows of one document each, padded at its end.

    Args:
        length: Slots in a row, in tokens.
        stride_tokens: From one window's begin to the next; less than the length makes them overlap. None: the length.
    """

    max_documents = 2

    def __init__(self, length: int, stride_tokens: int | None = None) -> None:
        super().__init__(length)
        if stride_tokens is not None and not 1 <= stride_tokens <= length:
            raise ValueError(f'stride_tokens is {stride_tokens}; set it to 1 to {length}, the length of a row')
        self.stride_tokens = length if stride_tokens is None else stride_tokens

    def block(self, streams: Streams, counted_once: bool) -> Pieces:
        # Windows until one reaches the end: 1 + ceil((slots - length) / stride), at least 1.
        n_windows = 1 - np.minimum(0, self.length - streams.slots) // self.stride_tokens
        begins = self.stride_tokens * ranges(np.zeros_like(n_windows), n_windows)
        overlap = self.length - self.stride_tokens if counted_once else 0  # slots that the window before has counted
        return Pieces(
            np.ones(len(begins), np.int64),
            np.repeat(streams.documents, n_windows),
            begins,
            np.minimum(self.length, np.repeat(streams.slots, n_windows) - begins),
            np.where(begins > 0, overlap, 0),
        )


def open_plan(
    plan: Plan,
    corpus: Corpus,
    split: str,
    counted_once: bool,
    folder: Path,
    report: Report | None = None,
    view: TokenView | None = None,
) -> PlanRows:
    """The rows of a split, from the folder of plans; laid out and written there where they are not yet.

    Args:
        folder: Where plans lie, each named by what it depends on.
        report: Told how many targets are laid out.
        view: The token sequences of the documents; None: a slot for each token, and one for the end of text.

    Raises:
        ValueError: The split is empty, the disk is full, or the plan that is there is not as it was written.
    """
    identity = _identity(plan, corpus, split, counted_once, view)
    folder = folder / folders.short_hash(identity)

    def is_ready() -> bool:
        return (folder / manifests.MANIFEST).exists()

    def build(partial: Path) -> dict[str, object]:
        n_pieces = n_counted = n_rows = 0
        source_rows = [0]
        documents = corpus.documents(split)
        with folders.ArrayFiles(partial, DTYPES) as files:
            files.append(row_starts=np.zeros(1, np.int64), counted_before=np.zeros(1, np.int64))
            for of_store in corpus.by_store(documents):
                for start in range(0, len(of_store), _BLOCK_DOCUMENTS):
                    some = of_store[start : start + _BLOCK_DOCUMENTS]
                    pieces = plan.block(Streams(some, _slots(corpus, some, plan.length, view)), counted_once)
                    ends = pieces.row_ends(n_pieces, n_counted)
                    files.append(**ends, **{name: getattr(pieces, name) for name in PIECE_ARRAYS})
                    n_pieces = int(ends['row_starts'][-1])
                    n_counted = int(ends['counted_before'][-1])
                    n_rows += len(pieces.row_sizes)
                    if report is not None:
                        report(f'planning {split}', n_counted, None)
                source_rows.append(n_rows)
            written = files.close()
        return {
            'format': FORMAT,
            'identity': identity,
            'files': written,
            'length': plan.length,
            'max_documents': plan.max_documents,
            'n_documents': len(documents),
            'source_rows': source_rows,
            'fingerprint': find_fingerprint(identity['stores'], written, plan.length),
        }

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    return open_rows(folder, identity)


def verify_plan(
    plan: Plan, corpus: Corpus, split: str, counted_once: bool, folder: Path, view: TokenView | None = None
) -> PlanRows | None:
    """Read the rows of a split that are in the folder of plans, and compare them with their hashes; None where they are
    not laid out yet. Arguments are those of `open_plan`.

    Raises:
        ValueError: They are not as they were written.
    """
    identity = _identity(plan, corpus, split, counted_once, view)
    folder = folder / folders.short_hash(identity)
    if not folder.exists():
        return None
    return verify_rows(folder, identity, lambda documents: _slots(corpus, documents, plan.length, view))


def _slots(
    corpus: Corpus, documents: Int64[np.ndarray, ' k'], row_length: int, view: TokenView | None
) -> Int64[np.ndarray, ' k']:
    return corpus.token_spans(documents)[1] + 1 if view is None else view.lengths(documents, row_length)


def _identity(plan: Plan, corpus: Corpus, split: str, counted_once: bool, view: TokenView | None) -> dict[str, Any]:
    lengths = {} if view is None else view.settings()
    return {
        'format': FORMAT,
        'stores': [store.fingerprint for store in corpus.stores],
        'splits': corpus.ratios,
        'drops_copies': corpus.copies is not None,
        'drops_near': None if corpus.near is None else corpus.near.fingerprint,
        'split': split,
        'plan': plan.settings(),
        'counted_once': counted_once,
        **({'view': lengths} if lengths else {}),
        **({} if corpus.drawn is None else {'drawn': corpus.drawn.settings}),
        **({} if corpus.part_of is None else {'part_of': corpus.part_of}),
    }


def _check_max_documents(max_documents: int) -> None:
    if max_documents < 2:
        raise ValueError(f'max_documents is {max_documents}; a row needs one document and padding, so at least 2')


def _row_ends(stream_ends: list[int], length: int, max_pieces: int) -> list[int]:
    """Where each row ends: when it is full, or has max_documents pieces."""
    found = []
    end = 0
    number = 0
    while end < stream_ends[-1]:
        number = bisect_right(stream_ends, end, number)
        end = min(end + length, stream_ends[min(number + max_pieces, len(stream_ends)) - 1])
        found.append(end)
    return found


def _best_fit(lengths: list[int], room: int, max_pieces: int) -> Int64[np.ndarray, ' pieces']:
    """The row of each piece: of the open rows that have room for it, the one with the least.

    Open rows are kept by their free slots, with a bit set in one number where there are any: finding the smallest room
    that will do is one shift and one lowest bit.
    """
    open_rows: list[list[int]] = [[] for _ in range(room + 1)]  # rows by their free slots
    n_pieces: list[int] = []
    there = 0  # bit i is set where open_rows[i] is not empty
    rows = []
    for length in lengths:
        fitting = there >> length
        if fitting:  # the lowest set bit is the smallest room that fits
            free = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                there ^= 1 << free
        else:
            free = room
            row = len(n_pieces)
            n_pieces.append(0)
        rows.append(row)
        n_pieces[row] += 1
        free -= length
        if free and n_pieces[row] < max_pieces:
            if not open_rows[free]:
                there |= 1 << free
            open_rows[free].append(row)
    return np.array(rows, np.int64)
