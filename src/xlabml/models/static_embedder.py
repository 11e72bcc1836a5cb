"""A table of token vectors as a task: it learns from groups of texts as the embedder does, without a trunk."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from xlabml.batches import Batch, Layout, PairTargets
from xlabml.checkpoints import Part
from xlabml.evaluation import Evaluator, ObjectiveEvaluator, Sums
from xlabml.heads import StaticEncoder
from xlabml.heads.loading import describe_head
from xlabml.heads.static_encoder import count_in
from xlabml.heads.text_encoder import row_layout
from xlabml.losses import InfoNCE, Objective
from xlabml.training import AdaptiveClip, Muon, Schedule, WarmupLinear

from .embedder import EmbedderOutputs
from .vector_task import VectorTask


class StaticEmbedder(VectorTask):
    """A vector for each token, so trained that the mean of a text's tokens is near that of its positive.

    No token attends to another, so a step costs little more than reading the table: wide vectors, large batches and
    many passes over small data are affordable. The tokens at the start and the end of a text do not count.

    Calling it gives vectors, as in `StaticEncoder.forward`. Source: Aarsen 2025,
    https://huggingface.co/blog/static-embeddings; leaving out tokens: Iyyer et al. 2015 (deep averaging networks),
    https://aclanthology.org/P15-1162, section 3.2.

    Args:
        n_vocab: The number of tokens of the tokenizer.
        max_len: The longest text that it reads, in tokens, with those around it.
        d_vector: Width of the vectors.
        normalize: Whether vectors are brought to length 1.
        token_dropout: The share of tokens left out in training, drawn anew at every step; a text keeps one at least.
        init_std: Standard deviation of the table before training.
        objective: Makes what is minimised, a function of the vectors of a step.
        objectives: For several data sets (`GroupSets`), the objective of each; None: `objective` is that of all.
        gather: Whether the texts of all devices are candidates of each; else those of a device alone are.
        optimizer: Makes the optimizer, from parameter groups.
        schedule: Makes the factor of the learning rate at every step, from the length of the run in steps.
        clip: Makes what limits the gradient's norm; None: `trainer.gradient_clip_val` does.
        evaluators: Figures to report beside the loss when evaluating.

    Raises:
        ValueError: token_dropout is no ratio from 0 to below 1, or init_std not above 0.
    """

    network: StaticEncoder
    formats: ClassVar[tuple[type, ...]] = (PairTargets,)
    counted: ClassVar[str] = 'groups'
    units: Mapping[str, str] = {'loss': 'loss/group'}

    def __init__(
        self,
        n_vocab: int,
        max_len: int,
        d_vector: int = 1024,
        normalize: bool = True,
        token_dropout: float = 0.0,
        init_std: float = 1.0,
        objective: Callable[[], Objective] = InfoNCE,
        objectives: list[Callable[[], Objective]] | None = None,
        gather: bool = True,
        optimizer: Callable[[Iterable], Optimizer] = Muon,
        schedule: Callable[[int | None], Schedule] = WarmupLinear,
        clip: Callable[[], AdaptiveClip] | None = None,
        evaluators: list[Evaluator] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= token_dropout < 1:
            raise ValueError(f'model.token_dropout is {token_dropout}; give a ratio from 0 to below 1')
        if not 0 < init_std < math.inf:
            raise ValueError(f'model.init_std is {init_std}; give a number above 0')
        self.network = StaticEncoder(n_vocab, max_len, d_vector, normalize)
        nn.init.normal_(self.network.table, std=init_std)
        self.prompts = self.network.prompts
        self.token_dropout = token_dropout
        self.objectives = nn.ModuleList(make() for make in objectives or [objective])
        self.gather = gather
        self.layers = self.choose_layers(None, 1)
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = None if clip is None else clip()
        self.evaluators = [ObjectiveEvaluator(self.figures, ('loss',)), *(evaluators or [])]
        self.n_vocab = n_vocab

    def forward(self, ids: Int[Tensor, 'b n'], layout: Layout | None = None) -> Float[Tensor, 's d']:
        """The vector of each text."""
        return self.network(ids, layout)

    def describe_network(self) -> Part:
        """The table, from the arguments of this task."""
        return describe_head(StaticEncoder, Part.of(self.hparams).arguments)

    def vectors(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None,
        n_prompt: Int[Tensor, ' s'] | None,
        layers: Sequence[int] = (),
    ) -> Float[Tensor, 's d']:
        """The vector of each text, whose first and last token are not its own."""
        where = row_layout(ids) if layout is None else layout
        counts = inner_tokens(ids.numel(), where.starts.long())
        if self.training and self.token_dropout:
            counts = drop_tokens(counts, where.starts.long(), self.token_dropout)
        found: Tensor = self.network(ids, layout, n_prompt, counts)
        return found

    def loss(self, batch: Batch) -> Sums:
        """The sum of the objective over the groups."""
        return self.vector_sums(self.embed(batch), batch)

    def outputs(self, batch: Batch) -> EmbedderOutputs:
        """The sums of the loss, and the vectors that they are of."""
        vectors = self.embed(batch)
        return EmbedderOutputs(self.vector_sums(vectors, batch), vectors)


def inner_tokens(n_slots: int, starts: Int[Tensor, ' begins']) -> Bool[Tensor, ' t']:
    """Which of the tokens of a flat row are neither the first nor the last of a text.

    Args:
        n_slots: Tokens of the row.
        starts: Where each text begins, and where the last one ends; texts may be empty.
    """
    inner = torch.ones(n_slots, dtype=torch.bool, device=starts.device)
    begins = starts[:-1][starts.diff() > 0]
    ends = starts[1:][starts.diff() > 0]
    inner[begins] = False
    inner[ends - 1] = False
    return inner


def drop_tokens(counts: Bool[Tensor, ' t'], starts: Int[Tensor, ' begins'], share: float) -> Bool[Tensor, ' t']:
    """Leave out a share of the tokens that count, at random; a text that would keep none keeps all.

    A zero vector has no direction: its gradient would not be finite.
    """
    kept = counts & (torch.rand(counts.shape, device=counts.device) >= share)
    is_bare = count_in(kept, starts) == 0
    bare = torch.repeat_interleave(is_bare, starts.diff(), output_size=counts.numel())
    return torch.where(bare, counts, kept)
