"""Loaders of batches: an evaluation's, and any stretch of a sequence, by worker processes."""

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from xlabml.batches import Batch
from xlabml.data.order import EVALUATION, example_keys
from xlabml.data.rows import Examples


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
        self.rows = rows
        self.rows_per_batch = rows_per_batch
        self.rank = rank
        self.world = world
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
        self.start = start
        self.total = total

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
