"""What the model reads to say the next token of each row: the window, and the cache over it."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.batches import Layout
from xlabml.errors import RequestError

Overflow = Literal['refill', 'slide']
"""What happens when a row's window would grow beyond `block_size`.

refill: it is cut to its last block_size // 2 tokens (at least 1) and grows again. A refill reads half a window of this
row anew, every other step reads a single token.
slide: it is cut to its last block_size tokens, at every step from then on, and read anew.
"""


class Context:
    """Rows of tokens, of any lengths, that grow by a token a step.

    The logits of a row are those of a plain forward pass over its window: its last tokens, as many as `Overflow` says,
    the first of them at position 0. They depend on no other row.

    A model with a `new_cache(batch, length)` is called as `heads.LanguageModel` is: `(ids, layout=, cache=,
    ends=True)`, where `ends` asks for the logits of each row's (with a layout: segment's) last token only, and the
    cache is used as `transformer.Cache` is: `select`, `replace`, `set_lengths`. A row that overflows is read anew, and
    no other is. Any other model gets whole windows, those of one length in one call.

    Args:
        model: Ids (b, n) to logits (b, n, v).
        prompts: What the rows begin with, at least one token each; of longer ones the last `block_size` are read.
        n_steps: How many tokens will be added, at the most.
        block_size: The longest window; None: no limit.
        overflow: What happens beyond.

    Attributes:
        tokens: All tokens of each row, the prompt's included.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: list[Int[Tensor, ' _']],
        n_steps: int,
        block_size: int | None,
        overflow: Overflow,
    ) -> None:
        if block_size is not None and block_size < 1:
            raise ValueError(f'block_size is {block_size}; it must be at least 1, or None for no limit')
        if overflow not in ('refill', 'slide'):
            raise ValueError(f"overflow is {overflow!r}; it must be 'refill' or 'slide'")
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise RequestError(f'prompt {i} has no tokens; begin with the start of text (sos) at least')
        self._model: Any = model
        self._device = prompts[0].device
        self._overflow = overflow
        self.tokens: list[list[int]] = [prompt.tolist() for prompt in prompts]
        longest = max(map(len, self.tokens)) + n_steps
        self._room = longest if block_size is None else min(block_size, longest)
        self._begin = [max(0, len(row) - self._room) for row in self.tokens]
        self._cache: Any = None
        self._stale = [False] * len(prompts)
        """Rows of the cache that no longer hold their windows: these overflowed."""
        self._newest: Tensor | None = None  # r 1: what the cache has not read yet; None: it must read all

    def logits(self) -> Float[Tensor, 'r v']:
        """Of each row's next token."""
        windows = [row[begin:] for row, begin in zip(self.tokens, self._begin)]
        if not hasattr(self._model, 'new_cache'):
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
        """Keep these rows, in this order; a row may come several times, or not at all."""
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
        """Read every window, into a new cache unless each of them will be read anew at the next step as well."""
        must_slide = self._overflow == 'slide' and all(len(window) == self._room for window in windows)
        self._cache = None if must_slide else self._model.new_cache(len(windows), self._room)
        self._stale = [False] * len(windows)
        self._newest = None
        return self._read(windows, self._cache)

    def _refill(self, windows: list[list[int]]) -> None:
        """Read the windows that overflowed, without their newest tokens, which are read together with the others'."""
        rows = [i for i, is_stale in enumerate(self._stale) if is_stale]
        if not rows:
            return
        read = [windows[i][:-1] for i in rows]
        longest = max(map(len, read))
        fresh = self._model.new_cache(len(rows), max(1, longest))
        if longest:
            self._read(read, fresh)
        self._cache.replace(torch.tensor(rows, device=self._device), fresh)
        self._stale = [False] * len(windows)
        self._count_cached()

    def _count_cached(self) -> None:
        """Tell the cache how long its rows are: it need not keep room for what was dropped."""
        n_unread = 0 if self._newest is None else 1
        lengths = [len(row) - begin - n_unread for row, begin in zip(self.tokens, self._begin)]
        self._cache.set_lengths(lengths)

    def _read(self, windows: list[list[int]], cache: Any) -> Float[Tensor, 'r v']:
        lengths = [len(window) for window in windows]
        layout = None
        if len(set(lengths)) == 1:
            ids = torch.tensor(windows, device=self._device)
        else:
            ids = torch.tensor([[token for window in windows for token in window]], device=self._device)
            starts = torch.tensor([0, *lengths], device=self._device).cumsum(0)
            layout = Layout(starts.int(), max(lengths))
        return self._model(ids, layout=layout, cache=cache, ends=True)[:, -1]
