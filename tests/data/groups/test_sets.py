"""Several data sets of groups in one run."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from xlabml.data import BatchSequence, Corpus, Epochs, EvalBatches, Location, prepare_store
from xlabml.data.groups import GroupSets, TextGroups
from xlabml.data.order import Place
from xlabml.errors import SettingsError

PAIRS = partial(TextGroups, {'anchor': 'q', 'positive': 'p'})
SCORED = partial(TextGroups, {'a': 'x', 'b': 'y'}, score='s')


@pytest.fixture
def sets():
    return GroupSets([PAIRS, SCORED])


@pytest.fixture
def open_sets(sets, tmp_path, make_reading, tokenizer):
    """The examples of a stage: 10 pairs and 21 scored pairs, four groups a step."""
    files = {
        'pairs': [{'q': f'cat {i}', 'p': f'dog {i}'} for i in range(10)],
        'scored': [{'x': f'mat {i}', 'y': f'sat {i}', 's': i / 20} for i in range(21)],
    }
    sources = []
    for name, records in files.items():
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, records)))
        sources.append(Location(str(tmp_path / f'{name}.jsonl')))
    stores = [
        prepare_store(source, tokenizer, tmp_path / f'store-{i}', sets.columns)
        for i, source in enumerate(sets.sources(sources))
    ]
    corpus = Corpus(stores, {'train': 1.0})
    return lambda stage: sets.examples(corpus, 'train', stage, 0, make_reading())


def test_in_turn_every_other_step_is_of_the_other_set_and_each_goes_through_all_of_its_own(open_sets, make_reading):
    sets = GroupSets([PAIRS, SCORED], in_turn=True)
    passes = sets.arrange(Epochs(open_sets('train'), 1), make_reading())
    batches = BatchSequence(passes, 4, 4, 1)
    seen = {0: [], 1: []}
    for step in range(20):
        batch = batches[step]
        assert batch.targets.set == step % 2
        seen[step % 2].append(sorted(batch.documents[(batch.documents >= 0) & (batch.role == 0)].tolist()))
    small = [[d for some in seen[0][i : i + 2] for d in some] for i in range(0, 10, 2)]  # two steps are a pass of it
    assert all(len(set(some)) == 8 and max(some) < 10 for some in small)
    assert len({tuple(sorted(some)) for some in small}) > 1  # what is left over differs
    large = [[d for some in seen[1][i : i + 5] for d in some] for i in (0, 5)]
    assert all(len(set(some)) == 20 and min(some) >= 10 for some in large)
    # The turns go on from one pass to the next, and a run that begins at any place reads what is due there.
    n = passes.n_each // 4
    edge = [int(passes.order(k, np.array([place * 4]))[0] >= 10) for k, place in ((0, n - 2), (0, n - 1), (1, 0))]
    assert edge == [0, 1, 0]
    resumed = BatchSequence(passes, 4, 4, 1, start=Place(0, 12))
    assert torch.equal(resumed[0].documents, batches[3].documents)
    assert passes.epochs(Place(0, 12)) == [0.8, 4 / 21]
    assert (
        passes.fingerprint
        != GroupSets([SCORED, PAIRS]).arrange(Epochs(open_sets('train'), 1), make_reading()).fingerprint
    )


def test_in_turn_no_weights_are_used_and_no_set_is_empty(make_reading, open_sets):
    assert 'weights' in GroupSets([PAIRS], in_turn=True).unused_settings
    assert 'weights' not in GroupSets([PAIRS]).unused_settings
    examples = open_sets('train')
    examples.sets[1].documents = examples.sets[1].documents[:0]
    with pytest.raises(SettingsError, match=r'in_turn is set, but set 1 of data\.examples\.sets has no group'):
        GroupSets([PAIRS, SCORED], in_turn=True).arrange(Epochs(examples, 1), make_reading())


def test_every_step_is_of_one_set_and_a_pass_has_each_groups_share(sets, open_sets, make_reading):
    passes = sets.arrange(Epochs(open_sets('train'), 1), make_reading())
    batches = BatchSequence(passes, 4, 4, 1)
    assert passes.n_each == 28
    seen = []
    for step in range(7):
        batch = batches[step]
        documents = batch.documents[batch.documents >= 0]
        assert set((documents >= 10).tolist()) == {bool(batch.targets.set)}
        assert (batch.targets.score is None) == (batch.targets.set == 0)
        seen += batch.documents[(batch.documents >= 0) & (batch.role == 0)].tolist()
    assert len(seen) == len(set(seen)) == 28
    assert {batches[step].targets.set for step in range(7)} == {0, 1}


@pytest.mark.parametrize('world', [1, 2])
def test_an_evaluation_has_every_group_once_and_no_batch_of_two_sets(open_sets, world):
    examples = open_sets('val')
    assert len(examples) == 12 + 24
    loaders = [EvalBatches(examples, 4 // world, rank, world) for rank in range(world)]
    seen = []
    for i in range(len(loaders[0])):
        batches = [loader[i] for loader in loaders]
        there = [batch for batch in batches if batch.n_counted]
        assert len({batch.targets.set for batch in there}) == 1
        seen += [d for batch in batches for d in batch.documents[batch.role == 1].tolist()]
    assert sorted(seen) == list(range(31))
    assert examples.counts(np.arange(36), np.zeros(36, np.uint64)).sum() == 31
    assert [name for name, _ in examples.render(12)] == ['group', 'a', 'b (0)']


def test_one_objective_is_for_all_sets_or_there_is_one_for_each(sets, open_sets):
    examples = open_sets('train')
    info, cosent = ('InfoNCE', ('positive',)), ('CoSENT', ('positive', 'score'))
    sets.require([info], examples, 4)
    sets.require([info, cosent], examples, 4)
    with pytest.raises(SettingsError, match=r'is CoSENT, which needs scores'):
        sets.require([cosent, info], examples, 4)
    with pytest.raises(SettingsError, match=r'model.objectives has 3 objectives for 2 sets'):
        sets.require([info, info, info], examples, 4)
    with pytest.raises(SettingsError, match=r'has 2 objectives, but data.examples is one set'):
        PAIRS().require([info, info], examples.sets[0], 4)


def test_there_is_a_set_for_each_source(sets):
    with pytest.raises(SettingsError, match='has 2 sets for the 1 sources'):
        sets.sources([Location('texts.jsonl')])
    with pytest.raises(ValueError, match='sets is empty'):
        GroupSets([])
