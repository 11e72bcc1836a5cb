"""Muon for matrices with AdamW for all else: one optimizer, so that Lightning's own training loop can drive it."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from xlabml.hardware import cpu_kind

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose slope at 0 is as steep as may be: five rounds bring singular values near 1 (0.7 to 1.2)."""

_EPS = 1e-7


def orthogonalize(matrices: Float[Tensor, '... r c'], n_steps: int = 5) -> Float[Tensor, '... r c']:
    """Bring all singular values of each matrix near to 1, and leave its singular vectors as they are.

    Newton-Schulz: with X = U S V', each round gives U p(S) V', where p(s) = a s + b s^3 + c s^5. In the dtype that
    comes in. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.

    Args:
        n_steps: Rounds of the iteration.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.mT if matrices.size(-2) > matrices.size(-1) else matrices
    shape = x.shape
    x = x.reshape(-1, *x.shape[-2:])
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    for _ in range(n_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(shape)
    return x.mT if matrices.size(-2) > matrices.size(-1) else x


class Muon(Optimizer):
    """Momentum made orthogonal for the matrices of the layers, AdamW for embeddings, heads, norms and biases.

    A group of parameters that is named `matrices`, or has no name, is orthogonalised; every other group gets AdamW.
    Matrices of one shape (or its transpose) go through the iteration as one batch; of tensors with more than two
    dimensions the last two are the matrix. A sharded matrix is gathered for it.

    As in torch's fused optimizers, an attribute `found_inf` that is a tensor of 1 makes a step change nothing.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; of `scale: adamw` Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, section 2.2. Step for step what torch.optim.Muon and torch.optim.AdamW do.

    Args:
        params: Parameter groups, or matrices.
        betas: Decay rates of AdamW's two moments.
        eps: Added to the root of AdamW's second moment.
        weight_decay: Share of a weight that a step takes off, times its group's learning rate.
        adamw_lr: Learning rate of all else at the schedule's peak.
        matrix_lr: Learning rate of the matrices at the schedule's peak.
        momentum: Share of the old that a step keeps in the running mean of the gradients.
        nesterov: Look ahead: mix the gradient into the running mean once more before it is used.
        ns_steps: Rounds of the iteration that makes orthogonal.
        scale: What a step of r x c is multiplied by: `spectral` sqrt(max(1, r / c)); `adamw` 0.2 sqrt(max(r, c)),
            which makes it as large as AdamW's, so that AdamW's learning rates fit.
        split: Orthogonalise each part of a matrix that is several stacked ones by itself (queries, keys and values).
        ns_dtype: What the iteration computes in; auto: bfloat16 where the hardware multiplies it natively.

    Raises:
        ValueError: An argument is out of range, or a tensor of a group to orthogonalise has fewer than two dimensions.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        adamw_lr: float = 0.015,
        matrix_lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        scale: Literal['spectral', 'adamw'] = 'spectral',
        split: bool = False,
        ns_dtype: Literal['auto', 'bfloat16', 'float32'] = 'auto',
    ) -> None:
        for name, value in {
            'adamw_lr': adamw_lr,
            'matrix_lr': matrix_lr,
            'eps': eps,
            'weight_decay': weight_decay,
        }.items():
            if not value >= 0:
                raise ValueError(f'{name} is {value}; give 0 or more')
        for name, value in {'betas[0]': betas[0], 'betas[1]': betas[1], 'momentum': momentum}.items():
            if not 0 <= value < 1:
                raise ValueError(f'{name} is {value}; give a share from 0 to below 1')
        if not 1 <= ns_steps < 100:
            raise ValueError(f'ns_steps is {ns_steps}; give 1 to 99')
        for name, chosen, choices in (
            ('scale', scale, ('spectral', 'adamw')),
            ('ns_dtype', ns_dtype, ('auto', 'bfloat16', 'float32')),
        ):
            if chosen not in choices:
                raise ValueError(f'{name} is {chosen!r}; choose {", ".join(choices)}')
        self._rates = {True: matrix_lr, False: adamw_lr}
        super().__init__(
            params,
            {
                'lr': adamw_lr,
                'betas': tuple(betas),
                'eps': eps,
                'weight_decay': weight_decay,
                'momentum': momentum,
                'nesterov': nesterov,
                'ns_steps': ns_steps,
                'scale': scale,
                'split': split,
                'ns_dtype': ns_dtype,
                'fused': True,  # read by torch when it restores the state: step counts then follow the device
            },
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not say of its own comes from the constructor's arguments."""
        param_group.setdefault('lr', self._rates[is_orthogonal(param_group)])
        super().add_param_group(param_group)
        if is_orthogonal(param_group):
            for parameter in param_group['params']:
                if parameter.ndim < 2:
                    raise ValueError(
                        f'Muon makes matrices orthogonal, but got a tensor of shape {tuple(parameter.shape)}; put it '
                        'into a group with another name than matrices, which gets AdamW'
                    )

    @staticmethod
    def state_names(group: dict[str, Any]) -> frozenset[str]:
        """What the state of each parameter of a group is called."""
        return frozenset({'momentum_buffer'} if is_orthogonal(group) else {'step', 'exp_avg', 'exp_avg_sq'})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient.

        Args:
            closure: Computes the loss and the gradients.

        Returns:
            What the closure gave.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [i for i, parameter in enumerate(group['params']) if parameter.grad is not None]
            if moved and is_orthogonal(group):
                self._step_matrices(group, moved)
            elif moved:
                self._step_others(group, [group['params'][i] for i in moved])
        return loss

    def _step_matrices(self, group: dict[str, Any], moved: list[int]) -> None:
        parameters = [group['params'][i] for i in moved]
        gradients = [parameter.grad for parameter in parameters]
        found_inf = getattr(self, 'found_inf', None)
        share = 1.0  # 0 where the step is skipped
        if found_inf is not None:
            share = 1 - found_inf
            gradients = [torch.where(share > 0, gradient, 0.0) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients):
            if not self.state[parameter]:
                self.state[parameter]['momentum_buffer'] = torch.zeros_like(parameter)
            self.state[parameter]['momentum_buffer'].lerp_(gradient, (1 - group['momentum']) * share)
        means = [self.state[parameter]['momentum_buffer'] for parameter in parameters]
        updates = torch._foreach_lerp(gradients, means, group['momentum']) if group['nesterov'] else means
        parts = group.get('parts') if group['split'] else None
        rows = [parts[i] if parts and parts[i] else [parameter.size(-2)] for i, parameter in zip(moved, parameters)]
        pieces = [piece for update, n in zip(updates, rows) for piece in _gather(update).split(n, dim=-2)]
        done = iter(_orthogonalize_all(pieces, group['ns_steps'], _dtype(group['ns_dtype'], pieces[0].device)))
        torch._foreach_mul_(parameters, 1 - group['lr'] * group['weight_decay'] * share)
        for parameter, counts in zip(parameters, rows):
            rates = [group['lr'] * _factor(group['scale'], n, parameter.size(-1)) * share for n in counts]
            update = torch.cat([next(done).to(parameter.dtype) * rate for rate in rates], dim=-2)
            parameter.sub_(_shard_as(parameter, update))

    def _step_others(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states):
            if not state:
                state['step'] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state['exp_avg'] = torch.zeros_like(parameter)
                state['exp_avg_sq'] = torch.zeros_like(parameter)
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state['exp_avg'] for state in states],
            [state['exp_avg_sq'] for state in states],
            [],
            [state['step'] for state in states],
            fused=True,
            found_inf=getattr(self, 'found_inf', None),
            amsgrad=False,
            beta1=group['betas'][0],
            beta2=group['betas'][1],
            lr=group['lr'],
            weight_decay=group['weight_decay'],
            eps=group['eps'],
            maximize=False,
        )


