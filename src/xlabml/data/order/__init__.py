"""Which row comes when: permutations, mixtures, skipped stretches, growing sizes: functions of a place alone."""

from .gaps import Gaps
from .mixture import Mixture, check_weights
from .permutation import mix, permute, shuffled
from .warmup import Doubling, count_doublings

__all__ = [
    'Doubling',
    'Gaps',
    'Mixture',
    'check_weights',
    'count_doublings',
    'mix',
    'permute',
    'shuffled',
]
