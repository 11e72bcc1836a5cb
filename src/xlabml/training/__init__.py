"""How weights move: schedules (step -> factor of the learning rate), optimizers, parameter groups."""

from .muon import Muon, orthogonalize
from .optimizers import AdamW, parameter_groups
from .schedules import (
    InverseSquareRoot,
    Schedule,
    ScheduledRate,
    Stepped,
    Trapezoid,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
    WarmupStableDecay,
)

__all__ = [
    'AdamW',
    'InverseSquareRoot',
    'Muon',
    'Schedule',
    'ScheduledRate',
    'Stepped',
    'Trapezoid',
    'WarmupConstant',
    'WarmupCosine',
    'WarmupLinear',
    'WarmupStableDecay',
    'orthogonalize',
    'parameter_groups',
]
