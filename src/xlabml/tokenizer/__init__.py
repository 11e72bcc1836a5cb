"""Strings <-> token ids: any text in, the same text out, and the raw bytes of each token known. Loads no torch."""

from .stream import StreamDecoder
from .tokenizer import RESERVED_PIECES, Tokenizer
from .training import MIN_COVERAGE, check_coverage, train_tokenizer

__all__ = [
    'MIN_COVERAGE',
    'RESERVED_PIECES',
    'StreamDecoder',
    'Tokenizer',
    'check_coverage',
    'train_tokenizer',
]
