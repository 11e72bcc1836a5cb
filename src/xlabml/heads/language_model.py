"""The trunk with a vocabulary head: ids -> logits or sums of the loss."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.anatomy import HEAD, Matrix
from xlabml.batches import IGNORED, Layout
from xlabml.losses import CrossEntropy, Loss, LossSums, make_logits, nats_and_entropy
from xlabml.transformer import Cache, Transformer


class LanguageModel(nn.Module):
    """A trunk and a linear head over the vocabulary.

    Args:
        trunk: Computes the hidden states.
        tied: The head shares the embedding matrix (Press & Wolf 2017, https://arxiv.org/abs/1608.05859); the state dict
            holds it once.
        head_bias: Whether the head has a bias.
        logit_cap: Soft cap: a tanh bounds logits to -logit_cap..logit_cap; None: no cap.
        loss: The loss; None: cross-entropy.

    Raises:
        ValueError: logit_cap is not positive.
    """

    def __init__(
        self,
        trunk: Transformer,
        tied: bool = True,
        head_bias: bool = False,
        logit_cap: float | None = None,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        if logit_cap is not None and not logit_cap > 0:
            raise ValueError(f'logit_cap is {logit_cap}; give a positive number, or null for none')
        self.trunk = trunk
        self.logit_cap = logit_cap
        self.loss = CrossEntropy() if loss is None else loss
        table = trunk.embedding.weight
        self.head_weight = None if tied else nn.Parameter(torch.empty_like(table))
        self.head_bias = nn.Parameter(table.new_zeros(table.size(0))) if head_bias else None
        if self.head_weight is not None:
            trunk.initializer.head(self.head_weight, self.head_bias)

    @classmethod
    def build(
        cls,
        n_vocab: int,
        max_len: int,
        trunk: Callable[[int, int], Transformer] = Transformer,
        tied: bool = True,
        head_bias: bool = False,
        logit_cap: float | None = None,
        loss: Callable[[], Loss] = CrossEntropy,
    ) -> 'LanguageModel':
        """Build a language model from settings; the only place that does.

        Args:
            n_vocab: Size of the vocabulary.
            max_len: The longest document that it is built for, in tokens.
            trunk: Makes the trunk from n_vocab, max_len.
            tied: As in the class, like the rest.
            head_bias: Whether the head has a bias.
            logit_cap: Soft cap of the logits.
            loss: Makes the loss.
        """
        return cls(trunk(n_vocab, max_len), tied, head_bias, logit_cap, loss())

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """Names of the weights with a row per token, which are useless with another tokenizer."""
        return frozenset({'trunk.embedding.weight', 'head_weight', 'head_bias'})

    @property
    def matrices(self) -> dict[str, Matrix]:
        """The description of the head's weight; of the embedding, where they are tied."""
        return {'trunk.embedding.weight' if self.head_weight is None else 'head_weight': HEAD}

    @property
    def max_len(self) -> int:
        """The longest document that it is built for, in tokens."""
        return self.trunk.max_len

    def forward(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        cache: Cache | None = None,
        targets: Int[Tensor, 'b n'] | None = None,
        ends: bool = False,
        each: bool | Literal['only', 'entropy'] = False,
        sparse: bool = False,
        causal: bool | None = None,
    ) -> (
        Float[Tensor, 'b n v']
        | Float[Tensor, 'b n']
        | Float[Tensor, 's 1 v']
        | LossSums
        | tuple[LossSums, Float[Tensor, 'b n']]
        | tuple[LossSums, Float[Tensor, 'b n'], Float[Tensor, 'b n']]
    ):
        """Logits of each token; with targets, sums of the loss, for which all logits never exist at once.

        Args:
            layout: Where documents begin; None: every row is one document.
            cache: As in Transformer.forward.
            targets: The token to predict at each position; batches.IGNORED where there is none.
            ends: Return only the logits of the last token of each segment (of each row, without a layout). Those of an
                empty segment are meaningless.
            each: With targets, also return the result of `nats`, from the same pass through the trunk; 'only': return
                nothing else; 'entropy': and behind it the entropy of the distribution of each target, in nats.
            causal: As in Transformer.forward.

        Raises:
            ValueError: As in Transformer.forward; or there are targets and a cache, through which no gradient flows.
        """
        if targets is not None and cache is not None:
            raise ValueError('there is no loss with a cache; call the model with targets, or with a cache')
        hidden = self.hidden(ids, layout, cache, causal)
        weight = self._weight
        if targets is not None:
            return self._losses(hidden.flatten(0, 1), targets, each, sparse and not torch.compiler.is_compiling())
        if ends:
            hidden = hidden[:, -1:] if layout is None else hidden.flatten(0, 1)[layout.starts[1:] - 1][:, None]
        return make_logits(hidden, weight, self.head_bias, self.logit_cap)

    def hidden(
        self,
        ids: Int[Tensor, 'b n'],
        layout: Layout | None = None,
        cache: Cache | None = None,
        causal: bool | None = None,
    ) -> Float[Tensor, 'b n d']:
        """The final hidden states, the input of the head."""
        return self.trunk(ids, layout, cache, causal)

    def nats(
        self, ids: Int[Tensor, 'b n'], targets: Int[Tensor, 'b n'], layout: Layout | None = None
    ) -> Float[Tensor, 'b n']:
        """Negative log-likelihood of each target in nats; 0 where it is ignored."""
        return self._nats(self.hidden(ids, layout).flatten(0, 1), targets.flatten()).view(targets.shape)

    def _losses(
        self,
        hidden: Float[Tensor, 't d'],
        targets: Int[Tensor, 'b n'],
        each: bool | Literal['only', 'entropy'],
        sparse: bool,
    ) -> (
        Float[Tensor, 'b n']
        | LossSums
        | tuple[LossSums, Float[Tensor, 'b n']]
        | tuple[LossSums, Float[Tensor, 'b n'], Float[Tensor, 'b n']]
    ):
        flat = targets.flatten()
        if each == 'entropy':
            found = nats_and_entropy(hidden, self._weight, flat, self.head_bias, self.logit_cap)
            sums = self.loss(hidden, self._weight, flat, self.head_bias, self.logit_cap)
            return sums, found[0].view(targets.shape), found[1].view(targets.shape)
        at = (flat != IGNORED).nonzero()[:, 0] if sparse else None
        if at is not None:
            hidden = hidden.index_select(0, at)
            flat = flat.index_select(0, at)
        nats = None
        if each:
            nats = self._nats(hidden, flat)
            if at is not None:
                nats = nats.new_zeros(targets.numel()).index_copy(0, at, nats)
            nats = nats.view(targets.shape)
            if each == 'only':
                return nats
        sums = self.loss(hidden, self._weight, flat, self.head_bias, self.logit_cap)
        return sums if nats is None else (sums, nats)

    def _nats(self, hidden: Float[Tensor, 't d'], targets: Int[Tensor, ' t']) -> Float[Tensor, ' t']:
        return self.loss.nats(hidden, self._weight, targets, self.head_bias, self.logit_cap)

    def list_blocks(self) -> list[nn.Module]:
        """The blocks of the trunk: the units that a sharding strategy gathers one at a time."""
        return list(self.trunk.blocks)

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache; arguments and errors as in Transformer.new_cache."""
        return self.trunk.new_cache(batch, length)

    @property
    def _weight(self) -> Tensor:
        return self.trunk.embedding.weight if self.head_weight is None else self.head_weight


language_model = LanguageModel.build
