"""The tasks, one per file: the network, its loss and its figures."""

from xlabml.engine import Task

from .classifier import Classifier
from .denoising_autoencoder import DenoisingAutoencoder
from .embedder import Embedder
from .joint_model import JointModel
from .masked_language_model import MaskedLanguageModel
from .static_embedder import StaticEmbedder
from .xlab_model import XLabModel

__all__ = [
    'DEFAULT',
    'Classifier',
    'DenoisingAutoencoder',
    'Embedder',
    'JointModel',
    'MaskedLanguageModel',
    'StaticEmbedder',
    'Task',
    'XLabModel',
]

DEFAULT = XLabModel
"""The default task."""
