"""Gradient caching: as many texts in a loss as one likes, at the memory of a chunk of them.

Source: Gao et al. 2021 (GradCache), https://arxiv.org/abs/2101.06983.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_Chunk = TypeVar('_Chunk')


def embed_in_chunks(
    embed: Callable[[_Chunk], Float[Tensor, '... i d']], chunks: Sequence[_Chunk]
) -> Float[Tensor, '... s d']:
    """The vectors of all chunks, without keeping what they were computed through.

    The loss of all vectors then gives one gradient for each of them; in the backward pass each chunk is embedded once
    more, with the random numbers and the autocast of the first time, and passes the gradients of its vectors on. The
    gradient is that of the whole batch, dropout included, in one backward pass: DDP averages once, and a gradient
    scaler or accumulation is a factor like any other. It costs a second forward pass.

    Args:
        embed: The vectors of a chunk, the same function of the same chunk at every call (no state may change in it);
            with a leading axis for several layers.
        chunks: Texts in any form; a chunk's activations are what memory has to hold.
    """
    if not torch.is_grad_enabled():
        return torch.cat([embed(chunk) for chunk in chunks], dim=-2)
    return torch.cat([checkpoint(embed, chunk, use_reentrant=False) for chunk in chunks], dim=-2)
