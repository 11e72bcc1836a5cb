"""The Transformer trunk (ids -> hidden states): positions, attention, blocks. No Lightning, no files.

The package's legend for shapes:

- `b` batch (rows), `n` tokens, `m` key positions, `t` tokens of all rows concatenated, `s` segments
- `d` model width, `h` heads, `g` heads of keys and values (grouped queries), `c` channels per head, `p` channel pairs
- `f` feed-forward width, `v` vocabulary, `k` classes
"""

from xlabml.moved import old_names

from .activations import GeGLU, ReLU2, SwiGLU
from .adapters import LoRA, LowRankLinear
from .attention import Cache, attend
from .block import Attention, Block, FeedForward
from .init import Copying, Initializer, Normal, Xavier
from .norms import RMSNorm
from .positions import ALiBi, Learned, NoPositions, Positions, Rotary, Sinusoidal
from .pretrained import HuggingFaceEncoder
from .shift import SHIFT_PLACES, Before, Shift, ShiftPlace
from .transformer import Transformer
from .trunk import Trunk

__all__ = [
    'SHIFT_PLACES',
    'ALiBi',
    'Attention',
    'Before',
    'Block',
    'Cache',
    'Copying',
    'FeedForward',
    'GeGLU',
    'HuggingFaceEncoder',
    'Initializer',
    'Learned',
    'LoRA',
    'LowRankLinear',
    'NoPositions',
    'Normal',
    'Positions',
    'RMSNorm',
    'ReLU2',
    'Rotary',
    'Shift',
    'ShiftPlace',
    'Sinusoidal',
    'SwiGLU',
    'Transformer',
    'Trunk',
    'Xavier',
    'attend',
]

__getattr__ = old_names('xlabml.transformer')  # of language models, which are in heads/
