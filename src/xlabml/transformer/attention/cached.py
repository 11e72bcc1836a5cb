"""Attention with a key/value cache: decoding steps, and the prefill pass over packed prompts."""

from jaxtyping import Float, Int
from torch import Tensor

from .cache import Cache
from .definition import Pass, Rule
from .masked import attend_fused
from .places import Documents


class CachePass(Pass):
    """Decoding: the keys and values of new tokens are appended to the cache.

    Args:
        layer: Index of this layer in the cache.
        position: Position of each token, where rows of the cache differ in length; None: they follow its longest row.
        is_plain: Compute it as `attend` defines it.
    """

    def __init__(
        self, rule: Rule, cache: Cache, layer: int, position: Int[Tensor, 'b n'] | None, is_plain: bool
    ) -> None:
        self.rule = rule
        self.cache = cache
        self.layer = layer
        self.position = position
        self.is_plain = is_plain

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """Append to the cache, and attend to all that it holds, in the dtype of the cache."""
        keys, values = self.cache.append(self.layer, k.transpose(1, 2), v.transpose(1, 2))  # b g m c
        queries = q.transpose(1, 2).to(keys.dtype)  # b h n c
        return attend_fused(queries, keys, values, self.rule, self.position, is_plain=self.is_plain).transpose(1, 2)


class FillPass(Pass):
    """Prefill: packed prompts fill an empty cache, segment i its row i.

    Args:
        inner: Attention inside the documents.
        layer: Index of this layer in the cache.
        position: Position of each token in its document.
    """

    def __init__(
        self, inner: Pass, cache: Cache, layer: int, documents: Documents, position: Int[Tensor, 'b n']
    ) -> None:
        self.inner = inner
        self.cache = cache
        self.layer = layer
        self.segment = documents.segment.flatten()
        self.position = position.flatten()

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        """Fill the cache, and attend inside the documents."""
        self.cache.fill(self.layer, self.segment, self.position, k.flatten(0, 1), v.flatten(0, 1))
        return self.inner.attend(q, k, v)
