"""A checkpoint and texts, without Lightning: texts that continue them, their vectors, and search in these."""

from .embedder import TextEmbedder
from .generator import TextGenerator
from .nearest import Hits, find_nearest
from .quantization import Calibration

__all__ = ['Calibration', 'Hits', 'TextEmbedder', 'TextGenerator', 'find_nearest']
