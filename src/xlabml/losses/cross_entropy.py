"""Cross-entropy of a linear head: the definition, and a version in chunks of tokens.

The chunked version computes the logits, loss and gradient of one chunk of tokens at a time, so that tokens x vocabulary
logits never exist (the idea of Cut Cross-Entropy, Wijmans et al. 2024, https://arxiv.org/abs/2411.09009, and of Liger's
fused linear cross-entropy, without a kernel of its own). It is no slower than the definition: its passes over the
logits stay in the CPU's cache.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xlabml.batches import IGNORED

from .loss import Loss, LossSums

_CHUNK_ROWS = 512
"""Tokens per chunk: fewer accumulate the head's gradient too often, more leave the cache with a small vocabulary.

Measured on one core in bf16, 2,048 tokens, forward and backward, in ms, at a vocabulary of 4,096 and width 192 | 32,768
and 512: the definition 84 | 1,060; 128 rows 42 | 1,510; 256 rows 36 | 1,030; 512 rows 36 | 780; 1,024 rows 43 | 705.
"""


_BLOCK = 128
"""Entries of the vocabulary per block of `_max`; 64 to 256 take the same time."""


def make_logits(
    hidden: Float[Tensor, '... d'],
    weight: Float[Tensor, 'v d'],
    bias: Float[Tensor, ' v'] | None = None,
    logit_cap: float | None = None,
) -> Float[Tensor, '... v']:
    """The logits, converted to float32 after the matrix product, also under autocast.

    Source of the cap: Gemma 2, https://arxiv.org/abs/2408.00118, section 2.

    Args:
        logit_cap: Soft cap: a tanh bounds logits to -logit_cap..logit_cap; None: no cap.
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
    """The definition that the chunked version is tested against; it holds all logits.

    Source of the z-loss: PaLM, https://arxiv.org/abs/2204.02311, section 5.
    """
    logits = make_logits(hidden, weight, bias, logit_cap)
    kept = targets != IGNORED
    objective = (
        F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction='sum', label_smoothing=label_smoothing)
        + z_loss * (logits.logsumexp(dim=-1).square() * kept).sum()
    )
    nats = F.cross_entropy(logits.detach(), targets, ignore_index=IGNORED, reduction='sum')
    predicted = logits.argmax(dim=-1).where(~logits.isnan().any(dim=-1), -1)  # -1: never correct where a logit is NaN
    return LossSums(objective, nats, ((predicted == targets) & kept).sum(), kept.sum())


@torch.no_grad()
def nats_and_entropy(
    hidden: Float[Tensor, 't d'],
    weight: Float[Tensor, 'v d'],
    targets: Int[Tensor, ' t'],
    bias: Float[Tensor, ' v'] | None = None,
    logit_cap: float | None = None,
) -> tuple[Float[Tensor, ' t'], Float[Tensor, ' t']]:
    """The negative log-likelihood of each target, 0 where it is ignored, and the entropy of the distribution that it
    comes from, both in nats; computed in chunks, without a gradient."""
    nats = []
    entropy = []
    for some, wanted in zip(hidden.split(_CHUNK_ROWS), targets.split(_CHUNK_ROWS)):
        log_prob = make_logits(some, weight, bias, logit_cap).log_softmax(dim=-1)
        nats.append(F.nll_loss(log_prob, wanted, ignore_index=IGNORED, reduction='none'))
        entropy.append(-(log_prob.exp() * log_prob.clamp_min(torch.finfo(log_prob.dtype).min)).sum(dim=-1))
    return torch.cat(nats), torch.cat(entropy)


class CrossEntropy(Loss):
    """Cross-entropy, in chunks of tokens. The prediction is the first entry with the largest logit.

    A second derivative raises.

    Args:
        label_smoothing: The share of each target that is spread evenly over the vocabulary, 0..1.
        z_loss: Weight of the squared log-partition function log(sum(exp(logits))), which keeps logits from drifting;
            1e-4 is usual.

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
        """Sum the loss over the targets; arguments as in Loss.forward."""
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
        """Negative log-likelihood of each target in nats; the backward pass recomputes the logits of each chunk."""

        def chunk_nats(hidden: Tensor, targets: Tensor) -> Tensor:
            logits = make_logits(hidden, weight, bias, logit_cap)
            return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction='none')

        chunks = zip(hidden.split(_CHUNK_ROWS), targets.split(_CHUNK_ROWS))
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(chunk_nats, *chunk, use_reentrant=False) for chunk in chunks])
        return torch.cat([chunk_nats(*chunk) for chunk in chunks])


def _dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of the matrix products."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _max(logits: Float[Tensor, 't v']) -> tuple[Float[Tensor, 't 1'], Int[Tensor, 't 1']]:
    """The largest logit of each row, and the first index that has it, as `logits.max(dim=-1, keepdim=True)`.

    In two steps: the maximum of each block, then the index inside the first block that has the overall maximum. On a
    CPU torch takes 19 times as long for the index as for the value (`amax`); this takes 2 to 4 times as long.
    """
    n_vocab = logits.size(1)
    n_even = n_vocab - n_vocab % _BLOCK
    blocks = [logits[:, :n_even].unflatten(1, (-1, _BLOCK)).amax(dim=-1)] if n_even else []
    if n_even < n_vocab:
        blocks.append(logits[:, n_even:].amax(dim=-1, keepdim=True))
    highest, block = torch.cat(blocks, dim=1).max(dim=-1, keepdim=True)  # t 1
    # The last block may be shorter: clamping repeats its last entry, which moves no first index.
    columns = (_BLOCK * block + torch.arange(_BLOCK, device=logits.device)).clamp(max=n_vocab - 1)
    return highest, _BLOCK * block + logits.gather(1, columns).argmax(dim=-1, keepdim=True)


def _sum_chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, logit_cap: float | None,
    label_smoothing: float, z_loss: float, wants_grad: bool, wants_weight: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The four sums of LossSums, and the gradients of hidden, weight and bias where they are wanted.

    With Z = log(sum(exp(logits))), p = softmax(logits), y the target, e its label smoothing and w the weight of the
    z-loss, a token costs Z - logits[y] + e (logits[y] - mean(logits)) + w Z². Its gradient by the logits is
    p (1 + 2 w Z) - e / v - (1 - e) onehot(y), times the derivative of the cap.
    """
    device = hidden.device.type
    n_vocab = weight.size(0)
    n_rows = _CHUNK_ROWS
    hidden_grad = torch.empty_like(hidden, dtype=dtype) if wants_grad else None
    weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
    bias_grad = torch.zeros_like(bias, dtype=torch.float32) if wants_grad and bias is not None else None
    objective, nats = (hidden.new_zeros((), dtype=torch.float32) for _ in range(2))
    correct = targets.new_zeros(())
    # Memory of one chunk, reused by all: fresh memory costs a third of the whole time on a CPU.
    product = weight.new_empty(min(n_rows, targets.numel()), n_vocab, dtype=dtype)
    scores = product if dtype == torch.float32 else torch.empty_like(product, dtype=torch.float32)
    with torch.autocast(device, enabled=False):
        head = weight.to(dtype)
        for start in range(0, targets.numel(), n_rows):
            rows = slice(start, start + n_rows)
            kept = targets[rows] != IGNORED
            target = targets[rows].where(kept, 0)[:, None]
            x = hidden[rows].to(dtype)  # n d
            step = product[: x.size(0)]  # n v
            logits = scores[: x.size(0)]  # n v, the same memory where dtype is float32
            # Logits, in float32 after the product.
            torch.mm(x, head.T, out=step)
            if step is not logits:
                logits.copy_(step)
            if bias is not None:
                logits += bias
            slope = None
            if logit_cap is not None:  # the derivative of the cap: 1 - tanh²
                slope = 1 - logits.div_(logit_cap).tanh_().square()
                logits *= logit_cap
            highest, predicted = _max(logits)
            wanted = logits.gather(1, target)
            mean = logits.mean(dim=-1, keepdim=True) if label_smoothing else 0.0
            probs = torch.softmax(logits, dim=-1, out=logits)
            # Z: the largest probability is 1 / sum(exp(logits - highest)), at least 1 / v, so its log is accurate.
            log_total = highest - probs.amax(dim=-1, keepdim=True).log()
            row_nats = log_total - wanted
            row_objective = row_nats + label_smoothing * (wanted - mean) + z_loss * log_total.square()
            nats += row_nats[:, 0].where(kept, 0).sum()
            objective += row_objective[:, 0].where(kept, 0).sum()
            # A NaN is the maximum of its row, and not equal to itself: nothing is correct there.
            correct += ((predicted == target) & (wanted == highest) & kept[:, None]).sum()
            if hidden_grad is None:
                continue
            # The gradient by the logits, in place of the probabilities.
            if z_loss:
                probs *= 1 + 2 * z_loss * log_total
            if label_smoothing:
                probs -= label_smoothing / n_vocab
            probs.scatter_add_(1, target, probs.new_full((), label_smoothing - 1).expand_as(target))
            if slope is not None:
                probs *= slope
            if bias_grad is not None:
                bias_grad += kept.float() @ probs
            if step is not logits:
                step.copy_(probs)
            # Ignored tokens are zeroed on the narrow side (d) of both products, which is cheaper than in n v logits.
            torch.mm(step, head, out=hidden_grad[rows]).mul_(kept[:, None])
            if weight_grad is not None:
                weight_grad += step.T @ (x * kept[:, None])
    return objective, nats, correct, (targets != IGNORED).sum(), hidden_grad, weight_grad, bias_grad


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient is computed in the forward pass, where the logits are; backward only scales it."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, logit_cap, label_smoothing, z_loss, wants_grad, wants_weight):
        """Returns the four sums, and saves the gradients."""
        objective, nats, correct, count, *grads = _sum_chunks(
            hidden, weight, bias, targets, logit_cap, label_smoothing, z_loss, wants_grad, wants_weight, _dtype(hidden)
        )
        ctx.save_for_backward(*grads)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nats, correct, count)
        return objective, nats, correct, count

    @staticmethod
    def backward(ctx, grad, *_):
        """Scale the saved gradients by the gradient of the objective."""
        if torch.is_grad_enabled():  # only with create_graph
            raise RuntimeError('CrossEntropy has no second derivative; call backward without create_graph')
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
    """`_sum_chunks` as one operator that a compiler does not trace into; empty tensors where there is no gradient."""
    objective, nats, correct, count, *grads = _sum_chunks(
        hidden, weight, bias, targets, logit_cap, label_smoothing, z_loss, wants_grad, wants_weight, dtype
    )
    of_hidden, of_weight, of_bias = (hidden.new_empty(0) if grad is None else grad for grad in grads)
    return objective, nats, correct, count, of_hidden, of_weight, of_bias


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
