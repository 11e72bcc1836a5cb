"""The task of language modeling: next-token prediction on packed rows."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from xlabml.batches import Batch, token_targets
from xlabml.engine import DocumentParts
from xlabml.evaluation import sum_segments, summarize
from xlabml.transformer import Cache

from .token_task import TokenTask


class XLabModel(TokenTask):
    """A decoder language model, trained to predict the next token."""

    units: Mapping[str, str] = {'loss': 'nats/token', 'accuracy': '%', 'bits_per_byte': 'bits/byte'}
    generates: ClassVar[bool] = True
    shown_metric: ClassVar[str] = 'val_bits_per_byte'

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        return self.network.new_cache(batch, length)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Loss, accuracy and bits per byte."""
        return summarize(sums)

    def progress(self, row: Mapping[str, float]) -> str:
        """Loss and bits per byte."""
        if 'train_loss' not in row:
            return ''
        return f'loss {row["train_loss"]:.3f}  bits/byte {row["train_bits_per_byte"]:.3f}'

    def predictions(self, batch: Batch) -> DocumentParts:
        """The negative log-likelihood of each document's part of the batch."""
        assert batch.layout is not None
        targets = token_targets(batch).ids
        nats: Tensor = self.network(batch.ids, batch.layout, targets=targets, each='only')
        counts, sums = sum_segments(nats, targets, batch.layout)
        return DocumentParts(batch.documents, {'count': counts, 'nats': sums, 'n_bytes': token_targets(batch).n_bytes})

    def merge(self, totals: Mapping[str, float]) -> dict[str, object]:
        """Tokens, nats and bits per byte of a document."""
        figures = self.figures({**totals, 'correct': 0.0})
        return {
            'tokens': int(totals['count']),
            'nats': round(totals['nats'], 6),
            'bits_per_byte': round(figures['bits_per_byte'], 6),
        }
