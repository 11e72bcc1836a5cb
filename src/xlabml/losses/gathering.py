"""Texts of all ranks as candidates of every rank's examples, with gradients as if there were one rank."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from .views import Views


def gather_views(views: Views, group: dist.ProcessGroup | None = None) -> Views:
    """The views of all ranks, in the order of the ranks; `own` marks the examples of this one.

    The losses that an objective returns for these views are those of this rank's examples against the texts of all.
    Added up over the ranks they are the loss of one rank that has everything, and so are the gradients: in the backward
    pass each rank's vectors get their gradients from the losses of all ranks, summed. A task that divides by the number
    of examples of the whole step therefore gets the step of one process, however many there are. (To compute the
    loss of all examples on each rank, with the gradient of its own vectors alone, makes the step 1 / ranks as large.)

    Ranks may have different numbers of texts; every rank has to call this, and to run the backward pass of what it
    returns. Without several ranks the views are returned as they are.

    Args:
        group: The ranks; None: all.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1:
        return views
    rank = dist.get_rank(group)
    device = views.vectors.device
    counts = torch.tensor([len(views.role), views.n_examples], device=device)
    everyones = [torch.empty_like(counts) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyones, counts, group)
    n_texts, n_examples = (list(some) for some in zip(*(some.tolist() for some in everyones)))
    first = sum(n_examples[:rank])

    def of_texts(values: Tensor | None) -> Tensor | None:
        return None if values is None else _gather_rows(values, n_texts, group)

    # One gather has all the gradients: several could meet in another order in the backward passes of two ranks.
    layers = views.layers
    n_layers = 0 if layers is None else len(layers)
    flat = views.vectors if layers is None else torch.cat([views.vectors, *layers], dim=-1)
    vectors, *earlier = _gather_rows(flat, n_texts, group).chunk(n_layers + 1, dim=-1)
    gathered = _gather_rows(views.example + first, n_texts, group)
    return Views(
        vectors=vectors,
        example=gathered,
        role=_gather_rows(views.role, n_texts, group),
        n_examples=sum(n_examples),
        text_hash=of_texts(views.text_hash),
        score=of_texts(views.score),
        label=None if views.label is None else _gather_rows(views.label, n_examples, group),
        teacher=of_texts(views.teacher),
        guide=of_texts(views.guide),
        layers=None if layers is None else torch.stack(earlier),
        own=slice(first, first + n_examples[rank]),
    )


def _gather_rows(
    rows: Shaped[Tensor, 'i ...'], counts: list[int], group: dist.ProcessGroup | None
) -> Shaped[Tensor, 'j ...']:
    """The rows of all ranks one after the other; counts says how many each has."""
    if rows.requires_grad:
        return _GatherRows.apply(rows, counts, group)
    return _gather_padded(rows, counts, group)


def _gather_padded(rows: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    everyones = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyones, padded, group)
    return torch.cat([some[:count] for some, count in zip(everyones, counts)])


class _GatherRows(torch.autograd.Function):
    """The backward pass adds up what all ranks' losses say of a rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.counts = counts
        ctx.group = group
        return _gather_padded(rows, counts, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].contiguous()
        dist.all_reduce(grad, group=ctx.group)
        first = sum(ctx.counts[: dist.get_rank(ctx.group)])
        return grad[first : first + ctx.counts[dist.get_rank(ctx.group)]], None, None
