"""Activation checkpointing: activations are recomputed in the backward pass instead of being stored."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from .attention import Pass
from .positions import Angles
from .shift import Before

_PRODUCTS = ('aten::mm', 'aten::addmm', 'aten::bmm')
"""Stored by `selective`. Not baddbmm: it makes the attention scores, which are larger than all else."""

_ATTENTION = ('attention', 'attn', 'attend')
"""Parts of the names of attention kernels: torch's, flash-attn's and our own."""


def run_block(
    block: nn.Module,
    hidden: Float[Tensor, 'b n d'],
    angles: Angles | None,
    layer_pass: Pass,
    before: Before | None,
    checkpointing: str,
) -> Float[Tensor, 'b n d']:
    """The block's output; recomputation draws the same dropout masks.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174; selective: Korthikanti et al. 2022,
    https://arxiv.org/abs/2205.05198, section 5.

    Args:
        block: A Block, with its arguments.
        checkpointing: none, full or selective; no effect without a gradient.
    """
    if checkpointing == 'none' or not torch.is_grad_enabled():
        return block(hidden, angles, layer_pass, before)
    contexts = functools.partial(create_selective_checkpoint_contexts, _choose)
    context_fn = contexts if checkpointing == 'selective' else noop_context_fn
    return checkpoint(block, hidden, angles, layer_pass, before, use_reentrant=False, context_fn=context_fn)


def _choose(context: object, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    """Store what is expensive to recompute: matrix products, and attention by any kernel."""
    name = op.name().partition('.')[0] if hasattr(op, 'name') else str(op)
    is_expensive = name in _PRODUCTS or any(word in name for word in _ATTENTION)
    return CheckpointPolicy.MUST_SAVE if is_expensive else CheckpointPolicy.PREFER_RECOMPUTE
