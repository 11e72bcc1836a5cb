"""Which weights decay, and AdamW."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xlabml.anatomy import find_matrices


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters by how they are optimized; what each is, `anatomy.find_matrices` says.

    `matrices` of the layers, which decay; `heads`, whose products are scores, which decay too; `others`: norms, biases
    and embeddings, which do not. A matrix that an embedding and a head share counts as the embedding. Of a matrix in
    which several are stacked, `parts` has the rows of each.
    """
    described = find_matrices(module)
    groups: dict[str, dict[str, Any]] = {
        'matrices': {'params': [], 'name': 'matrices', 'parts': []},
        'heads': {'params': [], 'name': 'heads'},
        'others': {'params': [], 'name': 'others', 'weight_decay': 0.0},
    }
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = described.get(name)  # None: a vector
        if matrix is None or 'embedding' in matrix.roles:
            groups['others']['params'].append(parameter)
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
        weight_decay: Share of a weight that a step takes off, times the learning rate.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 6e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)

    @staticmethod
    def state_names(group: dict[str, Any]) -> frozenset[str]:
        """What the state of each parameter of a group is called."""
        return frozenset({'step', 'exp_avg', 'exp_avg_sq'})


_ONE_A_WEIGHT = frozenset(
    {'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer', 'exp_inf', 'square_avg', 'sum'}
)
"""State of torch's optimizers and ours that has a number for each weight."""


def keep_own_options(optimizer: torch.optim.Optimizer) -> None:
    """Let a checkpoint restore an optimizer's state, but not its options: these are what the user set for this run."""

    def replace_options(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        groups = [
            {**saved, **{name: value for name, value in own.items() if name != 'params'}}
            for saved, own in zip(state['param_groups'], optimizer.param_groups)
        ]
        # A count that differs is left as it is: torch refuses it by name.
        if len(state['param_groups']) != len(optimizer.param_groups):
            return state
        _check_state(optimizer, state)
        return {**state, 'param_groups': groups}

    optimizer.register_load_state_dict_pre_hook(replace_options)


def _check_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Refuse a state that the optimizer's next step could not use.

    Raises:
        ValueError: Names the value that does not fit.
    """
    for saved, own in zip(state['param_groups'], optimizer.param_groups):
        group = own.get('name', 'parameters')
        alike = set[frozenset[str]]()
        for number, parameter in zip(saved['params'], own['params']):
            values = state['state'].get(number, {})
            alike |= {frozenset(values)} if values else set()
            for name, value in values.items():
                if name in _ONE_A_WEIGHT and isinstance(value, Tensor) and value.shape != parameter.shape:
                    raise ValueError(
                        f'optimizer_states: {name} of parameter {number} ({group}) is of shape {tuple(value.shape)}, '
                        f'the parameter of shape {tuple(parameter.shape)}'
                    )
                if name == 'step' and (value.numel() if isinstance(value, Tensor) else 1) != 1:
                    raise ValueError(f'optimizer_states: step of parameter {number} ({group}) is no number')
        # Those of other libraries may keep one thing of matrices and another of vectors (Adafactor), or of large ones.
        wanted = getattr(optimizer, 'state_names', lambda _: None)(own)
        if wanted is not None and not alike <= {wanted}:
            found = ', '.join(sorted(set().union(*alike)))
            raise ValueError(
                f'optimizer_states: the state of {group} is not that of a {type(optimizer).__name__}: {found}'
            )
