"""The token sequence of a document with metadata: a prefix before its text, markers inside it, what comes behind it.

Source: bigscience's metadata, https://github.com/bigscience-workshop/metadata (prefix, separators, markers); Gao et al.
2025, Metadata conditioning accelerates language model pre-training, https://arxiv.org/abs/2501.01956 (loss on the text
alone, a cooldown without metadata).
"""

from copy import copy
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from xlabml.batches import IGNORED
from xlabml.data.corpus import Corpus
from xlabml.data.rows import NextTokenView, RowPieces
from xlabml.data.rows.plan_rows import ranges
from xlabml.tokenizer import Tokenizer

from .composition import Composition, Form, Keep
from .index import MetadataIndex
from .layout import Found, Sequences, Slots, find_slots

Counted = Literal['text', 'trained', 'all']
"""Which tokens are targets. text: those of the text; trained: also those of types that are trained; all: all."""


class Laid(NamedTuple):
    """Pieces of documents, laid out.

    Args:
        slots: Their slots.
        prefix: The parts of each prefix.
        n_prefix: Its length, cut to the budget.
        n_whole: Its length uncut.
        body: The markers in each body.
    """

    slots: Slots
    prefix: Sequences
    n_prefix: Int64[np.ndarray, ' p']
    n_whole: Int64[np.ndarray, ' p']
    body: Sequences


