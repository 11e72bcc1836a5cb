"""The task of language modeling: next-token prediction on packed rows."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from xlabml.batches import Batch, token_targets
from xlabml.engine import DocumentParts
from xlabml.evaluation import sum_segments, summarize
from xlabml.evaluation.ngrams import ROWS, mixed_nats
from xlabml.ngram import Mixture
from xlabml.transformer import Cache

from .token_task import TokenTask


class XLabModel(TokenTask):
    """A decoder language model, trained to predict the next token."""

    units: Mapping[str, str] = {'loss': 'nats/token', 'accuracy': '%', 'bits_per_byte': 'bits/byte'}
    generates: ClassVar[bool] = True
    shown_metric: ClassVar[str] = 'val_bits_per_byte'
    mixture: Mixture | None = None
    """N-grams that predictions are mixed with, in columns of their own; no part of what is trained or saved."""

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
        if self.mixture is not None:
            return self._mixed_predictions(batch, self.mixture)
        nats: Tensor = self.network(batch.ids, batch.layout, targets=targets, each='only')
        counts, sums = sum_segments(nats, targets, batch.layout)
        return DocumentParts(batch.documents, {'count': counts, 'nats': sums, 'n_bytes': token_targets(batch).n_bytes})

    def merge(self, totals: Mapping[str, float]) -> dict[str, object]:
        """Tokens, nats and bits per byte of a document."""

        def bits(row: str) -> float:
            return round(self.figures({**totals, 'nats': totals[row], 'correct': 0.0})['bits_per_byte'], 6)

        return {
            'tokens': int(totals['count']),
            'nats': round(totals['nats'], 6),
            'bits_per_byte': bits('nats'),
            **{f'bits_per_byte_{row}': bits(row) for row in ROWS[1:] if row in totals},
        }

    def _mixed_predictions(self, batch: Batch, mixture: Mixture) -> DocumentParts:
        """The same by the model, by the n-grams and by their mixtures."""
        assert batch.layout is not None
        targets = token_targets(batch)
        _, nats, entropy = self.network(batch.ids, batch.layout, targets=targets.ids, each='entropy')
        rows = mixed_nats(mixture, batch, nats, entropy).to(nats.device)
        sums = [sum_segments(row, targets.ids, batch.layout) for row in rows]
        values = {'count': sums[0][0], 'nats': sums[0][1], 'n_bytes': targets.n_bytes}
        return DocumentParts(batch.documents, {**values, **{row: sums[i][1] for i, row in enumerate(ROWS) if i}})
