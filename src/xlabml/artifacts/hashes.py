"""SHA-256 of files and of plain values."""

import hashlib
import json
from pathlib import Path


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def short_hash(value: object) -> str:
    """A name of 16 letters for plain values: the start of their SHA-256."""
    return hash_bytes(json.dumps(value, sort_keys=True).encode())[:16]
