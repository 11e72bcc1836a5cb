"""The mean of a task's loss over all examples of a split: the evaluator of tasks that count examples."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from xlabml.batches import Batch

from .evaluator import Evaluator, Gather
from .sums import Sums, precise


class ObjectiveEvaluator(Evaluator):
    """Figures of the sums over all examples of a split; reads `outputs.sums`, or outputs that are sums.

    Args:
        figures: Makes the figures of the sums by their names, `count` among them.
        names: The names of the sums, without `count`.
    """

    def __init__(self, figures: Callable[[Mapping[str, float]], dict[str, float]], names: tuple[str, ...]) -> None:
        self.figures = figures
        self.sum_names = names
        self._total: Tensor | None = None
        self._n_counted = 0

    def names(self) -> list[str]:
        return list(self.figures(dict.fromkeys((*self.sum_names, 'count'), 0.0)))

    @property
    def n_counted(self) -> int:
        return self._n_counted

    def start(self) -> None:
        self._total = None

    def update(self, outputs: object, batch: Batch) -> None:
        sums = outputs if isinstance(outputs, Sums) else getattr(outputs, 'sums', None)
        assert isinstance(sums, Sums)
        assert sums.names == [*self.sum_names, 'count']
        row = sums.stack()
        self._total = row if self._total is None else self._total + row

    def result(self, gather: Gather) -> dict[str, float]:
        if self._total is None:
            self._total = torch.zeros(len(self.sum_names) + 1, dtype=precise(torch.device('cpu')))
        sums = dict(zip((*self.sum_names, 'count'), gather.total(self._total).tolist()))
        self._n_counted = int(sums['count'])
        return self.figures(sums)
