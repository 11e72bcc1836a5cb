"""Sorting more records than memory holds: dealt into files by a key, each file sorted on its own."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

BUCKET_RECORDS = 1 << 20
_MAX_BUCKETS = 512


def sorted_buckets(
    chunks: Iterable[UInt64[np.ndarray, '_ columns']], n_records: int, n_columns: int, scratch: Path
) -> Iterator[UInt64[np.ndarray, '_ columns']]:
    """The records of all chunks, sorted within each bucket; those that agree in the first column are in one.

    Memory is that of one bucket: about a million records, up to half a billion of them.

    Args:
        n_records: How many there are, about.
        n_columns: Of a record.
        scratch: A folder for files that are gone afterwards.
    """
    n_buckets = min(_MAX_BUCKETS, math.ceil(n_records / BUCKET_RECORDS))
    paths = [scratch / f'bucket-{i}' for i in range(n_buckets)]
    files = [path.open('wb') for path in paths]
    try:
        for records in chunks:
            bucket = records[:, 0] % np.uint64(n_buckets)
            for i, file in enumerate(files):
                file.write(np.ascontiguousarray(records[bucket == i]).tobytes())
    finally:
        for file in files:
            file.close()
    for path in paths:
        records = np.fromfile(path, np.uint64).reshape(-1, n_columns)
        path.unlink()
        yield records[np.lexsort(records.T[::-1])]
