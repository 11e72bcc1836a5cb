"""Activations that are not kept for the gradient, but computed once more when the backward pass needs them."""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from .attention import Pass
from .positions import Angles

_PRODUCTS = ('aten::mm', 'aten::addmm', 'aten::bmm')
"""Kept by `selective`. Not baddbmm: scores of attention, larger than all else, are made by it."""

_ATTENTION = ('attention', 'attn', 'attend')
"""In the names of torch's, flash-attn's and our own kernels."""


def run_block(
    block: nn.Module, hidden: Float[Tensor, 'b n d'], angles: Angles | None, layer_pass: Pass, checkpointing: str
) -> Float[Tensor, 'b n d']:
    """The layer's output; dropout draws the same again when it is computed once more.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174; of what is worth keeping: Korthikanti et al. 2022,
    https://arxiv.org/abs/2205.05198, section 5.

    Args:
        block: A Block, with its arguments.
        checkpointing: none, full or selective; without a gradient nothing is kept anyway.
    """
    if checkpointing == 'none' or not torch.is_grad_enabled():
        return block(hidden, angles, layer_pass)
    options: dict[str, Any] = {}
    if checkpointing == 'selective':
        options['context_fn'] = functools.partial(create_selective_checkpoint_contexts, _choose)
    return checkpoint(block, hidden, angles, layer_pass, use_reentrant=False, **options)


def _choose(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what is expensive to compute: products of matrices, and attention, whoever's kernel it is."""
    name = op.name().partition('.')[0] if hasattr(op, 'name') else str(op)
    is_expensive = name in _PRODUCTS or any(word in name for word in _ATTENTION)
    return CheckpointPolicy.MUST_SAVE if is_expensive else CheckpointPolicy.PREFER_RECOMPUTE
