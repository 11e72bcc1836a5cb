"""Document and position of each token in one call of the trunk."""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from xlabml.batches import Layout

from .cache import Cache

Segments = list[tuple[int, bool]]
"""For each segment its length, and whether it is text (else padding)."""


class Documents(NamedTuple):
    """Where documents begin in packed rows, as attention needs it.

    Args:
        starts: As in Layout, in int32.
        max_length: Upper bound of the segments' lengths, in tokens, known without a device synchronization.
        is_text: As in Layout.
        segment: Number of the segment of each token.
        segments: Their lengths; None where reading them would synchronize with a device, or while compiling.
    """

    starts: Int[Tensor, ' s+1']
    max_length: int
    is_text: Bool[Tensor, ' s'] | None
    segment: Int[Tensor, 'b n']
    segments: Segments | None


class Place(NamedTuple):
    """Document and position of each token in one call.

    Args:
        position: Position of each token in its document, cached tokens included.
        longest: Upper bound of the documents' lengths, in tokens.
        documents: Documents of packed rows; None: every row is one document.
    """

    position: Int[Tensor, '#b n']
    longest: int
    documents: Documents | None


def place_tokens(ids: Int[Tensor, 'b n'], layout: Layout | None, cache: Cache | None) -> Place:
    """Find document and position of each token in one call; arguments as in Transformer.forward.

    Raises:
        ValueError: The layout or the cache does not fit the ids.
    """
    b, n = ids.shape
    if layout is not None:
        return _place_packed(ids, layout, cache)
    place = torch.arange(n, device=ids.device)[None]
    if cache is None:
        return Place(place, n, None)
    if cache.batch != b:
        raise ValueError(f'ids have {b} rows, but the cache has {cache.batch}; make a cache of {b} rows')
    cache.check_room(n)
    position = place + (cache.longest if cache.is_even else cache.lengths[:, None])
    return Place(position, cache.longest + n, None)


def _place_packed(ids: Int[Tensor, 'b n'], layout: Layout, cache: Cache | None) -> Place:
    n_slots = ids.numel()
    device = ids.device
    starts = layout.starts.int()
    is_read = device.type == 'cpu' and not torch.compiler.is_compiling()
    segments = None
    if is_read or cache is not None:
        segments = read_segments(starts, layout.is_text, layout.max_length, n_slots)
    segment = torch.repeat_interleave(starts.diff(), output_size=n_slots)  # t
    position = torch.arange(n_slots, device=device) - starts[segment]  # t
    if cache is not None:
        n_segments = starts.numel() - 1
        if cache.longest or cache.batch != n_segments:
            raise ValueError(
                f'a packed row of {n_segments} segments needs an empty cache of {n_segments} rows; this one has '
                f'{cache.batch} rows, the longest of {cache.longest} tokens'
            )
        cache.check_room(layout.max_length)
    documents = Documents(starts, layout.max_length, layout.is_text, segment.view(ids.shape), segments)
    return Place(position.view(ids.shape), layout.max_length, documents)


def read_segments(starts: Tensor, is_text: Tensor | None, max_length: int, n_slots: int) -> Segments:
    """Length of each segment of a layout, and whether it is text. Synchronizes with the device of the layout.

    Raises:
        ValueError: The layout does not fit n_slots tokens, or a segment is longer than max_length.
    """
    ends = starts.tolist()
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    if ends[0] != 0 or ends[-1] != n_slots or min(lengths, default=-1) < 0:
        raise ValueError(
            f'layout.starts runs from {ends[0]} to {ends[-1]}, but must rise from 0 to the {n_slots} slots of ids'
        )
    if max(lengths) > max_length:
        raise ValueError(f'a segment has {max(lengths)} tokens, but layout.max_length is {max_length}')
    return list(zip(lengths, [True] * len(lengths) if is_text is None else is_text.tolist()))


def longest_text(segments: Segments) -> int:
    """Length of the longest document, in tokens."""
    return max((length for length, is_text in segments if is_text), default=0)
