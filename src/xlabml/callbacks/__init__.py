"""What watches a run: checkpoints, curves, progress, sampled text, predictions, interruptions."""

from .checkpointing import Checkpoints
from .curves import Curves
from .nonfinite import NonFinite
from .predictions import Predictions
from .progress import Progress
from .samples import SampledText
from .stopping import Stopping
from .summary import Summary, attention_lines

__all__ = [
    'Checkpoints',
    'Curves',
    'NonFinite',
    'Predictions',
    'Progress',
    'SampledText',
    'Stopping',
    'Summary',
    'attention_lines',
]
