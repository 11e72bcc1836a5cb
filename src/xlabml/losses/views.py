"""What an objective is computed from: the pooled vectors of the texts of a step, and what is known of each text.

A view is a text as the network represents it. Objectives take vectors and never the network, so that gradient caching,
gathering across ranks, Matryoshka and layers are written once, around any of them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xlabml.batches import ANCHOR, POSITIVE, Batch, PairTargets


class Views(NamedTuple):
    """The texts of a step; `s` texts of `e` examples (groups), in any order.

    Args:
        vectors: The pooled vector of each text, not normalized.
        example: The index of each text's example, 0 to n_examples - 1.
        role: Each text's role in its example, batches.ANCHOR, POSITIVE, NEGATIVE or more; an example has one anchor.
        n_examples: How many examples there are, those of other ranks included.
        text_hash: A hash of each text: equal texts are no negatives of one another. None: all texts differ.
        score: For each text, its score against the anchor of its example: of a teacher, or the similarity that people
            gave a pair. What stands at an anchor is not read. None: there are no scores.
        label: The class of each example, or 1 and 0 for pairs that belong together or do not. None: there are none.
        teacher: A teacher's vector of each text. None: there is no teacher.
        guide: A guide model's vector of each text, by which likely false negatives are left out. None: no guide.
        layers: The pooled vectors of earlier layers, first layer first. None: they are not trained.
        own: The examples of this rank, a slice of 0 to n_examples: losses are returned for them alone. Where vectors
            of other ranks were gathered, the others serve as negatives.
    """

    vectors: Float[Tensor, 's d']
    example: Int[Tensor, ' s']
    role: Int[Tensor, ' s']
    n_examples: int
    text_hash: Int[Tensor, ' s'] | None = None
    score: Float[Tensor, ' s'] | None = None
    label: Int[Tensor, ' e'] | None = None
    teacher: Float[Tensor, 's t'] | None = None
    guide: Float[Tensor, 's g'] | None = None
    layers: Float[Tensor, 'l s d'] | None = None
    own: slice = slice(None)

    @property
    def n_own(self) -> int:
        """How many examples are this rank's."""
        return len(range(*self.own.indices(self.n_examples)))

    def is_own(self, example: Int[Tensor, ' i']) -> Bool[Tensor, ' i']:
        """Which of these examples are this rank's."""
        first, end, _ = self.own.indices(self.n_examples)
        return (example >= first) & (example < end)

    def anchors(self) -> Int[Tensor, ' e']:
        """The text that is the anchor of each example.

        Raises:
            ValueError: An example has none, or several.
        """
        return self._one_each(ANCHOR, 'anchor')

    def positives(self) -> Int[Tensor, ' e']:
        """The text that is the positive of each example (text B of a pair), for objectives that take one.

        Raises:
            ValueError: An example has none, or several.
        """
        return self._one_each(POSITIVE, 'positive')

    def candidates(self, least_role: int = POSITIVE) -> Int[Tensor, 'e k']:
        """The other texts of each example, its positives first, in their order; -1 where an example has fewer.

        Args:
            least_role: POSITIVE: all but the anchor; NEGATIVE: the negatives.
        """
        texts = (self.role >= least_role).nonzero()[:, 0]
        texts = texts[self.role[texts].argsort(stable=True)]
        texts = texts[self.example[texts].argsort(stable=True)]
        example = self.example[texts]
        counts = torch.bincount(example, minlength=self.n_examples)
        begins = counts.cumsum(0) - counts
        column = torch.arange(texts.numel(), device=texts.device) - begins[example]
        n_columns = int(counts.max()) if counts.numel() else 0
        table = texts.new_full((self.n_examples, n_columns), -1)
        table[example, column] = texts
        return table

    def _one_each(self, role: int, name: str) -> Int[Tensor, ' e']:
        texts = (self.role == role).nonzero()[:, 0]
        counts = torch.bincount(self.example[texts], minlength=self.n_examples)
        if bool((counts != 1).any()):
            example = int((counts != 1).nonzero()[0])
            raise ValueError(
                f'example {example} has {int(counts[example])} texts in the role of the {name}, but this objective '
                'takes one; map one column to that role in data.examples.roles'
            )
        return texts[self.example[texts].argsort()]


def make_views(
    vectors: Float[Tensor, 's d'],
    batch: Batch,
    layers: Float[Tensor, 'l s d'] | None = None,
    guide: Float[Tensor, 's g'] | None = None,
) -> Views:
    """The views of a batch of groups; segments that are padding are left out.

    Args:
        vectors: The pooled vector of each segment of the batch.
        layers: Those of earlier layers.
        guide: Those of a guide model.

    Raises:
        ValueError: The batch has no targets of pairs.
    """
    targets = batch.targets
    if not isinstance(targets, PairTargets):
        raise ValueError(
            f'a batch has {type(targets).__name__}, but an embedder trains on PairTargets; set data.examples to a '
            'format that has them, such as TextGroups'
        )
    is_text = batch.example >= 0

    def keep(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[is_text]

    example = batch.example[is_text]
    return Views(
        vectors=vectors[is_text],
        example=example,
        role=batch.role[is_text],
        n_examples=int(example.max()) + 1 if example.numel() else 0,
        text_hash=keep(targets.text_hash),
        score=keep(targets.score),
        label=targets.label,
        teacher=keep(targets.vector),
        guide=keep(guide),
        layers=None if layers is None else layers[:, is_text],
    )
