"""Hidden states or embeddings, and targets -> sums, and the counts that they run over.

A loss gives sums and never means: only the caller knows how many targets the whole optimizer step counts.
"""

from .cross_entropy import CrossEntropy, make_logits
from .loss import Loss, LossSums

__all__ = ['CrossEntropy', 'Loss', 'LossSums', 'make_logits']
