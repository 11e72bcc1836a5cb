"""Figures of token prediction: loss, accuracy, bits per byte, and metrics with one value per target."""

import abc
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.batches import IGNORED, Batch, Layout, token_targets

from .evaluator import Evaluator, Gather
from .sums import Sums, precise

SUMS = ('nats', 'correct', 'n_bytes', 'count')


def summarize(sums: Mapping[str, float]) -> dict[str, float]:
    """Loss, accuracy and bits per byte from the sums over all targets.

    Args:
        sums: `nats`, the negative log-likelihood of all targets, the end of text included; `correct`, the number of
            correct predictions; `count`, the number of targets; `n_bytes`, the UTF-8 bytes of their text.

    Returns:
        `loss` (nats per target), `accuracy` (0..1), `bits_per_byte`; nan where there is nothing to divide by.
    """
    count = sums['count'] or math.nan
    n_bytes = sums['n_bytes'] or math.nan
    return {
        'loss': sums['nats'] / count,
        'accuracy': sums['correct'] / count,
        'bits_per_byte': sums['nats'] / math.log(2) / n_bytes,
    }


class TokenMetric(abc.ABC):
    """A metric with one value per target, averaged over all targets of an evaluation; the base class of users' metrics.

    Args:
        name: Name of the curve, after `val_` and `test_`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def values(self, nats: Float[Tensor, ' t'], targets: Int[Tensor, ' t']) -> Float[Tensor, ' t']:
        """One value per target.

        Args:
            nats: The negative log-likelihood of each target.
            targets: Its id.
        """


class WithinNats(TokenMetric):
    """The share of targets whose negative log-likelihood is at most a limit; deprecated.

    Kept, with a warning, for settings and checkpoints that name it; removed in the next version.

    Args:
        limit: In nats: 0.693 is a probability of a half.
    """

    def __init__(self, limit: float = math.log(2), name: str = 'within_nats') -> None:
        warnings.warn(
            'model.metrics: WithinNats will be removed in the next version; leave it out, or name your own TokenMetric '
            '(docs/extending.md)',
            FutureWarning,
            stacklevel=2,
        )
        super().__init__(name)
        self.limit = limit

    def values(self, nats: Float[Tensor, ' t'], targets: Int[Tensor, ' t']) -> Float[Tensor, ' t']:
        return (nats <= self.limit).to(torch.float32)


class TokenOutputs(NamedTuple):
    """The outputs of a token prediction task for a batch of an evaluation.

    Args:
        sums: As in training.
        nats: The negative log-likelihood of each target; None: no metric needs it.
        entropy: The entropy of the distribution of each target, in nats; None: no evaluator needs it.
    """

    sums: Sums
    nats: Float[Tensor, 'b n'] | None = None
    entropy: Float[Tensor, 'b n'] | None = None


def sum_segments(
    nats: Float[Tensor, 'b n'], targets: Int[Tensor, 'b n'], layout: Layout
) -> tuple[Int[Tensor, ' s'], Float[Tensor, ' s']]:
    """The number of targets of each segment, and the sum of their negative log-likelihoods."""
    values = nats.flatten().to(precise(nats.device))
    slots = torch.arange(values.numel(), device=values.device)
    segment = torch.searchsorted(layout.starts, slots, right=True) - 1
    n_segments = len(layout.starts) - 1
    counts = torch.zeros(n_segments, dtype=torch.long, device=values.device)
    sums = torch.zeros(n_segments, dtype=values.dtype, device=values.device)
    counts.index_add_(0, segment, (targets.flatten() != IGNORED).long())
    sums.index_add_(0, segment, values)
    return counts, sums


class TokenEvaluator(Evaluator):
    """Figures and metrics over all targets of a split.

    Args:
        figures: Computes the figures from the sums `nats`, `correct`, `n_bytes` and `count`.
        metrics: Metrics to report beside them.
    """

    def __init__(
        self, figures: Callable[[Mapping[str, float]], dict[str, float]], metrics: Sequence[TokenMetric] = ()
    ) -> None:
        self.figures = figures
        self.metrics = metrics
        self._total: Tensor | None = None
        self._n_counted = 0

    def names(self) -> list[str]:
        return [*self.figures(dict.fromkeys(SUMS, 0.0)), *(metric.name for metric in self.metrics)]

    @property
    def n_counted(self) -> int:
        return self._n_counted

    def start(self) -> None:
        self._total = None

    def update(self, outputs: TokenOutputs, batch: Batch) -> None:
        row = outputs.sums.stack()
        if self.metrics:
            assert outputs.nats is not None
            targets = token_targets(batch).ids
            is_counted = targets != IGNORED
            values = [metric.values(outputs.nats[is_counted], targets[is_counted]).sum() for metric in self.metrics]
            row = torch.cat([row, torch.stack([value.to(row.dtype) for value in values])])
        self._total = row if self._total is None else self._total + row

    def result(self, gather: Gather) -> dict[str, float]:
        if self._total is None:
            self._total = torch.zeros(len(SUMS) + len(self.metrics), dtype=precise(torch.device('cpu')))
        values = gather.total(self._total).tolist()
        sums = dict(zip(SUMS, values))
        self._n_counted = int(sums['count'])
        figures = self.figures(sums)
        for metric, value in zip(self.metrics, values[len(SUMS) :]):
            figures[metric.name] = value / max(1.0, sums['count'])
        return figures
