"""A document's name: the hash of its content, which also decides its split."""

import hashlib

import numpy as np
from jaxtyping import UInt64


def content_hash(data: bytes) -> bytes:
    """16 bytes that name a document: blake2b of its UTF-8 text."""
    return hashlib.blake2b(data, digest_size=16).digest()


def hash_words(digests: bytes) -> UInt64[np.ndarray, 'documents 2']:
    """Content hashes, one after the other, as numbers: the first word decides the split."""
    return np.frombuffer(digests, '>u8').astype(np.uint64).reshape(-1, 2)
