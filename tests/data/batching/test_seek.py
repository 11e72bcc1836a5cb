"""The first batch of step 1,000,000 costs what that of step 0 does: places are worked out, never walked to."""

import numpy as np
import pytest
from token_batches import train_batches

from xlabml.data import Mixture, Pack, Rows, loader, open_plan
from xlabml.data.order import permutation
from xlabml.data.rows import passes

FAR = 1_000_000


@pytest.fixture
def work(monkeypatch):
    """How many indices were sent through the permutation, call by call."""
    calls = []
    permute = permutation.permute
    for module in (permutation, passes):  # of a mixture, and of epochs
        monkeypatch.setattr(module, 'permute', lambda index, *rest: calls.append(len(index)) or permute(index, *rest))
    return calls


@pytest.fixture(params=['plain', 'weighted'])
def build(request, two_stores, tokenizer, tmp_path):
    rows = Rows(two_stores, open_plan(Pack(16), two_stores, 'train', False, tmp_path), tokenizer)
    plan = rows.plan

    def build():
        mixture = Mixture(plan.source_rows, plan.source_counted, [1.0, 3.0]) if request.param == 'weighted' else None
        return train_batches(rows, rows_per_step=8, rows_per_batch=4, seed=1, mixture=mixture)

    return build


def test_a_far_step_costs_what_the_first_one_does(build, work):
    counts = []
    for step in (0, FAR):
        batches = build()
        n_rows = len(batches.passes.examples)
        work.clear()
        first = next(iter(loader(batches, 2 * step, 2)))
        counts.append((sum(work), len(work)))
        assert first.ids.shape == (4, 16)
        assert len(first.ids) == len(batches[2 * step].ids)
    (near, near_calls), (far, far_calls) = counts
    assert far <= near + n_rows  # no more places are worked out than a pass has, wherever in it the step begins …
    assert far_calls <= near_calls + 2  # … in as many passes


def test_a_far_step_is_the_one_that_walking_there_would_find(build):
    near, far = build(), build()
    for step in range(40):
        near[2 * step]
    assert near[2 * 40].ids.tolist() == far[2 * 40].ids.tolist()
    passes, rows = np.divmod(np.arange(8 * FAR, 8 * FAR + 8), far.passes.n_each)
    expected = [int(far.passes.order(int(i), np.array([row]))[0]) for i, row in zip(passes, rows)]
    assert [number for part in far._take(far.row(FAR), 8) for number in part.numbers.tolist()] == expected
    assert far.row(FAR) == 8 * FAR
