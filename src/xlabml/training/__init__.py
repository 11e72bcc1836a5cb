"""Optimizers, schedules (step -> factor of the learning rate), parameter groups, clipping."""

from .clipping import AdaptiveClip
from .layer_rates import decay_rates, split_by_depth
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
    'AdaptiveClip',
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
    'decay_rates',
    'orthogonalize',
    'parameter_groups',
    'split_by_depth',
]
