"""The base class of tasks that learn vectors of texts from groups of texts, by an objective of the vectors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import ANCHOR, POSITIVE, Batch, Layout, PairTargets, check_ids, check_pairs
from xlabml.checkpoints import Contents
from xlabml.engine import DocumentParts
from xlabml.errors import SettingsError
from xlabml.evaluation import Sums, VectorEvaluator
from xlabml.evaluation.vectors import sample_group
from xlabml.heads import TextVectors, TokenVectors
from xlabml.heads.joint import JointModel as JointNetwork
from xlabml.losses import AdaptiveLayers, Objective, embed_in_chunks, gather_views, make_views
from xlabml.losses.late_interaction import pair_max_similarity
from xlabml.pipelines.guide import Guide
from xlabml.tokenizer import Tokenizer

from .guiding import guide_vectors, require_same, require_use
from .trunk_task import TrunkTask


class VectorTask(TrunkTask):
    """A task whose network makes vectors of texts.

    All texts of a step go through the network in one flat pass, or in chunks of data.device_batch_tokens, whose
    activations are computed anew in the backward pass: the objective has all texts of the step either way.

    Attributes:
        n_vocab: Token ids are below it.
        objectives: What is minimised; several: one for each data set of groups.
        gather: Whether the texts of all devices are candidates of each; else those of a device alone are.
        prompts: Texts that the network puts before others, by name.
        layers: Earlier layers whose vectors the objective takes, too, from 1.
        guide: The file of an embedder by which likely false negatives are left out; None: there is none.
    """

    n_vocab: int
    network: TextVectors | JointNetwork
    objectives: nn.ModuleList
    gather: bool
    prompts: dict[str, str]
    layers: tuple[int, ...] = ()
    guide: str | None = None
    _tokenizer: Tokenizer | None = None
    _guide: Guide | None = None  # no module, so that neither checkpoints nor the optimizer have its weights

    def choose_layers(self, layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
        """The earlier layers whose vectors the objectives take.

        Args:
            layers: Those that the user named; None: all, where an objective needs them.
            n_layers: Of the trunk.

        Raises:
            ValueError: No objective needs them, there are no such layers, or they have not a weight each.
        """
        wrappers = [one for one in self.objectives.modules() if isinstance(one, AdaptiveLayers)]
        if not any('layers' in one.needs for one in self.objectives if isinstance(one, Objective)):
            if layers is not None:
                raise ValueError(
                    f'model.layers is {list(layers)}, but model.objective needs no vectors of earlier layers; wrap it '
                    'in AdaptiveLayers, or leave model.layers out'
                )
            return ()
        found = tuple(range(1, n_layers)) if layers is None else tuple(sorted(set(layers)))
        if not found or found[0] < 1 or found[-1] >= n_layers or len(found) != len(layers or found):
            raise ValueError(
                f'model.layers is {list(found if layers is None else layers)}; name earlier layers of the trunk, which '
                f'has {n_layers}: numbers from 1 to {n_layers - 1}, each once'
            )
        for one in wrappers:
            if one.layer_weights is not None and len(one.layer_weights) != len(found):
                raise ValueError(
                    f'layer_weights has {len(one.layer_weights)} numbers for the earlier layers '
                    f'{", ".join(map(str, found))}; give one for each'
                )
        return found

    def use_guide(self, guide: str | None) -> None:
        """Set the file of the guide; it is opened when work begins, as a trained model does without it.

        Raises:
            SettingsError: No objective reads it.
        """
        require_use(guide, self.objectives)
        self.guide = guide

    def open_files(self) -> None:
        """Open the guide, whose path and hash checkpoints tell, and have evaluators compare several vectors a text.

        Raises:
            SettingsError: The guide is not there, or is no embedder; an evaluator's file is not there; or an evaluator
                cannot compare what the pooling makes of a text.
        """
        super().open_files()
        pooling = self._token_vectors()
        if pooling is not None:
            for evaluator in self.evaluators:
                evaluator.compare_by(pooling.scores)
        if self.guide is not None and self._guide is None:
            self._guide = Guide(self.guide)
            self.facts['guide'] = {'path': str(self._guide.path), 'sha256': self._guide.sha256}

    def check_weights(self, checkpoint: Contents) -> None:
        """The same, and refuse a guide that is not that of the checkpoint's run."""
        super().check_weights(checkpoint)
        if self._guide is not None:
            require_same(self._guide, checkpoint.facts)

    def check_batch(self, batch: Batch) -> None:
        """Refuse token ids that the vocabulary lacks, and scores and vectors that are not finite."""
        check_ids(batch, self.n_vocab)
        if isinstance(batch.targets, PairTargets):
            check_pairs(batch.targets)

    def setup(self, stage: str) -> None:
        """Refuse data that the objective cannot learn from, and have the network's prompts put before its texts.

        Raises:
            SettingsError: A role or a column that the objective needs is not named, or the classes do not suffice.
        """
        super().setup(stage)
        data = getattr(self.trainer, 'datamodule', None)
        if stage != 'predict':
            self.open_files()
        if self._guide is not None:
            self._tokenizer = getattr(data, 'tokenizer', None)
            if self._tokenizer is None:
                raise SettingsError('model.guide reads texts, and no data module of this run has their tokenizer')
        examples = getattr(data, 'examples', None)
        if data is None or examples is None or not hasattr(examples, 'use_prompts'):
            return
        examples.use_prompts(self.prompts)
        self._check_evaluators(examples)
        found = [(type(one).__name__, one.needs) for one in self.objectives if isinstance(one, Objective)]
        if stage == 'fit':
            n_together = data.batch_groups // (1 if self.gather else self.trainer.world_size)
            examples.require(found, data.texts.train_examples, n_together)

    def _check_evaluators(self, examples: Any) -> None:
        """Refuse evaluators of the split whose figures its groups cannot have.

        Args:
            examples: The format; of several sets nothing is known here.

        Raises:
            SettingsError: A role, a score or a label is not named.
        """
        records = getattr(examples, 'records', None)
        if records is None:
            return
        group = sample_group(len(examples.roles), bool(records.score or records.scores), records.label is not None)
        for evaluator in self.evaluators:
            if isinstance(evaluator, VectorEvaluator):
                try:
                    evaluator.check(group)
                except ValueError as error:
                    raise SettingsError(f'an evaluator of model.evaluators does not fit: {error}') from error

    def vectors(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None,
        n_prompt: Int[Tensor, ' s'] | None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 's d'] | Float[Tensor, 'l s d']:
        """The vector of each text, and those of earlier layers before them; the one call of the network."""
        found: Tensor = self.network(ids, layout, n_prompt, **({'layers': layers} if layers else {}))
        return found

    def embed(self, batch: Batch, layers: Sequence[int] = ()) -> Float[Tensor, 's d'] | Float[Tensor, 'l s d']:
        """The vector of each segment of a batch; its rows are chunks that are embedded one after the other.

        Args:
            layers: Earlier layers whose vectors come before those of the last along a new first axis; (): no such axis.
        """
        targets = batch.targets
        n_prompt = targets.n_prompt if isinstance(targets, PairTargets) else None
        if len(batch.ids) == 1 or batch.layout is None:
            return self.vectors(batch.ids, batch.layout, n_prompt, layers)
        layout = batch.layout

        def embed(row: int) -> Float[Tensor, '*l s d']:
            of_row, segments = row_of(layout, row, len(batch.ids))
            of_segments = None if n_prompt is None else n_prompt[segments]
            return self.vectors(batch.ids[row : row + 1], of_row, of_segments, layers)

        return embed_in_chunks(embed, range(len(batch.ids)), batch.ids)

    def vector_sums(self, vectors: Float[Tensor, 's d'] | Float[Tensor, 'l s d'], batch: Batch) -> Sums:
        """The sum of the objective over the groups of a batch.

        Args:
            vectors: Of `embed`, with those of the earlier layers that the objective takes.
        """
        guide = self._guided(batch)
        if vectors.dim() > 2:
            views = make_views(vectors[-1], batch, vectors[:-1], guide)
        else:
            views = make_views(vectors, batch, guide=guide)
        if self.gather:
            views = gather_views(views)
        objective = self._objective(batch)
        # Every weight has a gradient in every step, also those that take no part in it, or ranks would wait for them.
        rest = idle(*(one for one in self.objectives if one is not objective)) + views.vectors.new_zeros(())
        if not views.n_own:  # nothing of this rank's to compare; the gather has a backward pass all the same
            nothing = views.vectors.sum() * 0.0 + rest
            return Sums(nothing, torch.zeros_like(nothing), {'loss': nothing.detach()})
        total = objective(views).sum() + rest
        return Sums(total, total.new_tensor(float(views.n_own)), {'loss': total.detach()})

    def pair_cosines(self, batch: Batch) -> dict[str, Tensor]:
        """The cosine of each positive and the anchor of its group, summed over segments by `count`; of texts of several
        vectors the score of late interaction."""
        vectors = self.embed(batch)
        is_anchor = (batch.role == ANCHOR) & (batch.example >= 0)
        is_positive = (batch.role == POSITIVE) & (batch.example >= 0)
        n_examples = int(batch.example.max()) + 1
        anchors = vectors.new_zeros(n_examples, vectors.size(-1))
        anchors[batch.example[is_anchor]] = vectors[is_anchor]
        asked = anchors[batch.example.clamp(min=0)] if n_examples else torch.zeros_like(vectors)
        pooling = self._token_vectors()
        if pooling is not None:
            cosine = pair_max_similarity(asked, vectors, pooling.n_vectors)
        else:
            cosine = (F.normalize(vectors, dim=-1) * F.normalize(asked, dim=-1)).sum(dim=-1)
        return {'cosine': cosine * is_positive, 'count': is_positive.long()}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The mean loss."""
        return {'loss': sums['loss'] / (sums['count'] or math.nan)}

    def predictions(self, batch: Batch) -> DocumentParts:
        """The cosine of each anchor and the positives of its group."""
        return DocumentParts(batch.documents, self.pair_cosines(batch))

    def merge(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """The mean cosine of a group; None where it has no positive."""
        return {'cosine': round(totals['cosine'] / totals['count'], 6) if totals['count'] else None}

    def _token_vectors(self) -> TokenVectors | None:
        """What makes several vectors of a text; None: a text has one."""
        pooling = getattr(self.network, 'pooling', None)
        return pooling if isinstance(pooling, TokenVectors) else None

    def _guided(self, batch: Batch) -> Float[Tensor, 's g'] | None:
        """The guide's vector of each segment; None: there is no guide, as in a model that was loaded to be used."""
        if self._guide is None:
            return None
        assert self._tokenizer is not None, 'set by `setup`'
        return guide_vectors(self._guide, batch, self._tokenizer)

    def _objective(self, batch: Batch) -> nn.Module:
        """The objective of the data set that a batch is from."""
        number = batch.targets.set if isinstance(batch.targets, PairTargets) else 0
        return self.objectives[number if len(self.objectives) > 1 else 0]


def row_of(layout: Layout, row: int, n_rows: int) -> tuple[Layout, slice]:
    """The layout of a row of a batch whose rows have as many segments each, and which of the segments are its own."""
    n = (len(layout.starts) - 1) // n_rows
    segments = slice(row * n, (row + 1) * n)
    starts = layout.starts[row * n : (row + 1) * n + 1] - layout.starts[row * n]
    return Layout(starts, layout.max_length, None if layout.is_text is None else layout.is_text[segments]), segments


def idle(*parts: Any) -> Tensor | float:
    """Zero, with a gradient of zero for every weight of these modules and parameters."""
    weights = [
        weight
        for part in parts
        for weight in (part.parameters() if isinstance(part, nn.Module) else [] if part is None else [part])
    ]
    return sum((weight.sum() * 0.0 for weight in weights), 0.0)
