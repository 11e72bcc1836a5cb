"""Test which texts survive a round trip, decode(encode(text)) == text, for all documents of a corpus."""

import re
from collections.abc import Callable, Sequence
from itertools import compress, pairwise

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8

_HEADS = (12, 96)
"""Tokens at the beginning of a text that are decoded first: most changes show early."""

_OPEN_END = 8
"""Characters at the end of a decoded beginning that later tokens can change."""

_TOKENS_AT_ONCE = 1 << 13
"""About how many are compared at a time: small arrays stay in the cache, and the system need not fetch their memory."""

_MAX_WIDTH = 32
"""Bytes of a token that are copied at once; the rest of a longer one is copied on its own."""


class RoundTrips:
    """Compares texts with the decoded text of their ids; exact, but decodes only where cheaper tests do not decide.

    1. The concatenated bytes of the tokens equal the bytes of the text: it is unchanged.
    2. The text has a character that no token decodes to: it changes.
    3. Else it is decoded, its beginning first.

    Args:
        piece_bytes: For each id the bytes that it stands for inside a text.
        piece_sizes: The number of these bytes.
        lead: Prefix of the concatenated bytes that decoding removes; None where decoding does more than that, so that
            bytes decide nothing.
        alphabet: All characters that decoding can return; None where they are unknown.
        decode: From the ids of a text to its text.
    """

    def __init__(
        self,
        piece_bytes: Sequence[bytes],
        piece_sizes: Int64[np.ndarray, ' vocabulary'],
        lead: bytes | None,
        alphabet: frozenset[str] | None,
        decode: Callable[[list[int]], str],
    ) -> None:
        self._lead = lead
        self._decode = decode
        self._pieces = piece_bytes
        width = min(_MAX_WIDTH, max(1, *map(len, piece_bytes)))
        self._heads = np.array(piece_bytes, f'S{width}').view(f'V{width}')
        self._sizes = piece_sizes
        others = None if alphabet is None else f'[^{re.escape("".join(sorted(alphabet)))}]'
        self._find_other = (lambda text: None) if others is None else re.compile(others).search

    def come_back(
        self,
        texts: Sequence[str],
        ids: Int[np.ndarray, ' tokens'],
        lengths: Int64[np.ndarray, ' texts'],
        data: Sequence[bytes] | None = None,
    ) -> Bool[np.ndarray, ' texts']:
        """Whether each text is unchanged by a round trip.

        Args:
            ids: Concatenated ids of all texts, as `encode_flat` returns them.
            lengths: Number of ids of each text.
            data: The UTF-8 of each text; None: it is made here.
        """
        is_back = np.zeros(len(texts), bool)
        ends = np.cumsum(lengths)
        if self._lead is not None:
            data = [text.encode() for text in texts] if data is None else data
            starts = np.concatenate([[0], ends])
            cuts = np.searchsorted(starts, np.arange(0, len(ids), _TOKENS_AT_ONCE)).tolist()
            for i, j in pairwise(sorted({*cuts, len(texts)})):
                is_back[i:j] = self._are_their_bytes(data[i:j], ids[starts[i] : starts[j]], lengths[i:j])
        for i in np.flatnonzero(~is_back).tolist():
            text = texts[i]
            if self._find_other(text) is None:
                is_back[i] = self._is_decoded_to(text, ids[ends[i] - lengths[i] : ends[i]].tolist())
        return is_back

    def _are_their_bytes(
        self, data: Sequence[bytes], ids: Int[np.ndarray, ' tokens'], lengths: Int64[np.ndarray, ' texts']
    ) -> Bool[np.ndarray, ' texts']:
        lead = self._lead or b''
        n_said = np.diff(np.concatenate([[0], np.cumsum(self._sizes[ids])])[np.cumsum(lengths)], prepend=0)
        sizes = np.fromiter(map(len, data), np.int64, len(data)) + len(lead)
        is_same = n_said == sizes
        if not is_same.all():
            ids = ids[np.repeat(is_same, lengths)]
            data = list(compress(data, is_same))
        expected = np.frombuffer(b''.join([lead, lead.join(data)] if data else []), np.uint8)
        differing = np.flatnonzero(self._spell(ids) != expected)
        if len(differing):
            texts = np.flatnonzero(is_same)
            is_same[texts[np.searchsorted(np.cumsum(sizes[texts]), differing, 'right')]] = False
        return is_same

    def _spell(self, ids: Int[np.ndarray, ' tokens']) -> UInt8[np.ndarray, ' bytes']:
        """The concatenated bytes of tokens."""
        sizes = self._sizes[ids]
        ends = np.cumsum(sizes)
        n = int(ends[-1]) if len(ends) else 0
        width = self._heads.itemsize
        spelled = np.empty(n + width, np.uint8)
        # One copy of a fixed width per token, in order, so that the next token overwrites what is too much: a third of
        # the time of joining. The view has an element of that width at every byte.
        np.ndarray((n + 1,), self._heads.dtype, spelled, strides=(1,))[ends - sizes] = self._heads[ids]
        for i in np.flatnonzero(sizes > width).tolist():
            piece = self._pieces[ids[i]]
            spelled[ends[i] - len(piece) : ends[i]] = np.frombuffer(piece, np.uint8)
        return spelled[:n]

    def _is_decoded_to(self, text: str, ids: list[int]) -> bool:
        for n in _HEADS:
            if n < len(ids):
                head = self._decode(ids[:n])[:-_OPEN_END]
                if '\ufffd' not in head and not text.startswith(head):
                    return False
        return self._decode(ids) == text
