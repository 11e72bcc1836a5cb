"""The embedder as a task: a text encoder that learns from groups of texts, by an objective of their vectors."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from xlabml.batches import ANCHOR, POSITIVE, Batch, Layout, PairTargets, check_ids, check_pairs
from xlabml.checkpoints import Part
from xlabml.engine import DocumentParts
from xlabml.errors import SettingsError
from xlabml.evaluation import Evaluator, ObjectiveEvaluator, Sums
from xlabml.heads import Dense, MeanPooling, Pooling, TextEncoder
from xlabml.heads.loading import describe_head
from xlabml.losses import InfoNCE, Objective, embed_in_chunks, gather_views, make_views
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Transformer, Trunk

from .trunk_task import TrunkTask


class EmbedderOutputs(NamedTuple):
    """What an embedder makes of a batch that is evaluated, for `VectorEvaluator`.

    Args:
        sums: As in training.
        vectors: The vector of each segment of the batch; zero for padding.
    """

    sums: Sums
    vectors: Float[Tensor, 's d']


class Embedder(TrunkTask):
    """Texts to vectors, trained on groups of texts (`data.examples: TextGroups`).

    All texts of a step go through the network in one flat pass, or in chunks of data.device_batch_tokens, whose
    activations are computed anew in the backward pass: the objective has all texts of the step either way. Calling it
    gives vectors, as in `TextEncoder.forward`.

    Args:
        n_vocab: The number of tokens of the tokenizer.
        max_len: The longest text that it reads, in tokens, with those around it.
        trunk: Makes the trunk, which turns ids into hidden states; an encoder has `causal: false`.
        pooling: Makes what turns the hidden states of a text into a vector.
        dense: Each makes a layer over the pooled vectors, from the width before it; None: there are none.
        normalize: Whether vectors are brought to length 1.
        prompts: Texts that are put before others, by name: query stands before anchors, document before the texts that
            they are compared with, a role's own name before its texts.
        include_prompt: Whether the tokens of a prompt are pooled with those of the text.
        objective: Makes what is minimised, a function of the vectors of a step.
        objectives: For several data sets (`GroupSets`), the objective of each; None: `objective` is that of all.
        gather: Whether the texts of all devices are candidates of each; else those of a device alone are.
        freeze: What stays as it is: none, all, bottom:n, gradual:n, as in Classifier; all only where something is left
            to train.
        layer_decay: The factor on the learning rate from a block to the one below it, and to the embeddings; 1: all
            learn alike.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the factor of the learning rate at every step, from the length of the run in steps.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        evaluators: Figures to report beside the loss when evaluating.
    """

    network: TextEncoder
    formats: ClassVar[tuple[type, ...]] = (PairTargets,)
    counted: ClassVar[str] = 'groups'
    units: ClassVar[Mapping[str, str]] = {'loss': 'loss/group'}

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Trunk] = Transformer,
        pooling: Callable[[int], Pooling] = MeanPooling,
        dense: list[Callable[[int], Dense]] | None = None,
        normalize: bool = True,
        prompts: dict[str, str] | None = None,
        include_prompt: bool = True,
        objective: Callable[[], Objective] = InfoNCE,
        objectives: list[Callable[[], Objective]] | None = None,
        gather: bool = True,
        freeze: str = 'none',
        layer_decay: float = 1.0,
        optimizer: Callable[[Iterable], Optimizer] = Muon,
        schedule: Callable[[int | None], Schedule] = WarmupLinear,
        clip: Callable[[], AdaptiveClip] | None = None,
        evaluators: list[Evaluator] | None = None,
    ) -> None:
        super().__init__()
        self.network = TextEncoder.build(n_vocab, max_len, trunk, pooling, dense, normalize, prompts, include_prompt)
        self.tune_trunk(self.network.trunk, freeze, layer_decay)
        self.objectives = nn.ModuleList(make() for make in objectives or [objective])
        self.gather = gather
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = None if clip is None else clip()
        self.evaluators = [ObjectiveEvaluator(self.figures, ('loss',)), *(evaluators or [])]
        self.n_vocab = n_vocab

    def forward(
        self, ids: Int[Tensor, 'b n'], layout: Layout | None = None, n_prompt: Int[Tensor, ' s'] | None = None
    ) -> Float[Tensor, 's d']:
        """The vector of each text."""
        return self.network(ids, layout, n_prompt)

    def describe_network(self) -> Part:
        """The text encoder, from the arguments of this task."""
        return describe_head(TextEncoder, Part.of(self.hparams).arguments)

    def setup(self, stage: str) -> None:
        """Refuse data that the objective cannot learn from, and have the network's prompts put before its texts.

        Raises:
            SettingsError: A role or a column that the objective needs is not named, or the classes do not suffice.
        """
        super().setup(stage)
        data = getattr(self.trainer, 'datamodule', None)
        examples = getattr(data, 'examples', None)
        if data is None or examples is None or not hasattr(examples, 'use_prompts'):
            return
        examples.use_prompts(self.network.prompts)
        found = [(type(one).__name__, one.needs) for one in self.objectives if isinstance(one, Objective)]
        for name in (name for name, needs in found if 'layers' in needs):
            raise SettingsError(
                f'model.objective is {name}, which needs vectors of earlier layers, but the '
                'network of Embedder has those of the last layer only; choose another objective'
            )
        if stage == 'fit':
            n_together = data.batch_groups // (1 if self.gather else self.trainer.world_size)
            examples.require(found, data.texts.train_examples, n_together)

    def check_batch(self, batch: Batch) -> None:
        """Refuse token ids that the vocabulary lacks, and scores and vectors that are not finite."""
        check_ids(batch, self.n_vocab)
        if isinstance(batch.targets, PairTargets):
            check_pairs(batch.targets)

    def embed(self, batch: Batch) -> Float[Tensor, 's d']:
        """The vector of each segment of a batch; its rows are chunks that are embedded one after the other."""
        targets = batch.targets
        n_prompt = targets.n_prompt if isinstance(targets, PairTargets) else None
        if len(batch.ids) == 1 or batch.layout is None:
            return self.network(batch.ids, batch.layout, n_prompt)
        layout = batch.layout
        n = len(batch.example) // len(batch.ids)  # every row has as many segments

        def embed(row: int) -> Float[Tensor, 's d']:
            segments = slice(row * n, (row + 1) * n)
            starts = layout.starts[row * n : (row + 1) * n + 1] - layout.starts[row * n]
            of_row = Layout(starts, layout.max_length, None if layout.is_text is None else layout.is_text[segments])
            vectors: Tensor = self.network(
                batch.ids[row : row + 1], of_row, None if n_prompt is None else n_prompt[segments]
            )
            return vectors

        return embed_in_chunks(embed, range(len(batch.ids)))

    def loss(self, batch: Batch) -> Sums:
        """The sum of the objective over the groups."""
        return self._sums(self.embed(batch), batch)

    def outputs(self, batch: Batch) -> EmbedderOutputs:
        """The sums of the loss, and the vectors that they are of."""
        vectors = self.embed(batch)
        return EmbedderOutputs(self._sums(vectors, batch), vectors)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The mean loss."""
        return {'loss': sums['loss'] / (sums['count'] or math.nan)}

    def predictions(self, batch: Batch) -> DocumentParts:
        """The cosine of each anchor and the positives of its group."""
        vectors = F.normalize(self.embed(batch), dim=-1)
        is_anchor = (batch.role == ANCHOR) & (batch.example >= 0)
        is_positive = (batch.role == POSITIVE) & (batch.example >= 0)
        n_examples = int(batch.example.max()) + 1
        anchors = vectors.new_zeros(n_examples, vectors.size(-1))
        anchors[batch.example[is_anchor]] = vectors[is_anchor]
        cosine = (vectors * anchors[batch.example.clamp(min=0)]).sum(dim=-1) if n_examples else vectors[:, 0]
        return DocumentParts(batch.documents, {'cosine': cosine * is_positive, 'count': is_positive.long()})

    def merge(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """The mean cosine of a group; None where it has no positive."""
        return {'cosine': round(totals['cosine'] / totals['count'], 6) if totals['count'] else None}

    def _objective(self, batch: Batch) -> nn.Module:
        """The objective of the data set that a batch is from."""
        number = batch.targets.set if isinstance(batch.targets, PairTargets) else 0
        return self.objectives[number if len(self.objectives) > 1 else 0]

    def _sums(self, vectors: Float[Tensor, 's d'], batch: Batch) -> Sums:
        views = make_views(vectors, batch)
        if self.gather:
            views = gather_views(views)
        objective = self._objective(batch)
        # Every weight has a gradient in every step, also those that take no part in it, or ranks would wait for them.
        idle = [weight for one in self.objectives if one is not objective for weight in one.parameters()]
        rest = sum((weight.sum() * 0.0 for weight in idle), views.vectors.new_zeros(()))
        if not views.n_own:  # nothing of this rank's to compare; the gather has a backward pass all the same
            nothing = views.vectors.sum() * 0.0 + rest
            return Sums(nothing, torch.zeros_like(nothing), {'loss': nothing.detach()})
        total = objective(views).sum() + rest
        return Sums(total, total.new_tensor(float(views.n_own)), {'loss': total.detach()})
