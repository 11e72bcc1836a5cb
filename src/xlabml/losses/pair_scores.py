"""Objectives of pairs with a score: how similar people, or a teacher, hold two texts to be."""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from .objective import Need, Objective
from .similarity import normalize, pair_similarities
from .views import Views


class CosineScore(Objective):
    """Mean squared error of the cosine of a pair against its score.

    Source: Reimers and Gurevych 2019 (Sentence-BERT), https://arxiv.org/abs/1908.10084, section 3.
    """

    needs: tuple[Need, ...] = ('positive', 'score')

    def check(self, views: Views) -> None:
        super().check(views)
        score = views.score
        if score is not None and score.device.type == 'cpu':
            wrong = score[views.positives()].abs() > 1
            if bool(wrong.any()):
                value = float(score[views.positives()][wrong][0])
                raise ValueError(
                    f'a pair has the score {value:g}, but a cosine lies in -1..1; scale the column (scores from 0 to 5 '
                    'are divided by 5), or take CoSENT, which reads their order only'
                )

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        positives = views.positives()
        score = views.score
        assert score is not None, 'checked by `needs`'
        similarity = pair_similarities(views.vectors[views.anchors()], views.vectors[positives])
        return (similarity - score[positives]).square()[views.own]


class RankedPairs(Objective):
    """The base of CoSENT and AnglE: pairs are to be as similar as their scores rank them.

    log(1 + Σ exp((s(j) - s(i)) / temperature)) over all pairs of pairs of the step of which i has the higher score.

    Args:
        temperature: Similarities are divided by it.
    """

    needs: tuple[Need, ...] = ('positive', 'score')

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f'temperature is {temperature}; give a number above 0')
        self.temperature = temperature

    @abstractmethod
    def similarity(self, a: Float[Tensor, 'e d'], b: Float[Tensor, 'e d']) -> Float[Tensor, ' e']:
        """The similarity of each pair."""

    def losses(self, views: Views) -> Float[Tensor, ' own']:
        positives = views.positives()
        score = views.score
        assert score is not None, 'checked by `needs`'
        ranking = score[positives]
        similarity = self.similarity(views.vectors[views.anchors()], views.vectors[positives]) / self.temperature
        gap = (similarity[None, :] - similarity[:, None]).masked_fill(ranking[:, None] <= ranking[None, :], -math.inf)
        loss = torch.cat([gap.flatten(), gap.new_zeros(1)]).logsumexp(dim=0)
        return loss.expand(views.n_own)  # it is the step's, not an example's


class CoSENT(RankedPairs):
    """Cosines of pairs ranked as their scores are.

    Source: Su 2022, https://kexue.fm/archives/8847; Huang et al. 2024, https://doi.org/10.1109/TASLP.2024.3402087.

    Args:
        temperature: Similarities are divided by it.
    """

    def similarity(self, a: Float[Tensor, 'e d'], b: Float[Tensor, 'e d']) -> Float[Tensor, ' e']:
        return pair_similarities(a, b)


class AnglE(RankedPairs):
    """Angles of pairs in complex space ranked as their scores are: no saturation where cosines are near 1 or -1.

    Entries i and i + d / 2 are the parts of a complex number (an odd width gets a zero): |cosine + sine| of the
    normalized vectors, as sentence-transformers has it.

    Source: Li and Li 2024, https://arxiv.org/abs/2309.12871, eq. 6 to 9.

    Args:
        temperature: Similarities are divided by it.
    """

    def similarity(self, a: Float[Tensor, 'e d'], b: Float[Tensor, 'e d']) -> Float[Tensor, ' e']:
        if a.size(-1) % 2:
            a = torch.nn.functional.pad(a, (0, 1))
            b = torch.nn.functional.pad(b, (0, 1))
        a_real, a_imaginary = normalize(a).chunk(2, dim=-1)
        b_real, b_imaginary = normalize(b).chunk(2, dim=-1)
        cosine = (a_real * b_real + a_imaginary * b_imaginary).sum(dim=-1)
        sine = (a_imaginary * b_real - a_real * b_imaginary).sum(dim=-1)
        return (cosine + sine).abs()
