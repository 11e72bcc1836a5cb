"""InfoNCE: each anchor against its positive and the other texts of a step, in four directions."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml.batches import ANCHOR, NEGATIVE, POSITIVE

from .objective import Need, Objective, mean_by_example
from .similarity import Similarity, normalize
from .views import Views

Direction: TypeAlias = Literal['q2d', 'd2q', 'q2q', 'd2d']

_LEAST_TEMPERATURE = 0.01
"""A learned temperature stops here, as CLIP's does: https://arxiv.org/abs/2103.00020, section 2.5."""


class InfoNCE(Objective):
    """Cross-entropy of the positive among the candidates of a step: the loss of multiple negatives ranking.

    Each positive is a row: its score against the anchor, and candidates by direction. q2d: every positive and negative
    of the step against the anchor (needed: it has the positive); d2q: every anchor against the positive; q2q: the other
    anchors against the anchor; d2d: the texts of other examples against the positive. Without `symmetric` one softmax
    runs over the candidates of all directions (GTE); with it each direction has its own, and the mean counts.
    An example with several positives has the mean of their rows, and none is a negative of another.

    Never a negative: a text that equals the anchor or the positive, and the positive of an example whose anchor equals
    this one.

    Sources: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; directions: Li et al. 2023 (GTE),
    https://arxiv.org/abs/2308.03281, eq. 2; symmetric: Günther et al. 2023 (Jina 2), https://arxiv.org/abs/2310.19923;
    guide: Solatorio 2024 (GISTEmbed), https://arxiv.org/abs/2402.16829; hardness: Lan et al. 2025 (LLaVE),
    https://arxiv.org/abs/2503.04812.

    Args:
        temperature: Similarities are divided by it.
        learn_temperature: Whether it is a weight that the optimizer moves (its log is); it never falls below 0.01.
        similarity: How vectors are compared.
        directions: What the candidates are; q2d is always among them.
        symmetric: A softmax for each direction. Only q2d and d2q hold the positive, so only they may be named.
        hardness: Which negatives of q2d weigh more, the more similar they are: those of other examples, the example's
            own, or both.
        hardness_strength: Their similarity times this is added to their score; 0: none weighs more.
        guide_margin: A candidate whose similarity, to the guide, is above that of the positive minus this is left out
            as a likely false negative. Without guide vectors the vectors trained are their own guide. None: no filter.
        guide_relative: Whether the margin is a share of the positive's similarity.
        mask_duplicates: Whether equal texts are left out of the negatives.
    """

    needs: tuple[Need, ...] = ('positive',)

    def __init__(
        self,
        temperature: float = 0.05,
        learn_temperature: bool = False,
        similarity: Similarity = 'cosine',
        directions: Sequence[Direction] = ('q2d',),
        symmetric: bool = False,
        hardness: Literal['in_batch', 'own', 'all'] = 'in_batch',
        hardness_strength: float = 0.0,
        guide_margin: float | None = None,
        guide_relative: bool = False,
        mask_duplicates: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f'temperature is {temperature}; give a number above 0')
        if learn_temperature and temperature < _LEAST_TEMPERATURE:
            raise ValueError(f'a temperature that is learned never falls below {_LEAST_TEMPERATURE}; start it there')
        if 'q2d' not in directions or not set(directions) <= {'q2d', 'd2q', 'q2q', 'd2d'}:
            raise ValueError(f'directions are {list(directions)}; name q2d, and any of d2q, q2q and d2d')
        if len(set(directions)) < len(directions):
            raise ValueError(f'directions are {list(directions)}; name each once')
        if symmetric and set(directions) & {'q2q', 'd2d'}:
            raise ValueError('symmetric gives each direction a softmax, but q2q and d2d do not hold the positive')
        if not 0 <= hardness_strength < math.inf:
            raise ValueError(f'hardness_strength is {hardness_strength}; give 0 or more')
        self.temperature = temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None
        self.similarity: Similarity = similarity
        self.directions = tuple(directions)
        self.symmetric = symmetric
        self.hardness = hardness
        self.hardness_strength = hardness_strength
        self.guide_margin = guide_margin
        self.guide_relative = guide_relative
        self.mask_duplicates = mask_duplicates

    @property
    def scale(self) -> Tensor | float:
        """What similarities are multiplied by, 1 / temperature."""
        if self.log_scale is None:
            return 1 / self.temperature
        most = -math.log(_LEAST_TEMPERATURE)
        # The gradient passes the bound, or a weight beyond it could never come back.
        return (self.log_scale - (self.log_scale.detach() - most).clamp(min=0)).exp()

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        vectors = normalize(views.vectors) if self.similarity == 'cosine' else views.vectors
        guide = normalize(views.vectors.detach() if views.guide is None else views.guide)
        anchors = views.anchors()
        documents = (views.role != ANCHOR).nonzero()[:, 0]
        positives = ((views.role == POSITIVE) & views.is_own(views.example)).nonzero()[:, 0]  # r: a row each
        example = views.example[positives]
        queries = anchors[example]
        score = self.compare_pairs(vectors[queries], vectors[positives]) * self.scale
        guide_score = (guide[queries] * guide[positives]).sum(dim=-1, keepdim=True)
        is_same = self._is_same(views, queries, positives, anchors)
        logits = []
        for direction in self.directions:
            compared = queries if direction.startswith('q') else positives
            candidates = documents if direction.endswith('d') else anchors
            similarity = self.compare(vectors[compared], vectors[candidates])  # r c
            in_example = views.example[candidates] == example[:, None]
            is_own_negative = in_example & (views.role[candidates] >= NEGATIVE) & (direction == 'q2d')
            is_negative = (~in_example | is_own_negative) & ~is_same[:, candidates]
            if self.guide_margin is not None:
                is_negative &= guide[compared] @ guide[candidates].mT <= self._threshold(guide_score)
            is_pair = candidates == (positives if direction == 'q2d' else queries)[:, None]
            is_pair &= direction in ('q2d', 'd2q')
            scaled = similarity * self.scale
            if direction == 'q2d' and self.hardness_strength:
                is_weighted = {'in_batch': ~in_example, 'own': is_own_negative, 'all': ~in_example | is_own_negative}
                scaled = scaled + self.hardness_strength * similarity.detach() * is_weighted[self.hardness]
            logits.append(scaled.masked_fill(~(is_negative | is_pair), -math.inf))
        if self.symmetric:
            normalizer = torch.stack([some.logsumexp(dim=1) for some in logits]).mean(dim=0)
        else:
            normalizer = torch.cat(logits, dim=1).logsumexp(dim=1)
        return mean_by_example(normalizer - score, example, views)

    def compare(self, x: Float[Tensor, 'i d'], y: Float[Tensor, 'j d']) -> Float[Tensor, 'i j']:
        """The similarity of each x and each y, which are normalized where cosines are compared."""
        return x @ y.mT

    def compare_pairs(self, x: Float[Tensor, 'i d'], y: Float[Tensor, 'i d']) -> Float[Tensor, ' i']:
        """The similarity of each x and the y in its place."""
        return (x * y).sum(dim=-1)

    def _is_same(
        self, views: Views, queries: Int[Tensor, ' r'], positives: Int[Tensor, ' r'], anchors: Int[Tensor, ' e']
    ) -> Bool[Tensor, 'r s']:
        """Which texts are no negatives of a row, since they equal its texts, or answer an equal anchor."""
        text_hash = views.text_hash
        if text_hash is None or not self.mask_duplicates:
            return torch.zeros(len(positives), len(views.role), dtype=torch.bool, device=views.role.device)
        query = text_hash[queries][:, None]
        answers_equal = (text_hash[anchors][views.example] == query) & (views.role == POSITIVE)
        return (text_hash == query) | (text_hash == text_hash[positives][:, None]) | answers_equal

    def _threshold(self, guide_score: Float[Tensor, 'r 1']) -> Float[Tensor, 'r 1']:
        margin = self.guide_margin or 0.0
        return guide_score - (guide_score.abs() * margin if self.guide_relative else margin)
