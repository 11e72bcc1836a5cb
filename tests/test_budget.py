"""How texts share the tokens of an example, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlabml.budget import Part, fit_turns, join_fields, split_ratios

THIRDS = (1 / 3, 1 / 3, 1 / 3)


def n_read(fields):
    return [sum(part.head + part.tail for part in parts) for parts in fields]


def test_what_fits_is_read_whole():
    assert fit_turns([[3, 2], [4], [1]], 11, THIRDS) == [
        [Part(0, 3, 0), Part(1, 2, 0)],
        [Part(0, 4, 0)],
        [Part(0, 1, 0)],
    ]


def test_the_oldest_turns_are_dropped_whole_of_all_fields_at_once():
    fields = [[5, 3, 2], [6, 2, 4], [1, 1, 1]]
    # 2 + 4 + 1 of the last turns, 3 + 2 + 1 before them with a token between two turns: 16 slots
    kept = fit_turns(fields, 16, THIRDS)
    assert [[part.turn for part in parts] for parts in kept] == [[1, 2]] * 3
    assert [[part.turn for part in parts] for parts in fit_turns(fields, 15, THIRDS)] == [[2]] * 3


def test_turns_are_counted_from_the_last_one():
    kept = fit_turns([[9, 2], [3], [4]], 9, THIRDS)
    assert [[part.turn for part in parts] for parts in kept] == [[1], [0], [0]]


def test_a_last_turn_that_is_too_long_loses_its_middle_or_its_end():
    assert fit_turns([[10], [10]], 10, (0.5, 0.5)) == [[Part(0, 3, 2)], [Part(0, 3, 2)]]
    assert fit_turns([[10], [10]], 10, (0.5, 0.5), cuts_middle=False) == [[Part(0, 5, 0)], [Part(0, 5, 0)]]


def test_what_a_field_leaves_over_is_shared_by_the_others():
    assert n_read(fit_turns([[2], [50], [50]], 30, THIRDS)) == [2, 14, 14]
    assert n_read(fit_turns([[90], [1], [3]], 30, THIRDS)) == [26, 1, 3]
    assert n_read(fit_turns([[90], [90], [90]], 32, split_ratios([2.0, 1.0, 1.0]))) == [16, 8, 8]
    assert n_read(fit_turns([[90], [90], [90]], 32, THIRDS)) == [12, 10, 10]  # the remainder goes to the first


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=2, max_size=3),
    st.integers(6, 60),
    st.lists(st.floats(0.2, 1), min_size=3, max_size=3),
)
def test_every_field_stays_visible_and_nothing_exceeds_the_room(fields, room, ratios):
    kept = fit_turns(fields, room, split_ratios(ratios[: len(fields)]))
    read = n_read(kept)
    assert sum(read) + sum(len(parts) - 1 for parts in kept) <= room
    for turns, parts, n in zip(fields, kept, read):
        assert parts[-1].turn == len(turns) - 1
        assert n >= 1 or sum(turns[parts[0].turn :]) == 0
    # fields that are treated alike have as many tokens, whichever stands first
    even = split_ratios([1.0] * len(fields))
    exchanged = fit_turns([*fields[:-2], fields[-1], fields[-2]], room, even)
    if len(fields) == 3:
        plain = fit_turns(fields, room, even)
        assert exchanged == [plain[0], plain[2], plain[1]]


def test_a_segment_is_its_fields_between_start_and_end():
    tokens = [[[11, 12, 13, 14]], [[21], np.array([22, 23])]]
    kept = [[Part(0, 1, 1)], [Part(0, 1, 0), Part(1, 2, 0)]]
    assert join_fields(tokens, kept, sos=1, sep=5, eos=2).tolist() == [1, 11, 14, 5, 21, 2, 22, 23, 2]
    assert join_fields([[[]], [[7]]], [[Part(0, 0, 0)], [Part(0, 1, 0)]], 1, 5, 2).tolist() == [1, 5, 7, 2]


@pytest.mark.parametrize('room', [[1.0, 3.0], [0.25, 0.75]])
def test_ratios_add_up_to_1(room):
    assert split_ratios(room) == (0.25, 0.75)
