"""Which groups come together in a step: by hand, and as properties of a whole run."""

from collections import Counter

import numpy as np
import pytest

from xlabml.data import BatchSequence, Epochs, Place
from xlabml.data.groups import Arranged, InOrder, NoDuplicates, PerClass, SameSource, TextGroups
from xlabml.errors import SettingsError


class Said:
    """Groups of which all is said: the texts of each, its class, its source."""

    def __init__(self, texts, labels=None, stores=None):
        self.texts = [[hash(text) % (1 << 63) for text in group] for group in texts]
        self._labels = np.array(labels or [0] * len(texts))
        self._stores = np.array(stores or [0] * len(texts))
        self.classes = [str(label) for label in sorted(set(labels or []))]

    def __len__(self):
        return len(self.texts)

    def labels(self, numbers):
        return self._labels[numbers]

    def stores(self, numbers):
        return self._stores[numbers]

    def hashes(self, numbers):
        some = [self.texts[number] for number in numbers.tolist()]
        return np.array([text for group in some for text in group], np.uint64), np.cumsum([0, *map(len, some)])


def arranged(batching, said, n_groups, n_batches):
    return batching.arrange(np.arange(len(said)), n_groups, n_batches, said).reshape(n_batches, n_groups).tolist()


def test_in_order_is_the_order():
    assert arranged(InOrder(), Said('abcdef'), 2, 3) == [[0, 1], [2, 3], [4, 5]]
    assert arranged(InOrder(), Said('ab'), 3, 1) == [[0, 1, -1]]


def test_a_group_with_a_text_of_the_batch_waits_for_the_next():
    said = Said(['ax', 'by', 'cx', 'ad', 'ez', 'fx', 'gg'])
    # c x and a d wait, f x waits twice and finds no place; g is twice in one group, which is no duplicate.
    assert arranged(NoDuplicates(), said, 3, 2) == [[0, 1, 4], [2, 3, 6]]


def test_a_step_that_cannot_be_filled_without_duplicates_has_empty_places():
    assert arranged(NoDuplicates(), Said(['ax', 'bx', 'cx', 'dy']), 2, 2) == [[0, 3], [1, -1]]


def test_every_step_has_as_many_groups_of_each_of_its_classes():
    said = Said('abcdefghij', labels=[0, 0, 0, 0, 1, 1, 2, 2, 3, 1])
    # Class 0 has most, then 1; class 3 has one group only and never comes. Where a class is used up, it comes again.
    assert arranged(PerClass(2), said, 4, 3) == [[0, 1, 4, 5], [2, 3, 6, 7], [0, 1, 9, 4]]
    assert arranged(PerClass(2), said, 8, 1) == [[-1] * 8]


def test_every_step_is_of_one_source_and_the_fullest_are_taken():
    said = Said('abcdefgh', stores=[0, 1, 0, 0, 1, 0, 0, 1])
    steps = arranged(SameSource(InOrder()), said, 2, 4)
    assert sorted(steps) == [[0, 2], [1, 4], [3, 5], [6, -1]]
    with pytest.raises(ValueError, match='per_class is 1'):
        PerClass(1)


@pytest.mark.parametrize(
    ('labels', 'n_groups', 'message'),
    [
        (None, 4, 'the records have no label'),
        ([0, 0, 1, 1], 3, 'no multiple of data.examples.batching.per_class, 2; make it 2'),
        ([0, 0, 0, 1], 4, "takes 2 classes with 2 groups each .* but 1 of the 2 classes .*'1' has 1"),
        ([0, 0, 0, 0], 4, 'but 1 of the 1 classes .*; make data.examples.batching.per_class smaller'),
        ([0, 0, 1, 1], 8, 'but 2 of the 2 classes .*; make data.batch_groups 4, or'),
    ],
)
def test_classes_that_are_too_few_or_too_small_are_refused(labels, n_groups, message):
    with pytest.raises(SettingsError, match=message):
        PerClass(2).check(Said('abcd', labels), n_groups)


# A whole run


@pytest.fixture
def questions(make_groups):
    """100 groups of two sources, whose positives are a few."""
    form = TextGroups({'anchor': 'q', 'positive': 'p'})
    records = [{'q': f'cat {i}', 'p': [f'dog {i % 23}']} for i in range(100)]
    return make_groups(form, records[:60], records[60:])


def sequence(groups, batching=None, n_groups=12, world=1, rank=0, block=32, **start):
    passes = Arranged(Epochs(groups, seed=1), batching or NoDuplicates(), n_groups, block)
    return BatchSequence(passes, n_groups, n_groups // world, 1, rank, world, **start)


def of_step(batches, step):
    """The documents of the anchors of a step, in their order, over the batches of all ranks."""
    found = []
    for one in batches:
        batch = one[step]
        found += batch.documents[(batch.example >= 0) & (batch.role == 0)].tolist()
    return found


def test_no_text_stands_twice_in_any_step_and_a_pass_has_no_group_twice(questions):
    batches = sequence(questions)
    per_pass = 100 // 12
    n_there = []
    for step in range(3 * per_pass):
        batch = batches[step]
        hashes = batch.targets.text_hash[batch.example >= 0].tolist()
        assert len(set(hashes)) == len(hashes) == 2 * batch.n_counted
        n_there.append(batch.n_counted)
    for first in range(0, 3 * per_pass, per_pass):
        seen = Counter(number for step in range(first, first + per_pass) for number in of_step([batches], step))
        assert max(seen.values()) == 1
    assert sum(n_there) > 0.9 * 12 * len(n_there)
    assert of_step([batches], 0) != of_step([batches], per_pass)


def test_the_order_is_the_same_for_any_number_of_ranks_and_from_any_start(questions):
    whole = sequence(questions)
    ranks = [sequence(questions, world=3, rank=rank) for rank in range(3)]
    for step in (0, 5, 11, 30):
        assert of_step(ranks, step) == of_step([whole], step)
        assert all(one[step].n_counted == whole[step].n_counted for one in ranks)
    place = whole.place(11)
    assert place == Place(1, 36)
    resumed = sequence(questions, first_step=11, start=place)
    assert [of_step([resumed], step) for step in (11, 30)] == [of_step([whole], step) for step in (11, 30)]
    # In any order: nothing is remembered that matters.
    assert of_step([sequence(questions)], 30) == of_step([whole], 30)


def test_steps_are_of_one_source_over_a_run(questions):
    batches = sequence(questions, SameSource())
    n_first = len(questions.corpus.stores[0])
    kinds = [{document >= n_first for document in of_step([batches], step)} for step in range(16)]
    assert all(len(kind) == 1 for kind in kinds)
    assert {True, False} == set().union(*kinds)
    assert sum(batches.source_targets(0, 16, 2)) == sum(batches[step].n_counted for step in range(16))


def test_a_pass_with_fewer_groups_than_a_step_leaves_places_empty(questions):
    batches = sequence(questions, InOrder(), n_groups=128)
    assert batches[0].n_counted == 100
    assert batches.place(2) == Place(1, 128)
