"""Which groups come together in an optimizer step: for objectives whose other texts of a step are the negatives.

An arrangement is made within a block of places that is fixed, from the groups that an order has there: memory does not
grow with the data, any step is found in constant time, and nothing has to be restored.
"""

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.data.order import mix, permute
from xlabml.errors import SettingsError

Numbers: TypeAlias = Int64[np.ndarray, ' _']


@runtime_checkable
class Known(Protocol):
    """What is known of groups without reading their tokens."""

    @property
    def classes(self) -> Sequence[str]:
        """The classes, in the order of their numbers."""

    def __len__(self) -> int: ...

    def labels(self, numbers: Numbers) -> Int64[np.ndarray, ' _']:
        """The class of each group."""

    def stores(self, numbers: Numbers) -> Int64[np.ndarray, ' _']:
        """The source of each group."""

    def hashes(self, numbers: Numbers) -> tuple[UInt64[np.ndarray, ' texts'], Int64[np.ndarray, ' ends']]:
        """Hashes of the texts of the groups, one after the other, and where those of each begin."""


class Batching(ABC):
    """The base of all arrangements."""

    @abstractmethod
    def batches(self, numbers: Numbers, n_groups: int, n_batches: int, known: Known) -> list[Numbers]:
        """Groups as batches of at most n_groups, at most n_batches of them.

        Args:
            numbers: Of the groups, in the order in which they would come; a mixture may have one several times.
            n_groups: Of an optimizer step, over all devices.
            n_batches: How many batches there is room for.
            known: What is known of them.
        """

    def arrange(self, numbers: Numbers, n_groups: int, n_batches: int, known: Known) -> Numbers:
        """n_groups places for each of n_batches steps, -1 where a place stays empty.

        A group that finds no place is left out in this pass; in the next ones it stands among others.
        """
        found = np.full(n_batches * n_groups, -1, np.int64)
        for i, batch in enumerate(self.batches(numbers, n_groups, n_batches, known)[:n_batches]):
            found[i * n_groups : i * n_groups + len(batch)] = batch
        return found

    def check(self, known: Known, n_groups: int) -> None:
        """Raise SettingsError where the groups of the train split cannot be arranged so, before a run begins."""
        return

    def settings(self) -> dict[str, Any]:
        """Plain values that the arrangement follows from."""
        return {
            'class': type(self).__name__,
            **{name: value.settings() if isinstance(value, Batching) else value for name, value in vars(self).items()},
        }


class InOrder(Batching):
    """Groups as the order has them: for objectives that compare the texts of one group only."""

    def batches(self, numbers: Numbers, n_groups: int, n_batches: int, known: Known) -> list[Numbers]:
        """Cut the order."""
        return [numbers[start : start + n_groups] for start in range(0, n_batches * n_groups, n_groups)]


class NoDuplicates(Batching):
    """No text stands twice in a step: a text of one group, an anchor too, is never the negative of an equal one.

    A group that has a text of the batch waits for the next one.
    """

    def batches(self, numbers: Numbers, n_groups: int, n_batches: int, known: Known) -> list[Numbers]:
        """Fill one batch after the other, from those that wait first."""
        hashes, starts = known.hashes(numbers)
        texts = hashes.tolist()
        ends = starts.tolist()
        coming = iter(range(len(numbers)))
        waiting: deque[int] = deque()
        found = []
        for _ in range(n_batches):
            seen: set[int] = set()
            batch: list[int] = []
            for _ in range(len(waiting)):
                i = waiting.popleft()
                some = texts[ends[i] : ends[i + 1]]
                if len(batch) < n_groups and seen.isdisjoint(some):
                    seen.update(some)
                    batch.append(i)
                else:
                    waiting.append(i)
            while len(batch) < n_groups and (i := next(coming, -1)) >= 0:
                some = texts[ends[i] : ends[i + 1]]
                if seen.isdisjoint(some):
                    seen.update(some)
                    batch.append(i)
                else:
                    waiting.append(i)
            found.append(numbers[batch])
        return found


