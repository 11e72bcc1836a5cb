"""Muon for matrices with AdamW for all else: one optimizer, so that Lightning's training loop can drive it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from xlabml.hardware import cpu_kind

from .optimizers import Group

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the quintic of Jordan et al., with maximal slope at 0: five rounds bring singular values to 0.7..1.2."""

_POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""a, b, c of each round: the quintics whose composition is nearest to 1, in the worst case, on 0.001..1.

Source: Amsel et al. 2025, https://arxiv.org/abs/2505.16932, algorithm 1; the numbers: https://github.com/karpathy/nanochat."""

_POLAR_MARGIN = 1.02
"""They are for singular values of up to this many times the largest one that is expected."""

Iteration = Literal['quintic', 'polar_express']

_EPS = 1e-7


class _Options(TypedDict):
    """A parameter group of Muon, after `add_param_group`."""

    params: list[Tensor]
    name: NotRequired[str]
    parts: NotRequired[list[list[int] | None]]
    is_embedding: NotRequired[list[bool]]
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    embedding_decay: float
    momentum: float
    nesterov: bool
    ns_steps: int
    iteration: Iteration
    scale: str
    split: bool
    ns_dtype: str


def orthogonalize(
    matrices: Float[Tensor, '... r c'], n_steps: int = 5, iteration: Iteration = 'quintic'
) -> Float[Tensor, '... r c']:
    """Bring all singular values of each matrix near 1, with the same singular vectors.

    Newton-Schulz: with X = U S Vᵀ, each round maps it to U p(S) Vᵀ, where p(s) = a s + b s³ + c s⁵, in the dtype of the
    matrices. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.

    Args:
        n_steps: Rounds of the iteration.
        iteration: As in Muon.
    """
    rounds = [_COEFFICIENTS] * n_steps if iteration == 'quintic' else _rounds_of_polar_express(n_steps)
    is_tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.reshape(-1, *matrices.shape[-2:])
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)  # Frobenius norm 1, so singular values are at most 1
    if iteration == 'polar_express':
        x = x / _POLAR_MARGIN
    for a, b, c in rounds:
        # a X + (b A + c A²) X with A = X Xᵀ; of a tall matrix a X + X (b A + c A²) with A = Xᵀ X, which is smaller.
        gram = x.mT @ x if is_tall else x @ x.mT
        odd = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, odd, beta=a) if is_tall else torch.baddbmm(x, odd, x, beta=a)
    return x.view(matrices.shape)


