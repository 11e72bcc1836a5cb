"""The language model as a task: next-token prediction on packed rows."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from xlabml.batches import IGNORED, Batch, Layout, TokenTargets, check_ids
from xlabml.engine.task import DocumentParts, Task
from xlabml.evaluation import Sums, TokenEvaluator, TokenMetric, TokenOutputs, precise, summarize
from xlabml.losses import CrossEntropy, Loss, LossSums
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Cache, LanguageModel, Transformer, language_model


class XLabModel(Task):
    """A decoder language model, trained to predict the next token.

    Calling it gives logits: ids (b, n) to (b, n, v).

    Args:
        n_vocab: How many tokens the tokenizer has.
        max_len: The longest row that it reads, in tokens.
        trunk: What turns ids into hidden states.
        tied: Whether the head is the embedding's matrix.
        head_bias: Whether the head adds a bias to every logit.
        logit_cap: Logits are squashed into -cap..cap by cap · tanh(logit / cap); None leaves them.
        loss: What is minimised.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: The factor of its learning rate at every step; it gets the length of the run in steps.
        horizon_tokens: The schedule's length in tokens (slots of data.batch_tokens); None: that of the run.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        metrics: Numbers to report beside loss, accuracy and bits per byte when evaluating.
    """

    network: LanguageModel
    formats: ClassVar[tuple[type, ...]] = (TokenTargets,)
    units: ClassVar[Mapping[str, str]] = {'loss': 'nats/token', 'accuracy': '%', 'bits_per_byte': 'bits/byte'}
    generates: ClassVar[bool] = True
    shown_metric: ClassVar[str] = 'val_bits_per_byte'

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Transformer] = Transformer,
        tied: bool = True,
        head_bias: bool = False,
        logit_cap: float | None = None,
        loss: Callable[[], Loss] = CrossEntropy,
        optimizer: Callable[[Iterable], Optimizer] = Muon,
        schedule: Callable[[int | None], Schedule] = WarmupLinear,
        horizon_tokens: int | None = None,
        clip: Callable[[], AdaptiveClip] | None = None,
        metrics: list[TokenMetric] | None = None,
    ) -> None:
        super().__init__()
        self.network = language_model(n_vocab, max_len, trunk, tied, head_bias, logit_cap, loss)
        self.optimizer = optimizer
        self.schedule = schedule
        self.horizon_tokens = horizon_tokens
        self.clip = None if clip is None else clip()
        self.metrics = metrics or []
        self.evaluators = [TokenEvaluator(self.metrics)]
        self.n_vocab = n_vocab

    def forward(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None = None, cache: Cache | None = None, **options: Any
    ) -> Float[Tensor, 'b m v']:
        """Logits of every position (or of those that `options` ask `LanguageModel` for)."""
        return self.network(ids, layout, cache, **options)

    def new_cache(self, batch: int, length: int) -> Cache:
        """Room for the keys and values of `batch` rows of up to `length` tokens."""
        return self.network.new_cache(batch, length)

    def check_batch(self, batch: Batch) -> None:
        """Refuse token ids that the vocabulary lacks."""
        check_ids(batch, self.n_vocab)

    def loss(self, batch: Batch) -> Sums:
        """The loss over the counted targets, and the sums that loss, accuracy and bits per byte follow from."""
        return _named(self.network(batch.ids, batch.layout, targets=batch.targets.ids), batch)

    def outputs(self, batch: Batch) -> TokenOutputs:
        """The sums of the loss; with metrics, each target's negative log-likelihood from the same pass."""
        if not self.metrics:
            return TokenOutputs(self.loss(batch))
        sums, nats = self.network(batch.ids, batch.layout, targets=batch.targets.ids, each=True)
        return TokenOutputs(_named(sums, batch), nats)

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
        targets = batch.targets.ids
        nats = self.network(batch.ids, batch.layout, targets=targets, each='only')
        nats = nats.flatten().to(precise(nats.device))
        assert batch.layout is not None
        slots = torch.arange(nats.numel(), device=nats.device)
        segment = torch.searchsorted(batch.layout.starts, slots, right=True) - 1
        counts = torch.zeros_like(batch.documents).index_add_(0, segment, (targets.flatten() != IGNORED).long())
        sums = torch.zeros(len(counts), dtype=nats.dtype, device=nats.device).index_add_(0, segment, nats)
        return DocumentParts(batch.documents, {'count': counts, 'nats': sums, 'n_bytes': batch.targets.n_bytes})

    def merge(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """Tokens, nats and bits per byte of a document."""
        figures = summarize({**totals, 'correct': 0.0})
        return {
            'tokens': int(totals['count']),
            'nats': round(totals['nats'], 6),
            'bits_per_byte': round(figures['bits_per_byte'], 6),
        }


def _named(sums: LossSums, batch: Batch) -> Sums:
    named = {'nats': sums.nats, 'correct': sums.correct, 'n_bytes': batch.targets.n_bytes.sum()}
    return Sums(sums.objective, sums.count, named)
