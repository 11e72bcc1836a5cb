"""Rows as chunks: what a device holds at a time becomes one row, with as many segments as every other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xlabml.batches import Batch, Layout, TokenTargets


def join_chunks(chunks: Sequence[Batch]) -> Batch:
    """Batches of rows, all of one shape, as one batch with a row for each: (c, b n) of c batches of b rows of n slots.

    As in a batch of groups, every row has as many segments, empty ones among them, so that it can be read on its own.
    """
    first = chunks[0]
    targets = [chunk.targets for chunk in chunks if isinstance(chunk.targets, TokenTargets)]
    layouts = [chunk.layout for chunk in chunks if chunk.layout is not None]
    assert len(targets) == len(layouts) == len(chunks), 'rows of tokens have targets and a layout'
    n = first.ids.numel()
    starts = [layout.starts[:-1] + i * n for i, layout in enumerate(layouts)]
    end = layouts[0].starts.new_tensor([n * len(chunks)])
    is_text = [layout.is_text for layout in layouts if layout.is_text is not None]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(chunk, name) for chunk in chunks])

    example = [torch.where(chunk.example < 0, -1, chunk.example + i * len(first.ids)) for i, chunk in enumerate(chunks)]
    return first._replace(
        ids=torch.cat([chunk.ids.view(1, -1) for chunk in chunks]),
        layout=Layout(torch.cat([*starts, end]), layouts[0].max_length, torch.cat(is_text) if is_text else None),
        documents=joined('documents'),
        example=torch.cat(example),
        role=joined('role'),
        targets=targets[0]._replace(
            ids=torch.cat([part.ids.view(1, -1) for part in targets]),
            n_bytes=torch.cat([part.n_bytes for part in targets]),
        ),
    )
