"""Which weights decay, and the optimizer that moves them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices, which decay, and norms, biases and embeddings, which do not.

    A matrix shared by an embedding and a head counts as the embedding.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decays = [parameter.ndim >= 2 and id(parameter) not in embeddings for parameter in trainable]
    matrices = [parameter for parameter, decay in zip(trainable, decays) if decay]
    others = [parameter for parameter, decay in zip(trainable, decays) if not decay]
    groups: list[dict[str, Any]] = [
        {'params': matrices, 'name': 'matrices'},
        {'params': others, 'name': 'others', 'weight_decay': 0.0},
    ]
    return [group for group in groups if group['params']]


class AdamW(torch.optim.AdamW):
    """torch's AdamW with our defaults, in one fused kernel.

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2.

    Args:
        params: Tensors, or parameter groups.
        lr: Learning rate at the schedule's peak.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Share of a weight that a step takes off, times the learning rate.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 6e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


def keep_own_options(optimizer: torch.optim.Optimizer) -> None:
    """Let a checkpoint restore an optimizer's state, but not its options: these are what the user set for this run."""

    def replace_options(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        groups = [
            {**saved, **{name: value for name, value in own.items() if name != 'params'}}
            for saved, own in zip(state['param_groups'], optimizer.param_groups)
        ]
        # A count that differs is left as it is: torch refuses it by name.
        return state if len(state['param_groups']) != len(optimizer.param_groups) else {**state, 'param_groups': groups}

    optimizer.register_load_state_dict_pre_hook(replace_options)
