"""Position encodings: added to the embeddings, as rotations of queries and keys, or as a bias on the scores.

Positions are computed once a call and shared by the layers. They restart at every document.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Angles = tuple[Float[Tensor, '#b n p'], Float[Tensor, '#b n p']]
"""Cosine and sine of the angles by which pairs of channels of queries and keys are rotated."""


class Positions(nn.Module):
    """The base class, which encodes no position by itself.

    Subclasses override `embed` or `angles`, or set `slopes`, `limit`.

    Args:
        d_model: Width of the embeddings.
        n_heads: Heads of the queries.
        max_len: The longest document that the model is built for, in tokens.
    """

    slopes: Float[Tensor, ' h'] | None
    """For each head, what a score loses per token of distance; None: nothing."""
    limit: int | None = None
    """The trunk refuses documents of more tokens; None: any length works."""
    has_local_angles: bool = False
    """Whether layers with a window have angles of their own."""

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__()
        self.register_buffer('slopes', None, persistent=False)

    def embed(self, hidden: Float[Tensor, 'b n d'], position: Int[Tensor, '#b n']) -> Float[Tensor, 'b n d']:
        """Add each token's position to its embedding."""
        return hidden

    def angles(self, position: Int[Tensor, '#b n'], is_local: bool = False) -> Angles | None:
        """The rotation angles of each position; None: no rotation.

        Args:
            is_local: The angles of layers with a window, where `has_local_angles`.
        """
        return None


class NoPositions(Positions):
    """No position encoding: order comes from the causal mask alone (NoPE).

    Source: Haviv et al. 2022, https://arxiv.org/abs/2203.16634.
    """


class Rotary(Positions):
    """Rotary position embedding (RoPE): scores depend on the distance of query and key alone.

    Channels 2i and 2i + 1 are a pair. Source: Su et al. 2021, https://arxiv.org/abs/2104.09864, eq. 34.

    Args:
        d_model: Width of the embeddings.
        n_heads: Heads of the queries.
        max_len: Not needed: any length works.
        base: The slowest pair turns once in about 2 pi base tokens.
        local_base: The base of layers with a window, whose distances are short; None: as in all others. Source:
            ModernBERT, Warner et al. 2024, https://arxiv.org/abs/2412.13663, section 2.1.2 (160,000 and 10,000).

    Raises:
        ValueError: A head has an odd number of channels.
    """

    def __init__(
        self, d_model: int, n_heads: int, max_len: int, base: float = 10_000.0, local_base: float | None = None
    ) -> None:
        super().__init__(d_model, n_heads, max_len)
        self.d_head = d_model // n_heads
        self.base = _check_base(base)
        self.local_base = self.base if local_base is None else _check_base(local_base, 'local_base')
        self.has_local_angles = self.local_base != self.base
        if self.d_head % 2:
            raise ValueError(
                f'd_model {d_model} over n_heads {n_heads} makes heads of {self.d_head} channels; Rotary rotates pairs '
                'of channels, so make it even'
            )

    def angles(self, position: Int[Tensor, '#b n'], is_local: bool = False) -> Angles:
        """The angle of each pair at each position."""
        base = self.local_base if is_local else self.base
        # Compiled for a CPU, cosines would be fused into the rotations, and computed anew for each head of each layer.
        if position.device.type == 'cpu' and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return _turns_op(position, self.d_head, base)
        return _turns(position, self.d_head, base)


class Sinusoidal(Positions):
    """Adds sines (even channels) and cosines (odd channels) of the position, for any length.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.

    Args:
        d_model: Width of the embeddings.
        n_heads: Not needed.
        max_len: Not needed: any length works.
        base: The longest wavelength is about 2 pi base tokens.

    Raises:
        ValueError: d_model is odd.
    """

    def __init__(self, d_model: int, n_heads: int, max_len: int, base: float = 10_000.0) -> None:
        super().__init__(d_model, n_heads, max_len)
        self.d_model = d_model
        self.base = _check_base(base)
        if d_model % 2:
            raise ValueError(f'd_model is {d_model}; Sinusoidal needs pairs of channels, so make it even')

    def embed(self, hidden: Float[Tensor, 'b n d'], position: Int[Tensor, '#b n']) -> Float[Tensor, 'b n d']:
        """Add the sinusoids of each position."""
        angle = position[..., None] * _frequencies(self.d_model, self.base, position.device)
        return hidden + torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).to(hidden.dtype)


class Learned(Positions):
    """Adds a learned vector for each position up to max_len.

    Args:
        d_model: Width of the embeddings.
        n_heads: Not needed.
        max_len: How many positions there are; longer documents are refused.
    """

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__(d_model, n_heads, max_len)
        self.limit = max_len
        self.embedding = nn.Embedding(max_len, d_model)

    def embed(self, hidden: Float[Tensor, 'b n d'], position: Int[Tensor, '#b n']) -> Float[Tensor, 'b n d']:
        """Add the vector of each position."""
        return hidden + self.embedding(position)


class ALiBi(Positions):
    """A linear bias on the scores by distance (ALiBi), steepest in the first heads.

    Source: Press et al. 2022, https://arxiv.org/abs/2108.12409, section 3; where the number of heads is no power of
    two, the rest take every other slope of the next power, as in its appendix.

    Args:
        d_model: Not needed.
        n_heads: Heads of the queries.
        max_len: Not needed: any length works.
    """

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__(d_model, n_heads, max_len)
        power = 1 << (n_heads.bit_length() - 1)  # the largest power of two that is not above n_heads
        exponents = [8 * i / power for i in range(1, power + 1)]
        exponents += [8 * i / (2 * power) for i in range(1, 2 * power, 2)][: n_heads - power]
        self.slopes = torch.tensor([2.0**-exponent for exponent in exponents])


def rotate(
    x: Float[Tensor, 'b n h c'], cos: Float[Tensor, '#b n p'], sin: Float[Tensor, '#b n p']
) -> Float[Tensor, 'b n h c']:
    """Rotate each pair of channels by its angle, in float32 (or wider, where x is)."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    cos = cos.to(x.dtype)
    sin = sin.to(x.dtype)
    pairs = x.unflatten(-1, (-1, 2))  # b n h p 2
    # (first + i second) · (cos + i sin): one pass instead of six; compilers do not support complex numbers.
    if x.device.type == 'cpu' and not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)[:, :, None]).flatten(-2)
    first, second = pairs.unbind(dim=-1)
    cos = cos[:, :, None]  # b n 1 p
    sin = sin[:, :, None]
    return torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)


def _turns(position: Int[Tensor, '#b n'], n_channels: int, base: float) -> Angles:
    angle = position[..., None] * _frequencies(n_channels, base, position.device)
    return angle.cos(), angle.sin()


@torch.library.custom_op('xlabml::turns', mutates_args=())
def _turns_op(position: Tensor, n_channels: int, base: float) -> tuple[Tensor, Tensor]:
    """`_turns` as one operator that a compiler does not trace into."""
    return _turns(position, n_channels, base)


@_turns_op.register_fake
def _(position, n_channels, base):
    shape = *position.shape, -(-n_channels // 2)
    return tuple(torch.empty(shape, device=position.device) for _ in range(2))


def _frequencies(n_channels: int, base: float, device: torch.device) -> Float[Tensor, ' p']:
    """Radians per token of each pair. Not a buffer, which would lose its precision in a bf16 model."""
    return torch.exp(torch.arange(0, n_channels, 2, device=device) * (-math.log(base) / n_channels))


def _check_base(base: float, name: str = 'base') -> float:
    if not base > 0:
        raise ValueError(f'positions.{name} is {base}; give a positive number')
    return base
