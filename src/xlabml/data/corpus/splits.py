"""Which split a document belongs to: its own hash decides, so that adding a document moves no other."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int8, UInt64

split_names = ('train', 'val', 'test', 'predict')


def check_ratios(ratios: Mapping[str, float]) -> None:
    """Raise ValueError unless the ratios are shares of known splits that sum to at most 1."""
    for name, ratio in ratios.items():
        if name not in split_names:
            raise ValueError(f'there is no split {name!r} in data.splits; the splits are {", ".join(split_names)}')
        if not 0 <= ratio <= 1:
            raise ValueError(f'data.splits.{name} is {ratio}; it is a share of the documents, from 0 to 1')
    if (total := math.fsum(ratios.values())) > 1 + 1e-9:
        raise ValueError(f'data.splits sum to {total:g}; they are shares of the documents, so make it at most 1')


def splits_of(hashes: UInt64[np.ndarray, 'documents 2'], ratios: Mapping[str, float]) -> Int8[np.ndarray, ' documents']:
    """The split of each document, as an index into split_names; -1 where the ratios leave it out.

    A document's first hash word is its place between 0 and 1; the splits lie there one after another.
    """
    check_ratios(ratios)
    splits = np.full(len(hashes), -1, np.int8)
    for index in reversed(range(len(split_names))):
        end = math.fsum(ratios.get(name, 0.0) for name in split_names[: index + 1])
        if end >= 1 - 1e-9:
            splits[:] = index
        else:
            splits[hashes[:, 0] < np.uint64(int(end * 2**64))] = index
    return splits
