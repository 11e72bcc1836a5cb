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
_Result = TypeVar('_Result')


def compute_anew(compute: Callable[[_Chunk], _Result], chunk: _Chunk, on: Tensor) -> _Result:
    """What is computed of a chunk; its activations are not kept but computed once more in the backward pass, with the
    random numbers and the autocast of the first time.

    Args:
        compute: The same function of the same chunk at every call: no state may change in it.
        chunk: In any form; often the number of a row of tensors that the function holds.
        on: Any tensor on the device that computes. torch restores the random numbers of the devices of arguments, not
            of what a closure holds: without one, a GPU would draw other dropout the second time, and the gradient would
            be wrong in silence.
    """
    return checkpoint(lambda some, _: compute(some), chunk, on, use_reentrant=False)


def embed_in_chunks(
    embed: Callable[[_Chunk], Float[Tensor, '... i d']], chunks: Sequence[_Chunk], on: Tensor
) -> Float[Tensor, '... s d']:
    """The vectors of all chunks, without keeping what they were computed through.

    The loss of all vectors then gives one gradient for each of them; in the backward pass each chunk is embedded once
    more and passes the gradients of its vectors on. The gradient is that of the whole batch, dropout included, in one
    backward pass: DDP averages once, and a gradient scaler or accumulation is a factor like any other. It costs a
    second forward pass.

    Args:
        embed: The vectors of a chunk, with a leading axis for several layers; as in `compute_anew`.
        chunks: Texts in any form; a chunk's activations are what memory has to hold.
        on: As in `compute_anew`.
    """
    if not torch.is_grad_enabled():
        return torch.cat([embed(chunk) for chunk in chunks], dim=-2)
    return torch.cat([compute_anew(embed, chunk, on) for chunk in chunks], dim=-2)
