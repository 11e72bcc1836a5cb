"""Callbacks: checkpoints, curves, progress, sampled text, predictions, guards, interruptions, compiling."""

from .advice import skip_argument
from .checkpointing import Checkpoints
from .class_report import ClassReport
from .collapse import Collapse
from .compiling import Compiling
from .curves import Curves
from .garbage import Garbage
from .heap import Heap, keep_freed_memory
from .metadata_table import MetadataTable
from .nonfinite import NonFinite
from .notebook import Notebook
from .overfitting import Overfitting
from .predictions import Predictions
from .progress import Progress
from .samples import SampledText
from .search_table import SearchTable
from .spikes import Spikes
from .stopping import Stopping
from .summary import Summary, attention_lines

__all__ = [
    'Checkpoints',
    'ClassReport',
    'Collapse',
    'Compiling',
    'Curves',
    'Garbage',
    'Heap',
    'MetadataTable',
    'NonFinite',
    'Notebook',
    'Overfitting',
    'Predictions',
    'Progress',
    'SampledText',
    'SearchTable',
    'Spikes',
    'Stopping',
    'Summary',
    'attention_lines',
    'keep_freed_memory',
    'skip_argument',
]
