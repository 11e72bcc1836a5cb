"""Which row comes when: permutations, mixtures, skipped stretches: functions of a place alone."""

from .gaps import Gaps
from .keys import EVALUATION, example_keys, slot_keys, uniform
from .mixture import Interleaving, Mixture, check_weights
from .permutation import mix, permute, scramble, shuffled
from .places import START, Place, Places, Stretch

__all__ = [
    'EVALUATION',
    'START',
    'Gaps',
    'Interleaving',
    'Mixture',
    'Place',
    'Places',
    'Stretch',
    'check_weights',
    'example_keys',
    'mix',
    'permute',
    'scramble',
    'shuffled',
    'slot_keys',
    'uniform',
]
