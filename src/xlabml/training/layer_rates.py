"""Layer-wise learning rates: what lies deeper in a pretrained network moves less."""

from collections.abc import Iterable, Sequence

from torch import nn
from torch.optim import Optimizer

from .optimizers import PER_PARAMETER, Group

DEPTH = 'depth'
"""The key of a group: how many layers lie above its parameters."""


def split_by_depth(groups: Iterable[Group], layers: Sequence[nn.Module]) -> list[Group]:
    """Parameter groups, each cut into those of one depth.

    Args:
        groups: As `parameter_groups` returns them.
        layers: From the lowest to the highest; what is in none of them lies above all.
    """
    depths: dict[int, int] = {}
    for i, layer in enumerate(layers):
        for parameter in layer.parameters():
            depths.setdefault(id(parameter), len(layers) - i)
    found: list[Group] = []
    for group in groups:
        of_depth: dict[int, list[int]] = {}
        for i, member in enumerate(group['params']):
            of_depth.setdefault(depths.get(id(member), 0), []).append(i)
        for depth, numbers in sorted(of_depth.items()):
            # What has an entry a parameter is cut with them.
            cut: Group = {name: [group[name][i] for i in numbers] for name in PER_PARAMETER if name in group}
            found.append({**group, **cut, DEPTH: depth})
    return found


def decay_rates(optimizer: Optimizer, decay: float) -> None:
    """Multiply the learning rate of each group by decay^depth.

    Source: ULMFiT, Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2 (discriminative fine-tuning).

    Args:
        optimizer: Its groups are those of `split_by_depth`.
        decay: The factor from a layer to the one below it, above 0 and at most 1.
    """
    for group in optimizer.param_groups:
        group['lr'] *= decay ** group.get(DEPTH, 0)
