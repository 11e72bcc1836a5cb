"""Tokenizers: strings <-> token ids, special tokens by name, the bytes of each token. Loads no torch."""

from .base import Tokenizer
from .special import check_roles
from .stream import Stream, StreamDecoder
from .tokenizer import RESERVED_PIECES, OwnTokenizer
from .training import MIN_COVERAGE, check_coverage, train_tokenizer

__all__ = [
    'MIN_COVERAGE',
    'RESERVED_PIECES',
    'OwnTokenizer',
    'Stream',
    'StreamDecoder',
    'Tokenizer',
    'check_coverage',
    'check_roles',
    'train_tokenizer',
]
