"""The embedder as a task: a text encoder that learns from groups of texts, by an objective of their vectors."""

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from xlabml.batches import Batch, Layout, PairTargets
from xlabml.checkpoints import Part
from xlabml.evaluation import Evaluator, ObjectiveEvaluator, Sums
from xlabml.heads import Dense, MeanPooling, Pooling, TextEncoder
from xlabml.heads.loading import describe_head
from xlabml.losses import InfoNCE, Objective
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear
from xlabml.transformer import Transformer, Trunk

from .vector_task import VectorTask


class EmbedderOutputs(NamedTuple):
    """What an embedder makes of a batch that is evaluated, for `VectorEvaluator`.

    Args:
        sums: As in training.
        vectors: The vector of each segment of the batch; zero for padding.
    """

    sums: Sums
    vectors: Float[Tensor, 's d']


class Embedder(VectorTask):
    """Texts to vectors, trained on groups of texts (`data.examples: TextGroups`).

    Calling it gives vectors, as in `TextEncoder.forward`.

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
        guide: The file of an embedder of ours, a checkpoint or an export, whose similarities say which candidates
            `InfoNCE` leaves out as likely false negatives (guide_margin). It has its own tokenizer and prompts, is not
            trained, and is not part of the checkpoint, which tells its path and hash. None: there is none.
        layers: Numbers of earlier layers, from 1, whose vectors are trained too, where the objective is
            `AdaptiveLayers`: a model of these layers alone embeds as well. None: all earlier layers then.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the factor of the learning rate at every step, from the length of the run in steps.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        evaluators: Figures to report beside the loss when evaluating.
        freeze: What stays as it is: none, all, bottom:n, gradual:n, as in Classifier; all only where something is left
            to train.
        layer_decay: The factor on the learning rate from a block to the one below it, and to the embeddings; 1: all
            learn alike.
    """

    network: TextEncoder
    formats: ClassVar[tuple[type, ...]] = (PairTargets,)
    counted: ClassVar[str] = 'groups'
    units: Mapping[str, str] = {'loss': 'loss/group'}

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
        self.network = TextEncoder.build(n_vocab, max_len, trunk, pooling, dense, normalize, prompts, include_prompt)
        self.tune_trunk(self.network.trunk, freeze, layer_decay)
        self.prompts = self.network.prompts
        self.objectives = nn.ModuleList(make() for make in objectives or [objective])
        self.gather = gather
        self.use_guide(guide)
        self.layers = self.choose_layers(layers, self.network.trunk.n_layers)
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

    def loss(self, batch: Batch) -> Sums:
        """The sum of the objective over the groups."""
        return self.vector_sums(self.embed(batch, self.layers), batch)

    def outputs(self, batch: Batch) -> EmbedderOutputs:
        """The sums of the loss, and the vectors that they are of."""
        vectors = self.embed(batch, self.layers)
        sums = self.vector_sums(vectors, batch)
        return EmbedderOutputs(sums, vectors[-1] if self.layers else vectors)
