"""Which rows of a stream each step, micro-batch and rank gets: a function of the place where a run began."""

import numpy as np
import torch
from jaxtyping import Int64, UInt64
from numpy import arange, ndarray
from torch import Tensor
from torch.utils.data import Dataset

from xlabml.batches import Batch, Layout, TokenTargets
from xlabml.data.order import example_keys, mix
from xlabml.data.stream import StreamedRows

from .loaders import check_dealing

_ORDER_BLOCK = 4096


class StreamBatches(Dataset[Batch]):
    """The micro-batches of one rank, numbered from the start of training, as `TrainBatches` deals them.

    The rows of all windows, each in its own order, are one endless sequence. How many rows a window has is known once
    it was opened, so that a place is found from a record of another one, (step, window, row in it): windows between
    the two are looked up.

    Args:
        stream: Gives the windows.
        rows_per_step: Over all ranks and micro-batches.
        rows_per_batch: In one micro-batch of one rank.
        seed: What the seeds of the batches are drawn from.
        rank: This rank.
        world: How many ranks there are.
        first_step: The step that this run goes on from.
        first_window: The window that its first row is in.
        first_row: Its first row's place in the order of that window.

    Raises:
        ValueError: rows_per_step cannot be dealt to so many ranks.
    """

    def __init__(
        self,
        stream: StreamedRows,
        rows_per_step: int,
        rows_per_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        first_step: int = 0,
        first_window: int = 0,
        first_row: int = 0,
    ) -> None:
        check_dealing(rows_per_step, rows_per_batch, world)
        self.stream, self.rows_per_step, self.rows_per_batch, self.seed = stream, rows_per_step, rows_per_batch, seed
        self.rank, self.world, self.first_step = rank, world, first_step
        self.first_window, self.first_row = first_window, first_row
        self.batches_per_step = rows_per_step // (rows_per_batch * world)
        self._window, self._begin = first_window, 0
        self._block_of, self._block_start, self._block = -1, 0, arange(0)

    def __getitem__(self, index: int) -> Batch:
        step, micro_batch = divmod(index, self.batches_per_step)
        taken = self._take(self.row(step), self.rows_per_step)
        rows = {window: self.stream.rows(window) for window, *_ in taken}
        counts = [0.0]
        counts += [some.counts(numbers, keys).sum() for window, numbers, keys in taken if (some := rows[window])]
        n_counted = float(sum(counts))
        seed = mix(self.seed, step, micro_batch, self.rank)
        start = (micro_batch * self.world + self.rank) * self.rows_per_batch
        end, batches = start + self.rows_per_batch, []
        for window, numbers, keys in taken:
            here, some = slice(max(0, start), max(0, end)), rows[window]
            mine = numbers[here]
            start, end = start - len(numbers), end - len(numbers)
            if len(mine) and some is not None:
                batch = some.batch(mine, keys[here], n_counted, seed)
                numbered = self.stream.global_numbers(window, batch.documents.numpy())
                batches.append(batch._replace(documents=torch.from_numpy(numbered)))
        return join_batches(batches)

    def row(self, step: int) -> int:
        """How many rows come before a step, counted from the begin of the window that this run goes on from.

        Raises:
            ValueError: The step lies before the one that this run goes on from.
        """
        if step < self.first_step:
            raise ValueError(f'step {step} lies before step {self.first_step}, which this run goes on from')
        return self.first_row + (step - self.first_step) * self.rows_per_step

    def place(self, step: int) -> dict[str, int]:
        """Where a step begins: the record from which another run goes on, free of rank, worker and micro-batch."""
        window, row = self.first_window, self.row(step)
        while row and row > (n := self.stream.n_rows(window)):
            window, row = window + 1, row - n
        return {'step': step, 'window': window, 'row': row}

    def _take(self, start: int, n: int) -> list[tuple[int, Int64[ndarray, ' rows'], UInt64[ndarray, ' rows']]]:
        """The windows, and the numbers and keys of their rows, of n rows from a place in the endless sequence on."""
        if start < self._begin:
            self._window, self._begin = self.first_window, 0
        n_empty = 0
        while start >= self._begin + (there := self.stream.n_rows(self._window)):
            self._window, self._begin = self._window + 1, self._begin + there
            n_empty = 0 if there else n_empty + 1
            if n_empty > len(self.stream.cache.shards):
                raise ValueError('no shard of the stream has a document to train on; check data.splits and its sources')
        window, place, taken = self._window, start - self._begin, []
        while n:
            some = min(n, self.stream.n_rows(window) - place)
            if some:
                keys = example_keys(self.seed, window, arange(place, place + some))
                taken.append((window, self._order(window, place, some), keys))
            window, place, n = window + 1, 0, n - some
        return taken

    def _order(self, window: int, place: int, n: int) -> Int64[ndarray, ' rows']:
        """Rows of a window; some thousand are worked out at a time."""
        if self._block_of != window or not self._block_start <= place <= place + n <= self._block_start + len(
            self._block
        ):
            places = arange(place, min(place + max(n, _ORDER_BLOCK), self.stream.n_rows(window)))
            self._block_of, self._block_start, self._block = window, place, self.stream.order(window, places)
        return self._block[place - self._block_start :][:n]


def join_batches(batches: list[Batch]) -> Batch:
    """Batches of rows of one length, one below the other, of the same step; empty segments go to the end."""
    if len(batches) == 1:
        return batches[0]
    layouts = [batch.layout for batch in batches if batch.layout is not None]
    lengths = torch.cat([layout.starts.diff() for layout in layouts])
    order = torch.argsort((lengths == 0).to(torch.uint8), stable=True)
    is_text = torch.cat([layout.is_text for layout in layouts if layout.is_text is not None])
    starts = torch.zeros(len(lengths) + 1, dtype=layouts[0].starts.dtype)
    starts[1:] = lengths[order].cumsum(0)

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(batch, name) for batch in batches])

    targets = [batch.targets for batch in batches if isinstance(batch.targets, TokenTargets)]
    n_before = np.cumsum([0, *(len(batch.ids) for batch in batches)]).tolist()
    example = [torch.where(batch.example < 0, -1, batch.example + n) for batch, n in zip(batches, n_before)]
    return batches[0]._replace(
        ids=joined('ids'),
        layout=Layout(starts, layouts[0].max_length, is_text[order]),
        documents=joined('documents')[order],
        example=torch.cat(example)[order],
        role=joined('role')[order],
        targets=TokenTargets(
            torch.cat([part.ids for part in targets]), torch.cat([part.n_bytes for part in targets])[order]
        ),
    )
