"""Where everything stands in a document's sequence with metadata: prefix, text and markers as positions, no tokens yet.

A body of a document of T text tokens is its T tokens and the end of text, with markers before some of them. Positions
of several sequences are found together: each belongs to an owner, and a table of begins is searched once for all.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from xlabml.data.rows.plan_rows import ranges

_FAR = np.int64(1) << 40
"""More than any position: begins of an owner lie between owner * _FAR and (owner + 1) * _FAR."""


class Parts(NamedTuple):
    """Stretches of tokens, of several owners, in the order in which they stand.

    Args:
        owner: Of each, rising.
        type: Number of its type; -1: it is of none (a separator).
        begins: Its first token, as an address.
        lengths: Its tokens.
        places: The text token before which it stands; 0 in a prefix.
    """

    owner: Int64[np.ndarray, ' m']
    type: Int64[np.ndarray, ' m']
    begins: Int64[np.ndarray, ' m']
    lengths: Int64[np.ndarray, ' m']
    places: Int64[np.ndarray, ' m']

    def where(self, is_kept: Bool[np.ndarray, ' m']) -> 'Parts':
        """Some of them."""
        return Parts(*(values[is_kept] for values in self))

    def totals(self, n_owners: int) -> Int64[np.ndarray, ' o']:
        """How many tokens each owner has."""
        return np.bincount(self.owner, self.lengths, n_owners).astype(np.int64)


class Found(NamedTuple):
    """What stands at some positions.

    Args:
        part: The number of the part there; meaningless outside of parts.
        is_part: Whether a part is there; else it is the text.
        offset: How far into the part it is; of the text, which of its tokens.
    """

    part: Int64[np.ndarray, ' n']
    is_part: Bool[np.ndarray, ' n']
    offset: Int64[np.ndarray, ' n']


class Sequences:
    """Parts inside sequences of text tokens, to be asked what stands where.

    Args:
        parts: In order, their places not falling within an owner.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        ends = np.cumsum(parts.lengths)
        before = ends - parts.lengths
        is_first = np.diff(parts.owner, prepend=-1) > 0
        of_owner = before[is_first][np.cumsum(is_first) - 1] if len(before) else before
        self._before = before - of_owner  # tokens of parts of the same owner that stand before each
        self._begins = parts.places + self._before
        self._keys = parts.owner * _FAR + self._begins

    def find(self, owner: Int64[np.ndarray, ' n'], positions: Int64[np.ndarray, ' n']) -> Found:
        """What stands at some positions of some owners' sequences."""
        if not len(self._keys):
            return Found(np.zeros_like(positions), np.zeros(len(positions), bool), positions)
        part = np.searchsorted(self._keys, owner * _FAR + positions, 'right') - 1
        at = np.maximum(part, 0)
        is_owned = (part >= 0) & (self.parts.owner[at] == owner)
        inside = positions - self._begins[at]
        is_part = is_owned & (inside < self.parts.lengths[at])
        passed = np.where(is_owned, self._before[at] + self.parts.lengths[at], 0)
        return Found(at, is_part, np.where(is_part, inside, positions - passed))

    def text_before(
        self, owner: Int64[np.ndarray, ' n'], positions: Int64[np.ndarray, ' n']
    ) -> Int64[np.ndarray, ' n']:
        """How many text tokens stand before some positions."""
        found = self.find(owner, positions)
        if not len(self._keys):
            return found.offset
        return np.where(found.is_part, self.parts.places[found.part], found.offset)


class Slots(NamedTuple):
    """The slots of pieces of documents: of each piece first those of the prefix, then those of the body.

    Args:
        piece: The piece of each slot.
        is_prefix: Whether it is one of the prefix.
        position: Its number in the prefix, or in the body.
        is_later: Of each piece, whether it is a later window with a prefix of its own.
        body_begins: Of each piece, its first position in the body.
        n_body: Of each piece, how many positions of the body it has.
    """

    piece: Int64[np.ndarray, ' n']
    is_prefix: Bool[np.ndarray, ' n']
    position: Int64[np.ndarray, ' n']
    is_later: Bool[np.ndarray, ' p']
    body_begins: Int64[np.ndarray, ' p']
    n_body: Int64[np.ndarray, ' p']


def find_slots(
    begins: Int64[np.ndarray, ' p'],
    lengths: Int64[np.ndarray, ' p'],
    n_prefix: Int64[np.ndarray, ' p'],
    window: int | None,
) -> Slots:
    """The slots of pieces.

    Args:
        begins: The first slot of each piece in its document's sequence.
        lengths: Its slots.
        n_prefix: Slots of its document's prefix.
        window: Slots of a window, each of which has the prefix; None: the prefix stands once.
    """
    number, inside = (np.zeros_like(begins), begins) if window is None else np.divmod(begins, window)
    room = 0 if window is None else window - n_prefix
    first = np.minimum(inside, n_prefix)
    n_of_prefix = np.minimum(inside + lengths, n_prefix) - first
    body_begins = number * room + np.maximum(inside - n_prefix, 0)
    n_body = lengths - n_of_prefix
    piece = np.repeat(np.arange(len(begins)), lengths)
    slot = ranges(np.zeros_like(lengths), lengths)
    is_prefix = slot < n_of_prefix[piece]
    position = np.where(is_prefix, first[piece] + slot, body_begins[piece] + slot - n_of_prefix[piece])
    return Slots(piece, is_prefix, position, number > 0, body_begins, n_body)
