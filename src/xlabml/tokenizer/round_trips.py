"""Test which texts survive a round trip, decode(encode(text)) == text, for all documents of a corpus."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int, Int64

_HEADS = (12, 96)
"""Tokens at the beginning of a text that are decoded first: most changes show early."""

_OPEN_END = 8
"""Characters at the end of a decoded beginning that later tokens can change."""


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
        # Indexing an object array and joining takes 0.4 of the time of a lookup per id.
        self._bytes = np.empty(len(piece_bytes), object)
        self._bytes[:] = piece_bytes
        self._sizes = piece_sizes
        others = None if alphabet is None else f'[^{re.escape("".join(sorted(alphabet)))}]'
        self._find_other = (lambda text: None) if others is None else re.compile(others).search

    def come_back(
        self, texts: Sequence[str], ids: Int[np.ndarray, ' tokens'], lengths: Int64[np.ndarray, ' texts']
    ) -> Bool[np.ndarray, ' texts']:
        """Whether each text is unchanged by a round trip.

        Args:
            ids: Concatenated ids of all texts, as `encode_flat` returns them.
            lengths: Number of ids of each text.
        """
        is_back = np.zeros(len(texts), bool) if self._lead is None else self._are_their_bytes(texts, ids, lengths)
        ends = np.cumsum(lengths)
        for i in np.flatnonzero(~is_back).tolist():
            text = texts[i]
            if self._find_other(text) is None:
                is_back[i] = self._is_decoded_to(text, ids[ends[i] - lengths[i] : ends[i]].tolist())
        return is_back

    def _are_their_bytes(
        self, texts: Sequence[str], ids: Int[np.ndarray, ' tokens'], lengths: Int64[np.ndarray, ' texts']
    ) -> Bool[np.ndarray, ' texts']:
        lead = self._lead or b''
        said = b''.join(self._bytes[ids].tolist())
        n_said = np.concatenate([[0], np.cumsum(self._sizes[ids])])
        bounds = n_said[np.concatenate([[0], np.cumsum(lengths)])].tolist()
        found = [said[begin:end] == lead + text.encode() for text, begin, end in zip(texts, bounds[:-1], bounds[1:])]
        return np.array(found, bool)

    def _is_decoded_to(self, text: str, ids: list[int]) -> bool:
        for n in _HEADS:
            if n < len(ids):
                head = self._decode(ids[:n])[:-_OPEN_END]
                if '\ufffd' not in head and not text.startswith(head):
                    return False
        return self._decode(ids) == text
