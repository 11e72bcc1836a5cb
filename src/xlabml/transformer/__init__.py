"""Tensors -> tensors: positions, attention, blocks, the trunk, and the language model on it. No Lightning, no files.

The package's legend for shapes:

- `b` batch (rows), `n` tokens, `m` key positions, `t` tokens of all rows in one line, `s` segments
- `d` model width, `h` heads, `g` heads of keys and values (grouped queries), `c` channels a head, `p` pairs of them
- `f` feed-forward width, `v` vocabulary, `k` classes
"""

from .activations import GeGLU, ReLU2, SwiGLU
from .attention import Cache, attend
from .block import Attention, Block, FeedForward
from .init import Initializer, Normal, Xavier
from .language_model import LanguageModel, language_model
from .norms import RMSNorm
from .positions import ALiBi, Learned, NoPositions, Positions, Rotary, Sinusoidal
from .transformer import Transformer

__all__ = [
    'ALiBi',
    'Attention',
    'Block',
    'Cache',
    'FeedForward',
    'GeGLU',
    'Initializer',
    'LanguageModel',
    'Learned',
    'NoPositions',
    'Normal',
    'Positions',
    'RMSNorm',
    'ReLU2',
    'Rotary',
    'Sinusoidal',
    'SwiGLU',
    'Transformer',
    'Xavier',
    'attend',
    'language_model',
]
