"""Which split a document belongs to: its own hash decides, so that adding a document moves no other."""

import math
from collections.abc import Mapping
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Int8, UInt64

from xlabml.data.sources import SplitName
from xlabml.plain import PlainDict

split_names: tuple[str, ...] = get_args(SplitName)

FEW = 1000
"""Documents of a set so small that chance may leave a split without any."""


class Splitting(NamedTuple):
    """How documents are divided into splits.

    Args:
        ratios: The share of each split.
        group: The column whose value decides, in place of the content; None: the content.
        stratify: The column within each of whose values the shares hold; None: over all documents.
        only: The split that each source is fixed to; None for a source whose documents are divided.
        in_order: Whether the documents of each source are divided by their place in it, the first to train; a column
            that decides is heard before.
        fold: A number i and how many folds n there are: the i-th n-th part is test, and the others are train and val
            in the proportion of their ratios; None: the ratios decide.
    """

    ratios: Mapping[str, float]
    group: str | None = None
    stratify: str | None = None
    only: tuple[SplitName | None, ...] = ()
    in_order: tuple[bool, ...] = ()
    fold: tuple[int, int] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that have to be known of each document."""
        return sorted({name for name in (self.group, self.stratify) if name is not None})

    @property
    def is_plain(self) -> bool:
        """Whether the content's hash alone decides, so that nothing else has to be known."""
        return not self.columns and not any(self.only) and not any(self.in_order) and self.fold is None

    def by_place(self, source: int) -> bool:
        """Whether the documents of a source are divided by their place."""
        return not self.columns and any(self.in_order) and self.in_order[source]

    def settings(self) -> PlainDict:
        """What is set beside the ratios, by the names that the user knows; {} where nothing is."""
        only = list(self.only) if any(self.only) else None
        in_order = list(self.in_order) if any(self.in_order) and not self.columns else None
        found: PlainDict = {
            'data.group': self.group,
            'data.stratify': self.stratify,
            'data.sources.only': only,
            'data.sources.in_order': in_order,
            'data.fold': None if self.fold is None else list(self.fold),
        }
        return {name: value for name, value in found.items() if value is not None}


def check_ratios(ratios: Mapping[str, float]) -> None:
    """Raise ValueError unless the ratios are shares of known splits that sum to at most 1."""
    for name, ratio in ratios.items():
        if name not in split_names:
            raise ValueError(f'there is no split {name!r} in data.splits; the splits are {", ".join(split_names)}')
        if not 0 <= ratio <= 1:
            raise ValueError(f'data.splits.{name} is {ratio}; it is a share of the documents, from 0 to 1')
    if (total := math.fsum(ratios.values())) > 1 + 1e-9:
        listed = ', '.join(f'{name} {ratio:g}' for name, ratio in ratios.items() if ratio)
        raise ValueError(
            f'data.splits sum to {total:g} ({listed}; what is not named keeps its default); they are shares of the '
            'documents, so make it at most 1'
        )


def splits_of(hashes: UInt64[np.ndarray, 'documents 2'], ratios: Mapping[str, float]) -> Int8[np.ndarray, ' documents']:
    """The split of each document, as an index into split_names; -1 where the ratios leave it out.

    A document's first hash word is its place between 0 and 1; the splits lie there one after another.
    """
    check_ratios(ratios)
    splits = np.full(len(hashes), -1, np.int8)
    for index, end in reversed(list(enumerate(split_ends(ratios)))):
        if end == 1:
            splits[:] = index
        else:
            splits[hashes[:, 0] < np.uint64(int(end * 2**64))] = index
    return splits


def splits_of_fold(
    hashes: UInt64[np.ndarray, 'documents 2'], ratios: Mapping[str, float], fold: tuple[int, int]
) -> Int8[np.ndarray, ' documents']:
    """The split of each document where one of n equal parts of the places is test: each place is in one of them.

    The other places, counted from the end of that part on and around, are train first, then val.

    Args:
        hashes: As in `splits_of`.
        ratios: Those of train and val count, in proportion.
        fold: Which part is test, from 0, and how many there are.
    """
    number, n = fold
    start, end = (-(-k * 2**64 // n) for k in (number, number + 1))
    n_test = end - start
    # Places from the end of the test part on: the part itself comes last. Differences of uint64 wrap around.
    places = hashes[:, 0] - np.uint64(end % 2**64)
    n_train = int((2**64 - n_test) * train_share(ratios))
    splits = np.full(len(hashes), split_names.index('val'), np.int8)
    splits[places < np.uint64(n_train)] = split_names.index('train')
    splits[places >= np.uint64(2**64 - n_test)] = split_names.index('test')
    return splits


def train_share(ratios: Mapping[str, float]) -> float:
    """What train has of train and val together."""
    return ratios.get('train', 0.0) / (ratios.get('train', 0.0) + ratios.get('val', 0.0))


def splits_of_few(
    hashes: UInt64[np.ndarray, 'documents 2'], ratios: Mapping[str, float]
) -> Int8[np.ndarray, ' documents'] | None:
    """The splits of a small set in which a split that has a share would have no document: the one of train that lies
    nearest to it is put there, its copies with it. Where train would have none, the nearest one of all is put there.

    As documents are added, it is back where it was once the split has one by its hash.

    Returns:
        None where there are more than `FEW`, or every split has its documents.
    """
    if len(hashes) > FEW:
        return None
    splits = splits_of(hashes, ratios)
    places = hashes[:, 0] / 2**64
    ends = [0.0, *split_ends(ratios)]
    is_changed = False
    if len(hashes) and ratios.get('train', 0.0) > 0 and not (splits == 0).any():
        splits[(hashes == hashes[places.argmin()]).all(axis=1)] = 0
        is_changed = True
    for i, name in enumerate(split_names[1:], 1):
        if ratios.get(name, 0.0) > 0 and not (splits == i).any():
            train = np.flatnonzero(splits == 0)
            if len(np.unique(hashes[train], axis=0)) > 1:
                distance = np.maximum(ends[i] - places[train], places[train] - ends[i + 1])
                splits[(hashes == hashes[train[distance.argmin()]]).all(axis=1)] = i
                is_changed = True
    return splits if is_changed else None


def splits_in_order(n: int, ratios: Mapping[str, float]) -> Int8[np.ndarray, ' documents']:
    """The split of each of n documents by its place: the first are train, those behind val, test and predict.

    Each split with a share has a document, taken from train, where that has two or more.
    """
    counts = np.diff([0, *(round(end * n) for end in split_ends(ratios))])
    for i, name in enumerate(split_names):
        if ratios.get(name, 0.0) > 0 and not counts[i] and counts[0] > 1:
            counts[i] = 1
            counts[0] -= 1
    splits = np.full(n, -1, np.int8)
    splits[: counts.sum()] = np.repeat(np.arange(len(split_names)), counts)
    return splits


def split_ends(ratios: Mapping[str, float]) -> list[float]:
    """Where each split ends between 0 and 1; those of all documents end at 1 whatever the rounding of their shares."""
    sums = [math.fsum(ratios.get(name, 0.0) for name in split_names[: index + 1]) for index in range(len(split_names))]
    return [1.0 if end >= 1 - 1e-9 else end for end in sums]
