"""Several formats in one run: rows and groups of the same or of other documents, each step of one format, by weight."""

from .examples import MixedExamples
from .formats import FormatMixture
from .passes import StepMixture

__all__ = ['FormatMixture', 'MixedExamples', 'StepMixture']
