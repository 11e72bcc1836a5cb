"""A Transformer block: attention and a feed-forward network, each with a residual connection."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xlabml.anatomy import AttentionPairs, Matrix, Part

from .attention import Pass, Rule
from .norms import rms_norm
from .positions import Angles, rotate
from .shift import Before, Shift


class Attention(nn.Module):
    """Multi-head attention, with grouped queries (GQA) where n_kv_heads is below n_heads.

    Args:
        d_model: Width.
        n_heads: Heads of queries.
        n_kv_heads: Heads of keys and values; each serves n_heads / n_kv_heads heads of queries (Ainslie et al. 2023,
            https://arxiv.org/abs/2305.13245).
        rule: Which tokens a query attends to.
        qk_norm: Normalise each head's queries and keys (RMS), before they are rotated (Henry et al. 2020,
            https://arxiv.org/abs/2010.04245).
        bias: Whether the projections have a bias.
        shift: Mixes queries, keys and values, of (n_heads + 2 n_kv_heads) d_head channels, with those of earlier
            tokens, before all else; None: nothing does.
        input_shift: Mixes the input, of d_model channels, in the same way.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        rule: Rule,
        qk_norm: bool,
        bias: bool,
        shift: Shift | None = None,
        input_shift: Shift | None = None,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads
        self.d_head = d_model // n_heads
        self.rule = rule
        self.qk_norm = qk_norm
        self.input_shift = input_shift
        self.projection = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * self.d_head, bias=bias)
        self.shift = shift
        self.output = nn.Linear(d_model, d_model, bias=bias)
        stacked = (('query', n_heads), ('key', n_kv_heads), ('value', n_kv_heads))
        self.matrices = {
            'projection.weight': Matrix(parts=tuple(Part(name, n * self.d_head) for name, n in stacked)),
            'output.weight': Matrix(parts=(Part('attention_output', d_model),), is_residual=True),
        }

    @property
    def attention_pairs(self) -> AttentionPairs:
        """Which (query, key) pairs are computed."""
        return AttentionPairs(self.rule.causal, self.rule.window, self.n_heads * self.d_head)

    @property
    def active_rule(self) -> Rule:
        """The rule, without dropout in evaluation."""
        return self.rule if self.training else self.rule._replace(dropout=0.0)

    def forward(
        self,
        hidden: Float[Tensor, 'b n d'],
        angles: Angles | None,
        layer_pass: Pass,
        before: Before | None = None,
    ) -> Float[Tensor, 'b n d']:
        """Attend inside each document.

        Args:
            angles: Rotations of queries and keys; None: no rotation.
            layer_pass: How this layer attends in this call.
            before: The tokens before those of this call; None: every row is one document.
        """
        h = self.n_heads
        g = self.n_kv_heads
        before = before or Before.rows(hidden)
        if self.input_shift is not None:
            hidden = self.input_shift(hidden, before)
        stacked = self.projection(hidden)
        if self.shift is not None:
            stacked = self.shift(stacked, before)
        qk, v = stacked.unflatten(-1, (-1, self.d_head)).split((h + g, g), dim=2)  # b n h+g c, b n g c
        if self.qk_norm:
            qk = rms_norm(qk)
        if angles is not None:
            qk = rotate(qk, *angles)
        q, k = qk.to(v.dtype).split((h, g), dim=2)  # b n h c, b n g c
        mixed = layer_pass.attend(q, k, v)
        return self.output(mixed.reshape(hidden.shape).to(v.dtype))


class FeedForward(nn.Module):
    """Two matrices with an activation between them, applied to each token; a shift mixes it with those before it.

    Args:
        d_model: Width.
        d_ff: Hidden width, after the activation.
        activation: Makes the activation; its input has d_ff channels, times `n_parts` where it has that attribute.
        bias: Whether the matrices have a bias.
        dropout: Dropout ratio of the activation's output.
        shift: Mixes the hidden units, before the activation, with those of earlier tokens; None: nothing does.
        input_shift: Mixes the input, of d_model channels, in the same way.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: Callable[[], nn.Module],
        bias: bool,
        dropout: float,
        shift: Shift | None = None,
        input_shift: Shift | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation()
        self.dropout = dropout
        n_parts = getattr(self.activation, 'n_parts', 1)
        self.input_shift = input_shift
        self.input = nn.Linear(d_model, d_ff * n_parts, bias=bias)
        self.shift = shift
        self.output = nn.Linear(d_ff, d_model, bias=bias)
        names = ('gate', 'up') if n_parts == 2 else ('feed_forward_input',) * n_parts
        self.matrices = {
            'input.weight': Matrix(parts=tuple(Part(name, d_ff) for name in names)),
            'output.weight': Matrix(parts=(Part('feed_forward_output', d_model),), is_residual=True),
        }

    def forward(self, hidden: Float[Tensor, 'b n d'], before: Before | None = None) -> Float[Tensor, 'b n d']:
        """Transform each token; the argument as in Attention."""
        before = before or Before.rows(hidden)
        if self.input_shift is not None:
            hidden = self.input_shift(hidden, before)
        inner = self.input(hidden)
        if self.shift is not None:
            inner = self.shift(inner, before)
        inner = self.activation(inner)
        return self.output(F.dropout(inner, self.dropout, self.training) if self.dropout else inner)


class Block(nn.Module):
    """Attention, then a feed-forward network, each with a norm and a residual connection.

    Source: post-norm as in Vaswani et al. 2017; pre-norm as in Xiong et al. 2020, https://arxiv.org/abs/2002.04745.

    Args:
        attention: The attention sublayer.
        feed_forward: The feed-forward sublayer.
        norm: Makes one of the two norms.
        prenorm: Normalise the input of a sublayer (pre-norm); else the sum after it (post-norm).
        dropout: Dropout ratio of each sublayer's output.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        norm: Callable[[], nn.Module],
        prenorm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm = norm()
        self.prenorm = prenorm
        self.dropout = dropout

    @property
    def has_shifts(self) -> bool:
        """Whether anything in it is shifted."""
        return any(isinstance(module, Shift) for module in self.modules())

    def forward(
        self,
        hidden: Float[Tensor, 'b n d'],
        angles: Angles | None,
        layer_pass: Pass,
        before: Before | None = None,
    ) -> Float[Tensor, 'b n d']:
        """Add the output of both sublayers; arguments as in Attention."""
        if self.prenorm:
            hidden = hidden + self._drop(self.attention(self.attention_norm(hidden), angles, layer_pass, before))
            return hidden + self._drop(self.feed_forward(self.feed_forward_norm(hidden), before))
        hidden = self.attention_norm(hidden + self._drop(self.attention(hidden, angles, layer_pass, before)))
        return self.feed_forward_norm(hidden + self._drop(self.feed_forward(hidden, before)))

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden
