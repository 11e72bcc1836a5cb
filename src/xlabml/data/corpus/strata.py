"""Splits whose shares hold within each class: by the rank of a unit's hash among those of its class."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int64, UInt64

from xlabml.errors import SettingsError

from .splits import Splitting, split_ends, split_names, train_share
from .units import Records, values_of


class _Some(NamedTuple):
    """Some documents, as `Strata.add` took them in."""

    records: Records
    units: UInt64[np.ndarray, 'documents 2']
    classes: Int64[np.ndarray, ' documents']
    splits: Int8[np.ndarray, ' documents']
    is_free: Bool[np.ndarray, ' documents']


class Strata:
    """The documents of all sources that are divided, with their classes.

    Args:
        splitting: How they are divided.
    """

    def __init__(self, splitting: Splitting) -> None:
        self.splitting = splitting
        self._codes: dict[str, int] = {}
        self._found: list[_Some] = []

    def add(
        self,
        records: Records,
        units: UInt64[np.ndarray, 'documents 2'],
        splits: Int8[np.ndarray, ' documents'],
        is_free: Bool[np.ndarray, ' documents'],
    ) -> None:
        """Take in some documents.

        Args:
            units: The hashes of what may not be divided.
            splits: Their splits, where these are fixed.
            is_free: Where they are not.
        """
        assert self.splitting.stratify is not None
        names = values_of(records, self.splitting.stratify)
        classes = np.array([self._codes.setdefault(name, len(self._codes)) for name in names], np.int64)
        self._found.append(_Some(records._replace(columns=()), units, classes, splits, is_free))

    def draw(self) -> Int8[np.ndarray, ' documents']:
        """The splits of all documents, in the order in which they were taken in."""
        if not self._found:
            return np.zeros(0, np.int8)
        units, classes, splits, is_free = (
            np.concatenate([getattr(some, name) for some in self._found])
            for name in ('units', 'classes', 'splits', 'is_free')
        )
        free = np.flatnonzero(is_free)
        order = free[np.lexsort((free, units[free, 1], units[free, 0]))]  # by hash; of one unit, as they were taken in
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (units[order[1:]] != units[order[:-1]]).any(axis=1)
        unit_of = np.cumsum(is_first) - 1
        firsts = order[is_first]
        if self.splitting.group is not None:
            self._check_groups(order, firsts[unit_of], classes)
        splits[order] = self._draw_units(classes[firsts])[unit_of]
        return splits

    def _draw_units(self, classes: Int64[np.ndarray, ' units']) -> Int8[np.ndarray, ' units']:
        """The split of each unit, from its rank among those of its class; they come by rising hashes."""
        sizes = np.bincount(classes, minlength=len(self._codes))
        by_class = np.argsort(classes, kind='stable')
        ranks = np.empty(len(classes), np.int64)
        ranks[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        if self.splitting.fold is not None:
            drawn = _splits_of_ranks(ranks, sizes[classes], train_share(self.splitting.ratios), self.splitting.fold)
        else:
            drawn = np.full(len(classes), -1, np.int8)
            for index, end in reversed(list(enumerate(split_ends(self.splitting.ratios)))):
                drawn[2 * ranks + 1 < 2 * end * sizes[classes]] = index
        self._check_sizes(drawn, classes, sizes)
        return drawn

    def _check_groups(
        self,
        documents: Int64[np.ndarray, ' free'],
        firsts: Int64[np.ndarray, ' free'],
        classes: Int64[np.ndarray, ' documents'],
    ) -> None:
        """Raise SettingsError if a group has documents of two classes: it cannot be in the shares of both.

        Args:
            documents: Those that are divided.
            firsts: The first document of the group of each.
            classes: Of all documents.
        """
        mixed = np.flatnonzero(classes[documents] != classes[firsts])
        if len(mixed):
            names = list(self._codes)
            pair = [int(numbers[mixed[0]]) for numbers in (firsts, documents)]
            one, other = (f'{self._name(number)}, of class {names[classes[number]]!r:.80}' for number in pair)
            raise SettingsError(
                f'{one}, and {other} (data.stratify: {self.splitting.stratify}), are of one group (data.group: '
                f'{self.splitting.group}), which cannot be divided; leave one of the two settings out'
            )

    def _check_sizes(
        self,
        drawn: Int8[np.ndarray, ' units'],
        classes: Int64[np.ndarray, ' units'],
        sizes: Int64[np.ndarray, ' classes'],
    ) -> None:
        """Raise SettingsError if a split that has a share has none of a class."""
        for index, name in enumerate(split_names):
            if not self.splitting.ratios.get(name):
                continue
            counts = np.bincount(classes[drawn == index], minlength=len(sizes))
            lacking = np.flatnonzero((counts == 0) & (sizes > 0))
            if len(lacking):
                names = list(self._codes)
                some = ', '.join(f'{names[code]!r:.80} ({sizes[code]:,})' for code in lacking[:5])
                what = 'documents of different texts' if self.splitting.group is None else 'groups'
                ratio = self.splitting.ratios[name]
                advice = f'give it a larger share than {ratio:g} in data.splits.{name}, or 0'
                if self.splitting.fold is not None:
                    advice = f'make fewer than {self.splitting.fold[1]} folds'
                raise SettingsError(
                    f'{len(lacking):,} of the {int((sizes > 0).sum()):,} classes in the column '
                    f'{self.splitting.stratify!r} (data.stratify) have too few {what} for one of them to be in the '
                    f'split {name!r}: {some}{" …" * (len(lacking) > 5)}; {advice}, join small classes, or leave '
                    'data.stratify out'
                )

    def _name(self, number: int) -> str:
        """A document's name for people, by its place among all."""
        ends = np.cumsum([len(some.units) for some in self._found])
        index = int(np.searchsorted(ends, number, 'right'))
        records = self._found[index].records
        return f'{records.source}, row {records.rows[number - int(ends[index])]}'


def _splits_of_ranks(
    ranks: Int64[np.ndarray, ' units'], sizes: Int64[np.ndarray, ' units'], train: float, fold: tuple[int, int]
) -> Int8[np.ndarray, ' units']:
    """As `splits_of_fold`, of ranks among as many.

    Args:
        ranks: Of each unit, from 0.
        sizes: How many there are in its class.
        train: What train has of train and val together.
        fold: Which part is test, from 0, and how many there are.
    """
    number, n = fold
    start, end = (-(-k * sizes // n) for k in (number, number + 1))
    n_rest = sizes - (end - start)
    places = (ranks - end) % sizes
    drawn = np.full(len(ranks), split_names.index('val'), np.int8)
    drawn[2 * places + 1 < 2 * train * n_rest] = split_names.index('train')
    drawn[places >= n_rest] = split_names.index('test')
    return drawn
