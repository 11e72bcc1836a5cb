"""Which documents are exact copies of earlier ones, by the hash of their content: found once for a set of stores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt64

from . import folders
from .store import TokenStore

_FORMAT = 1
_BUCKET_DOCUMENTS = 1 << 20
_MAX_BUCKETS = 512


def open_copies(stores: Sequence[TokenStore], folder: Path) -> UInt8[np.ndarray, ' documents']:
    """For each document of the stores, counted over all of them: 1 where an earlier one has the same content.

    Memory does not grow with the corpus: the hashes are dealt into buckets on the disk, each sorted on its own.

    Args:
        folder: Where such findings are kept, each named by its stores; it is looked up there, or written.

    Raises:
        ValueError: The disk is full, or what is there is not as it was written.
    """
    identity = {'format': _FORMAT, 'stores': [store.fingerprint for store in stores]}
    folder = folder / folders.short_hash(identity)

    def is_ready() -> bool:
        return (folder / folders.MANIFEST).exists()

    def build(partial: Path) -> dict[str, Any]:
        marks = mark_copies([store.hashes for store in stores], partial)
        with folders.ArrayFiles(partial, {'copies': np.uint8}) as files:
            for start in range(0, len(marks), _BUCKET_DOCUMENTS):
                files.append(copies=marks[start : start + _BUCKET_DOCUMENTS])
            written = files.close()
        return {'format': _FORMAT, 'identity': identity, 'files': written}

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    return folders.map_array(folder, 'copies', folders.read_manifest(folder, _FORMAT))


def mark_copies(hashes: Sequence[UInt64[np.ndarray, '_ 2']], scratch: Path) -> UInt8[np.ndarray, ' documents']:
    """For each row of several arrays, one after the other: 1 where an earlier one is the same.

    Args:
        scratch: A folder for files that are gone afterwards.
    """
    n = sum(map(len, hashes))
    marks = np.zeros(n, np.uint8)
    n_buckets = min(_MAX_BUCKETS, math.ceil(n / _BUCKET_DOCUMENTS))
    paths = [scratch / f'bucket-{i}' for i in range(n_buckets)]
    files = [path.open('wb') for path in paths]
    try:
        first = 0
        for array in hashes:
            for start in range(0, len(array), _BUCKET_DOCUMENTS):
                some = array[start : start + _BUCKET_DOCUMENTS]
                numbers = np.arange(first + start, first + start + len(some), dtype=np.uint64)
                records = np.column_stack([some, numbers])
                bucket = some[:, 1] % np.uint64(n_buckets)
                for i, file in enumerate(files):
                    file.write(records[bucket == i].tobytes())
            first += len(array)
    finally:
        for file in files:
            file.close()
    for path in paths:
        records = np.fromfile(path, np.uint64).reshape(-1, 3)
        path.unlink()
        records = records[np.lexsort((records[:, 2], records[:, 1], records[:, 0]))]
        is_copy = (records[1:, :2] == records[:-1, :2]).all(axis=1)
        marks[records[1:, 2][is_copy].astype(np.int64)] = 1
    return marks
