"""Hidden states of the tokens of each text -> one vector a text; flat, so that no padding is computed.

A text is a segment of a layout. Sums are taken in float32 (or wider). Segments that are padding, empty ones and those
of which no token counts are zero vectors, whatever the hidden states say there.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml.anatomy import HEAD
from xlabml.batches import Layout


class Segments(NamedTuple):
    """Where the texts of a pass stand in its flat row of `t` tokens.

    Args:
        starts: As in Layout.
        segment: Of each token, which segment it is in.
        position: Of each token in its segment, from 0.
        counts: Of each token, whether it counts: it is text, and not among those that are skipped.
    """

    starts: Int[Tensor, ' s+1']
    segment: Int[Tensor, ' t']
    position: Int[Tensor, ' t']
    counts: Bool[Tensor, ' t']

    def sums(self, values: Float[Tensor, 't *k']) -> Float[Tensor, 's *k']:
        """The sum over each segment."""
        return values.new_zeros(self.starts.numel() - 1, *values.shape[1:]).index_add(0, self.segment, values)

    def maxima(self, values: Float[Tensor, 't k']) -> Float[Tensor, 's k']:
        """The maximum over each segment; minus infinity where it has no token."""
        lowest = values.new_full((self.starts.numel() - 1, values.size(1)), -torch.inf)
        return lowest.scatter_reduce(0, self.segment[:, None].expand_as(values), values, 'amax')


def find_segments(n_slots: int, layout: Layout, n_skipped: Int[Tensor, ' s'] | None = None) -> Segments:
    """Where the texts of a layout stand.

    Args:
        n_slots: Tokens of the flat row.
        layout: Where the texts begin.
        n_skipped: For each segment, how many of its first tokens do not count; None: all count.
    """
    starts = layout.starts.long()
    segment = torch.repeat_interleave(starts.diff(), output_size=n_slots)
    position = torch.arange(n_slots, device=starts.device) - starts[segment]
    counts = torch.ones_like(segment, dtype=torch.bool) if layout.is_text is None else layout.is_text[segment]
    if n_skipped is not None:
        counts = counts & (position >= n_skipped[segment])
    return Segments(starts, segment, position, counts)


class Pooling(nn.Module, ABC):
    """The base class: hidden states of tokens to vectors of texts.

    Args:
        d_model: Width of the hidden states.

    Attributes:
        d_out: Width of the vectors.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.d_out = d_model

    def forward(
        self, hidden: Float[Tensor, 'b n d'], layout: Layout, n_skipped: Int[Tensor, ' s'] | None = None
    ) -> Float[Tensor, 's w']:
        """Pool each segment; zero where nothing of it counts.

        Args:
            hidden: Of any floating type; the result is float32, or float64 where they are.
            layout: Where the texts begin.
            n_skipped: For each segment, how many of its first tokens (a prompt) are left out; None: none. `First` and
                `Last` take their token all the same.
        """
        flat = hidden.flatten(0, 1)
        segments = find_segments(flat.size(0), layout, n_skipped)
        # Filled, not multiplied: what stands in padding may be NaN, and so would be its product with 0.
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32)).masked_fill(~segments.counts[:, None], 0)
        with torch.autocast(flat.device.type, enabled=False):
            vectors = self.pool(wide, segments)
        counted = segments.sums(segments.counts.to(wide.dtype))
        return vectors.masked_fill((counted == 0)[:, None], 0)

    @abstractmethod
    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's w']:
        """Pool each segment; what comes of those without a token that counts is not read.

        Args:
            hidden: In float32 or wider; zero where a token does not count.
            segments: Where the texts stand.
        """


class MeanPooling(Pooling):
    """The mean of the tokens. Source: Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3."""

    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's d']:
        """Sum, and divide by the number of tokens."""
        n = segments.sums(segments.counts.to(hidden.dtype)).clamp(min=1)
        return segments.sums(hidden) / n[:, None]


class WeightedMeanPooling(Pooling):
    """The mean of the tokens, the i-th weighted by i: for decoders, whose later tokens attend to more of the text.

    Source: SGPT, Muennighoff 2022, https://arxiv.org/abs/2202.08904, eq. 1.
    """

    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's d']:
        """Weigh, sum, and divide by the sum of weights."""
        weight = (segments.position + 1).to(hidden.dtype).masked_fill(~segments.counts, 0)
        total = segments.sums(weight).clamp(min=1)
        return segments.sums(hidden * weight[:, None]) / total[:, None]


class MaxPooling(Pooling):
    """The maximum of each channel over the tokens."""

    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's d']:
        """The largest value of each channel; a tie shares the gradient."""
        return segments.maxima(hidden.masked_fill(~segments.counts[:, None], -torch.inf))


class _TokenPooling(Pooling):
    """Takes one token of each text, also where a prompt's tokens are left out: it attends to the whole text anyway."""

    def forward(
        self, hidden: Float[Tensor, 'b n d'], layout: Layout, n_skipped: Int[Tensor, ' s'] | None = None
    ) -> Float[Tensor, 's d']:
        """Take the token; arguments as in Pooling."""
        return super().forward(hidden, layout)


class FirstPooling(_TokenPooling):
    """The first token, `<cls>` or the start of the text, for encoders."""

    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's d']:
        """Take the first token."""
        return hidden[segments.starts[:-1].clamp(max=hidden.size(0) - 1)]


class LastPooling(_TokenPooling):
    """The last token, the end of the text, for decoders: it alone attends to all of the text."""

    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's d']:
        """Take the last token."""
        return hidden[(segments.starts[1:] - 1).clamp(min=0)]


class AttentionPooling(Pooling):
    """A mean of the tokens by learned weights: those of a softmax over each text of products with a learned query.

    The query begins at zero, which is the plain mean. Source: Lin et al. 2017, https://arxiv.org/abs/1703.03130,
    section 2.1, with one layer and each query (head) weighing channels of its own.

    Args:
        d_model: Width of the hidden states.
        n_heads: Queries; each weighs d_model / n_heads channels.

    Raises:
        ValueError: d_model is no multiple of n_heads.
    """

    def __init__(self, d_model: int, n_heads: int = 1) -> None:
        super().__init__(d_model)
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(
                f'pooling.n_heads is {n_heads}; give a divisor of the width of the hidden states, {d_model}'
            )
        self.n_heads = n_heads
        self.query = nn.Parameter(torch.zeros(n_heads, d_model))
        self.matrices = {'query': HEAD}

    def pool(self, hidden: Float[Tensor, 't d'], segments: Segments) -> Float[Tensor, 's d']:
        """Softmax over each text, then the weighted sum."""
        score = hidden @ self.query.to(hidden.dtype).T / self.d_model**0.5  # t h
        score = score.masked_fill(~segments.counts[:, None], -torch.inf)
        peak = segments.maxima(score.detach()).clamp(min=torch.finfo(score.dtype).min)  # s h; -inf - -inf is NaN
        share = (score - peak[segments.segment]).exp()  # t h
        total = segments.sums(share)  # s h
        weighted = hidden.unflatten(1, (self.n_heads, -1)) * share[:, :, None]  # t h c
        tiny = torch.finfo(total.dtype).tiny
        return (segments.sums(weighted) / total.clamp(min=tiny)[:, :, None]).flatten(1)
