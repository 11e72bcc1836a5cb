"""Wrappers that ask more of the vectors: their prefixes, and those of earlier layers, are trained too."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .info_nce import InfoNCE
from .objective import Need, Objective, share_out
from .similarity import normalize
from .views import Views


class Matryoshka(Objective):
    """An objective of the first dimensions of the vectors, for several widths at once.

    Each prefix is normalized again: at the length that cutting leaves it, it would be no unit vector. Teacher vectors
    as wide as the vectors are cut and normalized with them.

    Source: Kusupati et al. 2022, https://arxiv.org/abs/2205.13147.

    Args:
        objective: Makes the objective of each width.
        dims: The widths; the whole width should be among them, or nothing trains the last entries.
        weights: What the loss of each width counts; None: 1 each. They are not normalized.
    """

    def __init__(
        self,
        objective: Callable[[], Objective] = InfoNCE,
        dims: Sequence[int] = (256, 128, 64, 32),
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not dims or min(dims) < 1 or len(set(dims)) < len(dims):
            raise ValueError(f'dims are {list(dims)}; give different widths of 1 or more')
        if weights is not None and (len(weights) != len(dims) or min(weights) < 0):
            raise ValueError(f'weights are {list(weights)}; give one of 0 or more for each of the {len(dims)} dims')
        self.objective = objective()
        self.dims = tuple(dims)
        self.weights = (1.0,) * len(dims) if weights is None else tuple(weights)
        self.needs = self.objective.needs

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        width = views.vectors.size(-1)
        if max(self.dims) > width:
            raise ValueError(f'dims are {list(self.dims)}, but the vectors have {width} entries; name no more')
        total = views.vectors.new_zeros(views.n_own)
        for dim, weight in zip(self.dims, self.weights):
            teacher = views.teacher
            if teacher is not None and teacher.size(-1) == width:
                teacher = normalize(teacher[:, :dim]) if dim < width else teacher
            layers = views.layers
            cut = views._replace(
                vectors=normalize(views.vectors[:, :dim]),
                teacher=teacher,
                layers=None if layers is None else normalize(layers[..., :dim]),
            )
            total = total + weight * self.objective.losses(cut)
        return total


class AdaptiveLayers(Objective):
    """An objective of the last layer and of earlier ones, which also learn the last one's vectors.

    `AdaptiveLayers` of a `Matryoshka` trains any depth at any width (2D Matryoshka).

    Source: Li et al. 2024, https://arxiv.org/abs/2402.14776, section 3.

    Args:
        objective: Makes the objective of each layer.
        last_weight: What the loss of the last layer counts.
        earlier_weight: What the mean of the earlier layers' losses counts.
        layer_weights: The weight of each earlier layer in that mean, first layer first; None: 1 each.
        distill_weight: What the divergence of an earlier layer's vectors from the last one's counts, both as
            distributions over their entries; only the earlier layer learns by it.
        distill_temperature: Entries are divided by it before the softmax.
    """

    def __init__(
        self,
        objective: Callable[[], Objective] = InfoNCE,
        last_weight: float = 1.0,
        earlier_weight: float = 1.0,
        layer_weights: Sequence[float] | None = None,
        distill_weight: float = 1.0,
        distill_temperature: float = 0.3,
    ) -> None:
        super().__init__()
        if not distill_temperature > 0:
            raise ValueError(f'distill_temperature is {distill_temperature}; give a number above 0')
        self.objective = objective()
        self.last_weight = last_weight
        self.earlier_weight = earlier_weight
        self.layer_weights = layer_weights
        self.distill_weight = distill_weight
        self.distill_temperature = distill_temperature
        needs: tuple[Need, ...] = (*self.objective.needs, 'layers')
        self.needs = needs

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        layers = views.layers
        assert layers is not None, 'checked by `needs`'
        weights = self.layer_weights or [1.0] * len(layers)
        if len(weights) != len(layers):
            raise ValueError(f'layer_weights has {len(weights)} numbers, but there are {len(layers)} earlier layers')
        plain = views._replace(layers=None)
        total = self.last_weight * self.objective.losses(plain)
        for vectors, weight in zip(layers, weights):
            loss = self.objective.losses(plain._replace(vectors=vectors))
            total = total + loss * (weight * self.earlier_weight / len(layers))
            total = total + self.distill_weight * self.distill_temperature * self._divergence(views, vectors)
        return total

    def _divergence(self, views: Views, vectors: Float[Tensor, 's d']) -> Float[Tensor, ' own']:
        """The divergence of each example's texts, shared out so that its mean over examples is that over texts."""
        target = F.log_softmax(views.vectors.detach() / self.distill_temperature, dim=-1)
        found = F.log_softmax(vectors / self.distill_temperature, dim=-1)
        each = F.kl_div(found, target, reduction='none', log_target=True).sum(dim=-1)  # s
        return share_out(each, views.example, views, each.numel())
