"""How far confidences can be trusted: expected calibration error, and what a perfectly calibrated classifier has."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .classification import Labels, as_shares

N_BINS = 15


class Reliability(NamedTuple):
    """Bins of equal width over confidence, the probability of the predicted class.

    Args:
        n_examples: In each bin.
        confidence: The mean confidence in each; 0 where it is empty.
        accuracy: The mean of what is correct in each; 0 where it is empty.
    """

    n_examples: Float[Tensor, ' bins']
    confidence: Float[Tensor, ' bins']
    accuracy: Float[Tensor, ' bins']

    @property
    def ece(self) -> float:
        """The mean distance of accuracy from confidence, bins weighted by their examples; nan without examples.

        Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3.
        """
        total = float(self.n_examples.sum())
        gaps = (self.accuracy - self.confidence).abs()
        return float((gaps * self.n_examples).sum()) / total if total else math.nan


def find_bins(confidence: Float[Tensor, ' e'], n_bins: int = N_BINS) -> Tensor:
    """The bin of each confidence: bin i holds those in (i / n_bins, (i + 1) / n_bins], and 0 stands in the first."""
    return ((confidence.to(torch.float64) * n_bins).ceil().long() - 1).clamp(0, n_bins - 1)


def reliability(confidence: Float[Tensor, ' e'], correct: Float[Tensor, ' e'], n_bins: int = N_BINS) -> Reliability:
    """Confidence against accuracy, bin by bin.

    Args:
        confidence: The probability of the predicted class, 0..1.
        correct: 1 where it is right, 0 where it is not; of soft labels, the share of the predicted class.
        n_bins: How many bins.
    """
    bins = find_bins(confidence, n_bins)
    n_examples = torch.bincount(bins, minlength=n_bins).to(torch.float64)
    divisor = n_examples.clamp(min=1)
    mean_confidence = torch.bincount(bins, confidence.to(torch.float64), n_bins) / divisor
    accuracy = torch.bincount(bins, correct.to(torch.float64), n_bins) / divisor
    return Reliability(n_examples, mean_confidence, accuracy)


def class_reliability(probs: Float[Tensor, 'e k'], labels: Labels) -> Reliability:
    """The reliability of the most probable classes: right where it is the label, of soft labels by its share."""
    confidence, predicted = probs.max(-1)
    return reliability(confidence, as_shares(labels, probs.size(1)).gather(1, predicted[:, None])[:, 0])


def perfect_ece(confidence: Float[Tensor, ' e'], n_bins: int = N_BINS, n_draws: int = 200, seed: int = 0) -> float:
    """The expected ECE of a perfectly calibrated classifier with these confidences: what chance alone makes of it.

    ECE is biased upwards by the noise of few examples a bin. Here each example is right with the probability that its
    confidence says, drawn anew n_draws times; the mean of their ECE is what a measured one is to be held against.
    Source: Vaicenavicius et al. 2019, https://arxiv.org/abs/1902.06977, section 4 (consistency resampling).

    Args:
        confidence: The probability of the predicted class, 0..1.
        n_bins: How many bins.
        n_draws: How many drawings.
        seed: Of the drawings: the same confidences, in any order, have the same expectation.
    """
    if not confidence.numel():
        return math.nan
    # Sorted, so that the order in which examples come (ranks, batches) does not matter.
    ordered = confidence.to('cpu', torch.float64).sort().values
    bins = find_bins(ordered, n_bins)
    expected = torch.bincount(bins, ordered, n_bins)
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(n_draws):
        is_right = torch.rand(ordered.numel(), generator=generator, dtype=torch.float64) < ordered
        observed = torch.bincount(bins, is_right.to(torch.float64), n_bins)
        total += float((observed - expected).abs().sum())
    return total / n_draws / ordered.numel()
