"""A causal shift: channels of a token are mixed with those of the tokens just before it in its document."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout

from .attention import Cache

ShiftPlace = Literal['attention', 'projections', 'feed_forward', 'hidden']
"""What of a block is shifted: the input of its attention, its queries, keys and values, the input of its feed-forward
network, and the hidden units of that before the activation."""

SHIFT_PLACES: tuple[ShiftPlace, ...] = get_args(ShiftPlace)


class Before:
    """The tokens before those of one call of the trunk, inside their documents.

    Args:
        position: Position of each token in its document, cached tokens included.
        layout: As in Transformer.forward.
        cache: As in Transformer.forward; it keeps the last tokens of each row for the next call.
    """

    def __init__(self, position: Int[Tensor, '#b n'], layout: Layout | None, cache: Cache | None) -> None:
        self.position = position
        self.layout = layout
        self.cache = cache
        self._early: dict[int, Int[Tensor, ' e']] = {}

    @classmethod
    def rows(cls, x: Float[Tensor, 'b n c']) -> 'Before':
        """Those of rows that are one document each."""
        return cls(torch.arange(x.size(1), device=x.device)[None], None, None)

    def find_early(self, b: int, distance: int) -> Int[Tensor, ' e']:
        """Which of the b · n flat slots lie in the first `distance` tokens of a document. Read once for all layers."""
        if distance not in self._early:
            position = self.position.expand(b, -1).reshape(-1)
            self._early[distance] = (position < distance).nonzero()[:, 0]
        return self._early[distance]

    def read(self, x: Float[Tensor, 'b n c'], count: int, site: int) -> list[Float[Tensor, 'b n c']]:
        """The vectors of the tokens 1, 2, … `count` before each token; zero where its document has none.

        Args:
            x: A vector for each token of the call.
            count: Number of earlier tokens.
            site: Number of the module that reads them, under which the cache keeps its vectors.
        """
        shape = x.shape
        position = self.position
        held = None
        if self.layout is not None:  # documents may continue in the next row
            x = x.flatten(0, 1)[None]
            position = position.reshape(1, -1)
        elif self.cache is not None:
            held = self.cache.recent.get(site)
        n = x.size(1)
        whole = F.pad(x, (0, 0, count, 0)) if held is None else torch.cat([held.to(x.dtype), x], dim=1)
        if self.cache is not None:
            self.cache.recent[site] = whole[:, -count:] if self.layout is None else _ends(x[0], self.layout, count)
        # Where the document begins less than `distance` tokens ago, that slot holds another document or nothing.
        return [
            whole[:, count - distance : count - distance + n]
            .masked_fill((position < distance)[..., None], 0)
            .view(shape)
            for distance in range(1, count + 1)
        ]


class Shift(nn.Module):
    """A depthwise causal convolution inside documents, added to its input; it begins as the identity.

    Source: Primer, So et al. 2021, https://arxiv.org/abs/2109.08668, section 4.2 (three wide, on queries, keys and
    values); as a residual: Allen-Zhu 2025, https://arxiv.org/abs/2512.17351 (canon layers).

    Args:
        n_channels: Channels of its input.
        width: Tokens that are mixed, the token itself included.
        site: As in Before.read; no two modules of a trunk share one.
    """

    def __init__(self, n_channels: int, width: int, site: int) -> None:
        super().__init__()
        self.site = site
        # A vector for each distance, not a matrix: Muon would orthogonalize it.
        self.taps = nn.ParameterList(nn.Parameter(torch.zeros(n_channels)) for _ in range(width - 1))

    def forward(self, x: Float[Tensor, 'b n c'], before: Before) -> Float[Tensor, 'b n c']:
        """Add the channels of earlier tokens, each times its weight."""
        if not self.taps:
            return x
        if x.device.type == 'cpu' and before.cache is None and not torch.compiler.is_compiling():
            early = [before.find_early(x.size(0), distance) for distance in range(1, len(self.taps) + 1)]
            return _Mix.apply(x, early, *(tap.to(x.dtype) for tap in self.taps))
        for tap, earlier in zip(self.taps, before.read(x, len(self.taps), self.site)):
            x = torch.addcmul(x, earlier, tap.to(x.dtype))
        return x


class _Mix(torch.autograd.Function):
    """What Shift computes without a cache, with fewer copies: half the time on a CPU, where memory decides.

    Everywhere the earlier tokens are added, across documents too, and then the early slots are put back.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, 'b n c'], early: Sequence[Tensor], *taps: Float[Tensor, ' c']
    ) -> Float[Tensor, 'b n c']:
        """The shifted vectors.

        Args:
            early: For each distance, the slots that have no token of their document so far before them.
            taps: For each distance, the weights, in the dtype of x.
        """
        ctx.early = early
        ctx.save_for_backward(x, *taps)
        flat = x.flatten(0, 1)
        out = flat.clone(memory_format=torch.contiguous_format)
        for distance, (rows, tap) in enumerate(zip(early, taps), 1):
            kept = out[rows]
            out[distance:].addcmul_(flat[:-distance], tap)
            out[rows] = kept
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, 'b n c']) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the weights."""
        x, *taps = ctx.saved_tensors
        flat = x.flatten(0, 1)
        gradient = gradients[0].flatten(0, 1)
        of_x = gradient.clone(memory_format=torch.contiguous_format)
        of_taps = []
        for distance, (rows, tap) in enumerate(zip(ctx.early, taps), 1):
            last = rows[rows >= distance] - distance  # what would be added to the early slots of the next document
            kept = of_x[last]
            of_x[:-distance].addcmul_(gradient[distance:], tap)
            of_x[last] = kept
            product = flat[:-distance] * gradient[distance:]
            product[last] = 0
            of_taps.append(product.sum(0))
        return of_x.view(x.shape), None, *of_taps


def _ends(x: Float[Tensor, 't c'], layout: Layout, count: int) -> Float[Tensor, 's k c']:
    """The last vectors of each segment. Of a shorter one the first of them belong to others: positions hide those."""
    distance = torch.arange(count, 0, -1, device=x.device)
    return x[(layout.starts[1:, None].long() - distance).clamp(min=0)]
