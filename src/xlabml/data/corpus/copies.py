"""Which documents are exact copies of earlier ones, by the hash of their content: found once for a set of stores."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt64

from xlabml.artifacts import folders, manifests
from xlabml.data.store import TokenStore
from xlabml.plain import PlainDict

from .buckets import sorted_buckets

_FORMAT = 1
_CHUNK_DOCUMENTS = 1 << 20


def open_copies(stores: Sequence[TokenStore], folder: Path) -> UInt8[np.ndarray, ' documents']:
    """For each document of the stores, counted over all of them: 1 where an earlier one has the same content.

    Memory does not grow with the corpus: the hashes are dealt into buckets on the disk, each sorted on its own.

    Args:
        folder: Where marks are kept, each set named by its stores; they are read from there, or written.

    Raises:
        ValueError: The disk is full, or what is there is not as it was written.
    """
    identity = _identity(stores)
    folder = folder / folders.short_hash(identity)

    def is_ready() -> bool:
        return (folder / manifests.MANIFEST).exists()

    def build(partial: Path) -> dict[str, object]:
        marks = mark_copies([store.hashes for store in stores], partial)
        with folders.ArrayFiles(partial, {'copies': np.uint8}) as files:
            for start in range(0, len(marks), _CHUNK_DOCUMENTS):
                files.append(copies=marks[start : start + _CHUNK_DOCUMENTS])
            written = files.close()
        return {'format': _FORMAT, 'identity': identity, 'files': written}

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    return manifests.map_array(folder, 'copies', manifests.read_manifest(folder, _kind(stores), identity))


def verify_copies(stores: Sequence[TokenStore], folder: Path) -> UInt8[np.ndarray, ' documents'] | None:
    """What `open_copies` has written, compared with its hash; None where it is not there.

    Raises:
        ValueError: It is not as it was written.
    """
    folder = folder / folders.short_hash(_identity(stores))
    if not folder.exists():
        return None
    manifest = manifests.read_manifest(folder, _kind(stores), _identity(stores))
    manifests.check_files(folder, manifest)
    copies = manifests.map_array(folder, 'copies', manifest)
    manifests.check_range(copies, 0, 1, folder, 'copies')
    return copies


def _identity(stores: Sequence[TokenStore]) -> PlainDict:
    return {'format': _FORMAT, 'stores': [store.fingerprint for store in stores]}


def _kind(stores: Sequence[TokenStore]) -> manifests.Kind:
    n_documents = sum(map(len, stores))
    return manifests.Kind(_FORMAT, {'copies': (np.uint8,)}, {}, lambda _: {'copies': n_documents})


def mark_copies(hashes: Sequence[UInt64[np.ndarray, '_ 2']], scratch: Path) -> UInt8[np.ndarray, ' documents']:
    """For each row of several arrays, one after the other: 1 where an earlier one is the same.

    Args:
        scratch: A folder for files that are gone afterwards.
    """
    n = sum(map(len, hashes))
    marks = np.zeros(n, np.uint8)

    def chunks() -> Iterator[UInt64[np.ndarray, '_ 3']]:
        first = 0
        for array in hashes:
            for start in range(0, len(array), _CHUNK_DOCUMENTS):
                some = array[start : start + _CHUNK_DOCUMENTS]
                yield np.column_stack([some, np.arange(first + start, first + start + len(some), dtype=np.uint64)])
            first += len(array)

    for records in sorted_buckets(chunks(), n, 3, scratch):
        is_copy = (records[1:, :2] == records[:-1, :2]).all(axis=1)
        marks[records[1:, 2][is_copy].astype(np.int64)] = 1
    return marks