class ConditionedView(NextTokenView):
    """Documents with metadata. Those that keep none are as `NextTokenView` has them.

    A prefix of P tokens takes P slots: behind it the text is as without. A later window with a prefix begins with it,
    and then with the token before its first target. A prefix is cut to half a window, its end kept; where markers leave
    less than half a window to the text, types are dropped, the last listed first.

    Args:
        corpus: Holds the tokens.
        tokenizer: The one that the stores were made with.
        index: What is known of the documents.
        form: How metadata stands in a sequence.
        length: Slots of a row.
        keep: Which types of a document are kept.
        identity: Plain values that `keep` follows from.
        counted: Which tokens are targets.
        donors: Documents whose prefix others get, by number of document; None: each has its own. Markers are dropped.
    """

    counts_all = False

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        index: MetadataIndex,
        form: Form,
        length: int,
        keep: Keep,
        identity: dict[str, Any],
        counted: Counted = 'trained',
        donors: Int64[np.ndarray, ' documents'] | None = None,
    ) -> None:
        super().__init__(corpus, tokenizer)
        self.index = index
        self.form = form
        self.length = length
        self.counted: Counted = counted
        self.is_blank = False  # see `blank`
        self._identity = identity
        self._pad = tokenizer.special_ids['pad']
        separator = tokenizer.encode(form.separator) if form.separator else []
        end = tokenizer.encode(form.end) if form.end else []
        self._constants = np.array([*separator, *end], np.int64)
        self.composition = Composition(
            corpus, index, form, length, keep, len(separator), len(end), self.require, donors
        )
        self._is_target = np.array([kind.is_target for kind in form.types], bool)

    def blank(self) -> 'ConditionedView':
        """The same slots without metadata."""
        found = copy(self)
        found.is_blank = True
        return found

    def settings(self) -> dict[str, Any]:
        form = self.form
        return {
            'class': type(self).__name__,
            'separator': form.separator,
            'end': form.end,
            'every_window': form.every_window,
            'after': [bool(getattr(kind, 'after', False)) for kind in form.types],
            **self._identity,
        }

    def present(self, documents: Int64[np.ndarray, ' d']) -> Bool[np.ndarray, 'd k']:
        """Whether each document has each type."""
        return self.composition.present(documents)

    def kept(self, documents: Int64[np.ndarray, ' d']) -> Bool[np.ndarray, 'd k']:
        """Which types of each document are in its sequence, those that no budget has room for left out."""
        return self.composition.kept(documents)

    def n_cut(self, documents: Int64[np.ndarray, ' d']) -> int:
        """How many of some documents have more metadata than the budget allows."""
        return self.composition.n_cut(documents)

    def lengths(self, documents: Int64[np.ndarray, ' documents'], row_length: int) -> Int64[np.ndarray, ' documents']:
        before, inside = self.composition.kept_items(documents)
        n = len(documents)
        prefix = self.composition.cut(self.composition.prefix(before).totals(n))
        body = self.index.text_tokens[documents] + inside.totals(n) + 1
        n_windows = -(-body // (row_length - prefix)) if self.form.every_window else 1
        return body + n_windows * prefix

    def counts(self, pieces: RowPieces, keys: UInt64[np.ndarray, ' pieces']) -> Int64[np.ndarray, ' pieces']:
        laid = self._lay_out(pieces.documents, pieces.begins, pieces.lengths)
        found = self._find_body(laid)
        is_wanted = self._is_wanted(laid, found, self._find_prefix(laid))
        if self.is_blank:
            is_wanted = ~laid.slots.is_prefix & ~found.is_part
        slot = ranges(np.zeros_like(pieces.lengths), pieces.lengths)
        is_counted = slot >= np.repeat(pieces.first_counted, pieces.lengths)
        return np.bincount(laid.slots.piece, is_wanted & is_counted, len(pieces.lengths)).astype(np.int64)

    def read(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
        keys: UInt64[np.ndarray, ' pieces'],
    ) -> tuple[Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots'], Int64[np.ndarray, ' slots']]:
        laid = self._lay_out(documents, begins, lengths)
        if self.is_blank:
            return self._read_blank(laid, documents, lengths)
        slots = laid.slots
        in_prefix = self._find_prefix(laid)
        found = self._find_body(laid)
        targets = self._body_ids(laid, found, documents)
        said = self._prefix_ids(laid, slots.piece, slots.position)
        targets[slots.is_prefix] = said[slots.is_prefix]
        is_end = ~slots.is_prefix & ~found.is_part & (found.offset == self.index.text_tokens[documents][slots.piece])

        # A slot reads what stands before its target: in the prefix, before it (sos), or in the body.
        is_later = slots.is_later[slots.piece]
        is_first = (slots.position == 0) & ~is_later
        at_start = np.where(laid.n_prefix > 0, self._last_of_prefix(laid), self._sos)[slots.piece]
        before = self._body_ids(laid, self._find_body(laid, 1), documents)
        prefix_before = np.where(is_later, said, self._prefix_ids(laid, slots.piece, np.maximum(slots.position - 1, 0)))
        inputs = np.where(
            slots.is_prefix,
            np.where(is_first, self._sos, prefix_before),
            np.where(slots.position == 0, at_start, before),
        )
        n_bytes = self._bytes_of_text(targets, is_end, documents, lengths)
        is_wanted = self._is_wanted(laid, found, in_prefix)
        return inputs, np.where(is_wanted, targets, IGNORED), np.where(is_wanted, n_bytes, 0)

    def roles(
        self,
        documents: Int64[np.ndarray, ' pieces'],
        begins: Int64[np.ndarray, ' pieces'],
        lengths: Int64[np.ndarray, ' pieces'],
    ) -> Int64[np.ndarray, ' slots']:
        """What the target of each slot is: the number of its type, -1 for text, -2 for a separator."""
        laid = self._lay_out(documents, begins, lengths)
        found = self._find_body(laid)
        in_prefix = self._find_prefix(laid)
        kinds = np.where(found.is_part, self._type_at(laid.body, found), -1)
        of_prefix = self._type_at(laid.prefix, in_prefix)
        return np.where(laid.slots.is_prefix, np.where(of_prefix < 0, -2, of_prefix), kinds)

    def _lay_out(
        self,
        documents: Int64[np.ndarray, ' p'],
        begins: Int64[np.ndarray, ' p'],
        lengths: Int64[np.ndarray, ' p'],
    ) -> Laid:
        self.require(begins >= 0)
        before, inside = self.composition.kept_items(documents)
        parts = self.composition.prefix(before)
        n_whole = parts.totals(len(documents))
        n_prefix = self.composition.cut(n_whole)
        window = self.length if self.form.every_window else None
        slots = find_slots(begins, lengths, n_prefix, window)
        body = self.index.text_tokens[documents] + inside.totals(len(documents)) + 1
        self.require(slots.body_begins + slots.n_body <= body)
        return Laid(slots, Sequences(parts), n_prefix, n_whole, Sequences(inside))

    def _find_body(self, laid: Laid, n_before: int = 0) -> Found:
        """What stands in the body at each slot, or n_before positions before; of slots of prefixes, anything."""
        slots = laid.slots
        return laid.body.find(slots.piece, np.maximum(np.where(slots.is_prefix, 0, slots.position) - n_before, 0))

    def _find_prefix(self, laid: Laid) -> Found:
        slots = laid.slots
        position = self._uncut(laid, slots.piece, np.where(slots.is_prefix, slots.position, 0))
        return laid.prefix.find(slots.piece, position)

    def _uncut(
        self, laid: Laid, piece: Int64[np.ndarray, ' n'], position: Int64[np.ndarray, ' n']
    ) -> Int64[np.ndarray, ' n']:
        """Positions of whole prefixes: of one that was cut, the last ones are its end."""
        from_end = laid.n_prefix[piece] - position
        return np.where(from_end <= self.composition.n_end, laid.n_whole[piece] - from_end, position)

    def _prefix_ids(
        self, laid: Laid, piece: Int64[np.ndarray, ' n'], position: Int64[np.ndarray, ' n']
    ) -> Int64[np.ndarray, ' n']:
        """Tokens of prefixes; of positions outside, anything."""
        found = laid.prefix.find(piece, np.maximum(self._uncut(laid, piece, position), 0))
        if not len(laid.prefix.parts.begins):
            return np.zeros_like(position)
        return self._tokens(np.where(found.is_part, laid.prefix.parts.begins[found.part] + found.offset, 0))

    def _last_of_prefix(self, laid: Laid) -> Int64[np.ndarray, ' p']:
        """The last token of each piece's prefix."""
        return self._prefix_ids(laid, np.arange(len(laid.n_prefix)), laid.n_prefix - 1)

    def _body_ids(self, laid: Laid, found: Found, documents: Int64[np.ndarray, ' p']) -> Int64[np.ndarray, ' n']:
        """Tokens of bodies."""
        piece = laid.slots.piece
        starts, _ = self.corpus.token_spans(documents)
        n_text = self.index.text_tokens[documents][piece]
        is_end = ~found.is_part & (found.offset >= n_text)
        places = starts[piece] + np.clip(found.offset, 0, np.maximum(n_text - 1, 0))
        if len(laid.body.parts.begins):
            places = np.where(found.is_part, laid.body.parts.begins[found.part] + found.offset, places)
        ids = self._tokens(places)
        ids[is_end] = self._eos
        return ids

    def _tokens(self, addresses: Int64[np.ndarray, ' n']) -> Int64[np.ndarray, ' n']:
        """The ids at addresses: of the stores, and behind these those of separator and end."""
        n_tokens = self.corpus.n_tokens
        is_constant = addresses >= n_tokens
        ids = self.corpus.tokens_at(np.where(is_constant, 0, addresses))
        ids[is_constant] = self._constants[addresses[is_constant] - n_tokens]
        self.require(ids < len(self._piece_bytes))
        return ids

    @staticmethod
    def _type_at(sequences: Sequences, found: Found) -> Int64[np.ndarray, ' n']:
        kinds = sequences.parts.type
        return kinds[found.part] if len(kinds) else np.full(len(found.part), -1, np.int64)

    def _is_wanted(self, laid: Laid, found: Found, in_prefix: Found) -> Bool[np.ndarray, ' n']:
        """Whether each slot has a target."""
        slots = laid.slots
        is_later = slots.is_later[slots.piece]
        if self.counted == 'all':
            return ~(slots.is_prefix & is_later)
        if self.counted == 'text':
            return ~slots.is_prefix & ~found.is_part
        trains = np.append(self._is_target, False)  # -1, of separators, is the last
        of_prefix = trains[self._type_at(laid.prefix, in_prefix)] & ~is_later
        of_body = ~found.is_part | trains[self._type_at(laid.body, found)]
        return np.where(slots.is_prefix, of_prefix, of_body)

    def _bytes_of_text(
        self,
        targets: Int64[np.ndarray, ' n'],
        is_end: Bool[np.ndarray, ' n'],
        documents: Int64[np.ndarray, ' p'],
        lengths: Int64[np.ndarray, ' p'],
    ) -> Int64[np.ndarray, ' n']:
        n_bytes = self._piece_bytes[targets]
        n_bytes[is_end] = np.repeat(self.index.end_bytes[documents], lengths)[is_end]
        return n_bytes

    def _read_blank(
        self, laid: Laid, documents: Int64[np.ndarray, ' p'], lengths: Int64[np.ndarray, ' p']
    ) -> tuple[Int64[np.ndarray, ' n'], Int64[np.ndarray, ' n'], Int64[np.ndarray, ' n']]:
        """The text of pieces alone, and behind it empty slots in place of the metadata."""
        slots = laid.slots
        owner = np.arange(len(documents))
        first = laid.body.text_before(owner, slots.body_begins)
        n_here = laid.body.text_before(owner, slots.body_begins + slots.n_body) - first
        starts, _ = self.corpus.token_spans(documents)
        n_text = self.index.text_tokens[documents]
        where = ranges(np.cumsum(lengths) - lengths, n_here)
        place = ranges(first, n_here)
        of = np.repeat(owner, n_here)
        is_end = place == n_text[of]
        ids = self._tokens(starts[of] + np.clip(place, 0, np.maximum(n_text[of] - 1, 0)))
        ids[is_end] = self._eos
        before = self._tokens(starts[of] + np.clip(place - 1, 0, None))
        inputs = np.full(len(slots.piece), self._pad, np.int64)
        targets = np.full(len(slots.piece), IGNORED, np.int64)
        n_bytes = np.zeros(len(slots.piece), np.int64)
        inputs[where] = np.where(place == 0, self._sos, before)
        targets[where] = ids
        n_bytes[where] = self._bytes_of_text(ids, is_end, documents, n_here)
        return inputs, targets, n_bytes