def is_orthogonal(group: dict[str, Any]) -> bool:
    """Whether a group's steps are made orthogonal; else it gets AdamW."""
    return group.get('name', 'matrices') == 'matrices'


def _orthogonalize_all(matrices: Sequence[Tensor], n_steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Each matrix made orthogonal, those of one shape at a time."""
    wide = [matrix.mT if matrix.size(-2) > matrix.size(-1) else matrix for matrix in matrices]
    alike: dict[Any, list[int]] = {}
    for i, matrix in enumerate(wide):
        alike.setdefault((matrix.shape, matrix.device), []).append(i)
    done: list[Tensor] = list(matrices)
    for indices in alike.values():
        stack = torch.stack([wide[i].to(dtype) for i in indices])
        for i, made in zip(indices, orthogonalize(stack, n_steps)):
            done[i] = made.mT if wide[i] is not matrices[i] else made
    return done


def _factor(scale: str, n_rows: int, n_columns: int) -> float:
    if scale == 'adamw':
        return 0.2 * math.sqrt(max(n_rows, n_columns))
    return math.sqrt(max(1.0, n_rows / n_columns))


def _dtype(chosen: str, device: torch.device) -> torch.dtype:
    if chosen != 'auto':
        return {'bfloat16': torch.bfloat16, 'float32': torch.float32}[chosen]
    if device.type == 'cuda':
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    has_amx = device.type == 'cpu' and cpu_kind() == 'amx'
    return torch.bfloat16 if has_amx else torch.float32


def _gather(tensor: Any) -> Tensor:
    """A sharded tensor (a DTensor) as a whole one; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, 'full_tensor') else tensor


def _shard_as(parameter: Any, whole: Tensor) -> Tensor:
    """Cut a whole tensor as the parameter is cut."""
    if not hasattr(parameter, 'full_tensor'):
        return whole
    from torch.distributed.tensor import distribute_tensor

    # Every rank computed the same: nothing is sent.
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
