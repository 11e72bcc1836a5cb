"""One task a file: what is trained, and how its loss and figures come about."""

from xlabml.engine import Task

from .classifier import Classifier
from .embedder import Embedder, EmbedderOutputs
from .masked_language_model import MaskedLanguageModel
from .xlab_model import XLabModel

__all__ = ['DEFAULT', 'Classifier', 'Embedder', 'EmbedderOutputs', 'MaskedLanguageModel', 'Task', 'XLabModel']

DEFAULT = XLabModel
"""The task of a run that names none."""
