"""A document's name: the hash of its content, which also decides its split."""

import hashlib

import numpy as np
from jaxtyping import UInt64

from xlabml.data.sources import Document


def content_hash(data: bytes) -> bytes:
    """16 bytes that name a document: blake2b of its UTF-8 text."""
    return hashlib.blake2b(data, digest_size=16).digest()


def document_hash(document: Document, data: bytes) -> bytes:
    """16 bytes that name a document of a source.

    Args:
        data: Its text in UTF-8.
    """
    return content_hash(data if document.content is None else document.content)


def hash_words(digests: bytes) -> UInt64[np.ndarray, 'documents 2']:
    """Content hashes, one after the other, as numbers: the first word decides the split."""
    return np.frombuffer(digests, '>u8').astype(np.uint64).reshape(-1, 2)
