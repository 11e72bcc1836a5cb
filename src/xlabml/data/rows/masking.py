"""Which tokens of a text are masked: each by itself, whole words, or spans; always the same share of all."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from xlabml.data.order import scramble, uniform

_LENGTH = np.uint64(0xA0761D6478BD642F)  # separates the length of a span from whether one begins
_MAX_WORD_TOKENS = 16
"""A longer word is masked in parts: a script without spaces, or a line of base64, is one word by its spaces."""


class Words:
    """Tells which tokens begin a word, from the bytes that each id stands for.

    A word is a run of letters and digits; every other character is a word by itself, a space goes with what follows.

    Args:
        piece_bytes: For each id, the bytes that it stands for.
    """

    def __init__(self, piece_bytes: Sequence[bytes]) -> None:
        texts = [piece.decode(errors='replace') for piece in piece_bytes]
        self._begins_apart = np.array([not text[:1].isalnum() and text[:1] != '\ufffd' for text in texts])
        self._ends_apart = np.array([not text[-1:].isalnum() and text[-1:] not in ('\ufffd', ' ') for text in texts])

    def starts(
        self, ids: Int64[np.ndarray, ' tokens'], lengths: Int64[np.ndarray, ' pieces']
    ) -> Bool[np.ndarray, ' tokens']:
        """Whether a word, or a part of a long one, begins at each token.

        Args:
            ids: The tokens of pieces of texts, back to back.
            lengths: The tokens of each piece; its first token begins a word.
        """
        begins = self._begins_apart[ids]
        begins[1:] |= self._ends_apart[ids[:-1]]
        begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        place = np.arange(len(ids))
        return begins | ((place - np.maximum.accumulate(np.where(begins, place, 0))) % _MAX_WORD_TOKENS == 0)


class Masking(ABC):
    """The base of all kinds of masking, the setting `data.examples.masking`.

    Attributes:
        needs_words: Whether it has to know where words begin.
    """

    needs_words: ClassVar[bool] = False

    @abstractmethod
    def draw(
        self,
        ratio: float,
        keys: UInt64[np.ndarray, ' tokens'],
        lengths: Int64[np.ndarray, ' pieces'],
        word_starts: Bool[np.ndarray, ' tokens'] | None,
    ) -> Bool[np.ndarray, ' tokens']:
        """Whether each token is masked: it follows from the keys alone.

        Args:
            ratio: The share of all tokens that are masked, in expectation.
            keys: A key for each token of pieces of texts, back to back.
            lengths: The tokens of each piece.
            word_starts: Whether a word begins at each token, where `needs_words`.
        """


class TokenMasking(Masking):
    """Each token is masked by itself. Source: BERT, Devlin et al. 2019, https://arxiv.org/abs/1810.04805."""

    def draw(
        self,
        ratio: float,
        keys: UInt64[np.ndarray, ' tokens'],
        lengths: Int64[np.ndarray, ' pieces'],
        word_starts: Bool[np.ndarray, ' tokens'] | None,
    ) -> Bool[np.ndarray, ' tokens']:
        return uniform(keys) < ratio


class WordMasking(Masking):
    """All tokens of a word are masked, or none: no part of a word tells the rest of it.

    Words of more than 16 tokens are masked in parts of 16. Source: the whole-word models of BERT's authors,
    https://github.com/google-research/bert, May 2019.
    """

    needs_words = True

    def draw(
        self,
        ratio: float,
        keys: UInt64[np.ndarray, ' tokens'],
        lengths: Int64[np.ndarray, ' pieces'],
        word_starts: Bool[np.ndarray, ' tokens'] | None,
    ) -> Bool[np.ndarray, ' tokens']:
        assert word_starts is not None
        return (uniform(keys[word_starts]) < ratio)[np.cumsum(word_starts) - 1]


class SpanMasking(Masking):
    """Spans of tokens are masked whose lengths are geometric: how a span reads has to follow from what is around it.

    A span begins at each token with the probability for which the share of masked tokens is exact; spans may overlap,
    and one that reaches the end of its piece of text continues at its beginning, so that no token is masked less often.
    Source of the lengths: SpanBERT, Joshi et al. 2020, https://arxiv.org/abs/1907.10529, section 3.1.

    Args:
        end_ratio: The probability that a span ends after each of its tokens, up to the longest: the mean length is
            about 1 / end_ratio.
        max_tokens: The longest span.
    """

    def __init__(self, end_ratio: float = 0.2, max_tokens: int = 10) -> None:
        if not 0 < end_ratio <= 1:
            raise ValueError(f'data.examples.masking.end_ratio is {end_ratio}; give a probability above 0, up to 1')
        if max_tokens < 1:
            raise ValueError(f'data.examples.masking.max_tokens is {max_tokens}; give 1 or more')
        self.end_ratio = end_ratio
        self.max_tokens = max_tokens

    def draw(
        self,
        ratio: float,
        keys: UInt64[np.ndarray, ' tokens'],
        lengths: Int64[np.ndarray, ' pieces'],
        word_starts: Bool[np.ndarray, ' tokens'] | None,
    ) -> Bool[np.ndarray, ' tokens']:
        piece_lengths = np.repeat(lengths, lengths)
        piece_begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
        most = np.minimum(piece_lengths, self.max_tokens)
        begin = (uniform(keys) < self._start_ratios(ratio)[most]).nonzero()[0]
        # A geometric length by the inverse of its distribution function; 1 - uniform is never 0.
        drawn = np.log(1 - uniform(scramble(keys[begin] ^ _LENGTH)))
        steps = drawn / np.log1p(-self.end_ratio) if self.end_ratio < 1 else np.zeros(len(begin))
        end = begin + np.minimum(1 + steps.astype(np.int64), most[begin])
        piece_end = piece_begins[begin] + piece_lengths[begin]
        around = np.maximum(end - piece_end, 0)  # what continues at the beginning of the piece
        change = np.zeros(len(keys) + 1, np.int64)  # of the number of spans that cover a token, against the one before
        np.add.at(change, begin, 1)
        np.add.at(change, end - around, -1)
        np.add.at(change, piece_begins[begin], around > 0)
        np.add.at(change, piece_begins[begin] + around, -(around > 0).astype(np.int64))
        return np.cumsum(change)[:-1] > 0

    def _start_ratios(self, ratio: float) -> Float64[np.ndarray, ' most']:
        """With which probability a span begins at a token, for each longest span from 0 to max_tokens.

        A token is left as it is where no span covers it that began d tokens before, for any d below the longest: with a
        probability of the product over d of (1 - start * (1 - end_ratio) ** d), which falls as start rises.
        """
        reach = (1 - self.end_ratio) ** np.arange(self.max_tokens)  # a span has more than d tokens
        starts = np.zeros(self.max_tokens + 1)
        for most in range(1, self.max_tokens + 1):
            low = 0.0
            high = 1.0
            while high - low > 1e-12:
                middle = (low + high) / 2
                covered = 1 - np.prod(1 - middle * reach[:most])
                low, high = (middle, high) if covered < ratio else (low, middle)
            starts[most] = high
        return starts