class PerClass(Batching):
    """As many groups of each class as of any other: P classes with K groups each, in every step.

    P is data.batch_groups / per_class. The classes with most groups left come first; where too few classes are left
    in a block, the groups of each come once more.

    Args:
        per_class: K, at least 2.

    Raises:
        ValueError: per_class is below 2.
    """

    def __init__(self, per_class: int = 4) -> None:
        if per_class < 2:
            raise ValueError(f'data.examples.batching.per_class is {per_class}; a class needs 2 or more in a step')
        self.per_class = per_class

    def batches(self, numbers: Numbers, n_groups: int, n_batches: int, known: Known) -> list[Numbers]:
        """Take the P classes of which most is left, K groups of each."""
        k = self.per_class
        of_class: dict[int, list[int]] = defaultdict(list)
        for number, label in zip(numbers.tolist(), known.labels(numbers).tolist()):
            if number not in of_class[label]:  # a mixture may have it twice
                of_class[label].append(number)
        members = {label: some for label, some in of_class.items() if label >= 0 and len(some) >= k}
        left = {label: deque(some) for label, some in members.items()}
        if len(members) < n_groups // k:
            return []
        found = []
        for _ in range(n_batches):
            fit = [label for label in members if len(left[label]) >= k]
            if len(fit) < n_groups // k:
                for label, some in members.items():
                    if len(left[label]) < k:
                        left[label].extend(number for number in some if number not in left[label])
                fit = list(members)
            chosen = sorted(fit, key=lambda label: -len(left[label]))[: n_groups // k]  # stable: the earlier class
            found.append(np.array([left[label].popleft() for label in chosen for _ in range(k)], np.int64))
        return found

    def check(self, known: Known, n_groups: int) -> None:
        """See that there are P classes of K groups."""
        k = self.per_class
        if not known.classes:
            raise SettingsError(
                'data.examples.batching is PerClass, but the records have no label; name its column in '
                'data.examples.label'
            )
        if n_groups % k:
            raise SettingsError(
                f'data.batch_groups is {n_groups}, no multiple of data.examples.batching.per_class, {k}; make it '
                f'{max(1, n_groups // k) * k}'
            )
        counts = np.bincount(known.labels(np.arange(len(known))), minlength=len(known.classes))
        n_fit = int((counts >= k).sum())
        if n_fit < n_groups // k:
            small = [f'{known.classes[i]!r} has {counts[i]}' for i in np.flatnonzero(counts < k)[:5].tolist()]
            raise SettingsError(
                f'PerClass takes {n_groups // k} classes with {k} groups each in a step of {n_groups}, but {n_fit} of '
                f'the {len(known.classes)} classes of the train split have as many'
                + (f' ({", ".join(small)})' if small else '')
                + (
                    f'; make data.batch_groups {n_fit * k}, or data.examples.batching.per_class smaller'
                    if n_fit > 1
                    else '; make data.examples.batching.per_class smaller'
                )
            )


class SameSource(Batching):
    """All groups of a step are from one source, so that its negatives are of their kind.

    The sources come in the shares that they have of the data. Of each block, the batches that are filled most are
    taken, in an order of their own.

    Args:
        within: Arranges the groups of a source.
    """

    def __init__(self, within: 'Batching | None' = None) -> None:
        self.within = NoDuplicates() if within is None else within

    def batches(self, numbers: Numbers, n_groups: int, n_batches: int, known: Known) -> list[Numbers]:
        """Arrange the groups of each source, and take the batches that are filled most."""
        stores = known.stores(numbers)
        found: list[Numbers] = []
        for store in np.unique(stores).tolist():
            here = numbers[stores == store]
            found += self.within.batches(here, n_groups, -(-len(here) // n_groups), known)
        fullest = sorted(found, key=lambda batch: -len(batch))[:n_batches]
        seed = mix(*numbers[:4].tolist(), len(numbers))
        return [fullest[i] for i in permute(np.arange(len(fullest)), len(fullest), seed, 0).tolist()]
