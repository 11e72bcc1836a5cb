"""Normalisation by the root mean square, with a gradient of few passes; torch.nn.LayerNorm works in its place."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square, in float32.

    Source: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467, eq. 4.

    Args:
        d_model: Width of the vectors.
        eps: Added to the mean square; the same as LayerNorm's, so that one can be swapped for the other.
        weighted: Learn a factor for each channel.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, weighted: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model)) if weighted else None

    def forward(self, x: Float[Tensor, '... d']) -> Float[Tensor, '... d']:
        """Normalise the last axis."""
        return rms_norm(x, self.weight, self.eps).to(x.dtype)


def rms_norm(
    x: Float[Tensor, '... d'], weight: Float[Tensor, ' d'] | None = None, eps: float = 1e-5
) -> Float[Tensor, '... d']:
    """x / sqrt(mean(x²) + eps), times weight; the result is float32, or float64 where x is."""
    return _RMSNorm.apply(x, weight, eps)


class _RMSNorm(torch.autograd.Function):
    """torch.nn.functional.rms_norm is made of many small passes on a CPU, three times as slow backward."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        """Keeps x itself and one factor a vector."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        factor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, factor)
        y = wide * factor
        return y if weight is None else y.mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        """With y = x · factor: factor · (grad · weight - y · mean(grad · weight · y))."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('RMSNorm has no second derivative; go back without create_graph')
        x, weight, factor = ctx.saved_tensors
        y = x * factor
        product = grad * y
        weight_grad = None
        if weight is None:
            along, x_grad = product.sum(dim=-1, keepdim=True), grad.clone()
        else:
            weight_grad = product.reshape(-1, x.size(-1)).sum(dim=0).to(weight.dtype)
            along, x_grad = (product @ weight)[..., None], grad * weight
        x_grad = x_grad.addcmul_(y, along, value=-1 / x.size(-1)).mul_(factor)
        return x_grad.to(x.dtype), weight_grad, None
