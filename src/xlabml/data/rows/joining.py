"""Batches of rows put together, and their rows in another order."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from xlabml.batches import Batch, Layout, TokenTargets


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


def take_rows(batch: Batch, rows: Int64[np.ndarray, ' b']) -> Batch:
    """A batch with its rows in another order.

    Args:
        batch: Of rows, none of whose segments crosses the end of a row; empty segments are at the end.
        rows: The number of the row that comes first, second, …: each of them once.
    """
    layout = batch.layout
    assert layout is not None
    assert layout.is_text is not None
    assert isinstance(batch.targets, TokenTargets)
    order = torch.from_numpy(rows)
    place = torch.empty_like(order)  # of each row, in the new order
    place[order] = torch.arange(len(rows))
    lengths = layout.starts.diff()
    row = (layout.starts[:-1] // batch.ids.size(1)).long()  # of each segment; of empty ones, that after the last
    behind = torch.where(lengths > 0, place[row.clamp(max=len(rows) - 1)], len(rows))
    segments = torch.argsort(behind, stable=True)
    starts = torch.zeros_like(layout.starts)
    starts[1:] = lengths[segments].cumsum(0)
    example = batch.example[segments]
    return batch._replace(
        ids=batch.ids[order],
        layout=layout._replace(starts=starts, is_text=layout.is_text[segments]),
        documents=batch.documents[segments],
        example=torch.where(example < 0, -1, place[example.clamp(min=0)]),
        role=batch.role[segments],
        targets=TokenTargets(batch.targets.ids[order], batch.targets.n_bytes[segments]),
    )