class Muon(Optimizer):
    """Orthogonalized momentum for the matrices of the layers; AdamW for embeddings, heads, norms and biases.

    A parameter group that is named `matrices`, or has no name, is orthogonalized; every other group takes AdamW.
    Matrices of one shape are orthogonalized as one batch; the last two dimensions of a tensor are the matrix. A sharded
    matrix is gathered first.

    As in torch's fused optimizers, a step changes nothing if the attribute `found_inf` is a tensor of 1.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; `scale: adamw`: Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, section 2.2. Equal, step for step, to torch.optim.Muon and torch.optim.AdamW.

    Args:
        params: Parameter groups, or matrices.
        betas: Decay rates of AdamW's two moments.
        eps: Added to the root of AdamW's second moment.
        weight_decay: Decoupled weight decay: a step subtracts lr * weight_decay * weight, with its group's lr. Norms,
            biases and embeddings have none.
        embedding_decay: The same for the tables of embeddings, a head that shares one included. Where texts are read
            several times, it keeps the rows of rare tokens from learning them by heart.
        adamw_lr: Learning rate of AdamW at the schedule's peak.
        matrix_lr: Learning rate of the matrices at the schedule's peak.
        momentum: Decay rate of the running mean of the gradients.
        nesterov: Nesterov momentum: average the gradient into the running mean once more before it is used.
        ns_steps: Rounds of the Newton-Schulz iteration.
        iteration: Its polynomials: quintic, the same in every round; polar_express, others in each round, which need
            fewer of them.
        scale: Factor on the step of an r x c matrix: `spectral` sqrt(max(1, r / c)); `adamw` 0.2 sqrt(max(r, c)),
            which has the size of AdamW's steps, so that its learning rates fit.
        split: Orthogonalize the parts of a stacked matrix (queries, keys and values) separately.
        ns_dtype: Dtype of the iteration; auto: bfloat16 where the hardware multiplies it natively.

    Raises:
        ValueError: An argument is out of range, or a tensor to orthogonalize has fewer than two dimensions.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
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
        iteration: Iteration = 'quintic',
        embedding_decay: float = 0.0,
    ) -> None:
        for name, value in {
            'adamw_lr': adamw_lr,
            'matrix_lr': matrix_lr,
            'eps': eps,
            'weight_decay': weight_decay,
            'embedding_decay': embedding_decay,
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
            ('iteration', iteration, ('quintic', 'polar_express')),
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
                'embedding_decay': embedding_decay,
                'momentum': momentum,
                'nesterov': nesterov,
                'ns_steps': ns_steps,
                'scale': scale,
                'split': split,
                'ns_dtype': ns_dtype,
                'iteration': iteration,
                'fused': True,  # read by torch when it restores the state: step counts then follow the device
            },
        )

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; options that it does not set are the constructor's arguments."""
        param_group.setdefault('lr', self._rates[is_orthogonal(param_group)])
        super().add_param_group(param_group)
        if is_orthogonal(param_group):
            for parameter in param_group['params']:
                if parameter.ndim < 2:
                    raise ValueError(
                        f'Muon orthogonalizes matrices, but got a tensor of shape {tuple(parameter.shape)}; put it '
                        'into a group with another name than matrices, which takes AdamW'
                    )

    @staticmethod
    def state_names(group: Mapping[str, object]) -> frozenset[str]:
        """Names of the state of each parameter of a group."""
        return frozenset({'momentum_buffer'} if is_orthogonal(group) else {'step', 'exp_avg', 'exp_avg_sq'})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], object] | None = None) -> object:
        """Update every parameter that has a gradient.

        Args:
            closure: Computes the gradients, and returns the loss.

        Returns:
            The loss that the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in cast('list[_Options]', self.param_groups):
            updated = [i for i, parameter in enumerate(group['params']) if parameter.grad is not None]
            if updated and is_orthogonal(group):
                self._step_matrices(group, updated)
            elif updated:
                self._step_others(group, updated)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; options that an earlier version did not save stay as they were given."""
        saved = state_dict['param_groups']
        if len(saved) == len(self.param_groups):  # else torch refuses it
            saved = [{**own, **group} for own, group in zip(self.param_groups, saved)]
        super().load_state_dict({**state_dict, 'param_groups': saved})

    def _step_matrices(self, group: _Options, updated: list[int]) -> None:
        parameters = [group['params'][i] for i in updated]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        found_inf: Tensor | None = getattr(self, 'found_inf', None)
        keep: Tensor | float = 1.0  # 0 where the step is skipped; a tensor, since reading it would wait for the device
        if found_inf is not None:
            keep = 1 - found_inf
            gradients = [torch.where(keep > 0, gradient, 0.0) for gradient in gradients]  # 0 * inf would be NaN
        # Momentum: m <- momentum m + (1 - momentum) g. Nesterov averages g into m once more.
        for parameter, gradient in zip(parameters, gradients):
            if not self.state[parameter]:
                self.state[parameter]['momentum_buffer'] = torch.zeros_like(parameter)
            self.state[parameter]['momentum_buffer'].lerp_(gradient, (1 - group['momentum']) * keep)
        means = [self.state[parameter]['momentum_buffer'] for parameter in parameters]
        updates = torch._foreach_lerp(gradients, means, group['momentum']) if group['nesterov'] else means
        # Orthogonalize, each part of a stacked matrix by itself.
        parts = group.get('parts') if group['split'] else None
        rows = [(parts[i] if parts else None) or [parameter.size(-2)] for i, parameter in zip(updated, parameters)]
        split = [part for update, n in zip(updates, rows) for part in _gather(update).split(n, dim=-2)]
        dtype = _dtype(group['ns_dtype'], split[0].device)
        done = iter(_orthogonalize_all(split, group['ns_steps'], dtype, group['iteration']))
        # Weight decay, then the step, each part with the factor of its own shape.
        torch._foreach_mul_(parameters, 1 - group['lr'] * group['weight_decay'] * keep)
        for parameter, counts in zip(parameters, rows):
            rates = [group['lr'] * _factor(group['scale'], n, parameter.size(-1)) * keep for n in counts]
            made = [next(done).to(parameter.dtype).mul_(rate) for rate in rates]  # in place: the memory is ours
            update = made[0] if len(made) == 1 else torch.cat(made, dim=-2)
            parameter.sub_(_shard_as(parameter, update))

    def _step_others(self, group: _Options, updated: list[int]) -> None:
        parameters = [group['params'][i] for i in updated]
        is_embedding = group.get('is_embedding')
        if is_embedding and group['embedding_decay']:
            found_inf: Tensor | None = getattr(self, 'found_inf', None)
            keep: Tensor | float = 1.0 if found_inf is None else 1 - found_inf
            tables = [group['params'][i] for i in updated if is_embedding[i]]
            torch._foreach_mul_(tables, 1 - group['lr'] * group['embedding_decay'] * keep)
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


