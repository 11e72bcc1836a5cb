"""Tasks as a user may write them; tests name them by their dotted path."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from xlabml.batches import IGNORED, Batch, ClassTargets, TokenTargets
from xlabml.engine import Task
from xlabml.evaluation import Monitor, Sums, TokenEvaluator, TokenOutputs
from xlabml.models import XLabModel
from xlabml.training import AdamW, Schedule, WarmupConstant


class Renamed(XLabModel):
    """A language model under another name."""


class Unigrams(Task):
    """Predicts every token by its frequency. Its constructor takes none of the arguments that follow from the data."""

    formats = (TokenTargets,)
    monitor = Monitor('val_correct', 'max')

    def __init__(
        self,
        size: int = 320,
        optimizer: Callable[[Iterable], Optimizer] = AdamW,
        schedule: Callable[[int | None], Schedule] = WarmupConstant,
    ) -> None:
        super().__init__()
        self.network = nn.Embedding(1, size)
        self.optimizer = optimizer
        self.schedule = schedule
        self.evaluators = [TokenEvaluator(self.figures)]

    def loss(self, batch: Batch) -> Sums:
        targets = batch.targets.ids
        logits = self.network(torch.zeros_like(targets))  # b n v
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction='sum')
        is_counted = targets != IGNORED
        correct = (logits.argmax(-1) == targets) & is_counted
        named = {'nats': nats, 'correct': correct.sum(), 'n_bytes': batch.targets.n_bytes.sum()}
        return Sums(nats, is_counted.sum(), named)

    def outputs(self, batch: Batch) -> TokenOutputs:
        return TokenOutputs(self.loss(batch))

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        count = sums['count'] or float('nan')
        return {'loss': sums['nats'] / count, 'correct': sums['correct'] / count}


class Topical(Unigrams):
    """Has an argument that only the data can tell, and a fact of its own."""

    from_data = ('n_classes',)

    def __init__(
        self,
        n_classes: int | None = None,
        optimizer: Callable[[Iterable], Optimizer] = AdamW,
        schedule: Callable[[int | None], Schedule] = WarmupConstant,
    ) -> None:
        super().__init__(320, optimizer, schedule)
        self.topics = nn.Parameter(torch.randn(n_classes))
        self.facts['half'] = n_classes / 2

    def loss(self, batch: Batch) -> Sums:
        sums = super().loss(batch)
        return sums._replace(objective=sums.objective + self.topics.square().sum())


class Labels(Unigrams):
    """Trains on labels, which no row of tokens has."""

    formats = (ClassTargets,)
