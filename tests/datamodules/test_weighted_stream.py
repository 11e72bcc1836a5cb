"""Sources of a stream by weight: shares of the targets, places that are found again, caps, and what is refused."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from xlabml.artifacts import folders
from xlabml.data import Location, RemoteFiles, Stream
from xlabml.data.order import Interleaving
from xlabml.datamodules import XLabDataModule
from xlabml.datamodules.changes import find_changes
from xlabml.tokenizer import train_tokenizer

LENGTHS = {'long': 30, 'short': 6}
"""Words of the longest document of each source: of the rows of one, more slots are padding."""

N_SHARDS = {'long': 8, 'short': 3}
SLOTS = 64


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    """Two sources of shards, and a tokenizer of them."""
    folder = tmp_path_factory.mktemp('corpus')
    draw = random.Random(0)
    texts = []
    for name, n in LENGTHS.items():
        (folder / name).mkdir()
        for i in range(N_SHARDS[name]):
            some = [f'{name} {i} {j}: ' + ' '.join(draw.choices(['one', 'two', 'three'], k=n)) for j in range(40)]
            (folder / name / f'{i}.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in some))
            texts += some
    train_tokenizer(texts, folder / 'tiny.model', 300)
    return folder


@pytest.fixture(scope='module')
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture
def build(corpus, shared_cache, monkeypatch, tmp_path):
    made = []

    def build(weights=(1.0, 1.0), stream=None, rank=0, world=1, step=0, cache=None, **settings):
        monkeypatch.setenv('XLABML_CACHE', str(shared_cache if cache is None else tmp_path / cache))
        data = XLabDataModule(
            [RemoteFiles(f'file://{corpus}/{name}/*.jsonl') for name in LENGTHS],
            weights=None if weights is None else list(weights),
            stream=stream or Stream(cache_gb=0.1, window_shards=2, eval_shards=9),
            tokenizer_path=str(corpus / 'tiny.model'),
            **{'n_vocab': 300, 'max_len': 32, 'batch_tokens': 512, 'n_processes': 1, **settings},
        )
        fit = SimpleNamespace(fn='fit')
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=step, max_steps=40, state=fit)
        data.prepare_data()
        made.append(data)
        return data

    yield build
    for data in made:
        data.texts.passes.close()


def read(data, end):
    """Each batch up to a step: ids, targets, documents, count and seed."""
    found = []
    iterator = iter(data.train_dataloader())
    for _ in range(data.trainer.global_step * data._step_size.accumulation, end * data._step_size.accumulation):
        batch = next(iterator)
        ids = (batch.ids.tolist(), batch.targets.ids.tolist(), sorted(set(batch.documents.tolist())))
        found.append([*ids, batch.n_counted, batch.seed])
    del iterator
    data.trainer.global_step = end
    return found


def json_and_back(state):
    """The state as a checkpoint holds it: plain values and a tensor."""
    plain = {name: value for name, value in state.items() if name != 'tokenizer'}
    return {**json.loads(json.dumps(plain)), 'tokenizer': state['tokenizer']}


@pytest.mark.parametrize(('weights', 'share'), [((1.0, 1.0), 0.5), ((3.0, 1.0), 0.75), ((1.0, 9.0), 0.1)])
def test_the_shares_of_the_targets_are_the_weights_over_windows_and_passes(build, weights, share):
    data = build(weights)
    for step, end in ((0, 20), (20, 40), (0, 40)):
        shares = list(data.source_shares(step, end).values())
        assert shares[0] == pytest.approx(share, abs=0.02)
    taken = data.texts.passes.memory(data._run.of_all_ranks().place(40))['windows']
    assert max(map(len, taken)) > 2  # several windows of a source, at paces of their own


def test_counts_of_the_batches_are_the_realised_shares(build):
    data = build((1.0, 3.0))
    counts = dict.fromkeys(LENGTHS, 0)
    sequence = data._run.of_rank()
    for step in range(10):
        batch = sequence[step]
        lengths = batch.layout.starts.diff()
        flat = batch.targets.ids.flatten()
        for i, document in enumerate(batch.documents.tolist()):
            if document >= 0:
                start = int(batch.layout.starts[i])
                name = Path(data.document_id(document).rpartition(':')[0]).parent.name
                counts[name] += int((flat[start : start + int(lengths[i])] >= 0).sum())
        assert batch.n_counted == int((flat >= 0).sum())
    shares = data.source_shares(0, 10)
    assert list(shares.values()) == [counts[name] / sum(counts.values()) for name in LENGTHS]


def test_a_source_without_a_weight_is_never_fetched(build, tmp_path):
    data = build((0.0, 1.0), Stream(cache_gb=0.1, window_shards=2, eval_shards=1), cache='cache')
    read(data, 12)
    assert list(data.source_shares(0, 12).values()) == [0, 1]
    there = {int(path.name) for path in tmp_path.glob('cache/**/shards/0*')}
    assert there <= {0, 8, 9, 10}  # what is evaluated on, and the shards of the other source


def test_a_resumed_run_is_the_unbroken_one_with_any_workers(build):
    unbroken = read(build((1.0, 2.0)), 40)
    found = []
    state = None
    step = 0
    for workers, end in ((0, 7), (1, 23), (0, 40)):
        data = build((1.0, 2.0), step=step, num_workers=workers)
        if state is not None:
            data.load_state_dict(json_and_back(state))
        found += read(data, end)
        state = data.state_dict()
        step = end
    assert found == unbroken
    assert (state['pass'], state['row']) == (0, 40 * 16)


def test_another_machine_reads_no_earlier_window_again(build, tmp_path):
    first = build((1.0, 2.0), cache='one')
    unbroken = read(first, 30)
    state = json_and_back(first.state_dict())
    rest = read(first, 40)
    other = build((1.0, 2.0), cache='two', step=30)
    other.load_state_dict(state)
    assert read(other, 40) == rest
    assert unbroken
    n_windows = [len(list(tmp_path.glob(f'{cache}/**/windows_seen/*/*.json'))) for cache in ('one', 'two')]
    assert 0 < n_windows[1] < n_windows[0]
    state['windows'][1][-1] += 1
    third = build((1.0, 2.0), cache='three', step=30)
    third.load_state_dict(state)
    with pytest.raises(ValueError, match='is not what it was when it was streamed before'):
        read(third, 40)


def test_a_sources_rows_go_on_from_period_to_period(build, monkeypatch):
    sequence = build((1.0, 2.0))._run.of_rank()
    whole = [row for step in range(12) for row in sequence[step].ids.tolist()]
    monkeypatch.setattr(Interleaving, 'period', 48)
    data = build((1.0, 2.0))
    assert data._run.of_rank().place(12) == (3, 48)
    sequence = data._run.of_rank()
    cut = [row for step in range(12) for row in sequence[step].ids.tolist()]
    n_distinct = [len({tuple(row) for row in rows}) for rows in (whole, cut)]
    assert n_distinct[1] > 0.9 * n_distinct[0] > 60  # a period has 48
    assert sum(row in whole for row in cut) > 170  # of 192: at the end the shares differ by a few rows
    assert list(data.source_shares(0, 12).values()) == pytest.approx([1 / 3, 2 / 3], abs=0.03)


def test_two_ranks_read_what_one_reads(build):
    one = read(build((2.0, 1.0)), 8)
    many = [read(build((2.0, 1.0), rank=rank, world=2, device_batch_tokens=128), 8) for rank in range(2)]
    for step in range(8):
        some = [many[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert [row for batch in some for row in batch[0]] == one[step][0]
        assert [row for batch in some for row in batch[1]] == one[step][1]
        assert {batch[3] for batch in some} == {one[step][3]}


def test_steps_that_are_left_out_stay_out(build):
    whole = read(build(), 12)
    data = build(skip=[[3, 4]])
    assert [batch[0] for batch in read(data, 10)] == [batch[0] for batch in [*whole[:2], *whole[4:12]]]


def test_where_no_shard_of_a_source_is_evaluated_on_its_rows_are_taken_to_be_as_the_others(build, capsys):
    stream = Stream(cache_gb=0.1, window_shards=2, eval_shards=2)
    data = build((1.0, 1.0), stream)
    assert data.texts.passes.n_each == 65_536
    printed = capsys.readouterr().err
    assert 'short/*.jsonl no shard is evaluated on (data.stream.eval_shards), so rows of it are taken' in printed
    per_period = data.texts.passes.interleaving.per_period
    assert per_period[0] == per_period[1]
    assert build().texts.passes.interleaving.per_period[0] != per_period[0]
    assert 'no shard is evaluated on' not in capsys.readouterr().err


def test_a_cap_is_checked_once_all_shards_of_the_source_were_read(build):
    capped = {'max_source_epochs': [float('inf'), 2.0], 'cache': 'new'}
    with pytest.raises(ValueError, match=r'allows 2 for .*short.*, but .* not known .*; set it to \.inf'):
        build((1.0, 2.0), **capped).train_dataloader()
    data = build((1.0, 2.0), cache='new')
    end = data._run.of_all_ranks().place(40)
    read(data, 4)
    assert data.texts.passes.epochs(end)[0] is None  # one window of four was read
    read(data, 40)
    read_often = data.texts.passes.epochs(data._run.of_all_ranks().place(40))
    assert read_often[1] > 2
    with pytest.raises(ValueError, match=rf'this run would go {read_often[1]:.2f} times through .*short.* allows 2;'):
        build((1.0, 2.0), **capped).train_dataloader()
    build((1.0, 2.0), cache='new', max_source_epochs=[float('inf'), read_often[1]]).train_dataloader()


def test_other_weights_are_refused_by_name(build):
    then = build((1.0, 1.0)).texts.trained_on()
    assert find_changes(then, build((1.0, 2.0)).texts.trained_on()) == ['data.weights was [1.0, 1.0], is [1.0, 2.0]']
    joint = build(None).texts.trained_on()
    assert find_changes(joint, then)[0] == 'data.weights was None, is [1.0, 1.0]'
    fewer = build((1.0, 1.0), Stream(cache_gb=0.1, window_shards=2, eval_shards=10)).texts.trained_on()
    assert find_changes(then, fewer) == ['data.stream.eval_shards was 9, is 10']


def test_a_cache_without_room_for_a_window_of_each_source_is_refused(build):
    shard = max(folders.size(store.folder) for store in build().texts.stores())
    room = Stream(cache_gb=6 * shard / 1e9, window_shards=3, eval_shards=1)
    with pytest.raises(ValueError, match=r'window_shards is 3 for each of 2 sources; set that to \d, or cache_gb to'):
        build((1.0, 1.0), room, cache='other')


def test_a_mixture_of_stores_and_of_a_stream_have_the_same_shares(build, corpus):
    sources = [Location(f'{corpus}/{name}/*.jsonl') for name in LENGTHS]
    settings = {'tokenizer_path': str(corpus / 'tiny.model'), 'n_vocab': 300, 'max_len': 32, 'batch_tokens': 512}
    stored = XLabDataModule(sources, weights=[1.0, 3.0], n_processes=1, **settings)
    stored.prepare_data()
    shares = [list(data.source_shares(0, 30).values()) for data in (stored, build((1.0, 3.0)))]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
