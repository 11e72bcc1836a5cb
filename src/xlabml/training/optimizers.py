"""Parameter groups, AdamW, and the restoring of an optimizer's state."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import StateDict

from xlabml.anatomy import find_matrices

Group = dict[str, Any]
"""A parameter group, as torch's optimizers take it: `params`, and options of the optimizer."""

PER_PARAMETER = ('params', 'parts', 'is_embedding')
"""The keys of a group that have an entry for each parameter."""


def parameter_groups(module: nn.Module) -> list[Group]:
    """Split the trainable parameters into groups, by the roles that `anatomy.find_matrices` finds.

    `matrices` of the layers and `heads`, which map to scores, have weight decay; `others` (norms, biases and
    embeddings) have none. A matrix shared by an embedding and a head counts as the embedding. `parts` lists, for each
    matrix, the rows of the matrices stacked in it, or None for a single one; `is_embedding`, for each of `others`,
    whether it is the table of an embedding.
    """
    described = find_matrices(module)
    groups: dict[str, Group] = {
        'matrices': {'params': [], 'name': 'matrices', 'parts': []},
        'heads': {'params': [], 'name': 'heads'},
        'others': {'params': [], 'name': 'others', 'weight_decay': 0.0, 'is_embedding': []},
    }
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = described.get(name)  # None: a vector
        if matrix is None or 'embedding' in matrix.roles:
            groups['others']['params'].append(parameter)
            groups['others']['is_embedding'].append(matrix is not None)
        elif 'head' in matrix.roles:
            groups['heads']['params'].append(parameter)
        else:
            groups['matrices']['params'].append(parameter)
            rows = [part.rows for part in matrix.parts]
            groups['matrices']['parts'].append(rows if len(rows) > 1 else None)
    return [group for group in groups.values() if group['params']]


class AdamW(torch.optim.AdamW):
    """torch's AdamW with our defaults, in one fused kernel.

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2.

    Args:
        params: Tensors, or parameter groups.
        lr: Learning rate at the schedule's peak.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay: a step subtracts lr * weight_decay * weight.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 6e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)

    @staticmethod
    def state_names(group: Mapping[str, object]) -> frozenset[str]:
        """Names of the state of each parameter of a group."""
        return frozenset({'step', 'exp_avg', 'exp_avg_sq'})


_ELEMENTWISE = frozenset({'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer', 'exp_inf', 'square_avg', 'sum'})
"""State of torch's optimizers and ours that has the shape of its parameter."""


def keep_own_options(optimizer: torch.optim.Optimizer) -> None:
    """Let a checkpoint restore an optimizer's state but not its options, which the user sets for each run."""

    def replace_options(optimizer: torch.optim.Optimizer, state: StateDict) -> StateDict:
        groups = [
            {**saved, **{name: value for name, value in own.items() if name != 'params'}}
            for saved, own in zip(state['param_groups'], optimizer.param_groups)
        ]
        # Another number of groups is refused by torch itself.
        if len(state['param_groups']) != len(optimizer.param_groups):
            return state
        _check_state(optimizer, state)
        return {**state, 'param_groups': groups}

    optimizer.register_load_state_dict_pre_hook(replace_options)


def _check_state(optimizer: torch.optim.Optimizer, state: StateDict) -> None:
    """Refuse a state that the optimizer cannot use.

    Raises:
        ValueError: A value does not fit; the message names it.
    """
    for saved, own in zip(state['param_groups'], optimizer.param_groups):
        group = own.get('name', 'parameters')
        alike = set[frozenset[str]]()
        for number, parameter in zip(saved['params'], own['params']):
            values = state['state'].get(number, {})
            alike |= {frozenset(values)} if values else set()
            for name, value in values.items():
                if value is None:
                    continue  # torch's SGD, before its first momentum
                if name in _ELEMENTWISE and not (isinstance(value, Tensor) and value.is_floating_point()):
                    raise ValueError(f'optimizer_states: {name} of parameter {number} ({group}) is no tensor of floats')
                if name in _ELEMENTWISE and value.shape != parameter.shape:
                    raise ValueError(
                        f'optimizer_states: {name} of parameter {number} ({group}) has shape {tuple(value.shape)}, '
                        f'but the parameter has shape {tuple(parameter.shape)}'
                    )
                is_number = value.numel() == 1 if isinstance(value, Tensor) else type(value) in (int, float)
                if name == 'step' and not is_number:
                    raise ValueError(f'optimizer_states: step of parameter {number} ({group}) is not a number')
        # Optimizers of other libraries are not checked: their state can differ by shape (Adafactor) or size.
        wanted = getattr(optimizer, 'state_names', lambda _: None)(own)
        if wanted is not None and not alike <= {wanted}:
            found = ', '.join(sorted(set().union(*alike)))
            raise ValueError(
                f'optimizer_states: the state of {group} ({found}) is not the state of {type(optimizer).__name__}'
            )
