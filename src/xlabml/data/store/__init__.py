"""Token stores: every document of a source tokenized once, in parts, into memory-mapped arrays."""

from .hashes import content_hash, document_hash, hash_words
from .progress import TerminalProgress
from .shared_parts import SharedJob
from .store import TokenStore, count_changed, describe_changed, plan_store, prepare_store, store_folder
from .store_build import Engine, Report
from .store_parts import counts_of, encode_part, finish_part

__all__ = [
    'Engine',
    'Report',
    'SharedJob',
    'TerminalProgress',
    'TokenStore',
    'content_hash',
    'count_changed',
    'counts_of',
    'describe_changed',
    'document_hash',
    'encode_part',
    'finish_part',
    'hash_words',
    'plan_store',
    'prepare_store',
    'store_folder',
]
