"""What language models and masked language models share: targets that are tokens, and a head over the vocabulary."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from xlabml.batches import IGNORED, Batch, Layout, TokenTargets, check_ids, token_targets
from xlabml.checkpoints import Part
from xlabml.engine import Task
from xlabml.errors import SettingsError
from xlabml.evaluation import Sums, TokenEvaluator, TokenMetric, TokenOutputs, precise
from xlabml.heads import LanguageModel, language_model
from xlabml.heads.loading import describe_head
from xlabml.losses import CrossEntropy, Loss, LossSums
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Transformer


class TokenTask(Task):
    """A task that predicts tokens. Calling it gives logits: ids (b, n) to (b, n, v).

    Args:
        n_vocab: The number of tokens of the tokenizer.
        max_len: The longest row that it reads, in tokens.
        trunk: Makes the trunk, which turns ids into hidden states.
        tied: Whether the head is the embedding's matrix.
        head_bias: Whether the head adds a bias to every logit.
        logit_cap: Logits are squashed into -cap..cap by cap · tanh(logit / cap); None leaves them.
        loss: Makes the loss that is minimised.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the factor of the learning rate at every step, from the length of the run in steps.
        horizon_tokens: The schedule's length in tokens (slots of data.batch_tokens); None: that of the run.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        metrics: Numbers to report beside the figures of the task when evaluating.
    """

    network: LanguageModel
    formats: ClassVar[tuple[type, ...]] = (TokenTargets,)
    is_causal: ClassVar[bool] = True
    has_sparse_targets: ClassVar[bool] = False
    """Whether few positions have a target: the others' hidden states never meet the vocabulary."""

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
        if self.network.trunk.causal != self.is_causal:
            direction = 'earlier tokens only' if self.is_causal else 'the tokens on both sides'
            raise ValueError(
                f'model.trunk.causal is {self.network.trunk.causal}, but {type(self).__name__} predicts a token from '
                f'{direction}; set model.trunk.causal to {str(self.is_causal).lower()}'
            )
        self.optimizer = optimizer
        self.schedule = schedule
        self.horizon_tokens = horizon_tokens
        self.clip = None if clip is None else clip()
        self.metrics = metrics or []
        self.evaluators = [TokenEvaluator(self.figures, self.metrics)]
        self.n_vocab = n_vocab

    def forward(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None = None, *args: Any, **options: Any
    ) -> Float[Tensor, 'b m v']:
        """Logits of every position, or of those that `options` select, as in `LanguageModel.forward`."""
        return self.network(ids, layout, *args, **options)

    def describe_network(self) -> Part:
        """The language model, from the arguments of this task."""
        return describe_head(LanguageModel, Part.of(self.hparams).arguments)

    @classmethod
    def check_format(cls, examples: Any) -> None:
        """Refuse other targets than tokens, and targets that the network would see among its inputs."""
        super().check_format(examples)
        is_causal = getattr(examples, 'is_causal', cls.is_causal)
        if is_causal != cls.is_causal:
            raise SettingsError(
                f'data.examples is {type(examples).__name__}, whose targets are '
                f'{"the tokens after the inputs" if is_causal else "masked tokens in their place"}, but '
                f'{cls.__name__} predicts {"next tokens" if cls.is_causal else "masked tokens"}; set '
                f'data.examples to {"NextTokens" if cls.is_causal else "MaskedTokens"}, or choose another model'
            )

    def check_batch(self, batch: Batch) -> None:
        """Refuse token ids that the vocabulary lacks."""
        check_ids(batch, self.n_vocab)

    def loss(self, batch: Batch) -> Sums:
        """The loss over the counted targets, and the sums that the figures follow from."""
        targets = token_targets(batch).ids
        return _named(self.network(batch.ids, batch.layout, targets=targets, sparse=self.has_sparse_targets), batch)

    def outputs(self, batch: Batch) -> TokenOutputs:
        """The sums of the loss; with metrics, each target's negative log-likelihood from the same pass."""
        if not self.metrics:
            return TokenOutputs(self.loss(batch))
        targets = token_targets(batch).ids
        sums, nats = self.network(batch.ids, batch.layout, targets=targets, each=True, sparse=self.has_sparse_targets)
        return TokenOutputs(_named(sums, batch), nats)


def sum_segments(
    nats: Float[Tensor, 'b n'], targets: Int[Tensor, 'b n'], layout: Layout
) -> tuple[Int[Tensor, ' s'], Float[Tensor, ' s']]:
    """The number of counted targets of each segment, and the sum of their negative log-likelihoods."""
    values = nats.flatten().to(precise(nats.device))
    slots = torch.arange(values.numel(), device=values.device)
    segment = torch.searchsorted(layout.starts, slots, right=True) - 1
    n_segments = len(layout.starts) - 1
    counts = torch.zeros(n_segments, dtype=torch.long, device=values.device)
    sums = torch.zeros(n_segments, dtype=values.dtype, device=values.device)
    counts.index_add_(0, segment, (targets.flatten() != IGNORED).long())
    sums.index_add_(0, segment, values)
    return counts, sums


def _named(sums: LossSums, batch: Batch) -> Sums:
    named = {'nats': sums.nats, 'correct': sums.correct, 'n_bytes': token_targets(batch).n_bytes.sum()}
    return Sums(sums.objective, sums.count, named)
