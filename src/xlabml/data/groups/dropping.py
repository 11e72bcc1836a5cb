"""Tokens that are left out of texts at random: which, and the batch that remains.

Which ones follows from the key of an example, so a resumed run leaves out the same.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt64

from xlabml.batches import Batch, Layout
from xlabml.data.order import scramble, slot_keys, uniform
from xlabml.data.rows import ranges
from xlabml.errors import SettingsError

from .text_rows import MIN_SLOTS, TextRows, round_up


def check_dropout(ratio: float) -> float:
    """The ratio of tokens that are left out.

    Raises:
        SettingsError: It does not lie from 0 to below 1.
    """
    if not 0 <= ratio < 1:
        raise SettingsError(f'data.examples.token_dropout is {ratio}; give a ratio from 0 to below 1')
    return ratio


def choose_kept(
    keys: UInt64[np.ndarray, ' t'], n_tokens: Int64[np.ndarray, ' t'], ratio: float
) -> Bool[np.ndarray, ' n']:
    """Whether each token of the texts is kept; of a text that would lose all, the one that is drawn last.

    Args:
        keys: Of each text.
        n_tokens: Of each text, which lie back to back.
        ratio: The expected ratio of those that are not kept.
    """
    draws = uniform(slot_keys(keys, n_tokens))
    is_kept = draws >= ratio
    ends = np.cumsum(n_tokens)
    starts = ends - n_tokens
    n_kept = np.concatenate([[0], np.cumsum(is_kept)])
    for i in np.flatnonzero((n_kept[ends] == n_kept[starts]) & (n_tokens > 0)).tolist():
        is_kept[starts[i] + int(draws[starts[i] : ends[i]].argmax())] = True
    return is_kept


def drop_tokens(batch: Batch, keys: UInt64[np.ndarray, ' e'], ratio: float, framing: Sequence[int], pad: int) -> Batch:
    """The batch without some tokens of its texts; those that frame them are kept, and each keeps one of its own.

    Args:
        batch: Of texts whose first and last slot are not their own.
        keys: Of each example.
        ratio: The expected ratio of tokens that are left out.
        framing: The ids that stand around and between texts.
        pad: The id that fills a row.
    """
    assert batch.layout is not None
    n_rows, old_slots = batch.ids.shape
    starts = batch.layout.starts.numpy().astype(np.int64)
    segment = np.flatnonzero(batch.documents.numpy() >= 0)  # of each text
    begins = starts[segment]
    lengths = starts[segment + 1] - begins
    old_ids = batch.ids.numpy().ravel()
    example = batch.example.numpy()[segment]
    role = batch.role.numpy()[segment]

    # Of each slot of the texts, whether it is kept.
    owner = np.repeat(np.arange(len(segment)), lengths)
    old_slot = ranges(begins, lengths)
    is_kept = np.ones(len(old_slot), np.bool_)
    inner = (old_slot != begins[owner]) & (old_slot != (begins + lengths - 1)[owner])
    own_keys = scramble(keys[example] + role.astype(np.uint64))
    is_kept[inner] = choose_kept(own_keys, lengths - 2, ratio)
    is_kept |= np.isin(old_ids[old_slot], list(framing))

    # The rows, which keep their texts; one that is alone becomes shorter.
    left = np.bincount(owner, is_kept, len(segment)).astype(np.int64)
    n_slots = old_slots if n_rows > 1 else min(old_slots, round_up(int(left.sum()), MIN_SLOTS))
    longest = min(batch.layout.max_length, n_slots)
    rows = TextRows.of(left, begins // old_slots, n_rows, n_slots, longest)
    ids = np.full(n_rows * n_slots, pad, np.int64)
    ids[ranges(rows.begins, left)] = old_ids[old_slot[is_kept]]
    documents = rows.spread(batch.documents.numpy()[segment], -1)
    return batch._replace(
        ids=torch.from_numpy(ids).view(n_rows, n_slots),
        layout=Layout(torch.from_numpy(rows.starts), longest, torch.from_numpy(documents >= 0)),
        documents=torch.from_numpy(documents),
        example=torch.from_numpy(rows.spread(example, -1)),
        role=torch.from_numpy(rows.spread(role, 0)),
    )
