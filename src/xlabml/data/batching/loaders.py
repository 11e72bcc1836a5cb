"""Which rows each step, micro-batch and rank gets: a function of (seed, position), with nothing to restore."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64, UInt64
from torch.utils.data import DataLoader, Dataset, Sampler

from xlabml.batches import Batch
from xlabml.data.order import EVALUATION, Doubling, Gaps, Mixture, example_keys, mix, shuffled
from xlabml.data.rows import Examples, Rows
from xlabml.errors import SettingsError

_ORDER_BLOCK = 4096


class TrainBatches(Dataset[Batch]):
    """The micro-batches of one rank, numbered from the start of training: `self[i]` is found in constant time.

    The rows of all data epochs, each permuted anew, are one endless sequence; or a mixture's is. Step s takes the next
    rows_per_step of them; its micro-batch m on rank r takes rows_per_batch of those, from
    (m * world + r) * rows_per_batch on. Where steps begin smaller, every micro-batch does, and there are as many.

    Args:
        rows: The rows of the train split.
        rows_per_step: Over all ranks and micro-batches; or what it is at each step.
        rows_per_batch: In one micro-batch of one rank, of a whole step.
        seed: What the order, and the seeds of the batches, are drawn from.
        rank: This rank.
        world: How many ranks there are.
        first_step: The step that this run goes on from.
        first_row: How many rows were taken before it (with other batch sizes, perhaps).
        mixture: Which source each row is from; None: each gives what it holds.
        skipped: Places of the sequence that are left out, as pairs: from the first, up to and without the second.
        longest: How many slots a segment has at most, at each step; None: as many as a row.

    Raises:
        ValueError: There are no rows, or rows_per_step cannot be dealt to so many ranks.
    """

    def __init__(
        self,
        rows: Rows,
        rows_per_step: int | Doubling,
        rows_per_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        first_step: int = 0,
        first_row: int = 0,
        mixture: Mixture | None = None,
        skipped: Sequence[tuple[int, int]] = (),
        longest: Doubling | None = None,
    ) -> None:
        if not len(rows):
            raise ValueError('there is no row to train on; give the split train more documents')
        n_rows = rows_per_step if isinstance(rows_per_step, int) else rows_per_step.full
        check_dealing(n_rows, rows_per_batch, world)
        self.rows, self.seed, self.mixture, self.longest = rows, seed, mixture, longest
        self.rank, self.world, self.first_step, self.first_row = rank, world, first_step, first_row
        self._gaps = Gaps(skipped)
        self.rows_per_step = Doubling(n_rows, n_rows) if isinstance(rows_per_step, int) else rows_per_step
        self.batches_per_step = n_rows // (rows_per_batch * world)
        if self.rows_per_step.start % (self.batches_per_step * world):
            raise SettingsError(
                f'{self.rows_per_step.start} rows in the first step cannot be dealt to {world} ranks in '
                f'{self.batches_per_step} batches each; make it a multiple of {self.batches_per_step * world}'
            )
        self._block_start, self._block, self._keys = 0, np.zeros(0, np.int64), np.zeros(0, np.uint64)

    def __getitem__(self, index: int) -> Batch:
        step, micro_batch = divmod(index, self.batches_per_step)
        n_rows = self.rows_per_step(step)
        numbers, keys = self._take(self.row(step), n_rows)
        n_here = n_rows // (self.batches_per_step * self.world)
        start = (micro_batch * self.world + self.rank) * n_here
        seed = mix(self.seed, step, micro_batch, self.rank)
        longest = None if self.longest is None else self.longest(step)
        n_counted = float(self.rows.counts(numbers, keys).sum())
        here = slice(start, start + n_here)
        return self.rows.batch(numbers[here], keys[here], n_counted, seed, longest)

    def row(self, step: int) -> int:
        """How many rows are taken before a step.

        Raises:
            ValueError: The step lies before the one that this run goes on from.
        """
        if step < self.first_step:
            raise ValueError(f'step {step} lies before step {self.first_step}, which this run goes on from')
        return self.first_row + self.rows_per_step.before(step) - self.rows_per_step.before(self.first_step)

    def places(self, rows: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        """Where in the endless sequence the rows of these numbers stand, counted as they are taken."""
        return self._gaps.places(rows)

    def step_at(self, place: int) -> int:
        """The step that takes the row at a place of the endless sequence which is not left out."""
        n_rows = int(self._gaps.counts(np.array([place]))[0]) + 1 - self.first_row
        return self.rows_per_step.reach(self.rows_per_step.before(self.first_step) + n_rows) - 1

    def _take(self, start: int, n: int) -> tuple[Int64[np.ndarray, ' rows'], UInt64[np.ndarray, ' rows']]:
        """The numbers and keys of n rows from a place in the endless sequence on; thousands are found at a time."""
        if not self._block_start <= start <= start + n <= self._block_start + len(self._block):
            places = self.places(np.arange(start, start + max(n, _ORDER_BLOCK)))
            self._block_start, self._block = start, self._order(places)
            self._keys = example_keys(self.seed, 0, places)
        here = slice(start - self._block_start, start - self._block_start + n)
        return self._block[here], self._keys[here]

    def _order(self, places: Int64[np.ndarray, ' rows']) -> Int64[np.ndarray, ' rows']:
        if self.mixture is None:
            return shuffled(places, len(self.rows), self.seed)
        return self.mixture.rows(places, self.seed)

    def source_targets(self, step: int, end: int) -> list[int]:
        """How many targets of each source count in the steps from step to end - 1."""
        plan, start = self.rows.plan, self.row(step)
        numbers, _ = self._take(start, self.row(end) - start)
        counts = plan.counted_before[numbers + 1] - plan.counted_before[numbers]
        source = np.searchsorted(plan.source_rows, numbers, 'right') - 1
        n_sources = len(plan.source_rows) - 1
        return [int(counts[source == i].sum()) for i in range(n_sources)]


def check_dealing(rows_per_step: int, rows_per_batch: int, world: int) -> None:
    """Raise ValueError unless the rows of a step can be dealt to so many ranks in batches of so many."""
    if min(rows_per_step, rows_per_batch) < 1 or rows_per_step % (rows_per_batch * world):
        raise SettingsError(
            f'{rows_per_step} rows a step cannot be dealt to {world} ranks in batches of {rows_per_batch} rows; '
            f'make it a multiple of {rows_per_batch * world}'
        )


class EvalBatches(Dataset[Batch]):
    """All rows once, in their order, as many batches on every rank: what is missing are rows of padding.

    Args:
        rows: The rows of a split.
        rows_per_batch: In one batch of one rank.
        rank: This rank.
        world: How many ranks there are.
        seed: The seed of what rows draw: the same in every evaluation.
    """

    def __init__(self, rows: Examples, rows_per_batch: int, rank: int = 0, world: int = 1, seed: int = 0) -> None:
        if rows_per_batch < 1:
            raise ValueError(f'rows_per_batch is {rows_per_batch}; a batch has at least 1')
        self.rows, self.rows_per_batch, self.rank, self.world = rows, rows_per_batch, rank, world
        self.seed = seed

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / (self.rows_per_batch * self.world))

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f'there is no batch {index}; there are {len(self)}')
        numbers = (index * self.world + self.rank) * self.rows_per_batch + np.arange(self.rows_per_batch)
        numbers[numbers >= len(self.rows)] = -1
        keys = example_keys(self.seed, EVALUATION, numbers)
        return self.rows.batch(numbers, keys, float(self.rows.counts(numbers, keys).sum()))


class Positions(Sampler[int]):
    """The numbers start, start + 1, …

    Args:
        start: The first.
        total: How many.
    """

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.start + self.total))


def loader(
    dataset: Dataset[Batch], start: int, total: int, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Batches start to start + total - 1 of a dataset; the same for any number of worker processes.

    Args:
        num_workers: Processes that make batches; 0: this one.
        pin_memory: Whether batches are made in pinned memory, for a GPU.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=Positions(start, total),
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
    )
