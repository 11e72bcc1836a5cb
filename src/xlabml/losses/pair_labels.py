"""Objectives of pairs with a label: 1 and 0 for pairs that belong together or do not, or the class of a pair."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .objective import Need, Objective
from .similarity import Distance, pair_distances
from .views import Views


class _Labelled(Objective):
    """Pairs of label 1 or 0."""

    needs: tuple[Need, ...] = ('positive', 'label')

    def check(self, views: Views) -> None:
        super().check(views)
        _check_labels(self, views, 2)

    def parts(self, views: Views) -> tuple[Float[Tensor, 'e d'], Float[Tensor, 'e d'], Bool[Tensor, ' e']]:
        """The vectors of both texts, and whether they belong together."""
        assert views.label is not None, 'checked by `needs`'
        return views.vectors[views.anchors()], views.vectors[views.positives()], views.label == 1


class Contrastive(_Labelled):
    """Half the squared distance of a pair that belongs together, and of any other half the square of what its distance
    lacks of a margin.

    Source: Hadsell et al. 2006, https://doi.org/10.1109/CVPR.2006.100, eq. 4.

    Args:
        distance: How two texts are compared.
        margin: The distance from which on a pair that does not belong together costs nothing.
    """

    def __init__(self, distance: Distance = 'cosine', margin: float = 0.5) -> None:
        super().__init__()
        self.distance: Distance = distance
        self.margin = margin

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        a, b, is_positive = self.parts(views)
        distance = pair_distances(a, b, self.distance)
        lacking = (self.margin - distance).clamp(min=0)
        return (0.5 * torch.where(is_positive, distance, lacking).square())[views.own]


class OnlineContrastive(_Labelled):
    """The contrastive loss, without the half, of the hard pairs of a step: those that belong together but are farther
    apart than the nearest that do not, and those that do not but are nearer than the farthest that do.

    Where a step has pairs of one label only, those on the wrong side of their mean are the hard ones. A step's loss is
    the mean over all its pairs, hard or not (sentence-transformers has their sum).

    Source: sentence-transformers, OnlineContrastiveLoss.

    Args:
        distance: How two texts are compared.
        margin: The distance from which on a pair that does not belong together costs nothing.
    """

    def __init__(self, distance: Distance = 'cosine', margin: float = 0.5) -> None:
        super().__init__()
        self.distance: Distance = distance
        self.margin = margin

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        a, b, is_positive = self.parts(views)
        distance = pair_distances(a, b, self.distance)
        values = distance.detach()
        together = values[is_positive]
        apart = values[~is_positive]
        if not values.numel():
            return distance[views.own]
        nearest_apart = apart.min() if apart.numel() else together.mean()
        farthest_together = together.max() if together.numel() else apart.mean()
        is_hard = torch.where(is_positive, values > nearest_apart, values < farthest_together)
        lacking = (self.margin - distance).clamp(min=0)
        return torch.where(is_hard, torch.where(is_positive, distance, lacking).square(), 0.0)[views.own]


class ContrastiveTension(_Labelled):
    """Binary cross-entropy of the dot product of a pair: 1 for a text with itself, 0 for two texts.

    In the source two copies of a network, which part as they learn, each make one side of the pair; where there is one,
    dropout makes the two vectors of a text differ. Its variant with in-batch negatives is InfoNCE, symmetric and with a
    learned temperature. A step's loss is the mean over its pairs (the source's is their sum).

    Source: Carlsson et al. 2021, https://openreview.net/forum?id=Ov_sMNau-PF, eq. 1.
    """

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        a, b, is_positive = self.parts(views)
        logits = (a * b).sum(dim=-1)
        target = is_positive.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, reduction='none')[views.own]


class SoftmaxNLI(Objective):
    """Cross-entropy of the class of a pair (entailment, neutral, contradiction …), by a linear layer over a, b and
    |a - b|; the layer is thrown away after training.

    Source: Reimers and Gurevych 2019 (Sentence-BERT), https://arxiv.org/abs/1908.10084, section 3.

    Args:
        d_vector: The width of the vectors.
        n_classes: How many classes there are.
        with_vectors: Whether a and b are features.
        with_difference: Whether |a - b| is.
        with_product: Whether a · b, entry by entry, is.
    """

    needs: tuple[Need, ...] = ('positive', 'label')

    def __init__(
        self,
        d_vector: int,
        n_classes: int = 3,
        with_vectors: bool = True,
        with_difference: bool = True,
        with_product: bool = False,
    ) -> None:
        super().__init__()
        n_parts = 2 * with_vectors + with_difference + with_product
        if not n_parts:
            raise ValueError('SoftmaxNLI has no features; set with_vectors, with_difference or with_product')
        if n_classes < 2:
            raise ValueError(f'n_classes is {n_classes}; a class has to be told from another')
        self.with_vectors = with_vectors
        self.with_difference = with_difference
        self.with_product = with_product
        self.n_classes = n_classes
        self.classifier = nn.Linear(n_parts * d_vector, n_classes)

    def check(self, views: Views) -> None:
        super().check(views)
        _check_labels(self, views, self.n_classes)

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        assert views.label is not None, 'checked by `needs`'
        a = views.vectors[views.anchors()[views.own]]
        b = views.vectors[views.positives()[views.own]]
        features = [a, b] if self.with_vectors else []
        if self.with_difference:
            features.append((a - b).abs())
        if self.with_product:
            features.append(a * b)
        logits = self.classifier(torch.cat(features, dim=-1).to(self.classifier.weight.dtype))
        return F.cross_entropy(logits, views.label[views.own], reduction='none')


def _check_labels(objective: Objective, views: Views, n_classes: int) -> None:
    label = views.label
    if label is None or label.device.type != 'cpu':
        return
    wrong = (label < 0) | (label >= n_classes)
    if bool(wrong.any()):
        raise ValueError(
            f'a pair has the label {int(label[wrong][0])}, but {type(objective).__name__} takes '
            f'{"1 (they belong together) and 0" if n_classes == 2 else f"classes 0 to {n_classes - 1}"}; '
            'check the column of the role `label`'
        )
