"""Cross-entropy of a linear head: the definition, and a version that works through the tokens in chunks.

The chunked one makes the logits of some rows, their loss and their gradient at once, and forgets them, so that tokens
x vocabulary never exists (the idea of Cut Cross-Entropy, Wijmans et al. 2024, https://arxiv.org/abs/2411.09009, and of
Liger's fused linear cross-entropy, without a kernel of its own). It is no slower than the definition: its passes over
the logits stay in the CPU's cache.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xlabml.batches import IGNORED

from .loss import Loss, LossSums

_CHUNK_ROWS = 512
"""Tokens at a time: fewer add up the head's gradient too often, more leave the CPU's cache if the vocabulary is small.

Measured on one core in bf16, 2,048 tokens, forward and backward, in ms, at a vocabulary of 4,096 and width 192 | 32,768
and 512: the definition 84 | 1,060; 128 rows 42 | 1,510; 256 rows 36 | 1,030; 512 rows 36 | 780; 1,024 rows 43 | 705.
"""


_BLOCK = 128
"""Entries of the vocabulary whose largest logits are compared first; 64 to 256 take the same time."""


def make_logits(
    hidden: Float[Tensor, '... d'],
    weight: Float[Tensor, 'v d'],
    bias: Float[Tensor, ' v'] | None = None,
    logit_cap: float | None = None,
) -> Float[Tensor, '... v']:
    """The logits, in float32 from the matrix product on, also under autocast.

    Source of the cap: Gemma 2, https://arxiv.org/abs/2408.00118, section 2.

    Args:
        logit_cap: Bends them into -logit_cap..logit_cap; None: as they are.
    """
    logits = F.linear(hidden, weight).float()
    if bias is not None:
        logits = logits + bias.float()
    return logits if logit_cap is None else logit_cap * torch.tanh(logits / logit_cap)


def cross_entropy(
    hidden: Float[Tensor, 't d'],
    weight: Float[Tensor, 'v d'],
    targets: Int[Tensor, ' t'],
    bias: Float[Tensor, ' v'] | None = None,
    logit_cap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> LossSums:
    """The definition that the chunked version is tested against; it holds all the logits.

    Source of the z-loss: PaLM, https://arxiv.org/abs/2204.02311, section 5.
    """
    logits = make_logits(hidden, weight, bias, logit_cap)
    kept = targets != IGNORED
    objective = (
        F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction='sum', label_smoothing=label_smoothing)
        + z_loss * (logits.logsumexp(dim=-1).square() * kept).sum()
    )
    nats = F.cross_entropy(logits.detach(), targets, ignore_index=IGNORED, reduction='sum')
    predicted = logits.argmax(dim=-1).where(~logits.isnan().any(dim=-1), -1)  # no prediction is correct next to a NaN
    return LossSums(objective, nats, ((predicted == targets) & kept).sum(), kept.sum())


class CrossEntropy(Loss):
    """Cross-entropy, in chunks of tokens; of the entries that share the largest logit the first is the prediction.

    It has no second derivative: asking for one raises.

    Args:
        label_smoothing: The share of each target that is spread evenly over the vocabulary, 0..1.
        z_loss: Weight of the squared log of the softmax's denominator, which keeps logits from drifting; 1e-4 is usual.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, label_smoothing: float = 0.0, z_loss: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing is {label_smoothing}; give a share from 0 to below 1')
        if not z_loss >= 0:
            raise ValueError(f'z_loss is {z_loss}; give a weight of 0 or more')
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def forward(
        self,
        hidden: Float[Tensor, 't d'],
        weight: Float[Tensor, 'v d'],
        targets: Int[Tensor, ' t'],
        bias: Float[Tensor, ' v'] | None = None,
        logit_cap: float | None = None,
    ) -> LossSums:
        """Sum the loss over the targets."""
        wants_grad = torch.is_grad_enabled() and any(
            part is not None and part.requires_grad for part in (hidden, weight, bias)
        )
        options = logit_cap, self.label_smoothing, self.z_loss, wants_grad, wants_grad and weight.requires_grad
        if not torch.compiler.is_compiling():
            return LossSums(*_ChunkedCrossEntropy.apply(hidden, weight, bias, targets, *options))
        objective, nats, correct, count, *_ = _chunked_op(hidden, weight, bias, targets, *options, _dtype(hidden))
        return LossSums(objective, nats.detach(), correct, count)

    def nats(
        self,
        hidden: Float[Tensor, 't d'],
        weight: Float[Tensor, 'v d'],
        targets: Int[Tensor, ' t'],
        bias: Float[Tensor, ' v'] | None = None,
        logit_cap: float | None = None,
    ) -> Float[Tensor, ' t']:
        """The plain cross-entropy of each target; a gradient makes each chunk's logits once more."""

        def chunk_nats(hidden: Tensor, targets: Tensor) -> Tensor:
            logits = make_logits(hidden, weight, bias, logit_cap)
            return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction='none')

        chunks = zip(hidden.split(_CHUNK_ROWS), targets.split(_CHUNK_ROWS))
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(chunk_nats, *chunk, use_reentrant=False) for chunk in chunks])
        return torch.cat([chunk_nats(*chunk) for chunk in chunks])


