"""The context from which the model predicts the next token of each row: a window of tokens, and its cache."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout
from xlabml.errors import RequestError

Overflow = Literal['refill', 'slide']
"""What happens when a row's window would grow beyond `block_size`.

refill: it is cut to its last block_size // 2 tokens (at least 1), which are recomputed, and grows again; all other
steps compute one token.
slide: it is cut to its last block_size tokens, and recomputed, at every step from then on.
"""


Adjust = Callable[[Float[Tensor, 'r v'], Sequence[Sequence[int]]], Float[Tensor, 'r v']]
"""Logits of each row's next token, and all tokens of each row, prompt included -> other logits."""


@runtime_checkable
class _Cache(Protocol):
    """What is used of a model's cache, as of transformer.Cache."""

    def select(self, rows: Tensor) -> None: ...

    def replace(self, rows: Tensor, other: '_Cache') -> None: ...

    def set_lengths(self, lengths: list[int]) -> None: ...


class Context:
    """Rows of tokens, of any lengths, that grow by one token per step.

    The logits of a row equal those of a plain forward pass over its window, the last tokens that `Overflow` keeps, the
    first of them at position 0. They do not depend on other rows.

    A model with a `new_cache(batch, length)` is called as `heads.LanguageModel` is: `(ids, layout=, cache=,
    ends=True)`, where `ends` requests the logits of the last token of each row (with a layout: of each segment), and
    the cache is used as `transformer.Cache` is: `select`, `replace`, `set_lengths`. Only rows that overflow are
    recomputed. Any other model is called with whole windows, those of one length in one call.

    Args:
        model: Ids (b, n) to logits (b, n, v).
        prompts: The first tokens of the rows, at least one each; longer ones are cut to their last `block_size`.
        n_steps: Maximum number of tokens that will be added to a row.
        block_size: The longest window; None: no limit.
        overflow: What happens beyond.
        adjust: Changes the logits of each step, before anything else does; None: nothing.

    Attributes:
        tokens: All tokens of each row, prompt included.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: list[Tensor],  # of one axis each, which is checked below
        n_steps: int,
        block_size: int | None,
        overflow: Overflow,
        adjust: Adjust | None = None,
    ) -> None:
        if block_size is not None and block_size < 1:
            raise ValueError(f'block_size is {block_size}; it must be at least 1, or None for no limit')
        if overflow not in ('refill', 'slide'):
            raise ValueError(f"overflow is {overflow!r}; it must be 'refill' or 'slide'")
        for i, prompt in enumerate(prompts):
            if prompt.dim() != 1:
                raise RequestError(
                    f'prompt {i} has the shape {tuple(prompt.shape)}; it must be the ids of one text, (n,); '
                    'give a list for several'
                )
            if not len(prompt):
                raise RequestError(f'prompt {i} has no tokens; it needs at least the start of text (sos)')
        self._model = model
        self._new_cache: Callable[[int, int], _Cache] | None = getattr(model, 'new_cache', None)
        self._device = prompts[0].device
        self._overflow = overflow
        self._adjust = adjust
        self.tokens: list[list[int]] = [prompt.tolist() for prompt in prompts]
        longest = max(map(len, self.tokens)) + n_steps
        self._room = longest if block_size is None else min(block_size, longest)
        self._begin = [max(0, len(row) - self._room) for row in self.tokens]
        self._cache: _Cache | None = None
        self._stale = [False] * len(prompts)
        """Rows that overflowed, so that the cache no longer holds their windows."""
        self._newest: Tensor | None = None  # r 1: tokens that are not in the cache yet; None: none are in it

    def logits(self) -> Float[Tensor, 'r v']:
        """The logits of each row's next token."""
        logits = self._of_model()
        return logits if self._adjust is None else self._adjust(logits, self.tokens)

    def _of_model(self) -> Float[Tensor, 'r v']:
        windows = [row[begin:] for row, begin in zip(self.tokens, self._begin)]
        if self._new_cache is None:
            return self._read_plain(windows)
        if self._cache is None or self._newest is None or all(self._stale):
            return self._read_all(windows)
        self._refill(windows)
        newest = self._newest
        self._newest = None
        return self._model(newest, cache=self._cache)[:, -1]

    def append(self, ids: Int[Tensor, ' r'], values: list[int]) -> None:
        """Add a token to every row.

        Args:
            ids: The tokens, on the model's device.
            values: The same, on the host.
        """
        self._newest = ids[:, None]
        for i, value in enumerate(values):
            self.tokens[i].append(value)
            if len(self.tokens[i]) - self._begin[i] > self._room:
                kept = self._room if self._overflow == 'slide' else max(1, self._room // 2)
                self._begin[i] = len(self.tokens[i]) - kept
                self._stale[i] = True

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order; a row can be repeated or dropped."""
        if rows == list(range(len(self.tokens))):
            return
        self.tokens = [self.tokens[i].copy() for i in rows]
        self._begin = [self._begin[i] for i in rows]
        self._stale = [self._stale[i] for i in rows]
        if self._newest is not None:
            self._newest = self._newest[rows]
        if self._cache is not None:
            self._cache.select(torch.tensor(rows, device=self._device))
            self._count_cached()

    def _read_plain(self, windows: list[list[int]]) -> Float[Tensor, 'r v']:
        lengths = [len(window) for window in windows]
        last: list[Tensor] = [torch.empty(0)] * len(windows)
        for length in sorted(set(lengths)):
            rows = [i for i, other in enumerate(lengths) if other == length]
            logits = self._model(torch.tensor([windows[i] for i in rows], device=self._device))
            for i, row in zip(rows, logits[:, -1]):
                last[i] = row
        return torch.stack(last)

    def _read_all(self, windows: list[list[int]]) -> Float[Tensor, 'r v']:
        """Compute every window, into a new cache unless all of them will slide at the next step."""
        must_slide = self._overflow == 'slide' and all(len(window) == self._room for window in windows)
        assert self._new_cache is not None
        self._cache = None if must_slide else self._new_cache(len(windows), self._room)
        self._stale = [False] * len(windows)
        self._newest = None
        return self._read(windows, self._cache)

    def _refill(self, windows: list[list[int]]) -> None:
        """Recompute the windows that overflowed, but for their newest tokens, which follow with those of all rows."""
        rows = [i for i, is_stale in enumerate(self._stale) if is_stale]
        if not rows:
            return
        read = [windows[i][:-1] for i in rows]
        longest = max(map(len, read))
        assert self._new_cache is not None
        assert self._cache is not None
        fresh = self._new_cache(len(rows), max(1, longest))
        if longest:
            self._read(read, fresh)
        self._cache.replace(torch.tensor(rows, device=self._device), fresh)
        self._stale = [False] * len(windows)
        self._count_cached()

    def _count_cached(self) -> None:
        """Tell the cache the lengths of its rows, so that it keeps no room for dropped ones."""
        n_unread = 0 if self._newest is None else 1
        lengths = [len(row) - begin - n_unread for row, begin in zip(self.tokens, self._begin)]
        assert self._cache is not None
        self._cache.set_lengths(lengths)

    def _read(self, windows: list[list[int]], cache: _Cache | None) -> Float[Tensor, 'r v']:
        """The logits of the last token of each window; windows of different lengths are packed into one row."""
        lengths = [len(window) for window in windows]
        layout = None
        if len(set(lengths)) == 1:
            ids = torch.tensor(windows, device=self._device)
        else:
            ids = torch.tensor([[token for window in windows for token in window]], device=self._device)
            starts = torch.tensor([0, *lengths], device=self._device).cumsum(0)
            layout = Layout(starts.int(), max(lengths))
        return self._model(ids, layout=layout, cache=cache, ends=True)[:, -1]
