"""Heads: networks of a trunk and a layer that turns its hidden states into logits. nn.Modules, no Lightning.

A head that settings can build has a method `build`, whose arguments are plain values and factories; `loading` builds it
from a checkpoint.
"""

from .language_model import LanguageModel, language_model

__all__ = ['LanguageModel', 'language_model']
