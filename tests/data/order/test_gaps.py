"""A run leaves stretches of the data out, and reads everything else in the same order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from token_batches import train_batches

from xlabml.data import Pack, Rows, open_plan
from xlabml.data.order.gaps import Gaps

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)


@given(PAIRS)
def test_places_are_those_outside_all_stretches_in_their_order(stretches):
    outside = [i for i in range(200) if not any(start <= i < end for start, end in stretches)]
    gaps = Gaps(stretches)
    assert gaps.places(np.arange(len(outside))).tolist() == [gaps.place(i) for i in range(len(outside))] == outside
    assert [gaps.before(i) for i in range(200)] == [sum(place < i for place in outside) for i in range(200)]


@pytest.fixture(scope='module')
def rows(corpus, tokenizer, tmp_path_factory):
    return Rows(corpus, open_plan(Pack(32), corpus, 'train', False, tmp_path_factory.mktemp('plans')), tokenizer)


def test_steps_after_a_gap_are_those_that_came_later_without_it(rows):
    whole = train_batches(rows, 4, 4, seed=1)
    left_out = train_batches(rows, 4, 4, seed=1, skipped=[(8, 16)])  # the rows of steps 2 and 3, counted from 0
    for step, same in ((0, 0), (1, 1), (2, 4), (3, 5), (90, 92)):
        assert torch.equal(left_out[step].ids, whole[same].ids)
