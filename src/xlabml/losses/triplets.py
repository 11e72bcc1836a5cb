"""Margins between what belongs to an anchor and what does not: given triplets, and those mined from classes."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xlabml.batches import IGNORED, NEGATIVE

from .objective import Need, Objective, share_out
from .similarity import Distance, distances, pair_distances, similarities
from .views import Views


class Triplet(Objective):
    """What the distance to the positive exceeds that to a negative by, plus a margin; the mean over the negatives.

    Source: Schroff et al. 2015 (FaceNet), https://arxiv.org/abs/1503.03832, eq. 2, with the distance not squared.

    Args:
        distance: How two texts are compared.
        margin: By how much the negative has to be farther. Cosine distances lie in 0..2, and so do Euclidean ones of
            unit vectors: a margin near 2 (sentence-transformers has 5) never lets a loss reach 0.
    """

    needs: tuple[Need, ...] = ('positive', 'negative')

    def __init__(self, distance: Distance = 'cosine', margin: float = 0.3) -> None:
        super().__init__()
        self.distance: Distance = distance
        self.margin = margin

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        anchors = views.anchors()[views.own]
        to_positive = pair_distances(views.vectors[anchors], views.vectors[views.positives()[views.own]], self.distance)
        table = views.candidates(NEGATIVE)[views.own]
        is_there = table >= 0
        negatives = views.vectors[table.clamp(min=0)]  # own k d
        to_negative = pair_distances(views.vectors[anchors][:, None].expand_as(negatives), negatives, self.distance)
        losses = (to_positive[:, None] - to_negative + self.margin).clamp(min=0).where(is_there, 0.0)
        return losses.sum(dim=1) / is_there.sum(dim=1).clamp(min=1)


class ClassTriplets(Objective):
    """The base of objectives that find triplets among texts of classes; all texts of an example are of its class.

    Texts without a class (batches.IGNORED) are left out. A text counts that has both another text of its class and one
    of another class: a step wants P classes of K texts each (`PerClass`).
    """

    needs: tuple[Need, ...] = ('label',)

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        assert views.label is not None, 'checked by `needs`'
        label = views.label[views.example]
        is_known = (label[:, None] != IGNORED) & (label[None, :] != IGNORED)
        is_same = label[:, None] == label[None, :]
        is_other = ~torch.eye(len(label), dtype=torch.bool, device=label.device)
        return self.of_classes(views, is_same & is_other & is_known, ~is_same & is_known)

    @abstractmethod
    def of_classes(
        self, views: Views, is_positive: Bool[Tensor, 's s'], is_negative: Bool[Tensor, 's s']
    ) -> Float[Tensor, ' own']:
        """The loss of each own example.

        Args:
            is_positive: Where two different texts are of one class.
            is_negative: Where they are of two.
        """


class BatchAllTriplet(ClassTriplets):
    """The mean over all triplets of a step that violate the margin; their number grows with the cube of the texts.

    Source: Hermans et al. 2017, https://arxiv.org/abs/1703.07737, section 2, "batch all ≠ 0".

    Args:
        distance: How two texts are compared.
        margin: By how much a text of another class has to be farther.
    """

    def __init__(self, distance: Distance = 'cosine', margin: float = 0.3) -> None:
        super().__init__()
        self.distance: Distance = distance
        self.margin = margin

    def of_classes(
        self, views: Views, is_positive: Bool[Tensor, 's s'], is_negative: Bool[Tensor, 's s']
    ) -> Float[Tensor, ' own']:
        distance = distances(views.vectors, views.vectors, self.distance)
        anchor, positive = is_positive.nonzero(as_tuple=True)
        excess = distance[anchor, positive][:, None] - distance[anchor] + self.margin  # pairs s
        violates = is_negative[anchor] & (excess > _LEAST_EXCESS)
        each = excess.where(violates, 0.0).sum(dim=1)
        return share_out(each, views.example[anchor], views, violates.sum())


_LEAST_EXCESS = 1e-16
"""A triplet that violates the margin by less does not count, as in sentence-transformers."""


class BatchHardTriplet(ClassTriplets):
    """Each text with the farthest text of its class and the nearest one of another.

    Source: Hermans et al. 2017, https://arxiv.org/abs/1703.07737, eq. 5 and 6.

    Args:
        distance: How two texts are compared.
        margin: By how much a text of another class has to be farther; None: a soft margin, log(1 + exp(excess)).
    """

    def __init__(self, distance: Distance = 'cosine', margin: float | None = 0.3) -> None:
        super().__init__()
        self.distance: Distance = distance
        self.margin = margin

    def of_classes(
        self, views: Views, is_positive: Bool[Tensor, 's s'], is_negative: Bool[Tensor, 's s']
    ) -> Float[Tensor, ' own']:
        rows = _counted(views, is_positive, is_negative)
        distance = distances(views.vectors[rows], views.vectors, self.distance)
        farthest = distance.masked_fill(~is_positive[rows], -math.inf).amax(dim=1)
        nearest = distance.masked_fill(~is_negative[rows], math.inf).amin(dim=1)
        excess = farthest - nearest
        each = F.softplus(excess) if self.margin is None else (excess + self.margin).clamp(min=0)
        count = (is_positive.any(dim=1) & is_negative.any(dim=1)).sum()
        return share_out(each, views.example[rows], views, count)


class SemiHardTriplet(ClassTriplets):
    """Each pair of one class with the nearest text of another class that is farther than the positive; where there is
    none, with the farthest.

    Source: Schroff et al. 2015 (FaceNet), https://arxiv.org/abs/1503.03832, section 3.2.

    Args:
        distance: How two texts are compared.
        margin: By how much a text of another class has to be farther.
    """

    def __init__(self, distance: Distance = 'cosine', margin: float = 0.3) -> None:
        super().__init__()
        self.distance: Distance = distance
        self.margin = margin

    def of_classes(
        self, views: Views, is_positive: Bool[Tensor, 's s'], is_negative: Bool[Tensor, 's s']
    ) -> Float[Tensor, ' own']:
        rows = _counted(views, is_positive, is_negative)
        distance = distances(views.vectors[rows], views.vectors, self.distance)
        ordered, _ = distance.masked_fill(~is_negative[rows], math.inf).sort(dim=1)
        values = distance.detach().contiguous()
        place = torch.searchsorted(ordered.detach().contiguous(), values, right=True).clamp(max=ordered.size(1) - 1)
        outside = ordered.gather(1, place)
        farthest = distance.masked_fill(~is_negative[rows], -math.inf).amax(dim=1, keepdim=True)
        chosen = torch.where(outside.isfinite() & (outside > values), outside, farthest)
        excess = (distance - chosen + self.margin).clamp(min=0).where(is_positive[rows], 0.0)
        count = is_positive[is_negative.any(dim=1)].sum()
        return share_out(excess.sum(dim=1), views.example[rows], views, count)


class SupCon(ClassTriplets):
    """Cross-entropy of the texts of the same class among all others, the mean of the logarithms.

    Source: Khosla et al. 2020, https://arxiv.org/abs/2004.11362, eq. 2.

    Args:
        temperature: Cosines are divided by it.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f'temperature is {temperature}; give a number above 0')
        self.temperature = temperature

    def of_classes(
        self, views: Views, is_positive: Bool[Tensor, 's s'], is_negative: Bool[Tensor, 's s']
    ) -> Float[Tensor, ' own']:
        rows = _counted(views, is_positive, is_negative)
        logits = similarities(views.vectors[rows], views.vectors) / self.temperature
        is_other = (is_positive | is_negative)[rows]
        log_prob = logits - logits.masked_fill(~is_other, -math.inf).logsumexp(dim=1, keepdim=True)
        n_positive = is_positive[rows].sum(dim=1)
        each = -log_prob.where(is_positive[rows], 0.0).sum(dim=1) / n_positive
        count = (is_positive.any(dim=1) & is_negative.any(dim=1)).sum()
        return share_out(each, views.example[rows], views, count)


