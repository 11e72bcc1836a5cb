"""How weights move: schedules (step -> factor of the learning rate), optimizers, parameter groups."""

from .muon import Muon, orthogonalize
from .optimizers import AdamW, parameter_groups
from .schedules import (
    InverseSquareRoot,
    Schedule,
    ScheduledRate,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
)

__all__ = [
    'AdamW',
    'InverseSquareRoot',
    'Muon',
    'Schedule',
    'ScheduledRate',
    'WarmupConstant',
    'WarmupCosine',
    'WarmupLinear',
    'orthogonalize',
    'parameter_groups',
]
