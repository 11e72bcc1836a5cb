"""The base of the objectives of embedders: pooled vectors -> one loss for each example."""

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import NEGATIVE, POSITIVE

from .views import Views

Need: TypeAlias = Literal['positive', 'negative', 'score', 'label', 'teacher', 'layers']
"""What an example must have beside its anchor."""

_COLUMNS = {
    'positive': 'a text in the role `positive` (text B of a pair)',
    'negative': 'a text in the role `negatives`',
    'score': 'scores: a column of the role `score`',
    'label': 'labels: a column of the role `label`',
    'teacher': "a teacher's vectors: a column of the role `vector`",
    'layers': 'the vectors of earlier layers, which the network returns when it is asked for them',
}


class Objective(nn.Module, ABC):
    """One loss for each example of this rank, from the pooled vectors of a step.

    A step's loss is the mean over its examples: the sum of what all ranks and micro-batches return, divided by the
    number of examples. A loss that is defined of a batch as a whole is shared out, so that this mean is its value.
    Vectors in half precision are computed with in float32, also under autocast: 8 bits of a similarity tie the ranks.
    Where no loss is defined (an anchor without a positive in its class), it is 0 and has no gradient.

    Attributes:
        needs: What each example must have beside its anchor; anything else is not read.
    """

    needs: tuple[Need, ...] = ()

    @abstractmethod
    def losses(self, views: Views) -> Float[Tensor, ' own']:
        """The loss of each example of this rank.

        Args:
            views: Its vectors are float32 or float64, and everything in `needs` is there.
        """

    def forward(self, views: Views) -> Float[Tensor, ' own']:
        """The loss of each example of this rank, `views.n_own` of them.

        Raises:
            ValueError: The views lack something that this objective needs; the message says which column to map.
        """
        if not views.n_examples:
            return at_least_float32(views.vectors).sum(dim=-1)
        self.check(views)
        raised = views._replace(
            vectors=at_least_float32(views.vectors),
            score=None if views.score is None else at_least_float32(views.score),
            teacher=None if views.teacher is None else at_least_float32(views.teacher),
            guide=None if views.guide is None else at_least_float32(views.guide),
            layers=None if views.layers is None else at_least_float32(views.layers),
        )
        with torch.autocast(views.vectors.device.type, enabled=False):
            losses = self.losses(raised)
        # Nothing is added, but each rank's losses lead back to the vectors, also where it has no example: all ranks
        # have to take part in the backward pass of a gather.
        return losses + raised.vectors[:0].sum()

    def check(self, views: Views) -> None:
        """Raise ValueError where the views lack something that this objective needs."""
        for need in self.needs:
            if not _has(views, need):
                raise ValueError(
                    f'{type(self).__name__} needs {_COLUMNS[need]}, and a batch has none; map a column to it in '
                    'data.examples.roles, or choose another objective in model.objective'
                )


def _has(views: Views, need: Need) -> bool:
    if need == 'positive':
        return bool((views.role == POSITIVE).any())
    if need == 'negative':
        return bool((views.role >= NEGATIVE).any())
    return getattr(views, need) is not None


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def mean_by_example(values: Float[Tensor, ' i'], example: Int[Tensor, ' i'], views: Views) -> Float[Tensor, ' own']:
    """The mean of the values of each own example; 0 where it has none.

    Args:
        example: The example of each value.
    """
    total = values.new_zeros(views.n_examples).index_add(0, example, values)
    count = torch.bincount(example, minlength=views.n_examples).clamp(min=1)
    return (total / count)[views.own]


def share_out(
    values: Float[Tensor, ' i'], example: Int[Tensor, ' i'], views: Views, count: Tensor | int
) -> Float[Tensor, ' own']:
    """The values of each own example, so scaled that their mean over all examples is sum(values) / count.

    Args:
        example: The example of each value.
        count: How many values a mean of the whole step, all ranks included, is taken over; 0 counts as 1.
    """
    total = values.new_zeros(views.n_examples).index_add(0, example, values)
    divisor = count.clamp(min=1) if isinstance(count, Tensor) else max(1, count)
    return total[views.own] * views.n_examples / divisor
