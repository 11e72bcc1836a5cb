"""The task of masked language modeling: an encoder predicts masked tokens from the tokens on both sides."""

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from xlabml.batches import Batch, token_targets
from xlabml.engine import DocumentParts
from xlabml.evaluation import sum_segments

from .token_task import TokenTask


class MaskedLanguageModel(TokenTask):
    """An encoder, trained to predict the masked tokens of packed rows (`data.examples: MaskedTokens`, or
    `MaskedNextTokens` for a decoder that becomes an encoder).

    Only masked positions have targets, and only their logits are computed. The trunk must be bidirectional:
    `model.trunk.causal: false`.
    Source: BERT, Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1, task 1.
    """

    is_causal: ClassVar[bool] = False
    has_sparse_targets: ClassVar[bool] = True
    units: Mapping[str, str] = {'loss': 'nats/token', 'accuracy': '%'}
    counted: ClassVar[str] = 'masked tokens'
    shown_metric: ClassVar[str] = 'val_accuracy'

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Loss and accuracy on the masked positions."""
        count = sums['count'] or math.nan
        return {'loss': sums['nats'] / count, 'accuracy': sums['correct'] / count}

    def progress(self, row: Mapping[str, float]) -> str:
        """Loss and accuracy."""
        return f'loss {row["train_loss"]:.3f}  accuracy {row["train_accuracy"]:.1%}' if 'train_loss' in row else ''

    def predictions(self, batch: Batch) -> DocumentParts:
        """The negative log-likelihood of the masked tokens of each document's part of the batch."""
        assert batch.layout is not None
        targets = token_targets(batch).ids
        nats: Tensor = self.network(batch.ids, batch.layout, targets=targets, each='only', sparse=True)
        counts, sums = sum_segments(nats, targets, batch.layout)
        return DocumentParts(batch.documents, {'count': counts, 'nats': sums})

    def merge(self, totals: Mapping[str, float]) -> dict[str, object]:
        """Masked tokens, nats and loss of a document."""
        loss = totals['nats'] / totals['count'] if totals['count'] else None
        return {
            'masked_tokens': int(totals['count']),
            'nats': round(totals['nats'], 6),
            'loss': None if loss is None else round(loss, 6),
        }
