"""How the texts of one example share its tokens: every text stays visible, and what is cut is known.

A text is a field of an example; the fields of a preference are prompt and answers, and each is a list of turns. Used by
the formats of the data and by the pipelines, which read a text alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class Part(NamedTuple):
    """What is read of a turn.

    Args:
        turn: Its number in its field.
        head: Tokens of its beginning.
        tail: Tokens of its end; those between are cut out.
    """

    turn: int
    head: int
    tail: int


def share_room(lengths: Int64[np.ndarray, 'e f'], room: int, ratios: tuple[float, ...]) -> Int64[np.ndarray, 'e f']:
    """How many tokens of each text fit: its ratio of the room, and what the others leave over, the first one first.

    Args:
        lengths: Of the texts of each example.
        room: Tokens of an example.
        ratios: Of each text; their sum is 1.
    """
    kept = np.minimum(lengths, np.floor(room * np.array(ratios) + 1e-9).astype(np.int64))
    for i in range(lengths.shape[1]):
        left = room - kept.sum(1)
        kept[:, i] += np.minimum(lengths[:, i] - kept[:, i], left)
    return kept


def share_window(
    lengths: Int64[np.ndarray, 'e f'], max_len: int, ratios: tuple[float, ...]
) -> tuple[Int64[np.ndarray, ' e'], Int64[np.ndarray, ' e']]:
    """How a window of an example is shared: the first of two texts stands in each of them, the last text is cut up.

    Args:
        lengths: Of the texts of each example, one or two.
        max_len: Slots of a window: a start, the first text and a separator where there are two, tokens, an end.
        ratios: Of each text; their sum is 1.

    Returns:
        How many tokens of the first of two texts a window has, and how many of the last one fit in it.
    """
    if lengths.shape[1] == 1:
        return np.zeros(len(lengths), np.int64), np.full(len(lengths), max_len - 2)
    room = max_len - 3
    shared = share_room(lengths, room, ratios)[:, 0]
    return shared, room - shared


def count_windows(
    lengths: Int64[np.ndarray, '*e'], room: int | Int64[np.ndarray, '*e'], most: int, overlap: int
) -> Int64[np.ndarray, '*e']:
    """How many windows texts are read in: as many as hold all of a text, one at least.

    Args:
        lengths: Of the texts, in tokens.
        room: Tokens of a window; of a text that is longer, more than `overlap`.
        most: Windows of a text, at most.
        overlap: Tokens that a window shares with the one before.
    """
    return np.clip(-(-(lengths - overlap) // np.maximum(1, room - overlap)), 1, np.where(lengths <= room, 1, most))


def split_ratios(room: Sequence[float]) -> tuple[float, ...]:
    """Ratios whose sum is 1."""
    total = sum(room)
    return tuple(share / total for share in room)


def fit_turns(
    fields: Sequence[Sequence[int]], room: int, ratios: Sequence[float], cuts_middle: bool = True
) -> list[list[Part]]:
    """What is read of each field: all turns, or the last ones, or a part of the last one.

    Where together they are too long, the oldest turns are dropped whole, of all fields at once (turns are counted from
    the last one), until the rest fits. The last turn of a field is never dropped: where last turns alone are too long,
    each field has its ratio of the room, and what one does not need the others share in proportion. A remainder of
    that goes to the first field, so that fields with equal ratios are treated alike.

    Args:
        fields: The tokens of each turn of each field; a field has a turn at least.
        room: Slots for their tokens, and for one token between two turns of a field.
        ratios: Of each field; their sum is 1.
        cuts_middle: Whether tokens are cut out of a turn's middle; else off its end.
    """
    most = max(map(len, fields))
    for n_dropped in range(most):
        first = [min(len(turns) - 1, max(0, n_dropped - (most - len(turns)))) for turns in fields]
        if sum(sum(turns[n:]) + len(turns) - n - 1 for turns, n in zip(fields, first)) <= room:
            return [[Part(i, turns[i], 0) for i in range(n, len(turns))] for turns, n in zip(fields, first)]
    last = [turns[-1] for turns in fields]
    found = []
    for turns, length, kept in zip(fields, last, _shares(last, room, ratios)):
        tail = kept // 2 if cuts_middle and kept < length else 0
        found.append([Part(len(turns) - 1, kept - tail, tail)])
    return found


def _shares(lengths: Sequence[int], room: int, ratios: Sequence[float]) -> list[int]:
    """How many tokens of each of some texts that do not fit are kept."""
    kept = [0] * len(lengths)
    cut = set(range(len(lengths)))
    left = room
    while True:
        total = sum(ratios[i] for i in sorted(cut))
        whole = {i for i in cut if lengths[i] <= left * ratios[i] / total + 1e-9}
        if not whole or whole == cut:
            break
        for i in whole:
            kept[i] = lengths[i]
            left = left - lengths[i]
        cut = cut - whole
    for i in cut:
        kept[i] = min(lengths[i], int(left * ratios[i] / total + 1e-9))
    if 0 in cut:
        kept[0] = min(lengths[0], kept[0] + left - sum(kept[i] for i in cut))
    return kept


def join_fields(
    tokens: Sequence[Sequence[Sequence[int] | np.ndarray]],
    kept: Sequence[Sequence[Part]],
    sos: int,
    sep: int,
    eos: int,
) -> Int64[np.ndarray, ' slots']:
    """The slots of a segment: the start, the fields with a separator between them, the end; eos between two turns.

    Args:
        tokens: Of each turn of each field.
        kept: What is read of them, from `fit_turns`.
        sos: The token of the start.
        sep: The token between two fields.
        eos: The token of the end.
    """
    slots: list[Sequence[int] | np.ndarray] = [[sos]]
    for number, (turns, parts) in enumerate(zip(tokens, kept)):
        if number:
            slots.append([sep])
        for place, part in enumerate(parts):
            if place:
                slots.append([eos])
            turn = turns[part.turn]
            slots.append(turn[: part.head])
            if part.tail:
                slots.append(turn[len(turn) - part.tail :])
    return np.concatenate([np.asarray(some, np.int64) for some in [*slots, [eos]]])
