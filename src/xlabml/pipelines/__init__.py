"""A checkpoint and texts, without Lightning: texts that continue them, vectors, classes, and search in vectors."""

from .classifier import Prediction, TextClassifier
from .embedder import TextEmbedder
from .generator import TextGenerator
from .metadata_ranker import MetadataRanker
from .nearest import Hits, find_nearest
from .quantization import Calibration
from .reward import RewardModel

__all__ = [
    'Calibration',
    'Hits',
    'MetadataRanker',
    'Prediction',
    'RewardModel',
    'TextClassifier',
    'TextEmbedder',
    'TextGenerator',
    'find_nearest',
]
