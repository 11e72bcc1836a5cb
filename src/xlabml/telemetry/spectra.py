"""The spectra of weights: a matrix whose largest singular value dominates has lost rank."""

import math
import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from xlabml.anatomy import Part, find_matrices

FIGURES = ('top', 'stable_rank', 'mean_ratio', 'median_ratio')
_MOST_LAYERS = 8
"""Maximum number of layers that are measured; of deeper models, evenly spaced layers."""
_KINDS = {'gate': 'feed_forward_input', 'up': 'feed_forward_input'}
"""Parts that share a curve."""


def singular_values(weight: Float[Tensor, '... r k']) -> Float[Tensor, '... m']:
    """All singular values, the largest first, as roots of the eigenvalues of the smaller of W W^T and W^T W.

    In float64, where the device has it: the root halves its 16 digits to 8. Several times faster than a singular value
    decomposition. NaN for a matrix with values that are not finite.
    """
    wide = weight.detach().to(torch.float32 if weight.device.type == 'mps' else torch.float64)
    product = wide @ wide.mT if wide.size(-2) <= wide.size(-1) else wide.mT @ wide
    is_finite = product.isfinite().flatten(-2).all(-1)
    squares = torch.linalg.eigvalsh(product.where(is_finite[..., None, None], 0.0))  # it fails for NaN and infinity
    return squares.flip(-1).clamp(min=0).sqrt().where(is_finite[..., None], math.nan)


def figures(values: Float[Tensor, '... m']) -> Float[Tensor, '... 4']:
    """Figures of singular values, in the order of FIGURES.

    `top` is the largest. `stable_rank` is the sum of squares over the largest square, an effective rank that does not
    depend on scale (Rudelson and Vershynin 2007, https://arxiv.org/abs/math/0503442). `mean_ratio` and `median_ratio`
    are the largest over the mean and over the median (the mean of the middle two for an even number). NaN for a matrix
    of zeros.

    Args:
        values: Singular values in descending order.
    """
    top = values[..., 0]
    m = values.size(-1)
    # Not torch.median, which takes the lower of the two, and is refused in a deterministic run on a GPU.
    median = (values[..., (m - 1) // 2] + values[..., m // 2]) / 2
    return torch.stack([top, values.square().sum(-1) / top.square(), top / values.mean(-1), top / median], dim=-1)


def summarize(model: nn.Module) -> dict[str, float]:
    """The figures of each kind of matrix, averaged over the layers: `query/top`, `query/stable_rank` …; synchronizes
    with the device.

    All layers have the same shapes, so the plain mean weighs all parameters equally. Sharded weights are gathered, so
    all ranks must call this. {} where the model has no layers of ours.
    """
    layers = _layers(model)
    if len(layers) > _MOST_LAYERS:
        stride = (len(layers) - 1) / (_MOST_LAYERS - 1)
        layers = [layers[round(i * stride)] for i in range(_MOST_LAYERS)]
    kinds: dict[str, list[Tensor]] = {}
    for weights in layers:
        for weight, parts in weights:
            whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
            for part, matrix in zip(parts, whole.split([part.rows for part in parts])):
                kinds.setdefault(_KINDS.get(part.name, part.name), []).append(matrix)
    if not kinds:
        return {}
    rows = [figures(singular_values(torch.stack(weights))).mean(dim=0) for weights in kinds.values()]
    named = [f'{kind}/{figure}' for kind in kinds for figure in FIGURES]
    return dict(zip(named, torch.cat(rows).tolist()))


def _layers(model: nn.Module) -> list[list[tuple[Tensor, tuple[Part, ...]]]]:
    """The weights of each layer, with the matrices stacked in them, each of which has its own spectrum.

    A layer is an item of a list of modules: its weights share their name up to the last number.
    """
    parameters = dict(model.named_parameters())
    layers: dict[str, list[tuple[Tensor, tuple[Part, ...]]]] = {}
    for name, matrix in find_matrices(model).items():
        layer = re.match(r'(?:.*\.)?\d+\.', name)
        if matrix.parts and layer:
            layers.setdefault(layer[0], []).append((parameters[name], matrix.parts))
    return list(layers.values())
