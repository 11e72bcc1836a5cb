"""The language model as a task: next-token prediction on packed rows."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer

from xlabml.batches import IGNORED, Batch, Layout, check_ids, token_targets
from xlabml.checkpoints import Part
from xlabml.evaluation import TokenMetric, summarize
from xlabml.heads import LanguageModel, language_model
from xlabml.heads.loading import describe_head
from xlabml.losses import CrossEntropy, Loss
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Cache, Transformer

from .task import Task

_SUMS = ('nats', 'correct', 'count', 'n_bytes')


class Scores(NamedTuple):
    """What a language model makes of the documents of a batch, one entry a segment.

    Args:
        documents: Document numbers, -1 for padding.
        n_tokens: Counted targets.
        nats: Their negative log-probabilities, summed.
        n_bytes: The bytes of text that they stand for.
    """

    documents: Int[Tensor, ' s']
    n_tokens: Int[Tensor, ' s']
    nats: Float[Tensor, ' s']
    n_bytes: Int[Tensor, ' s']


class XLabModel(Task):
    """A decoder language model, trained to say the next token.

    Calling it gives logits: ids (b, n) to (b, n, v).

    Args:
        n_vocab: How many tokens the tokenizer has.
        max_len: The longest row that it reads, in tokens.
        trunk: What turns ids into hidden states.
        tied: Whether the head is the embedding's matrix.
        head_bias: Whether the head adds a bias to every logit.
        logit_cap: Logits are squashed into -cap..cap by cap · tanh(logit / cap); None leaves them.
        loss: What is minimised.
        optimizer: What moves the weights; it gets parameter groups.
        schedule: The factor of its learning rate at every step; it gets the length of the run in steps.
        horizon_tokens: The schedule's length in tokens (slots of data.batch_tokens); None: that of the run.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        metrics: Numbers to report beside loss, accuracy and bits per byte when evaluating.
    """

    network: LanguageModel

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
        self.optimizer, self.schedule, self.horizon_tokens = optimizer, schedule, horizon_tokens
        self.metrics = metrics or []
        self.clip = None if clip is None else clip()
        self.n_vocab = n_vocab
        self.train_sums: Tensor | None = None
        self._step_sums: Tensor | None = None  # of the step under way, its objective last
        self._eval_sums: Tensor | None = None
        self.n_evaluated = 0
        """How many targets the last evaluation counted."""

    def forward(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None = None, cache: Cache | None = None, **options: Any
    ) -> Float[Tensor, 'b m v']:
        """Logits of every position (or of those that `options` ask `LanguageModel` for)."""
        return self.network(ids, layout, cache, **options)

    def describe_network(self) -> Part:
        """How the network is built without the task."""
        return describe_head(LanguageModel, Part.of(self.hparams).arguments)

    def new_cache(self, batch: int, length: int) -> Cache:
        """Room for the keys and values of `batch` rows of up to `length` tokens."""
        return self.network.new_cache(batch, length)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Refuse token ids that the vocabulary lacks, while they are still in the host's memory.

        Lightning's hook of this name without the underscore would warn of data modules, which have it too.
        """
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        if isinstance(batch, Batch):
            check_ids(batch, self.n_vocab)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The share of the step's loss that this micro-batch has, scaled so that the sum over all is the mean."""
        torch.manual_seed(batch.seed)
        self.step_is_empty = not batch.n_counted
        targets = token_targets(batch)
        sums = self.network(batch.ids, batch.layout, targets=targets.ids)
        counted = [sums.nats.detach(), sums.correct, sums.count, targets.n_bytes.sum(), sums.objective.detach()]
        row = torch.stack(counted).to(_precise(sums.nats.device))
        self._step_sums = row if self._step_sums is None else self._step_sums + row
        # Lightning divides by the accumulation, DDP by the number of ranks; the batch knows the right divisor.
        n_shares = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return self.spoil_unless_finite(sums.objective * (n_shares / max(1, batch.n_counted)))

    def count_step(self, is_skipped: Bool[Tensor, '']) -> None:
        """Add the step's sums to those of the next training row; a skipped step is in no curve."""
        sums, self._step_sums = self._step_sums, None
        if sums is not None:
            is_counted = sums.isfinite().all() & ~is_skipped.to(sums.device)
            counted = torch.where(is_counted, sums[: len(_SUMS)], 0.0)
            self.train_sums = counted if self.train_sums is None else self.train_sums + counted

    def figures(self) -> list[str]:
        """Loss, accuracy, bits per byte and the metrics."""
        return [*summarize(dict.fromkeys(_SUMS, 0.0)), *(metric.name for metric in self.metrics)]

    def take_train_sums(self) -> dict[str, float]:
        """What training summed since the last call, over all ranks: nats, correct, count, n_bytes."""
        empty = torch.zeros(len(_SUMS), dtype=_precise(self.device), device=self.device)
        sums = empty if self.train_sums is None else self.train_sums
        self.train_sums = None
        return dict(zip(_SUMS, self.trainer.strategy.reduce(sums, reduce_op='sum').tolist()))

    def _eval_start(self) -> None:
        size = len(_SUMS) + len(self.metrics)
        self._eval_sums = torch.zeros(size, dtype=_precise(self.device), device=self.device)

    def _eval_step(self, batch: Batch) -> None:
        assert self._eval_sums is not None
        targets = token_targets(batch)
        result = self.network(batch.ids, batch.layout, targets=targets.ids, each=bool(self.metrics))
        sums, nats = result if self.metrics else (result, None)
        row = [sums.nats, sums.correct, sums.count, targets.n_bytes.sum()]
        if nats is not None:
            asked = targets.ids != IGNORED
            row += [metric.values(nats[asked], targets.ids[asked]).sum() for metric in self.metrics]
        self._eval_sums += torch.stack([value.to(self._eval_sums.dtype) for value in row])

    def _eval_end(self, stage: str) -> None:
        assert self._eval_sums is not None
        values = self.trainer.strategy.reduce(self._eval_sums, reduce_op='sum').tolist()
        sums = dict(zip(_SUMS, values))
        self.n_evaluated = int(sums['count'])
        figures = summarize(sums)
        for metric, value in zip(self.metrics, values[len(_SUMS) :]):
            figures[metric.name] = value / max(1.0, sums['count'])
        # The curves' callback writes them, at the step that they belong to.
        self.log_dict({f'{stage}_{name}': value for name, value in figures.items()}, logger=False, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        self._eval_start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._eval_step(batch)

    def on_validation_epoch_end(self) -> None:
        self._eval_end('val')

    def on_test_epoch_start(self) -> None:
        self._eval_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._eval_step(batch)

    def on_test_epoch_end(self) -> None:
        self._eval_end('test')

    def predict_step(self, batch: Batch, batch_idx: int) -> Scores:
        """What each document's part of the batch costs."""
        targets = token_targets(batch)
        nats = self.network.nats(batch.ids, targets.ids, batch.layout).flatten()
        nats = nats.to(_precise(nats.device))
        assert batch.layout is not None
        slots = torch.arange(nats.numel(), device=nats.device)
        segment = torch.searchsorted(batch.layout.starts, slots, right=True) - 1
        n_segments = len(batch.documents)
        return Scores(
            batch.documents,
            torch.zeros_like(batch.documents).index_add_(0, segment, (targets.ids.flatten() != IGNORED).long()),
            torch.zeros(n_segments, dtype=nats.dtype, device=nats.device).index_add_(0, segment, nats),
            targets.n_bytes,
        )


def _precise(device: torch.device) -> torch.dtype:
    """What sums are kept in: Apple's GPUs have no float64."""
    return torch.float32 if device.type == 'mps' else torch.float64
