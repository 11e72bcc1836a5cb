"""Logits -> the next id: what may be said, how likely each of it is, and the draw."""

import math
from collections.abc import Collection
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.errors import RequestError, XLabError


class NonFiniteLogitsError(XLabError, ValueError):
    """The logits of a row say nothing, so that no id can be chosen."""


def exclude(logits: Float[Tensor, 'r v'], classes: Collection[int] | None) -> Float[Tensor, 'r v']:
    """Logits in float32, minus infinity for the ids that must not come.

    Raises:
        ValueError: An id is not in the vocabulary, or none is left.
    """
    logits = logits.float()
    if not classes:
        return logits
    n_vocab = logits.size(1)
    unknown = [item for item in classes if not 0 <= item < n_vocab]
    if unknown:
        raise ValueError(f'exclude_classes has {unknown[0]}, but ids go from 0 to {n_vocab - 1}')
    if len(set(classes)) == n_vocab:
        raise ValueError(f'exclude_classes has all {n_vocab} ids; leave at least one that may come')
    return logits.index_fill(1, torch.tensor(list(classes), device=logits.device), -math.inf)


def mark_unusable(ids: Int[Tensor, ' r'], logits: Float[Tensor, 'r v']) -> Int[Tensor, ' r']:
    """The ids, but -1 in rows whose logits say nothing: one of them is NaN or plus infinity, or all are minus infinity.

    The host finds them when it reads the ids: the device is not waited for. Costs one more pass over the logits.
    """
    return ids.where(logits.amax(dim=1).isfinite(), -1)


def refuse_unusable(numbers: list[int], step: int) -> NoReturn:
    """Raise NonFiniteLogitsError: logits say nothing.

    Args:
        numbers: The rows, or prompts, that they are of.
        step: How many ids had been made before.
    """
    rows = ', '.join(map(str, numbers[:10])) + (' …' if len(numbers) > 10 else '')
    raise NonFiniteLogitsError(
        f'the logits of row {rows} are not finite after {step} new ids, so that no id can be chosen; the weights hold '
        'NaN or infinity, or overflow in the precision that they run in: use another checkpoint, or float32'
    )


def precise(values: Float[Tensor, '*shape']) -> Float[Tensor, '*shape']:
    """The values in float64, or in float32 on a device that has nothing wider (mps)."""
    return values.float() if values.device.type == 'mps' else values.double()


def accumulate(probabilities: Float[Tensor, 'r k']) -> Float[Tensor, 'r k']:
    """Sums of the first 1, 2, … probabilities of each row.

    On a GPU torch refuses them where algorithms have to be deterministic (`trainer.deterministic`); then the host adds.
    """
    if probabilities.device.type == 'cuda' and torch.are_deterministic_algorithms_enabled():
        return probabilities.cpu().cumsum(dim=1).to(probabilities.device)
    return probabilities.cumsum(dim=1)


def truncate(
    logits: Float[Tensor, 'r v'], top_k: int | None, top_p: float | int | None
) -> tuple[Float[Tensor, 'r k'], Int[Tensor, 'r k'] | None]:
    """Probabilities of the likeliest ids, the likeliest first, and these ids.

    First the `top_k` likeliest stay, then, of the probabilities renormalised over these, the fewest whose sum reaches
    `top_p`: at least one. What does not stay has probability 0. The rows need not sum to 1.

    Source: Fan et al. 2018, https://arxiv.org/abs/1805.04833 (top-k); Holtzman et al. 2019,
    https://arxiv.org/abs/1904.09751, eq. 2 and 3 (top-p).

    Returns:
        Probabilities and ids. Where nothing is cut, all in the order of their ids, and None.
    """
    if top_k is None and top_p is None:
        return precise(logits).softmax(dim=1), None
    n_kept = logits.size(1) if top_k is None else min(top_k, logits.size(1))
    kept, ids = torch.topk(logits, n_kept, dim=1)
    probabilities = precise(kept).softmax(dim=1)
    if top_p is not None and top_p < 1:
        mass_before = accumulate(probabilities) - probabilities
        mass_before[:, 0] = 0  # exactly, so that one id stays whatever was rounded
        probabilities = probabilities.where(mass_before < top_p, 0)
    return probabilities, ids


def draw(
    probabilities: Float[Tensor, 'r k'], ids: Int[Tensor, 'r k'] | None, uniform: Float[Tensor, ' r']
) -> Int[Tensor, ' r']:
    """The id at which the cumulative probability passes a uniform number in 0..1 (1 excluded) of the total."""
    cumulative = accumulate(probabilities)
    total = cumulative[:, -1:]
    # Below the total even after rounding, so that the place found has a probability of its own.
    wanted = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # Where nothing is a number none is passed; an id must come all the same, which whoever made the logits refuses.
    place = torch.searchsorted(cumulative, wanted, right=True).clamp(max=cumulative.size(1) - 1)
    return (place if ids is None else ids.gather(1, place)).squeeze(1)


class Greedy:
    """Chooses the likeliest id."""

    def __call__(self, logits: Float[Tensor, 'r v'], rows: list[int], n_rows: int) -> Int[Tensor, ' r']:
        return logits.argmax(dim=1)


class Sampler:
    """Draws an id by its probability.

    Every step draws one uniform number for each row that the batch began with, on the CPU unless the generator says
    otherwise. So what row i draws at a step depends on the generator, i, the number of rows and the step, on nothing
    else: not on the device, not on when other rows end.

    Args:
        temperature: Logits are divided by it: below 1 the likely gets likelier, above 1 all gets more alike.
        top_k: Only so many of the likeliest ids; None: all.
        top_p: Only the likeliest ids that make up this share of probability (0 excluded, 1 is all); None: all.
        generator: Where the numbers come from; None: torch's global generator.

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
            raise RequestError(f'temperature is {temperature}; it must be above 0 (for the likeliest, search greedily)')
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
            logits: Of the rows that go on.
            rows: Their numbers in the batch.
            n_rows: How many rows the batch began with.
        """
        device = 'cpu' if self.generator is None else self.generator.device
        uniform = torch.rand(n_rows, generator=self.generator, dtype=torch.float64, device=device)
        if len(rows) < n_rows:
            uniform = uniform[rows]
        below_best = precise(logits - logits.amax(dim=1, keepdim=True))  # so that no temperature overflows
        probabilities, ids = truncate(below_best / self.temperature, self.top_k, self.top_p)
        return draw(probabilities, ids, uniform.to(probabilities))