def is_orthogonal(group: Mapping[str, object]) -> bool:
    """Whether a group's steps are orthogonalized; else it takes AdamW."""
    return group.get('name', 'matrices') == 'matrices'


def _rounds_of_polar_express(n_steps: int) -> list[tuple[float, float, float]]:
    """Its polynomials; rounds beyond those that are listed repeat the last one, as the source does."""
    return [_POLAR_EXPRESS[min(i, len(_POLAR_EXPRESS) - 1)] for i in range(n_steps)]


def _orthogonalize_all(
    matrices: Sequence[Tensor], n_steps: int, dtype: torch.dtype, iteration: Iteration
) -> list[Tensor]:
    """Orthogonalize each matrix, in one batch per shape and device; the results are new memory."""
    # Transposed in float32 only, where the products of a tall matrix and of its transpose differ in the last bit, and
    # runs of earlier versions are to be repeated. In bf16 they are equal, and two passes over memory are saved.
    is_turned = [dtype == torch.float32 and matrix.size(-2) > matrix.size(-1) for matrix in matrices]
    wide = [matrix.mT if turned else matrix for matrix, turned in zip(matrices, is_turned)]
    alike: dict[tuple[torch.Size, torch.device], list[int]] = {}
    for i, matrix in enumerate(wide):
        alike.setdefault((matrix.shape, matrix.device), []).append(i)
    done: list[Tensor] = list(matrices)
    for (shape, device), indices in alike.items():
        stack = torch.empty(len(indices), *shape, dtype=dtype, device=device)
        for row, i in zip(stack, indices):
            row.copy_(wide[i])  # stacked and cast in one pass
        for i, made in zip(indices, orthogonalize(stack, n_steps, iteration)):
            done[i] = made.mT if is_turned[i] else made
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
    is_native = device.type == 'cpu' and cpu_kind() != 'other'
    return torch.bfloat16 if is_native else torch.float32


def _gather(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one (a DTensor); any other unchanged."""
    return tensor.full_tensor() if hasattr(tensor, 'full_tensor') else tensor


def _shard_as(parameter: Tensor, whole: Tensor) -> Tensor:
    """Shard a full tensor as the parameter is sharded."""
    if not hasattr(parameter, 'full_tensor'):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    # Every rank has computed the same tensor, so nothing is sent.
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
