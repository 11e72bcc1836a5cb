"""The base class of language models and masked language models: token targets, and a head over the vocabulary."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from xlabml.batches import Batch, Layout, TokenTargets, check_ids, check_shape, token_targets
from xlabml.checkpoints import Part
from xlabml.engine import HasTargets
from xlabml.errors import SettingsError
from xlabml.evaluation import Evaluator, Sums, TokenEvaluator, TokenMetric, TokenOutputs
from xlabml.heads import LanguageModel, language_model
from xlabml.heads.loading import describe_head
from xlabml.losses import CrossEntropy, Loss, LossSums
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Transformer

from .trunk_task import TrunkTask


class TokenTask(TrunkTask):
    """A task that predicts tokens. Calling it returns logits: ids (b, n) to (b, n, v).

    Args:
        n_vocab: Size of the vocabulary.
        max_len: The longest row, in tokens.
        trunk: Makes the trunk, which maps ids to hidden states.
        tied: Whether the head shares the embedding matrix.
        head_bias: Whether the head has a bias.
        logit_cap: Soft cap: logits become cap · tanh(logit / cap); None: no cap.
        loss: Makes the loss to minimise.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the learning rate schedule, from the length of the run in steps.
        horizon_tokens: The schedule's length in tokens (slots of data.batch_tokens); None: the run's length.
        clip: Makes the adaptive gradient clipping; None: `trainer.gradient_clip_val`.
        metrics: Metrics to report in evaluations, beside the task's figures.
        freeze: What stays as it is: none, all, bottom:n, gradual:n, as in Classifier. A head that shares the embedding
            is frozen with it.
        layer_decay: The factor on the learning rate from a block to the one below it, and to the embeddings; 1: all
            learn alike.
        evaluators: Further evaluators, some on examples of their own.
    """

    network: LanguageModel
    formats: ClassVar[tuple[type, ...]] = (TokenTargets,)
    is_causal: ClassVar[bool] = True
    has_one_shape: ClassVar[bool] = True
    has_sparse_targets: ClassVar[bool] = False
    """Whether few positions have a target, so that logits are computed for these only."""

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
        freeze: str = 'none',
        layer_decay: float = 1.0,
        evaluators: list[Evaluator] | None = None,
    ) -> None:
        super().__init__()
        self.network = language_model(n_vocab, max_len, trunk, tied, head_bias, logit_cap, loss)
        if self.network.trunk.causal != self.is_causal:
            direction = 'earlier tokens only' if self.is_causal else 'the tokens on both sides'
            raise ValueError(
                f'model.trunk.causal is {self.network.trunk.causal}, but {type(self).__name__} predicts a token from '
                f'{direction}; set model.trunk.causal to {str(self.is_causal).lower()}'
            )
        self.tune_trunk(self.network.trunk, freeze, layer_decay)
        self.optimizer = optimizer
        self.schedule = schedule
        self.horizon_tokens = horizon_tokens
        self.clip = None if clip is None else clip()
        self.metrics = metrics or []
        self.evaluators = [TokenEvaluator(self.figures, self.metrics), *(evaluators or [])]
        self.n_vocab = n_vocab

    def forward(self, ids: Tensor, layout: Layout | None = None, *args: Any, **options: Any) -> Float[Tensor, 'b m v']:
        """Logits of every position, or of those that `options` select; arguments as in `LanguageModel.forward`.

        Args:
            ids: Int (b, n), which is checked here, by name.

        Raises:
            ValueError: The ids are no tensor (b, n) of whole numbers, or, on the CPU, not all in the vocabulary.
        """
        check_shape(ids, 'ids')
        if ids.device.type == 'cpu' and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.n_vocab:
            raise ValueError(
                f'ids has values from {int(ids.min())} to {int(ids.max())}; those of the vocabulary are 0 to '
                f'{self.n_vocab - 1}'
            )
        return self.network(ids, layout, *args, **options)

    def describe_network(self) -> Part:
        """The language model, from the arguments of this task."""
        return describe_head(LanguageModel, Part.of(self.hparams).arguments)

    @classmethod
    def check_format(cls, examples: HasTargets) -> None:
        """Refuse targets that are not tokens, and targets that the network could attend to."""
        super().check_format(examples)
        if getattr(examples, 'parts', ()):
            return
        is_causal = getattr(examples, 'is_causal', cls.is_causal)
        if is_causal != cls.is_causal:
            raise SettingsError(
                f'data.examples is {type(examples).__name__}, whose targets are '
                f'{"the tokens after the inputs" if is_causal else "masked tokens in their place"}, but '
                f'{cls.__name__} predicts {"next tokens" if cls.is_causal else "masked tokens"}; set '
                f'data.examples to {"NextTokens" if cls.is_causal else "MaskedTokens"}, or choose another model'
            )

    def check_batch(self, batch: Batch) -> None:
        """Refuse token ids outside of the vocabulary."""
        check_ids(batch, self.n_vocab)

    def loss(self, batch: Batch) -> Sums:
        """The loss over the targets, and the sums of the figures."""
        targets = token_targets(batch).ids
        return _named(self.network(batch.ids, batch.layout, targets=targets, sparse=self.has_sparse_targets), batch)

    def outputs(self, batch: Batch) -> TokenOutputs:
        """The sums of the loss; where they are needed, also the negative log-likelihood of each target, and the entropy
        of its distribution."""
        if not self.metrics and not any(evaluator.needs_nats for evaluator in self.evaluators):
            return TokenOutputs(self.loss(batch))
        targets = token_targets(batch).ids
        if any(evaluator.needs_entropy for evaluator in self.evaluators):
            sums, nats, entropy = self.network(batch.ids, batch.layout, targets=targets, each='entropy')
            return TokenOutputs(_named(sums, batch), nats, entropy)
        sums, nats = self.network(batch.ids, batch.layout, targets=targets, each=True, sparse=self.has_sparse_targets)
        return TokenOutputs(_named(sums, batch), nats)


def _named(sums: LossSums, batch: Batch) -> Sums:
    named = {'nats': sums.nats, 'correct': sums.correct, 'n_bytes': token_targets(batch).n_bytes.sum()}
    return Sums(sums.objective, sums.count, named)
