"""The key/value cache: keys and values of earlier tokens, so that a decoding step computes one token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.batches import Layout


class Cache:
    """Keys and values of a batch of rows of different lengths, in memory that is allocated once.

    A pass of the model, without a gradient, appends to it.

    Args:
        n_layers: Layers of the trunk.
        batch: Rows.
        n_kv_heads: Heads of keys and values.
        length: Capacity of a row, in tokens.
        d_head: Channels of a head.
        device: Device of the memory.
        dtype: Dtype of keys and values.

    Raises:
        ValueError: A size is below 1.
    """

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        length: int,
        d_head: int,
        device: torch.device | str = 'cpu',
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch < 1 or length < 1:
            raise ValueError(f'a cache of {batch} rows of {length} tokens cannot be made; both must be 1 or more')
        self.length = length
        self.data = torch.zeros(n_layers, 2, batch, n_kv_heads, length, d_head, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.recent: dict[int, Tensor] = {}
        """By the number of a shift, the vectors of the last tokens of each row, b k c."""
        self.longest = 0
        """Upper bound of the rows' lengths, known without a device synchronization."""
        self.is_even = True
        """All rows are known to be `longest` tokens long."""

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return self.data.size(2)

    def reset(self) -> None:
        """Empty the cache, and keep the memory."""
        self.lengths.zero_()
        self.recent.clear()
        self.longest = 0
        self.is_even = True

    def select(self, rows: Int[Tensor, ' b']) -> None:
        """Replace row i by row rows[i]: reorder, repeat or drop rows, as beam search does."""
        held = self.data[:, :, :, :, : self.longest].index_select(2, rows)
        if rows.numel() != self.batch:
            self.data = self.data.new_zeros(*self.data.shape[:2], rows.numel(), *self.data.shape[3:])
        self.data[:, :, :, :, : self.longest] = held
        self.lengths = self.lengths[rows]
        self.recent = {site: held.index_select(0, rows) for site, held in self.recent.items()}

    def replace(self, rows: Int[Tensor, ' r'], other: 'Cache') -> None:
        """Overwrite these rows with the rows of another cache.

        Raises:
            ValueError: The other cache has another number of rows, or more tokens than fit.
        """
        if other.batch != rows.numel() or other.longest > self.length:
            raise ValueError(
                f'{rows.numel()} rows of {self.length} tokens cannot hold a cache of {other.batch} rows, the longest '
                f'of {other.longest} tokens'
            )
        self.data[:, :, rows, :, : other.longest] = other.data[:, :, :, :, : other.longest].to(self.data.dtype)
        self.lengths = self.lengths.index_copy(0, rows, other.lengths)
        for site, held in other.recent.items():
            own = self.recent.get(site, held.new_zeros(self.batch, *held.shape[1:]))
            self.recent[site] = own.index_copy(0, rows, held.to(own.dtype))
        self.longest = max(self.longest, other.longest)
        self.is_even = False

    def set_lengths(self, lengths: list[int]) -> None:
        """Set the known lengths from the caller's count, so that a row that has left no longer sets `longest`.

        Args:
            lengths: Length of each row, equal to `lengths` on the device, which is not read.
        """
        self.longest = max(lengths)
        self.is_even = len(set(lengths)) == 1

    def check_room(self, n: int) -> None:
        """Check that n more tokens fit behind the longest row.

        Raises:
            ValueError: They do not fit.
        """
        if self.longest + n > self.length:
            raise ValueError(
                f'the cache holds {self.longest} of {self.length} tokens, so {n} more do not fit; '
                'make a longer one with new_cache(batch, length)'
            )

    def append(
        self, layer: int, k: Float[Tensor, 'b g n c'], v: Float[Tensor, 'b g n c']
    ) -> tuple[Float[Tensor, 'b g m c'], Float[Tensor, 'b g m c']]:
        """Append keys and values of one layer to each row, and return all keys and values up to the longest row."""
        n = k.size(2)
        held = self.data[layer]  # 2 b g m c
        end = self.longest + n
        if self.is_even:
            held[0, :, :, self.longest : end] = k
            held[1, :, :, self.longest : end] = v
        else:
            row = torch.arange(self.batch, device=k.device)[:, None]  # b 1
            place = self.lengths[:, None] + torch.arange(n, device=k.device)  # b n
            held[0].transpose(1, 2)[row, place] = k.transpose(1, 2).to(held.dtype)
            held[1].transpose(1, 2)[row, place] = v.transpose(1, 2).to(held.dtype)
        return held[0, :, :, :end], held[1, :, :, :end]

    def fill(
        self, layer: int, segment: Int[Tensor, ' t'], position: Int[Tensor, ' t'],
        k: Float[Tensor, 't g c'], v: Float[Tensor, 't g c'],
    ) -> None:  # fmt: skip
        """Write one layer's keys and values of a packed row into an empty cache: segment i becomes row i."""
        held = self.data[layer].transpose(2, 3)  # 2 b m g c
        held[0, segment, position] = k.to(held.dtype)
        held[1, segment, position] = v.to(held.dtype)

    def advance(self, n: int) -> None:
        """Count n tokens that every layer has appended to each row."""
        self.lengths = self.lengths + n
        self.longest += n

    def begin(self, layout: Layout, is_even: bool) -> None:
        """Count the segments that every layer has written with `fill`."""
        lengths = layout.starts.diff().long()
        self.lengths = lengths if layout.is_text is None else lengths * layout.is_text
        self.longest = layout.max_length
        self.is_even = is_even
