"""Objectives that copy a teacher: its scores of candidates (a cross-encoder's), or its vectors."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .objective import Need, Objective, share_out
from .similarity import Similarity, pair_distances, pair_similarities
from .views import Views


class _Scored(Objective):
    """The candidates of an anchor, its positives first, with a teacher's scores.

    Args:
        similarity: How vectors are compared.
    """

    needs: tuple[Need, ...] = ('positive', 'negative', 'score')

    def __init__(self, similarity: Similarity = 'dot') -> None:
        super().__init__()
        self.similarity: Similarity = similarity

    def scores(self, views: Views) -> tuple[Float[Tensor, 'own k'], Float[Tensor, 'own k'], Bool[Tensor, 'own k']]:
        """Our scores of the candidates, the teacher's, and which candidates there are; 0 where there is none."""
        assert views.score is not None, 'checked by `needs`'
        table = views.candidates()[views.own]
        is_there = table >= 0
        candidates = views.vectors[table.clamp(min=0)]  # own k d
        anchors = views.vectors[views.anchors()[views.own]][:, None].expand_as(candidates)
        ours = pair_similarities(anchors, candidates, self.similarity).where(is_there, 0.0)
        return ours, views.score[table.clamp(min=0)].where(is_there, 0.0), is_there


class MarginMSE(_Scored):
    """Squared error of the margin between the positive and a negative against the teacher's; the mean over negatives.

    Source: Hofstätter et al. 2020, https://arxiv.org/abs/2010.02666, eq. 3.

    Args:
        similarity: How vectors are compared.
    """

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        views.positives()  # one each
        ours, teachers, is_there = self.scores(views)
        gap = (ours[:, :1] - ours[:, 1:]) - (teachers[:, :1] - teachers[:, 1:])
        is_negative = is_there[:, 1:]
        return gap.square().where(is_negative, 0.0).sum(dim=1) / is_negative.sum(dim=1).clamp(min=1)


class KLDistillation(_Scored):
    """Divergence of our distribution over the candidates from the teacher's: ListNet's cross-entropy, less a constant.

    Times the square of our temperature, so that gradients keep their size.

    Sources: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2; Cao et al. 2007 (ListNet),
    https://doi.org/10.1145/1273496.1273513.

    Args:
        similarity: How vectors are compared.
        temperature: Our scores are divided by it.
        teacher_temperature: The teacher's are; None: as ours.
    """

    def __init__(
        self, similarity: Similarity = 'dot', temperature: float = 1.0, teacher_temperature: float | None = None
    ) -> None:
        super().__init__(similarity)
        if not 0 < temperature < math.inf or not 0 < (teacher_temperature or 1.0) < math.inf:
            raise ValueError(f'temperatures are {temperature} and {teacher_temperature}; give numbers above 0')
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        ours, teachers, is_there = self.scores(views)
        if not ours.size(1):
            return ours.sum(dim=1)
        # Of an example without candidates this is NaN throughout, values and gradients, and both are replaced by 0.
        ours = (ours / self.temperature).masked_fill(~is_there, -math.inf).log_softmax(dim=1)
        teachers = (teachers / (self.teacher_temperature or self.temperature)).masked_fill(~is_there, -math.inf)
        gap = F.kl_div(ours.where(is_there, 0.0), teachers.softmax(dim=1), reduction='none').where(is_there, 0.0)
        return gap.sum(dim=1) * self.temperature**2


class ListMLE(_Scored):
    """Negative log-likelihood of the teacher's order of the candidates, best first; of equal scores the first counts as
    the better.

    Source: Xia et al. 2008, https://doi.org/10.1145/1390156.1390306, section 5.

    Args:
        similarity: How vectors are compared.
        temperature: Our scores are divided by it.
    """

    def __init__(self, similarity: Similarity = 'dot', temperature: float = 1.0) -> None:
        super().__init__(similarity)
        if not 0 < temperature < math.inf:
            raise ValueError(f'temperature is {temperature}; give a number above 0')
        self.temperature = temperature

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        ours, teachers, is_there = self.scores(views)
        order = teachers.masked_fill(~is_there, -math.inf).sort(dim=1, descending=True, stable=True).indices
        is_there = is_there.gather(1, order)
        ours = (ours / self.temperature).gather(1, order)
        # What is left to choose from at each place; missing candidates stand last and weigh nothing.
        lowest = torch.finfo(ours.dtype).min / 4
        left = ours.masked_fill(~is_there, lowest).flip(1).logcumsumexp(dim=1).flip(1)
        return (left - ours).where(is_there, 0.0).sum(dim=1)


class VectorDistillation(Objective):
    """Distance of each text's vector from a teacher's: mean squared error, length of the difference, or 1 - cosine.

    Source: Reimers and Gurevych 2020, https://arxiv.org/abs/2004.09813, eq. 1.

    Args:
        distance: How the two are compared.
        d_vector: The width of our vectors, where a linear layer takes them to the teacher's; None: widths are equal.
        d_teacher: The width of the teacher's.
    """

    needs: tuple[Need, ...] = ('teacher',)

    def __init__(
        self,
        distance: Literal['mse', 'euclidean', 'cosine'] = 'mse',
        d_vector: int | None = None,
        d_teacher: int | None = None,
    ) -> None:
        super().__init__()
        if (d_vector is None) != (d_teacher is None):
            raise ValueError('a linear layer has two widths; give both d_vector and d_teacher, or neither')
        self.distance = distance
        self.projection = None if d_vector is None or d_teacher is None else nn.Linear(d_vector, d_teacher)

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        assert views.teacher is not None, 'checked by `needs`'
        own = views.is_own(views.example).nonzero()[:, 0]
        ours = views.vectors[own]
        teachers = views.teacher[own].to(ours.dtype)
        if self.projection is not None:
            ours = self.projection(ours.to(self.projection.weight.dtype))
        if ours.size(-1) != teachers.size(-1):
            raise ValueError(
                f'our vectors have {ours.size(-1)} entries, those of the teacher {teachers.size(-1)}; set d_vector and '
                "d_teacher of VectorDistillation, or reduce the teacher's"
            )
        if self.distance == 'mse':
            each = (ours - teachers).square().mean(dim=-1)
        else:
            each = pair_distances(ours, teachers, 'euclidean' if self.distance == 'euclidean' else 'cosine')
        return share_out(each, views.example[own], views, len(views.example))
