"""Activations of the feed-forward network; any elementwise module of torch's works as well.

A gated activation has `n_parts = 2`: its input is twice as wide, and the first half gates the second.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ReLU2(nn.Module):
    """The square of ReLU. Source: Primer, So et al. 2021, https://arxiv.org/abs/2109.08668, section 4."""

    def forward(self, x: Float[Tensor, '... f']) -> Float[Tensor, '... f']:
        """max(x, 0)² of each channel."""
        if torch.is_grad_enabled():
            return _ReLU2.apply(x)
        positive = F.relu(x)
        return positive * positive


class SwiGLU(nn.Module):
    """Swish of one half times the other. Source: Shazeer 2020, https://arxiv.org/abs/2002.05202, eq. 5."""

    n_parts = 2

    def forward(self, x: Float[Tensor, '... two_f']) -> Float[Tensor, '... f']:
        """Multiply the second half by the activated first half."""
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


class GeGLU(nn.Module):
    """GELU of one half times the other. Source: Shazeer 2020, https://arxiv.org/abs/2002.05202, eq. 5."""

    n_parts = 2

    def forward(self, x: Float[Tensor, '... two_f']) -> Float[Tensor, '... f']:
        """Multiply the second half by the activated first half."""
        gate, value = x.chunk(2, dim=-1)
        return F.gelu(gate) * value


class _ReLU2(torch.autograd.Function):
    """Two passes over memory each way; autograd's backward pass would take five."""

    @staticmethod
    def forward(ctx, x):
        """Saves the input only."""
        ctx.save_for_backward(x)
        positive = F.relu(x)
        return positive * positive

    @staticmethod
    def backward(ctx, grad):
        """2 · relu(x) · grad."""
        (x,) = ctx.saved_tensors
        return torch.addcmul(x.new_zeros(()), grad, F.relu(x), value=2)
