"""Adapters (LoRA) merged into the matrices that they belong to, so that what uses a checkpoint need not know of them.

The tensors of an adapter stand beside the weight of its layer, as `xlabml.transformer.LowRankLinear` names them.
"""

from collections.abc import Mapping

from torch import Tensor

from xlabml.plain import PlainDict, below

ADAPTERS = 'adapters'
"""The argument of a trunk that gives it adapters."""

_A = '.lora_a'
_B = '.lora_b'
_SCALE = '.lora_scale'


def has_adapters(weights: Mapping[str, Tensor]) -> bool:
    """Whether there are adapters among weights."""
    return any(name.endswith(_A) for name in weights)


def merge_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without adapters: the weight of an adapted layer becomes W + scale B A.

    Raises:
        ValueError: A tensor of an adapter is missing, or its shape does not fit.
    """
    merged = {name: tensor for name, tensor in weights.items() if not name.endswith((_A, _B, _SCALE))}
    for name, a in weights.items():
        if not name.endswith(_A):
            continue
        layer = name.removesuffix(_A)
        b = weights.get(f'{layer}{_B}')
        scale = weights.get(f'{layer}{_SCALE}')
        weight = weights.get(f'{layer}.weight')
        if b is None or scale is None or weight is None:
            raise ValueError(f'{layer} has an adapter of which a tensor is missing; copy the file again')
        if a.dim() != 2 or b.dim() != 2 or scale.dim() or weight.shape != (len(b), a.size(1)) or len(a) != b.size(1):
            raise ValueError(f'{layer} has an adapter that does not fit its weight; copy the file again')
        # In double precision: the sum is rounded once.
        difference = scale.double() * (b.double() @ a.double())
        merged[f'{layer}.weight'] = (weight.double() + difference).to(weight.dtype)
    return merged


def without_adapters(arguments: PlainDict) -> PlainDict:
    """The arguments of a network or its task, of a trunk without adapters."""
    trunk = below(arguments, 'trunk')
    known = below(trunk, 'init_args')
    if ADAPTERS not in known:
        return arguments
    kept = {name: value for name, value in known.items() if name != ADAPTERS}
    return {**arguments, 'trunk': {**trunk, 'init_args': kept}}
