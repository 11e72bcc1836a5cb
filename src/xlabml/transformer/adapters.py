"""Low-rank adapters (LoRA): a trained trunk stays as it is, and each of its matrices learns a small difference.

The names of an adapter's tensors are known to `xlabml.checkpoints.merging`, which adds it to its matrix.
"""

import math
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xlabml.errors import SettingsError

from .trunk import Trunk


class LowRankLinear(nn.Linear):
    """A linear layer with an adapter: W x + (alpha / rank) B A x. W and the bias are the layer's own and stay frozen.

    Source: LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1.

    Args:
        layer: The trained layer.
        rank: Rows of A and columns of B.
        alpha: The factor of the difference, times rank.
        dropout: Dropout ratio of the adapter's input.
    """

    lora_scale: Tensor

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device='meta')
        self.weight = layer.weight
        self.bias = layer.bias
        self.dropout = dropout
        # B begins at zero, so that the network begins as it was; A as torch draws the weight of a linear layer.
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        # Kept with the weights, so that they can be merged without the settings.
        self.register_buffer('lora_scale', torch.tensor(alpha / rank))

    def forward(self, input: Float[Tensor, '*n d']) -> Float[Tensor, '*n o']:
        """Apply the layer and its adapter."""
        low = F.linear(F.dropout(input, self.dropout, self.training), self.lora_a)  # n rank
        return F.linear(input, self.weight, self.bias) + F.linear(low, self.lora_b) * self.lora_scale.to(low.dtype)


class LoRA:
    """Adapters for the linear layers of a trunk's blocks; all else in the trunk is frozen.

    Args:
        rank: Rank of the difference that a matrix learns.
        alpha: Its factor is alpha / rank.
        dropout: Dropout ratio of the input of an adapter.
        layers: Patterns of the names of layers that have an adapter, such as `*attention.projection`; `*` takes any.

    Raises:
        SettingsError: A value is out of range.
    """

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, layers: list[str] | None = None
    ) -> None:
        if rank < 1:
            raise SettingsError(f'trunk.adapters.rank is {rank}; give 1 or more')
        if not alpha > 0:
            raise SettingsError(f'trunk.adapters.alpha is {alpha}; give a positive number')
        if not 0 <= dropout < 1:
            raise SettingsError(f'trunk.adapters.dropout is {dropout}; give a ratio from 0 to below 1')
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.layers = layers

    def attach(self, trunk: Trunk) -> None:
        """Freeze a trunk, and give its layers adapters.

        Raises:
            SettingsError: No layer has such a name.
        """
        trunk.requires_grad_(False)
        blocks = {id(part) for block in trunk.list_blocks() for part in block.modules()}
        there = {name: part for name, part in trunk.named_modules() if type(part) is nn.Linear and id(part) in blocks}
        patterns = ['*'] if self.layers is None else self.layers
        chosen = {name: part for name, part in there.items() if any(fnmatchcase(name, one) for one in patterns)}
        if not chosen:
            raise SettingsError(
                f'trunk.adapters.layers is {patterns}, but no linear layer of the blocks has such a name; '
                f'those of the first block are {", ".join(_of_the_first(list(there)))}'
            )
        for name, layer in chosen.items():
            owner, _, attribute = name.rpartition('.')
            adapted = LowRankLinear(layer, self.rank, self.alpha, self.dropout)
            setattr(trunk.get_submodule(owner), attribute, adapted.train(layer.training))


def _of_the_first(names: list[str]) -> list[str]:
    """The names of layers up to the first whose last word has been there."""
    found = dict.fromkeys(name.partition('.0.')[2] for name in names if '.0.' in name)
    return [f'*{name}' for name in found] or names[:8]
