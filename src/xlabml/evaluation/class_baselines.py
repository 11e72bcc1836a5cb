"""What a classifier has to beat: the classes' shares, the length of the text, a head before training.

All are functions of training labels and of lengths; outputs are logits whose softmax (with several labels an example:
sigmoid) are probabilities, or the predicted number of a regression in one column.
"""

from typing import TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .classification import Labels, as_shares

Outputs: TypeAlias = Float[Tensor, 'e k']

N_BINS = 10
_LEAST_SHARE = 1e-6


def majority(labels: Labels, task: str, n_outputs: int) -> Float[Tensor, ' k']:
    """The shares of the training split as logits; of a regression the mean number.

    Args:
        labels: Of the training split.
        task: As in SequenceClassifier.
        n_outputs: How many classes there are; 1 of a regression.
    """
    return _summary(_as_targets(labels, task, n_outputs), task, None)


def length_baseline(
    train: tuple[Float[Tensor, ' t'], Int[Tensor, ' t'] | Float[Tensor, 't k']],
    lengths: Float[Tensor, ' e'],
    task: str,
    n_outputs: int,
) -> Outputs:
    """The shares (of a regression: the mean) of the training examples that are about as long, in ten bins.

    Each bin holds as many training examples, and one more that has the shares of all, so that none is impossible.

    Args:
        train: Length and label of each training example.
        lengths: Of the examples to score: how long the text is or, of two, how much longer the first is.
        task: As in SequenceClassifier.
        n_outputs: How many classes there are; 1 of a regression.
    """
    known, labels = train
    targets = _as_targets(labels, task, n_outputs)
    edges = torch.quantile(known.double(), torch.linspace(0, 1, N_BINS + 1, dtype=torch.float64)[1:-1]).contiguous()
    bins = torch.bucketize(known.double(), edges)
    prior = targets.mean(0)
    found = torch.stack([_summary(targets[bins == i], task, prior) for i in range(N_BINS)])
    return found[torch.bucketize(lengths.double(), edges)]


def untrained(n_examples: int, n_outputs: int) -> Outputs:
    """A head before training: its last layer is zero, so all classes are equally probable, and each number is 0."""
    return torch.zeros(n_examples, n_outputs, dtype=torch.float64)


def _as_targets(labels: Shaped[Tensor, '...'], task: str, n_outputs: int) -> Float[Tensor, 'e k']:
    if task == 'regression':
        return labels.view(-1, 1).double()
    return as_shares(labels, n_outputs)


def _summary(targets: Float[Tensor, 'e k'], task: str, prior: Float[Tensor, ' k'] | None) -> Float[Tensor, ' k']:
    """The mean target as an output; with a prior, as if there were one more example that has it."""
    n = len(targets)
    mean = targets.mean(0) if prior is None else (targets.sum(0) + prior) / (n + 1)
    if task == 'regression':
        return mean
    if task == 'multi-label':
        return mean.clamp(_LEAST_SHARE, 1 - _LEAST_SHARE).logit()
    return mean.clamp(min=_LEAST_SHARE).log().log_softmax(-1)
