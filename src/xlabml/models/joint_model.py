"""A language model that also embeds texts, as one task: each step trains what its format asks for."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from xlabml.batches import Batch, Layout, MaskedTargets, PairTargets, TokenTargets
from xlabml.checkpoints import Part
from xlabml.engine import DocumentParts, HasTargets
from xlabml.errors import SettingsError
from xlabml.evaluation import Evaluator, ObjectiveEvaluator, Sums, sum_segments
from xlabml.heads import Dense, MeanPooling, Pooling
from xlabml.heads.joint import JointModel as Network
from xlabml.heads.loading import describe_head
from xlabml.losses import CrossEntropy, InfoNCE, Loss, LossSums, Objective, compute_anew
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Cache, Transformer

from .vector_task import VectorTask, idle, row_of

_NEXT = ('nats', 'correct', 'n_bytes', 'n_tokens')
_MASKED = ('masked_nats', 'masked_correct', 'n_masked')
_GROUPS = ('embedding_objective', 'n_groups')
SUMS = (*_NEXT, *_MASKED, *_GROUPS)
"""The sums of a batch; those of the other kinds are 0."""


class JointOutputs(NamedTuple):
    """What comes of a batch that is evaluated.

    Args:
        sums: As in training.
        vectors: The vector of each segment of a batch of groups; None: the batch has tokens to predict.
    """

    sums: Sums
    vectors: Float[Tensor, 's d'] | None = None


class JointModel(VectorTask):
    """One trunk that generates text and embeds it, trained on several formats (`data.examples: FormatMixture`).

    A step of `NextTokens` trains a language model, by causal passes. One of `MaskedTokens` trains the trunk to predict
    masked tokens, and one of `TextGroups` the vectors of texts, by bidirectional passes. A checkpoint is used as that
    of a language model, and as that of an embedder. Calling it returns logits.
    Source: GritLM, Muennighoff et al. 2024, https://arxiv.org/abs/2402.09906, section 2.2.

    Args:
        n_vocab: Size of the vocabulary.
        max_len: The longest row or text, in tokens.
        trunk: Makes the trunk, a decoder.
        pooling: Makes what turns the hidden states of a text into a vector.
        dense: Each makes a layer over the pooled vectors, from the width before it; None: there are none.
        normalize: Whether vectors are brought to length 1.
        prompts: Texts that are put before others, by name: query stands before anchors, document before the texts that
            they are compared with, a role's own name before its texts.
        include_prompt: Whether the tokens of a prompt are pooled with those of the text.
        tied: Whether the head shares the embedding matrix.
        head_bias: Whether the head has a bias.
        logit_cap: Soft cap: logits become cap · tanh(logit / cap); None: no cap.
        loss: Makes the loss of tokens.
        objective: Makes what is minimised of vectors.
        objectives: For several data sets of groups, the objective of each; None: `objective` is that of all.
        gather: Whether the texts of all devices are candidates of each; else those of a device alone are.
        guide: As in Embedder.
        layers: As in Embedder.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the factor of the learning rate at every step, from the length of the run in steps.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        evaluators: Figures of vectors to report beside the losses when evaluating.
        freeze: What stays as it is: none, all, bottom:n, gradual:n, as in Classifier. A head that shares the embedding
            is frozen with it.
        layer_decay: The factor on the learning rate from a block to the one below it, and to the embeddings; 1: all
            learn alike.
    """

    network: Network
    formats: ClassVar[tuple[type, ...]] = (TokenTargets, PairTargets)
    counted: ClassVar[str] = 'targets and groups'
    units: Mapping[str, str] = {
        'token_loss': 'nats/token',
        'accuracy': '%',
        'bits_per_byte': 'bits/byte',
        'masked_loss': 'nats/token',
        'masked_accuracy': '%',
        'embedding_loss': 'loss/group',
    }
    generates: ClassVar[bool] = True

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Transformer] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        dense: list[Callable[[int], Dense]] | None = None,
        normalize: bool = True,
        prompts: dict[str, str] | None = None,
        include_prompt: bool = True,
        tied: bool = True,
        head_bias: bool = False,
        logit_cap: float | None = None,
        loss: Callable[[], Loss] = CrossEntropy,
        objective: Callable[[], Objective] = InfoNCE,
        objectives: list[Callable[[], Objective]] | None = None,
        gather: bool = True,
        guide: str | None = None,
        layers: list[int] | None = None,
        optimizer: Callable[[Iterable], Optimizer] = Muon,
        schedule: Callable[[int | None], Schedule] = WarmupLinear,
        clip: Callable[[], AdaptiveClip] | None = None,
        evaluators: list[Evaluator] | None = None,
        freeze: str = 'none',
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        of_vectors = (pooling, dense, normalize, prompts, include_prompt)
        self.network = Network.build(n_vocab, max_len, trunk, *of_vectors, tied, head_bias, logit_cap, loss)
        self.tune_trunk(self.network.trunk, freeze, layer_decay)
        self.prompts = dict(prompts or {})
        self.objectives = nn.ModuleList(make() for make in objectives or [objective])
        self.gather = gather
        self.use_guide(guide)
        self.layers = self.choose_layers(layers, self.network.trunk.n_layers)
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = None if clip is None else clip()
        self.evaluators = [_Losses(self.figures, SUMS), *(evaluators or [])]
        self.n_vocab = n_vocab

    def forward(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None = None, *args: Any, **options: Any
    ) -> Float[Tensor, 'b m v']:
        """Logits; arguments as in `LanguageModel.forward`."""
        return self.network(ids, layout, *args, **options)

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        return self.network.new_cache(batch, length)

    def describe_network(self) -> Part:
        """The network of both heads, from the arguments of this task."""
        return describe_head(Network, Part.of(self.hparams).arguments)

    @classmethod
    def check_format(cls, examples: HasTargets) -> None:
        """Refuse examples that are not of several formats, or whose targets are others than tokens and groups.

        Raises:
            SettingsError: They are; the message says what to choose.
        """
        if not getattr(examples, 'parts', ()):
            raise SettingsError(
                f'data.examples is {type(examples).__name__}, but {cls.__name__} trains on several formats; name them '
                'in a FormatMixture, or choose another model: XLabModel, MaskedLanguageModel or Embedder'
            )
        for part in examples.parts:  # type: ignore[attr-defined]
            super().check_format(part)

    # A batch

    def vectors(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None,
        n_prompt: Int[Tensor, ' s'] | None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 's d'] | Float[Tensor, 'l s d']:
        found: Tensor = self.network(ids, layout, n_prompt=n_prompt, vectors=True, layers=layers)
        return found

    def loss(self, batch: Batch) -> Sums:
        """The sums of the batch's kind; every weight that it does not use has a gradient of zero."""
        return self.outputs(batch).sums

    def outputs(self, batch: Batch) -> JointOutputs:
        """The sums, and the vectors of groups."""
        network = self.network
        if isinstance(batch.targets, PairTargets):
            vectors = self.embed(batch, self.layers)
            found = self.vector_sums(vectors, batch)
            vectors = vectors[-1] if self.layers else vectors
            unused = idle(network.head_weight, network.head_bias)
            return JointOutputs(_sums(found.objective + unused, found.count, _GROUPS, found.objective), vectors)
        objective, *numbers, count = self._token_sums(batch)
        objective = objective + idle(network.pooling, network.dense, self.objectives)
        if isinstance(batch.targets, MaskedTargets):
            return JointOutputs(_sums(objective, count, _MASKED, *numbers))
        assert isinstance(batch.targets, TokenTargets)
        return JointOutputs(_sums(objective, count, _NEXT, *numbers, batch.targets.n_bytes.sum()))

    def _token_sums(self, batch: Batch) -> LossSums:
        """The loss of tokens, row by row: rows are chunks, of which one at a time is in memory."""
        targets = batch.targets
        layout = batch.layout
        assert isinstance(targets, TokenTargets)
        assert layout is not None
        is_masked = isinstance(targets, MaskedTargets)

        def read(row: int) -> LossSums:
            here = slice(row, row + 1)
            of_row = row_of(layout, row, len(batch.ids))[0]
            found: LossSums = self.network(
                batch.ids[here], of_row, targets=targets.ids[here], sparse=is_masked, causal=not is_masked
            )
            return found

        if len(batch.ids) == 1:
            return read(0)
        keeps = self.training
        rows = [compute_anew(read, i, batch.ids) if keeps else read(i) for i in range(len(batch.ids))]
        return LossSums(*(sum(values[1:], values[0]) for values in zip(*rows)))

    # Figures

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The losses of the kinds that were read, their sum as `loss`, and what belongs to each."""
        found = {}
        if n := sums['n_tokens']:
            found['token_loss'] = sums['nats'] / n
            found['accuracy'] = sums['correct'] / n
            found['bits_per_byte'] = sums['nats'] / math.log(2) / (sums['n_bytes'] or math.nan)
        if n := sums['n_masked']:
            found['masked_loss'] = sums['masked_nats'] / n
            found['masked_accuracy'] = sums['masked_correct'] / n
        if n := sums['n_groups']:
            found['embedding_loss'] = sums['embedding_objective'] / n
        losses = [value for name, value in found.items() if name.endswith('_loss')]
        return {'loss': sum(losses) if losses else math.nan, **found}

    def progress(self, row: Mapping[str, float]) -> str:
        """The losses of the newest row."""
        shown = {name.removeprefix('train_'): value for name, value in row.items() if name.endswith('_loss')}
        return '  '.join(f'{name.removesuffix("_loss")} {value:.3f}' for name, value in shown.items() if name != 'loss')

    def predictions(self, batch: Batch) -> DocumentParts:
        """The negative log-likelihood of a document's tokens, or the cosine of the texts of a group."""
        none = batch.documents.new_zeros(len(batch.documents))
        targets = batch.targets
        if isinstance(targets, PairTargets):
            found = self.pair_cosines(batch)
            values = {'cosine': found['cosine'], 'pairs': found['count'], 'nats': none, 'n_bytes': none, 'count': none}
            return DocumentParts(batch.documents, values)
        assert isinstance(targets, TokenTargets)
        assert batch.layout is not None
        is_masked = isinstance(targets, MaskedTargets)
        options = {'targets': targets.ids, 'each': 'only', 'sparse': is_masked, 'causal': not is_masked}
        nats: Tensor = self.network(batch.ids, batch.layout, **options)
        counts, sums = sum_segments(nats, targets.ids, batch.layout)
        values = {'cosine': none, 'pairs': none, 'nats': sums, 'n_bytes': targets.n_bytes, 'count': counts}
        return DocumentParts(batch.documents, values)

    def merge(self, totals: Mapping[str, float]) -> dict[str, object]:
        """Tokens and nats of a document, or the mean cosine of a group."""
        if totals['pairs']:
            return {'cosine': round(totals['cosine'] / totals['pairs'], 6)}
        return {'tokens': int(totals['count']), 'nats': round(totals['nats'], 6)}


class _Losses(ObjectiveEvaluator):
    """The losses of all kinds; which there are is known after an evaluation."""

    def names(self) -> list[str] | None:  # type: ignore[override]
        return None


def _sums(objective: Tensor, count: Tensor, names: tuple[str, ...], *numbers: Tensor) -> Sums:
    """The sums of a batch of one kind, with zeros for the others.

    Args:
        names: Those of its kind, the last that of the count.
        numbers: The others.
    """
    nothing = objective.new_zeros(())
    known = dict(zip(names, (*numbers, count)))
    return Sums(objective, count, {name: known.get(name, nothing).detach() for name in SUMS})
