"""Which metadata a document's sequence has: its items, those that are kept, and the budget that cuts them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from xlabml.data.corpus import Corpus
from xlabml.data.rows.plan_rows import ranges
from xlabml.metadata import MetadataType

from .index import MetadataIndex
from .layout import Parts
from .records import AFTER, BEFORE


@runtime_checkable
class Keep(Protocol):
    """Chooses which types documents keep."""

    def __call__(self, documents: Int64[np.ndarray, ' d'], present: Bool[np.ndarray, 'd k']) -> Bool[np.ndarray, 'd k']:
        """Which of the types that are present are kept.

        Args:
            documents: Their numbers.
            present: Whether each has each type.
        """


class Form(NamedTuple):
    """How metadata stands in a sequence.

    Args:
        types: All types.
        separator: Between two entries of a prefix.
        end: Behind the last one.
        every_window: Whether each window of a document has the prefix; else the first one.
    """

    types: Sequence[MetadataType]
    separator: str
    end: str
    every_window: bool


class Composition:
    """The parts of documents' sequences.

    Args:
        corpus: The documents.
        index: What is known of them.
        form: How metadata stands in a sequence.
        length: Slots of a row, of which a prefix gets half at most.
        keep: Which types of a document are kept.
        n_separator: Tokens of the separator, whose address is that behind all stores.
        n_end: Tokens of the end of a prefix, which stand behind those.
        require: Raises an error unless all of some conditions hold.
        donors: Documents whose prefix others get, by number of document; None: each has its own.
    """

    def __init__(
        self,
        corpus: Corpus,
        index: MetadataIndex,
        form: Form,
        length: int,
        keep: Keep,
        n_separator: int,
        n_end: int,
        require: Callable[[Bool[np.ndarray, ' _']], None],
        donors: Int64[np.ndarray, ' documents'] | None = None,
    ) -> None:
        self.corpus = corpus
        self.index = index
        self.form = form
        self.length = length
        self.keep = keep
        self.n_separator = n_separator
        self.n_end = n_end
        self._require = require
        self._donors = donors
        self._budget = length // 2
        self._is_local = np.array([kind.is_local for kind in form.types], bool)

    def present(self, documents: Int64[np.ndarray, ' d']) -> Bool[np.ndarray, 'd k']:
        """Whether each document has each type."""
        items = self._items(documents)
        return self._present(items, len(documents))

    def kept(self, documents: Int64[np.ndarray, ' d']) -> Bool[np.ndarray, 'd k']:
        """Which types of each document are in its sequence, those that no budget has room for left out."""
        before, inside = self.kept_items(documents)
        return self._present(before, len(documents)) | self._present(inside, len(documents))

    def n_cut(self, documents: Int64[np.ndarray, ' d']) -> int:
        """How many of some documents have more metadata than the budget allows."""
        items = self._items(documents)
        chosen = self.keep(documents, self._present(items, len(documents)))
        before, inside = self.kept_items(documents)
        whole = self.prefix(before).totals(len(documents))
        n_chosen = self._present(items.where(chosen[items.owner, items.type]), len(documents)).sum(1)
        n_kept = (self._present(before, len(documents)) | self._present(inside, len(documents))).sum(1)
        return int(((whole > self._budget) | (n_kept < n_chosen)).sum())

    def _present(self, items: Parts, n: int) -> Bool[np.ndarray, 'd k']:
        k = len(self.form.types)
        return np.bincount(items.owner * k + items.type, minlength=n * k).reshape(n, k) > 0

    def _items(self, documents: Int64[np.ndarray, ' d']) -> Parts:
        """All items of documents, in their order."""
        self._require((documents >= 0) & (documents < len(self.corpus)))
        offsets = self.index.item_offsets
        n_items = offsets[documents + 1] - offsets[documents]
        where = ranges(offsets[documents], n_items)
        owner = np.repeat(np.arange(len(documents)), n_items)
        index = self.index
        kinds = index.types[where].astype(np.int64)
        self._require((kinds >= 0) & (kinds < len(self.form.types)))
        return Parts(owner, kinds, index.begins[where], index.lengths[where], index.places[where])

    def kept_items(self, documents: Int64[np.ndarray, ' d']) -> tuple[Parts, Parts]:
        """What stands before, and what stands inside and behind the text of each document."""
        donors = documents if self._donors is None else self._donors[documents]
        items = self._items(donors)
        chosen = self.keep(donors, self._present(items, len(documents)))
        items = items.where(chosen[items.owner, items.type])
        before = items.where(items.places == BEFORE)
        before = before._replace(places=np.zeros_like(before.places))
        n_text = self.index.text_tokens[documents]
        is_inside = items.places == AFTER if self._donors is not None else items.places != BEFORE
        inside = self._behind(items.where(is_inside), n_text)
        prefix = np.minimum(self.prefix(before).totals(len(documents)), self._budget)
        # Of a full window the text gets (length - prefix) * text / (text + markers), which shall be half of it.
        most = n_text * (self.length - 2 * prefix) / self.length
        for number in reversed(range(len(self.form.types))):
            is_over = inside.totals(len(documents)) > most
            if not is_over.any():
                break
            inside = inside.where(~(is_over[inside.owner] & (inside.type == number)))
        # The control word of a type goes with its markers.
        has_markers = self._present(inside, len(documents))
        return before.where(has_markers[before.owner, before.type] | ~self._is_local[before.type]), inside

    def _behind(self, inside: Parts, n_text: Int64[np.ndarray, ' d']) -> Parts:
        """Markers, and what comes behind texts: the end of a prefix stands before the first of it, then separators."""
        is_after = inside.places == AFTER
        is_first = is_after & np.append(True, (np.diff(inside.owner) > 0) | ~is_after[:-1])[: len(is_after)]
        n_parts = np.where(is_after, 2, 1)
        parts = Parts(*(np.repeat(values, n_parts) for values in inside))
        at = (np.cumsum(n_parts) - n_parts)[is_after]
        first = self.corpus.n_tokens
        parts.begins[at] = np.where(is_first, first + self.n_separator, first)[is_after]
        parts.lengths[at] = np.where(is_first, self.n_end, self.n_separator)[is_after]
        places = np.where(parts.places == AFTER, n_text[parts.owner], parts.places)
        return parts._replace(places=places).where(parts.lengths > 0)

    def prefix(self, before: Parts) -> Parts:
        """The parts of prefixes: each entry, and behind it a separator, or behind the last one the end."""
        n = len(before.owner)
        is_last = np.append(np.diff(before.owner) > 0, [True] * (n > 0))
        first = self.corpus.n_tokens
        doubled = Parts(*(np.repeat(values, 2) for values in before))
        doubled.type[1::2] = -1
        doubled.begins[1::2] = np.where(is_last, first + self.n_separator, first)
        doubled.lengths[1::2] = np.where(is_last, self.n_end, self.n_separator)
        return doubled.where(doubled.lengths > 0)

    def cut(self, n_whole: Int64[np.ndarray, ' d']) -> Int64[np.ndarray, ' d']:
        """The slots of prefixes, cut to the budget; a budget that holds no more than their end holds none."""
        cut = self._budget if self._budget > self.n_end else 0
        return np.where(n_whole <= self._budget, n_whole, cut)
