"""RMSNorm, in few passes over memory; torch.nn.LayerNorm can take its place."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square, in float32.

    Source: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467, eq. 4.

    Args:
        d_model: Width of the vectors.
        eps: Added to the mean square; the same as LayerNorm's, so that one can be swapped for the other.
        weighted: Learn a scale for each channel.
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
    if x.device.type == 'cpu' and not torch.compiler.is_compiling():
        return _RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else _normalise(x, weight, eps)[0]
    wide = _widen(x)
    return F.rms_norm(wide, x.shape[-1:], None if weight is None else weight.to(wide.dtype), eps)


class _RMSNorm(torch.autograd.Function):
    """On a CPU torch's RMSNorm runs as many small passes; this one takes less than half its time."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        """Saves x and one factor per vector."""
        y, factor = _normalise(x, weight, eps)
        ctx.save_for_backward(x, weight, factor)
        return y

    @staticmethod
    def backward(ctx, grad):
        """With g = grad · weight and y = x · factor: factor · (g - y · mean(g · y)).

        The gradient of LayerNorm with mean 0 is factor · (g - mean(g) - y · mean(g · y)), which has a fused kernel.
        """
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('RMSNorm has no second derivative; call backward without create_graph')
        x, weight, factor = ctx.saved_tensors
        wants = [ctx.needs_input_grad[0], weight is not None, False]
        wide = _widen(x)
        zero = torch.zeros_like(factor)
        scale = None if weight is None else weight.to(wide.dtype)
        x_grad, weight_grad, _ = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), wide, x.shape[-1:], zero, factor, scale, None, wants
        )
        if x_grad is not None:
            mean = grad.sum(dim=-1, keepdim=True) if scale is None else (grad @ scale)[..., None]
            x_grad = x_grad.add_(mean.mul_(factor).div_(x.size(-1))).to(x.dtype)
        return x_grad, None if weight_grad is None else weight_grad.to(weight.dtype), None


def _normalise(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised vectors, and the factor that each was multiplied by."""
    wide = _widen(x)
    factor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.size(-1)).add_(eps).rsqrt_()
    y = wide * factor
    return (y if weight is None else y.mul_(weight)), factor


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
