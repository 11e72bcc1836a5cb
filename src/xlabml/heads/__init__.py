"""Networks that are trained: a trunk with what makes logits or vectors of its hidden states. nn.Modules, no Lightning.

A head that settings can build has a `build`, whose arguments are plain values and factories; `loading` builds it from a
checkpoint.
"""

from .calibration import Calibration
from .language_model import LanguageModel, language_model
from .pooling import (
    AttentionPooling,
    FirstPooling,
    LastPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    WeightedMeanPooling,
)
from .text_encoder import Dense, TextEncoder

__all__ = [
    'AttentionPooling',
    'Calibration',
    'Dense',
    'FirstPooling',
    'LanguageModel',
    'LastPooling',
    'MaxPooling',
    'MeanPooling',
    'Pooling',
    'TextEncoder',
    'WeightedMeanPooling',
    'language_model',
]
