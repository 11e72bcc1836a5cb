"""The layer: attention and a feed-forward net, each added to what came in."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .attention import Rule, Shared, mix
from .attention.kernels import compute
from .norms import rms_norm
from .positions import rotate


class Attention(nn.Module):
    """Every token looks at the tokens that it may see, in several ways at once.

    Args:
        d_model: Width.
        n_heads: Heads of queries.
        n_kv_heads: Heads of keys and values; each serves n_heads / n_kv_heads heads of queries (Ainslie et al. 2023,
            https://arxiv.org/abs/2305.13245).
        rule: What a query may see.
        qk_norm: Bring each head's queries and keys to one length, before they are turned (Henry et al. 2020,
            https://arxiv.org/abs/2010.04245).
        bias: Whether the projections have one.
    """

    def __init__(self, d_model: int, n_heads: int, n_kv_heads: int, rule: Rule, qk_norm: bool, bias: bool) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = n_heads, n_kv_heads, d_model // n_heads
        self.rule, self.qk_norm = rule, qk_norm
        self.projection = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * self.d_head, bias=bias)
        self.projection.stacked_rows = [n * self.d_head for n in (n_heads, n_kv_heads, n_kv_heads)]  # type: ignore[assignment]
        self.output = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, hidden: Float[Tensor, 'b n d'], shared: Shared, layer: int = 0) -> Float[Tensor, 'b n d']:
        """Mix the tokens of each document.

        Args:
            layer: Which of the cache's layers is this one's.
        """
        h, g, cache, documents = self.n_heads, self.n_kv_heads, shared.cache, shared.documents
        backend = shared.backends[layer]
        qk, v = self.projection(hidden).unflatten(-1, (-1, self.d_head)).split((h + g, g), dim=2)
        dtype = v.dtype
        if self.qk_norm:
            qk = rms_norm(qk)
        if shared.angles is not None:
            qk = rotate(qk, *shared.angles)
        q, k = qk.to(dtype).split((h, g), dim=2)  # b n h c
        rule = self.rule._replace(slopes=shared.slopes, dropout=self.rule.dropout if self.training else 0.0)
        if cache is None or documents is not None:
            if cache is not None and shared.segment is not None:
                cache.fill(layer, *shared.segment, k.flatten(0, 1), v.flatten(0, 1))
            mixed = compute(backend, q, k, v, rule, documents, shared.made)
        else:
            k, v = cache.append(layer, k.transpose(1, 2), v.transpose(1, 2))
            q = q.transpose(1, 2).to(k.dtype)  # b h n c
            mixed = mix(q, k, v, rule, shared.position, is_plain=backend == 'plain').transpose(1, 2)
        return self.output(mixed.reshape(hidden.shape).to(dtype))


class FeedForward(nn.Module):
    """Two matrices with an activation between them.

    Args:
        d_model: Width.
        d_ff: Width between the matrices, after the activation.
        activation: Makes the activation; one that has `n_parts` is given so many times d_ff.
        bias: Whether the matrices have one.
        dropout: The ratio of what the activation gives that is dropped.
    """

    def __init__(
        self, d_model: int, d_ff: int, activation: Callable[[], nn.Module], bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.activation, self.dropout = activation(), dropout
        n_parts = getattr(self.activation, 'n_parts', 1)
        self.input = nn.Linear(d_model, d_ff * n_parts, bias=bias)
        self.input.stacked_rows = [d_ff] * n_parts  # type: ignore[assignment]
        self.output = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, hidden: Float[Tensor, 'b n d']) -> Float[Tensor, 'b n d']:
        """Work on each token by itself."""
        inner = self.activation(self.input(hidden))
        return self.output(F.dropout(inner, self.dropout, self.training) if self.dropout else inner)


class Block(nn.Module):
    """Attention, then a feed-forward net, each with a norm and a residual connection.

    Source: post-norm as in Vaswani et al. 2017; pre-norm as in Xiong et al. 2020, https://arxiv.org/abs/2002.04745.

    Args:
        attention: The part that mixes tokens.
        feed_forward: The part that works on each token.
        norm: Makes one of the two norms.
        prenorm: Normalise what a part reads; else the sum after it.
        dropout: The ratio of what each part gives that is dropped.
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
        self.attention, self.attention_norm = attention, norm()
        self.feed_forward, self.feed_forward_norm = feed_forward, norm()
        self.prenorm, self.dropout = prenorm, dropout

    def forward(self, hidden: Float[Tensor, 'b n d'], shared: Shared, layer: int = 0) -> Float[Tensor, 'b n d']:
        """Add what both parts have to say."""
        if self.prenorm:
            hidden = hidden + self._drop(self.attention(self.attention_norm(hidden), shared, layer))
            return hidden + self._drop(self.feed_forward(self.feed_forward_norm(hidden)))
        hidden = self.attention_norm(hidden + self._drop(self.attention(hidden, shared, layer)))
        return self.feed_forward_norm(hidden + self._drop(self.feed_forward(hidden)))

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden
