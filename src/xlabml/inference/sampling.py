"""Logits -> the next id: excluded ids, top-k and top-p truncation, and the draw."""

import math
from collections.abc import Collection
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.errors import RequestError, XLabError


class NonFiniteLogitsError(XLabError, ValueError):
    """The logits of a row are not finite, so that no id can be chosen."""


def exclude(logits: Float[Tensor, 'r v'], classes: Collection[int] | None) -> Float[Tensor, 'r v']:
    """Logits in float32, minus infinity for excluded ids.

    Raises:
        ValueError: An id is not in the vocabulary, or all are excluded.
    """
    logits = logits.float()
    if not classes:
        return logits
    n_vocab = logits.size(1)
    unknown = [item for item in classes if not 0 <= item < n_vocab]
    if unknown:
        raise ValueError(f'exclude_classes has {unknown[0]}, but ids are 0 to {n_vocab - 1}')
    if len(set(classes)) == n_vocab:
        raise ValueError(f'exclude_classes has all {n_vocab} ids; leave at least one')
    return logits.index_fill(1, torch.tensor(list(classes), device=logits.device), -math.inf)


def mark_unusable(ids: Int[Tensor, ' r'], logits: Float[Tensor, 'r v']) -> Int[Tensor, ' r']:
    """The ids, but -1 in rows with unusable logits: one is NaN or plus infinity, or all are minus infinity.

    The host finds the rows when it reads the ids, without another device synchronization. Costs one pass over the
    logits.
    """
    return ids.where(logits.amax(dim=1).isfinite(), -1)


def refuse_unusable(numbers: list[int], step: int) -> NoReturn:
    """Raise NonFiniteLogitsError.

    Args:
        numbers: The rows, or prompts, with unusable logits.
        step: Number of ids generated before.
    """
    rows = ', '.join(map(str, numbers[:10])) + (' …' if len(numbers) > 10 else '')
    raise NonFiniteLogitsError(
        f'the logits of row {rows} are not finite after {step} new ids, so that no id can be chosen; the weights hold '
        'NaN or infinity, or overflow in the precision that they run in: use another checkpoint, or float32'
    )


def precise(values: Float[Tensor, '*shape']) -> Float[Tensor, '*shape']:
    """The values in float64, or in float32 on a device without it (mps)."""
    return values.float() if values.device.type == 'mps' else values.double()


def accumulate(probabilities: Float[Tensor, 'r k']) -> Float[Tensor, 'r k']:
    """Cumulative sums of the probabilities of each row.

    With `trainer.deterministic` torch refuses cumsum on a GPU; then the host computes it.
    """
    if probabilities.device.type == 'cuda' and torch.are_deterministic_algorithms_enabled():
        return probabilities.cpu().cumsum(dim=1).to(probabilities.device)
    return probabilities.cumsum(dim=1)


def truncate(
    logits: Float[Tensor, 'r v'], top_k: int | None, top_p: float | int | None
) -> tuple[Float[Tensor, 'r k'], Int[Tensor, 'r k'] | None]:
    """Probabilities of the most probable ids, in descending order, and these ids.

    First the `top_k` most probable ids are kept; then, of the probabilities renormalised over these, the fewest whose
    sum reaches `top_p`, at least one. All others have probability 0. The rows need not sum to 1.

    Source: Fan et al. 2018, https://arxiv.org/abs/1805.04833 (top-k); Holtzman et al. 2019,
    https://arxiv.org/abs/1904.09751, eq. 2 and 3 (top-p).

    Returns:
        Probabilities and ids; without truncation, those of all ids in their order, and None.
    """
    if top_k is None and top_p is None:
        return precise(logits).softmax(dim=1), None
    n_kept = logits.size(1) if top_k is None else min(top_k, logits.size(1))
    kept, ids = torch.topk(logits, n_kept, dim=1)
    probabilities = precise(kept).softmax(dim=1)
    if top_p is not None and top_p < 1:
        mass_before = accumulate(probabilities) - probabilities  # of the more probable ids
        mass_before[:, 0] = 0  # exactly, so that rounding never drops the first id
        probabilities = probabilities.where(mass_before < top_p, 0)
    return probabilities, ids


def draw(
    probabilities: Float[Tensor, 'r k'], ids: Int[Tensor, 'r k'] | None, uniform: Float[Tensor, ' r']
) -> Int[Tensor, ' r']:
    """Inverse transform sampling: the first id whose cumulative probability exceeds uniform * total.

    Args:
        uniform: Uniform numbers in 0..1, 1 excluded.
    """
    cumulative = accumulate(probabilities)
    total = cumulative[:, -1:]  # r 1
    # Below the total even after rounding, so that the id found has a positive probability.
    wanted = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # With NaN the search runs past the end; `mark_unusable` marks such rows.
    place = torch.searchsorted(cumulative, wanted, right=True).clamp(max=cumulative.size(1) - 1)
    return (place if ids is None else ids.gather(1, place)).squeeze(1)


class Greedy:
    """Chooses the most probable id."""

    def __call__(self, logits: Float[Tensor, 'r v'], rows: list[int], n_rows: int) -> Int[Tensor, ' r']:
        return logits.argmax(dim=1)


class Sampler:
    """Samples an id from the distribution.

    Every step draws one uniform number for each row of the initial batch, on the device of the generator (the CPU
    without one). So the draw of row i at a step depends on the generator, i, the number of rows and the step only: not
    on the model's device, not on when other rows end.

    Args:
        temperature: Divides the logits: below 1 sharpens the distribution, above 1 flattens it.
        top_k: Sample from the top_k most probable ids only; None: all.
        top_p: Sample from the fewest most probable ids whose probabilities sum to top_p (0 excluded, 1 is all); None:
            all.
        generator: Random number generator; None: torch's global one.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        temperature: float | int = 1,
        top_k: int | None = None,
        top_p: float | int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise RequestError(f'temperature is {temperature}; it must be above 0 (use greedy search instead of 0)')
        if top_k is not None and top_k < 1:
            raise RequestError(f'top_k is {top_k}; it must be at least 1, or None for all')
        if top_p is not None and not 0 < top_p <= 1:
            raise RequestError(f'top_p is {top_p}; it must be above 0 and at most 1')
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.generator = generator

    def __call__(self, logits: Float[Tensor, 'r v'], rows: list[int], n_rows: int) -> Int[Tensor, ' r']:
        """The next ids.

        Args:
            logits: Logits of the unfinished rows.
            rows: Their numbers in the initial batch.
            n_rows: Number of rows of the initial batch.
        """
        device = 'cpu' if self.generator is None else self.generator.device
        uniform = torch.rand(n_rows, generator=self.generator, dtype=torch.float64, device=device)
        if len(rows) < n_rows:
            uniform = uniform[rows]
        below_best = precise(logits - logits.amax(dim=1, keepdim=True))  # at most 0, so no temperature overflows
        probabilities, ids = truncate(below_best / self.temperature, self.top_k, self.top_p)
        return draw(probabilities, ids, uniform.to(probabilities))
