"""The batches of a run: which examples each step, micro-batch and rank gets, a function of (seed, place)."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64
from torch.utils.data import Dataset

from xlabml.batches import Batch
from xlabml.data.order import START, Place, Places, Stretch, example_keys, mix
from xlabml.data.rows import Examples, Passes, join_batches
from xlabml.errors import SettingsError

_ORDER_BLOCK = 4096


class Taken(NamedTuple):
    """Examples of one pass, in the order in which they are read.

    Args:
        pass_index: The pass.
        numbers: Of the examples in it.
        keys: The key of each.
    """

    pass_index: int
    numbers: Int64[np.ndarray, ' rows']
    keys: UInt64[np.ndarray, ' rows']

    def there(self) -> 'Taken':
        """Without the places that are empty."""
        is_there = self.numbers >= 0
        return Taken(self.pass_index, self.numbers[is_there], self.keys[is_there])

    def cut(self, start: int, end: int) -> 'Taken':
        """The examples start to end - 1 of these; either may lie outside."""
        here = slice(max(0, start), max(0, end))
        return Taken(self.pass_index, self.numbers[here], self.keys[here])


class BatchSequence(Dataset[Batch]):
    """The micro-batches of one rank, numbered from the start of training; nothing has to be restored.

    The examples of all passes are one endless sequence. Step s takes the next rows_per_step of them; its micro-batch m
    on rank r takes rows_per_batch of those, from (m * world + r) * rows_per_batch on.

    Args:
        passes: What is read.
        rows_per_step: Over all ranks and micro-batches.
        rows_per_batch: In one micro-batch of one rank.
        seed: The seed of the batches' seeds, and of what examples draw.
        rank: This rank.
        world: How many ranks there are.
        first_step: The step from which the run resumes.
        start: The place of its first example (with other batch sizes before it, perhaps).
        skipped: Stretches of the sequence that are left out.

    Raises:
        ValueError: rows_per_step cannot be dealt evenly to the ranks.
    """

    def __init__(
        self,
        passes: Passes,
        rows_per_step: int,
        rows_per_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        first_step: int = 0,
        start: Place = START,
        skipped: Sequence[Stretch] = (),
    ) -> None:
        check_dealing(rows_per_step, rows_per_batch, world)
        self.passes = passes
        self.seed = seed
        self.rank = rank
        self.world = world
        self.first_step = first_step
        self.places = Places(passes.n_rows, passes.n_each, start, skipped)
        self.rows_per_step = rows_per_step
        self.rows_per_batch = rows_per_batch
        self.batches_per_step = rows_per_step // (rows_per_batch * world)
        self._block_start = 0
        self._block = Taken(0, np.zeros(0, np.int64), np.zeros(0, np.uint64))

    def __getitem__(self, index: int) -> Batch:
        step, micro_batch = divmod(index, self.batches_per_step)
        taken = self._take(self.row(step), self.rows_per_step)
        n_counted = sum(float(self.passes.open(part.pass_index).counts(*part[1:]).sum()) for part in taken)
        start = (micro_batch * self.world + self.rank) * self.rows_per_batch
        seed = mix(self.seed, step, micro_batch, self.rank)
        return join_batches(
            [
                examples.batch(numbers, keys, n_counted, seed)
                for examples, numbers, keys in self._open(_cut(taken, start, start + self.rows_per_batch))
            ]
        )

    def row(self, step: int) -> int:
        """How many examples are read before a step, from the start on.

        Raises:
            ValueError: The step lies before the one from which this run resumes.
        """
        if step < self.first_step:
            raise ValueError(f'step {step} lies before step {self.first_step}, from which this run resumes')
        return (step - self.first_step) * self.rows_per_step

    def place(self, step: int) -> Place:
        """Where a run stands before a step, free of rank, worker and micro-batch: another one resumes from it."""
        return self.places.after(self.row(step))

    def places_read(self, step: int, end: int) -> Stretch:
        """The stretch that the steps from step to end - 1 read, with what is left out inside."""
        first = self.row(step)
        (pass_index, rows) = self.places.take(self.row(step), 1)
        return Place(pass_index, int(rows[0])), self.places.after(max(first + 1, self.row(end)))

    def source_targets(self, step: int, end: int, n_sources: int) -> list[float]:
        """How many targets of each source count in the steps from step to end - 1."""
        found = np.zeros(n_sources)
        start = self.row(step)
        for part in self._take(start, self.row(end) - start):
            examples = self.passes.open(part.pass_index)
            part = part.there()
            store = examples.source_of(part.numbers)
            sources = self.passes.sources(part.pass_index)
            source = store if sources is None else np.array(sources)[store]
            found += np.bincount(source, examples.counts(part.numbers, part.keys), n_sources)
        return found.tolist()

    def _take(self, start: int, n: int) -> list[Taken]:
        """n examples from an index of the sequence on; of each pass, thousands are found at a time."""
        taken = []
        while n:
            if not self._block_start <= start < self._block_start + len(self._block.numbers):
                pass_index, places = self.places.take(start, max(n, _ORDER_BLOCK))
                keys = example_keys(self.seed, pass_index, places)
                steps = self.first_step + (start + np.arange(len(places))) // self.rows_per_step
                numbers = self.passes.at_steps(pass_index, self.passes.order(pass_index, places), steps)
                self._block = Taken(pass_index, numbers, keys)
                self._block_start = start
            first = start - self._block_start
            part = self._block.cut(first, first + n)
            taken.append(part)
            start = start + len(part.numbers)
            n = n - len(part.numbers)
        return taken

    def _open(self, taken: list[Taken]) -> Iterator[tuple[Examples, Int64[np.ndarray, ' e'], UInt64[np.ndarray, ' e']]]:
        """The examples of several passes; those that several passes have in common, together."""
        for _, some in itertools.groupby(taken, lambda part: id(self.passes.open(part.pass_index))):
            parts = list(some)
            numbers, keys = (np.concatenate(arrays) for arrays in list(zip(*parts))[1:])
            yield self.passes.open(parts[0].pass_index), numbers, keys


def _cut(taken: list[Taken], start: int, end: int) -> list[Taken]:
    """The examples start to end - 1 of all of these."""
    found = []
    for part in taken:
        found.append(part.cut(start, end))
        start = start - len(part.numbers)
        end = end - len(part.numbers)
    return [part for part in found if len(part.numbers)]


def check_dealing(rows_per_step: int, rows_per_batch: int, world: int) -> None:
    """Raise ValueError unless the rows of a step can be dealt to the ranks in batches of this size."""
    if min(rows_per_step, rows_per_batch) < 1 or rows_per_step % (rows_per_batch * world):
        raise SettingsError(
            f'{rows_per_step} rows a step cannot be dealt to {world} ranks in batches of {rows_per_batch} rows; '
            f'make it a multiple of {rows_per_batch * world}'
        )
