"""Hidden states or embeddings, and targets -> sums, and the counts that they run over.

A loss of tokens gives sums and never means: only the caller knows how many targets the whole optimizer step counts. An
objective of embedders returns a loss for each example, for the same reason.
"""

from .caching import compute_anew, embed_in_chunks
from .classification import BinaryCrossEntropy, ClassCrossEntropy, ClassLoss, Distillation, Huber, SquaredError
from .cross_entropy import CrossEntropy, make_logits, nats_and_entropy
from .distillation import KLDistillation, ListMLE, MarginMSE, VectorDistillation
from .gathering import gather_views
from .info_nce import InfoNCE
from .late_interaction import LateInteraction, max_similarity
from .loss import Loss, LossSums
from .matryoshka import AdaptiveLayers, Matryoshka
from .objective import Objective
from .pair_labels import Contrastive, ContrastiveTension, OnlineContrastive, SoftmaxNLI
from .pair_scores import AnglE, CoSENT, CosineScore
from .triplets import BatchAllTriplet, BatchHardTriplet, MegaBatchMargin, SemiHardTriplet, SupCon, Triplet
from .views import Views, make_views

__all__ = [
    'AdaptiveLayers',
    'AnglE',
    'BatchAllTriplet',
    'BatchHardTriplet',
    'BinaryCrossEntropy',
    'ClassCrossEntropy',
    'ClassLoss',
    'CoSENT',
    'Contrastive',
    'ContrastiveTension',
    'CosineScore',
    'CrossEntropy',
    'Distillation',
    'Huber',
    'InfoNCE',
    'KLDistillation',
    'LateInteraction',
    'ListMLE',
    'Loss',
    'LossSums',
    'MarginMSE',
    'Matryoshka',
    'MegaBatchMargin',
    'Objective',
    'OnlineContrastive',
    'SemiHardTriplet',
    'SoftmaxNLI',
    'SquaredError',
    'SupCon',
    'Triplet',
    'VectorDistillation',
    'Views',
    'compute_anew',
    'embed_in_chunks',
    'gather_views',
    'make_logits',
    'make_views',
    'max_similarity',
    'nats_and_entropy',
]
