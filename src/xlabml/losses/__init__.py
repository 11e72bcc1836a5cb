"""Hidden states or embeddings, and targets -> sums, and the counts that they run over.

A loss of tokens gives sums and never means: only the caller knows how many targets the whole optimizer step counts. An
objective of embedders returns a loss for each example, for the same reason.
"""

from .cross_entropy import CrossEntropy, make_logits
from .info_nce import InfoNCE
from .loss import Loss, LossSums
from .objective import Objective
from .views import Views, make_views

__all__ = ['CrossEntropy', 'InfoNCE', 'Loss', 'LossSums', 'Objective', 'Views', 'make_logits', 'make_views']
