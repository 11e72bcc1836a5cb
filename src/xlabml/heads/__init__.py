"""Heads: a trunk with layers that turn its hidden states into logits or vectors. nn.Modules, no Lightning.

A head that settings can build has a method `build`, whose arguments are plain values and factories; `loading` builds it
from a checkpoint.
"""

from .blend import LinearBlend
from .calibration import Calibration
from .classifier import CumulativeLink, Head, LinearHead, MLPHead, PairHead, SequenceClassifier
from .joint import JointModel
from .language_model import LanguageModel, language_model
from .late_interaction import TokenVectors
from .pooling import (
    AttentionPooling,
    FirstPooling,
    LastPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    WeightedMeanPooling,
)
from .preference import (
    PREFERENCES,
    CrossPreferenceModel,
    Davidson,
    PreferenceModel,
    PreferenceNetwork,
    RaoKupper,
    Ties,
)
from .static_encoder import StaticEncoder
from .text_encoder import Dense, TextEncoder
from .text_vectors import TextVectors

__all__ = [
    'PREFERENCES',
    'AttentionPooling',
    'Calibration',
    'CrossPreferenceModel',
    'CumulativeLink',
    'Davidson',
    'Dense',
    'FirstPooling',
    'Head',
    'JointModel',
    'LanguageModel',
    'LastPooling',
    'LinearBlend',
    'LinearHead',
    'MLPHead',
    'MaxPooling',
    'MeanPooling',
    'PairHead',
    'Pooling',
    'PreferenceModel',
    'PreferenceNetwork',
    'RaoKupper',
    'SequenceClassifier',
    'StaticEncoder',
    'TextEncoder',
    'TextVectors',
    'Ties',
    'TokenVectors',
    'WeightedMeanPooling',
    'language_model',
]
