"""Which row comes when: permutations, mixtures, skipped stretches, growing sizes: functions of a place alone."""

from .gaps import Gaps
from .keys import EVALUATION, example_keys, slot_keys, uniform
from .mixture import Mixture, check_weights
from .permutation import mix, permute, scramble, shuffled
from .places import START, Place, Places, Stretch
from .warmup import Doubling, count_doublings

__all__ = [
    'EVALUATION',
    'START',
    'Doubling',
    'Gaps',
    'Mixture',
    'Place',
    'Places',
    'Stretch',
    'check_weights',
    'count_doublings',
    'example_keys',
    'mix',
    'permute',
    'scramble',
    'shuffled',
    'slot_keys',
    'uniform',
]
