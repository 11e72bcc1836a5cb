"""Several formats in one run: whose step it is, what is in it, for any ranks."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from xlabml.batches import MaskedTargets, PairTargets, TokenTargets
from xlabml.data import BatchSequence, EvalBatches, FormatMixture, NextTokens, TextGroups
from xlabml.data.rows import MaskedTokens
from xlabml.errors import SettingsError

PAIRS = partial(TextGroups, {'anchor': 'q', 'positive': 'text'})


def kind(batch):
    return type(batch.targets)


def test_formats_come_in_their_shares_evenly_spread(make_data):
    data = make_data(weights=[2.0, 1.0, 1.0])
    data.prepare_data()
    batches = BatchSequence(data.texts.passes, 12, 12, 7)
    kinds = [kind(batches[i]) for i in range(16)]
    assert Counter(kinds) == {TokenTargets: 8, MaskedTargets: 4, PairTargets: 4}
    assert all(Counter(kinds[i : i + 4])[TokenTargets] == 2 for i in range(0, 16, 4))


def test_a_step_has_the_rows_or_groups_that_its_setting_names(make_data):
    data = make_data()
    data.prepare_data()
    batches = BatchSequence(data.texts.passes, 12, 12, 7)
    for i in range(6):
        batch = batches[i]
        n_examples = int(batch.example.max()) + 1
        assert n_examples == (12 if kind(batch) is PairTargets else 2)
        if kind(batch) is PairTargets:
            assert batch.n_counted == 12
        else:
            assert batch.ids.shape == (1, 64)
            assert batch.n_counted == (batch.targets.ids >= 0).sum()


def _contents(batches):
    """The documents and tokens of the batches of a step, in an order of their own."""
    found = []
    for batch in batches:
        starts = batch.layout.starts.tolist()
        ids = batch.ids.flatten().tolist()
        segments = zip(batch.documents.tolist(), starts, starts[1:])
        found += [(document, ids[a:b]) for document, a, b in segments if document >= 0]
    return sorted(found)


@pytest.mark.parametrize('world', [2])
def test_ranks_share_a_step_evenly_and_together_have_what_one_rank_has(make_data, world):
    data = make_data()
    data.prepare_data()
    alone = BatchSequence(data.texts.passes, 12, 12, 7)
    ranks = [BatchSequence(data.texts.passes, 12, 6, 7, rank, world) for rank in range(world)]
    for step in range(40):
        parts = [rank[step] for rank in ranks]
        assert len({int(part.example.max()) for part in parts}) == 1
        assert {kind(part) for part in parts} == {kind(alone[step])}
        assert {part.n_counted for part in parts} == {alone[step].n_counted}
        assert _contents(parts) == _contents([alone[step]])


def test_any_step_is_found_without_those_before_it(make_data):
    data = make_data(weights=[3.0, 1.0, 2.0])
    data.prepare_data()
    whole = BatchSequence(data.texts.passes, 12, 12, 7)
    for step in (13, 70_000):  # the second lies in the second pass
        place = whole.place(step)
        resumed = BatchSequence(data.texts.passes, 12, 12, 7, first_step=step, start=place)
        assert _contents([resumed[step]]) == _contents([whole[step]])
        assert resumed[step].ids.equal(whole[step].ids)


def test_every_format_goes_through_all_of_its_examples(make_data):
    data = make_data()
    data.prepare_data()
    batches = BatchSequence(data.texts.passes, 12, 12, 7)
    examples = data.texts.train_examples
    n_steps = 3 * max(examples.n_steps)
    seen = {TokenTargets: set(), MaskedTargets: set(), PairTargets: set()}
    for step in range(n_steps):
        batch = batches[step]
        seen[kind(batch)] |= set(batch.documents[batch.documents >= 0].tolist())
    n_documents = len(data.texts.corpus) // 2
    train = set(data.texts.corpus.documents('train').tolist())
    assert seen[TokenTargets] == seen[MaskedTargets] == {i for i in train if i < n_documents}
    # Groups that fill no step are left out of a pass.
    assert seen[PairTargets] <= {i for i in train if i >= n_documents}
    assert len(seen[PairTargets]) > 0.9 * len(train) / 2


def test_rows_and_groups_of_a_record_are_in_one_split(make_data):
    data = make_data()
    data.prepare_data()
    corpus = data.texts.corpus
    n = len(corpus) // 2
    documents = corpus.documents('val')
    assert {i for i in documents.tolist() if i < n} == {i - n for i in documents.tolist() if i >= n}


@pytest.mark.parametrize('world', [1, 2])
def test_an_evaluation_has_every_example_once_and_no_batch_of_two_formats(make_data, world):
    data = make_data()
    data.prepare_data()
    examples = data.texts.open_examples('val', 'val')
    loaders = [EvalBatches(examples, 12 // world, rank, world) for rank in range(world)]
    n_counted = Counter()
    seen = Counter()
    for i in range(len(loaders[0])):
        parts = [loader[i] for loader in loaders]
        assert len({kind(part) for part in parts}) == 1
        n_counted[kind(parts[0])] += sum(part.n_counted for part in parts)
        seen.update(d for part in parts for d in part.documents[(part.documents >= 0) & (part.role == 0)].tolist())
    pairs, rows = examples.parts[2].examples, examples.parts[0].examples
    assert n_counted[PairTargets] == len(pairs)
    assert n_counted[TokenTargets] == rows.source_counted[0]
    assert all(seen[d] == 1 for d in data.texts.corpus.documents('val').tolist() if d >= len(data.texts.corpus) // 2)
    numbers = np.arange(len(examples))
    assert (examples.locate(numbers)[1] >= 0).sum() == sum(len(part.examples) for part in examples.parts)


def test_chunks_are_rows_with_as_many_segments_and_the_same_tokens(make_data):
    whole = make_data(batch_tokens=256)
    chunked = make_data(batch_tokens=256, device_batch_tokens=64)
    for data in (whole, chunked):
        data.prepare_data()
    a, b = (BatchSequence(data.texts.passes, 12, 12, 7)[0] for data in (whole, chunked))
    assert a.ids.shape == (1, 256)
    assert b.ids.shape == (4, 64)
    assert _contents([a]) == _contents([b])
    assert a.targets.ids.sum() == b.targets.ids.sum()
    assert a.targets.n_bytes.sum() == b.targets.n_bytes.sum()
    n_segments = len(b.documents) // 4
    assert b.layout.starts[::n_segments].tolist() == [0, 64, 128, 192, 256]


def test_rendered_examples_and_names_are_of_the_source_that_they_are_from(make_data):
    data = make_data()
    data.prepare_data()
    examples = data.texts.train_examples
    starts = examples.source_starts
    assert [name for name, _ in examples.render(starts[2])] == ['group', 'anchor', 'positive']
    assert examples.render(starts[0] + 1) == examples.render(starts[0])  # an empty place
    batch = BatchSequence(data.texts.passes, 12, 12, 7)[2]
    assert kind(batch) is PairTargets
    document = int(batch.documents[0])
    text = data.texts.corpus.columns(document)
    assert '@group' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'formats': ()}, 'formats is empty'),
        ({'weights': [1.0]}, r'weights has 1 entries for 3 formats'),
        ({'weights': [1.0, 0.0, 1.0]}, r'give numbers above 0'),
        ({'weights': [1.0, 1e-9, 1.0]}, r'below one step in 65,536'),
        ({'reads': ((0,), (), (1,))}, r'has \[\] for MaskedTokens'),
        ({'reads': ((0,), (0,), (0,))}, r'read in two ways, the second of them by TextGroups; name it once more'),
        ({'reads': ((0,), (0,), (2,))}, r'source 1 of data.sources, .* is read by no format'),
        (
            {'weights': None, 'max_source_epochs': [1.0, 1.0]},
            r'data.max_source_epochs is set, but the examples of FormatMixture do not use it',
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make_data, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_data(**arguments)


def test_a_source_that_is_not_there_is_named(make_data, records_file):
    from xlabml.data import Location

    form = FormatMixture([NextTokens, MaskedTokens])
    with pytest.raises(SettingsError, match=r'MaskedTokens reads source 1 .* data.sources has 1, 0 to 0'):
        form.sources([Location(str(records_file))])


def test_groups_or_rows_that_no_format_has_are_not_sized(make_data):
    with pytest.raises(ValueError, match=r'data.batch_groups is set, but the examples of FormatMixture do not use it'):
        make_data((NextTokens, MaskedTokens), reads=((0,), (0,)))
    pairs = lambda: TextGroups({'anchor': 'q', 'positive': 'text'})  # noqa: E731
    with pytest.raises(ValueError, match=r'data.batch_tokens is set'):
        make_data((pairs, pairs), reads=((0,), (0,)))


def test_a_micro_batch_has_the_examples_of_its_size(make_data):
    assert make_data().examples_per_batch == 12
    assert make_data((NextTokens,), reads=((0,),), batch_tokens=256, batch_groups=64).examples_per_batch == 8
    assert make_data((PAIRS,), reads=((0,),), batch_tokens=1024).examples_per_batch == 12
