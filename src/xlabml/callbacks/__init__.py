"""What watches a run: checkpoints, curves, progress, sampled text, predictions, guards, interruptions."""

from .checkpointing import Checkpoints
from .curves import Curves
from .nonfinite import NonFinite
from .predictions import Predictions
from .progress import Progress
from .samples import SampledText
from .spikes import Spikes
from .stopping import Stopping
from .summary import Summary, attention_lines

__all__ = [
    'Checkpoints',
    'Curves',
    'NonFinite',
    'Predictions',
    'Progress',
    'SampledText',
    'Spikes',
    'Stopping',
    'Summary',
    'attention_lines',
]