def _dtype(hidden: Tensor) -> torch.dtype:
    """What logits are multiplied out in."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _max(logits: Float[Tensor, 't v']) -> tuple[Float[Tensor, 't 1'], Int[Tensor, 't 1']]:
    """The largest logit of each row, and the first index that has it, as `logits.max(dim=-1, keepdim=True)`.

    In two steps, the largest of each block and then the place in the first block that has the largest of all: torch
    takes 19 times as long for the index as for the value (`amax`) on a CPU, this 2 to 4 times.
    """
    n_vocab = logits.size(1)
    n_even = n_vocab - n_vocab % _BLOCK
    blocks = [logits[:, :n_even].unflatten(1, (-1, _BLOCK)).amax(dim=-1)] if n_even else []
    if n_even < n_vocab:
        blocks.append(logits[:, n_even:].amax(dim=-1, keepdim=True))
    highest, block = torch.cat(blocks, dim=1).max(dim=-1, keepdim=True)
    # The last block may be shorter: its last entry stands there several times, which moves no first index.
    columns = (_BLOCK * block + torch.arange(_BLOCK, device=logits.device)).clamp(max=n_vocab - 1)
    return highest, _BLOCK * block + logits.gather(1, columns).argmax(dim=-1, keepdim=True)


def _sum_chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, logit_cap: float | None,
    label_smoothing: float, z_loss: float, wants_grad: bool, wants_weight: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The four sums, and the gradients of hidden, weight and bias where they are wanted."""
    device = hidden.device.type
    n_vocab = weight.size(0)
    n_rows = _CHUNK_ROWS
    hidden_grad = torch.empty_like(hidden, dtype=dtype) if wants_grad else None
    weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
    bias_grad = torch.zeros_like(bias, dtype=torch.float32) if wants_grad and bias is not None else None
    objective, nats = (hidden.new_zeros((), dtype=torch.float32) for _ in range(2))
    correct = targets.new_zeros(())
    # Memory for one chunk, used again and again: fresh memory costs a third of the whole time on a CPU.
    product = weight.new_empty(min(n_rows, targets.numel()), n_vocab, dtype=dtype)
    scores = product if dtype == torch.float32 else torch.empty_like(product, dtype=torch.float32)
    with torch.autocast(device, enabled=False):
        head = weight.to(dtype)
        for start in range(0, targets.numel(), n_rows):
            rows = slice(start, start + n_rows)
            kept = targets[rows] != IGNORED
            target = targets[rows].where(kept, 0)[:, None]
            x = hidden[rows].to(dtype)
            step = product[: x.size(0)]  # n v
            logits = scores[: x.size(0)]  # n v, the same memory where dtype is float32
            torch.mm(x, head.T, out=step)
            if step is not logits:
                logits.copy_(step)
            if bias is not None:
                logits += bias
            slope = None
            if logit_cap is not None:
                slope = 1 - logits.div_(logit_cap).tanh_().square()
                logits *= logit_cap
            highest, predicted = _max(logits)
            wanted = logits.gather(1, target)
            mean = logits.mean(dim=-1, keepdim=True) if label_smoothing else 0.0
            share = torch.softmax(logits, dim=-1, out=logits)
            # The largest share is 1 / sum(exp(logits - highest)), at least 1 / v: its log is always exact.
            log_total = highest - share.amax(dim=-1, keepdim=True).log()
            row_nats = log_total - wanted
            row_objective = row_nats + label_smoothing * (wanted - mean) + z_loss * log_total.square()
            nats += row_nats[:, 0].where(kept, 0).sum()
            objective += row_objective[:, 0].where(kept, 0).sum()
            # A NaN is the highest of its row, and not equal to itself: nothing is correct there.
            correct += ((predicted == target) & (wanted == highest) & kept[:, None]).sum()
            if hidden_grad is None:
                continue
            if z_loss:
                share *= 1 + 2 * z_loss * log_total
            if label_smoothing:
                share -= label_smoothing / n_vocab
            share.scatter_add_(1, target, share.new_full((), label_smoothing - 1).expand_as(target))
            if slope is not None:
                share *= slope
            if bias_grad is not None:
                bias_grad += kept.float() @ share
            if step is not logits:
                step.copy_(share)
            # An ignored row is cut out on the narrow side of both products, which is cheaper than in the logits.
            torch.mm(step, head, out=hidden_grad[rows]).mul_(kept[:, None])
            if weight_grad is not None:
                weight_grad += step.T @ (x * kept[:, None])
    return objective, nats, correct, (targets != IGNORED).sum(), hidden_grad, weight_grad, bias_grad


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient is made in the forward pass, where the logits are; backward only scales it."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, logit_cap, label_smoothing, z_loss, wants_grad, wants_weight):
        """Returns the four sums."""
        objective, nats, correct, count, *grads = _sum_chunks(
            hidden, weight, bias, targets, logit_cap, label_smoothing, z_loss, wants_grad, wants_weight, _dtype(hidden)
        )
        ctx.save_for_backward(*grads)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nats, correct, count)
        return objective, nats, correct, count

    @staticmethod
    def backward(ctx, grad, *_):
        """Scale what forward made by the gradient of the objective."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('CrossEntropy has no second derivative; go back without create_graph')
        grads = [
            None if part is None or not needed else (part * grad).to(dtype)
            for part, needed, dtype in zip(ctx.saved_tensors, ctx.needs_input_grad, ctx.dtypes)
        ]
        return *grads, None, None, None, None, None, None


@torch.library.custom_op('xlabml::chunked_cross_entropy', mutates_args=())
def _chunked_op(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, logit_cap: float | None,
    label_smoothing: float, z_loss: float, wants_grad: bool, wants_weight: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`_sum_chunks` as one operator that a compiler does not look into; empty where there is no gradient."""
    *sums, hidden_grad, weight_grad, bias_grad = _sum_chunks(
        hidden, weight, bias, targets, logit_cap, label_smoothing, z_loss, wants_grad, wants_weight, dtype
    )
    grads = [hidden.new_empty(0) if grad is None else grad for grad in (hidden_grad, weight_grad, bias_grad)]
    return *sums, *grads  # type: ignore[return-value]


@_chunked_op.register_fake
def _(hidden, weight, bias, targets, logit_cap, label_smoothing, z_loss, wants_grad, wants_weight, dtype):
    sums = [hidden.new_empty((), dtype=torch.float32) for _ in range(2)]
    counts = [targets.new_empty((), dtype=torch.long) for _ in range(2)]
    wanted = hidden if wants_grad else None, weight if wants_weight else None, bias if wants_grad else None
    grads = [
        hidden.new_empty(0) if x is None else torch.empty(x.shape, dtype=kind, device=x.device)
        for x, kind in zip(wanted, (dtype, torch.float32, torch.float32))
    ]
    return *sums, *counts, *grads


def _keep_grads(ctx, inputs, output):
    ctx.save_for_backward(*output[4:])
    ctx.dtypes = [None if x is None else x.dtype for x in inputs[:3]]


def _scale_grads(ctx, grad, *_):
    grads = [
        (part * grad).to(dtype) if needed and dtype is not None else None
        for part, needed, dtype in zip(ctx.saved_tensors, ctx.needs_input_grad, ctx.dtypes)
    ]
    return *grads, None, None, None, None, None, None, None


_chunked_op.register_autograd(_scale_grads, setup_context=_keep_grads)