def _counted(views: Views, is_positive: Bool[Tensor, 's s'], is_negative: Bool[Tensor, 's s']) -> Int[Tensor, ' rows']:
    """The texts of own examples that have a positive and a negative."""
    has_both = is_positive.any(dim=1) & is_negative.any(dim=1)
    return (has_both & views.is_own(views.example)).nonzero()[:, 0]


class MegaBatchMargin(Objective):
    """Positives more similar than one margin, the hardest negative of a large step less similar than another.

    The hardest negative is the most similar positive of another example, unless their texts are equal.

    Source: Wieting and Gimpel 2018, https://aclanthology.org/P18-1042, section 4; batches of 500 and more.

    Args:
        positive_margin: Up to which cosine a positive costs.
        negative_margin: From which cosine on a negative costs.
    """

    needs: tuple[Need, ...] = ('positive',)

    def __init__(self, positive_margin: float = 0.8, negative_margin: float = 0.3) -> None:
        super().__init__()
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        positives = views.positives()
        own = positives[views.own]
        cosine = similarities(views.vectors[views.anchors()[views.own]], views.vectors[positives])  # own e
        is_pair = own[:, None] == positives
        is_same = is_pair
        if views.text_hash is not None:
            is_same = is_pair | (views.text_hash[own][:, None] == views.text_hash[positives])
        positive = cosine.where(is_pair, 0.0).sum(dim=1)
        hardest = cosine.masked_fill(is_same, -math.inf).amax(dim=1) if len(positives) else positive
        return (self.positive_margin - positive).clamp(min=0) + (hardest - self.negative_margin).clamp(min=0)
