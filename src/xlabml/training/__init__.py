"""How weights move: schedules (step -> factor of the learning rate), optimizers, parameter groups."""

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
    'Schedule',
    'ScheduledRate',
    'WarmupConstant',
    'WarmupCosine',
    'WarmupLinear',
    'parameter_groups',
]
