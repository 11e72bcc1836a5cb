"""How the singular values of weights are spread: a matrix whose largest outgrows the others has lost directions."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from xlabml.transformer import Block

FIGURES = ('top', 'stable_rank', 'mean_ratio', 'median_ratio')
_MOST_LAYERS = 8
"""Of deeper models, so many layers are looked at, evenly spread from the first to the last."""


def singular_values(weight: Float[Tensor, '... r k']) -> Float[Tensor, '... m']:
    """All singular values, the largest first, as roots of the eigenvalues of the smaller of W W^T and W^T W.

    In float64, where the device has it: of its 16 digits the root leaves 8. Several times as fast as a singular-value
    decomposition. A matrix with values that are not finite has none: nan.
    """
    wide = weight.detach().to(torch.float32 if weight.device.type == 'mps' else torch.float64)
    product = wide @ wide.mT if wide.size(-2) <= wide.size(-1) else wide.mT @ wide
    is_finite = product.isfinite().flatten(-2).all(-1)
    squares = torch.linalg.eigvalsh(product.where(is_finite[..., None, None], 0.0))  # which fails for other ones
    return squares.flip(-1).clamp(min=0).sqrt().where(is_finite[..., None], math.nan)


def figures(values: Float[Tensor, '... m']) -> Float[Tensor, '... 4']:
    """What is said of singular values, in the order of FIGURES.

    `top` is the largest. `stable_rank` is the sum of squares over the largest square: how many directions carry the
    matrix, whatever its scale (Rudelson and Vershynin 2007, https://arxiv.org/abs/math/0503442). `mean_ratio` and
    `median_ratio` are the largest over the mean and over the median (of an even number, the mean of the two in the
    middle). A matrix of zeros gives nan.

    Args:
        values: The largest first.
    """
    top, m = values[..., 0], values.size(-1)
    # torch.median is the lower of the two, and refused in a deterministic run on a GPU.
    median = (values[..., (m - 1) // 2] + values[..., m // 2]) / 2
    return torch.stack([top, values.square().sum(-1) / top.square(), top / values.mean(-1), top / median], dim=-1)


def summarize(model: nn.Module) -> dict[str, float]:
    """The figures of each kind of matrix, averaged over the layers: `query/top`, `query/stable_rank` …; waits for the
    device.

    All layers have the same shapes, so the plain mean weighs every parameter alike. Sharded weights are gathered: all
    ranks have to call this. {} where the model has no layers of ours.
    """
    blocks = [part for part in model.modules() if isinstance(part, Block)]
    if len(blocks) > _MOST_LAYERS:
        stride = (len(blocks) - 1) / (_MOST_LAYERS - 1)
        blocks = [blocks[round(i * stride)] for i in range(_MOST_LAYERS)]
    kinds: dict[str, list[Tensor]] = {}
    for block in blocks:
        for kind, weight in _matrices(block):
            kinds.setdefault(kind, []).append(weight)
    if not kinds:
        return {}
    rows = [figures(singular_values(torch.stack(weights))).mean(dim=0) for weights in kinds.values()]
    named = [f'{kind}/{figure}' for kind in kinds for figure in FIGURES]
    return dict(zip(named, torch.cat(rows).tolist()))


def _matrices(block: Block) -> Iterator[tuple[str, Tensor]]:
    """Stacked matrices are taken apart: each has a spectrum of its own."""
    attention, inner = block.attention, block.feed_forward
    yield from zip(('query', 'key', 'value'), _parts(attention.projection))
    yield 'attention_output', _parts(attention.output)[0]
    for weight in _parts(inner.input):
        yield 'feed_forward_input', weight
    yield 'feed_forward_output', _parts(inner.output)[0]


def _parts(linear: nn.Linear) -> list[Tensor]:
    weight = linear.weight.full_tensor() if isinstance(linear.weight, DTensor) else linear.weight
    rows = getattr(linear, 'stacked_rows', None)
    return list(weight.split(rows)) if isinstance(rows, list) else [weight]
