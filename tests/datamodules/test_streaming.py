"""A streamed corpus through the data module: resume, ranks, workers and refusals as with stores."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from served import served

from xlabml.artifacts import folders
from xlabml.data import Location, NearDuplicates, RemoteFiles, Stream
from xlabml.datamodules import XLabDataModule
from xlabml.datamodules.changes import find_changes
from xlabml.tokenizer import train_tokenizer


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp('shards'), random.Random(0)
    texts = [f'{i}: ' + ' '.join(draw.choices(['one', 'two', 'three'], k=draw.randrange(1, 40))) for i in range(240)]
    for i in range(6):
        some = texts[i * 40 : (i + 1) * 40]
        (folder / f'{i}.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in some))
    train_tokenizer(texts, folder / 'tiny.model', 300)
    with served(folder) as server:
        server.tokenizer = str(folder / 'tiny.model')
        yield server


@pytest.fixture
def build(shards):
    made = []

    def build(stream=None, rank=0, world=1, step=0, max_steps=30, **settings):
        sources = settings.pop('sources', None) or [RemoteFiles(f'{shards.url}/*.jsonl')]
        stream = stream or Stream(cache_gb=0.1, window_shards=2)
        settings = {'tokenizer_path': shards.tokenizer, 'n_vocab': 300, 'max_len': 16, 'batch_tokens': 128} | settings
        data = XLabDataModule(sources, stream=stream, n_processes=1, **settings)
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=world,
            global_step=step,
            max_steps=max_steps,
            max_epochs=-1,
            state=SimpleNamespace(fn='fit'),
        )
        data.prepare_data()
        made.append(data)
        return data

    yield build
    for data in made:
        data.texts.passes.close()


def read(data, end):
    """What the loader gives up to a step: ids, targets, documents, count and seed of each batch."""
    first, found = data.trainer.global_step, []
    iterator = iter(data.train_dataloader())
    for _ in range(first * data._step_size.accumulation, end * data._step_size.accumulation):
        batch = next(iterator)
        found.append(
            [batch.ids.tolist(), batch.targets.ids.tolist(), batch.documents.tolist(), batch.n_counted, batch.seed]
        )
    del iterator
    data.trainer.global_step = end
    return found


def test_a_run_that_stops_in_a_window_goes_on_bit_for_bit_with_other_workers(build):
    whole = build()
    unbroken = read(whole, 30)
    assert whole.state_dict()['pass'] > 1
    found, state, step = [], None, 0
    for workers, end in ((0, 7), (2, 8), (1, 19), (0, 30)):
        data = build(step=step, num_workers=workers)
        if state is not None:
            data.load_state_dict(json_and_back(state))
        found += read(data, end)
        state, step = data.state_dict(), end
    assert found == unbroken
    there = whole.state_dict()
    assert [state[name] for name in ('step', 'pass', 'row')] == [there[name] for name in ('step', 'pass', 'row')]


def json_and_back(state):
    """The state as a checkpoint holds it: plain values and a tensor."""
    plain = {name: value for name, value in state.items() if name != 'tokenizer'}
    return {**json.loads(json.dumps(plain)), 'tokenizer': state['tokenizer']}


def test_ranks_are_given_the_same_steps(build):
    one = read(build(), 12)
    many = [read(build(rank=rank, world=2, device_batch_tokens=32), 12) for rank in range(2)]
    for step in range(12):
        some = [many[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert [row for batch in some for row in batch[0]] == one[step][0]
        assert {batch[3] for batch in some} == {one[step][3]}


def test_nothing_of_val_or_test_is_trained_on(build):
    data = build(stream=Stream(cache_gb=0.1, window_shards=3, eval_shards=2))
    evaluated = {
        data.tokenizer.decode(data.texts.corpus.tokens(int(document)).tolist())
        for split in ('val', 'test')
        for document in data.texts.rows(split).plan.documents
    }
    assert evaluated
    trained = set()
    for window in range(4):
        rows = data.texts.passes.open(window).examples
        trained |= {data.tokenizer.decode(rows.corpus.tokens(int(n)).tolist()) for n in rows.plan.documents}
    assert len(trained) > 150
    assert not trained & evaluated
    assert sum(1 for batch in data.val_dataloader() for n in batch.documents if n >= 0) > 0
    name = data.document_id(int(data.texts.rows('val').plan.documents[0]))
    assert name.endswith('.jsonl:' + name.rpartition(':')[2])


def test_disk_use_is_said_before_the_start_and_too_little_is_refused(build, capsys, monkeypatch):
    build()
    assert 'streaming 6 shards, about ' in (said := capsys.readouterr().err)
    assert ', 2 at a time; takes at most 100 MB of disk at ' in said
    with pytest.raises(ValueError, match=r'holds about \d shards, but data\.stream\.window_shards is 5; set that to'):
        build(Stream(cache_gb=3e-5, window_shards=5))
    with pytest.raises(ValueError, match=r'data\.stream\.cache_gb is 1e\+09, but only .* are free .*; set it to'):
        build(Stream(cache_gb=1e9))


def test_a_cache_of_one_window_says_that_training_will_wait(build, capsys):
    free = build()
    shard = max(folders.size(store.folder) for store in free.texts.stores())
    build(Stream(cache_gb=(4.6 * shard + 12000) / 1e9, window_shards=3))
    assert 'holds a window but not the next one beside it' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'max_source_epochs': [1.0]}, r'data\.max_source_epochs is set, but a stream without data\.weights'),
        ({'near_duplicates': NearDuplicates()}, r'data\.near_duplicates is set, but a stream'),
    ],
)
def test_what_a_stream_cannot_do_is_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_length_in_epochs_is_refused(build):
    with pytest.raises(ValueError, match=r'not known before all of it was read; set trainer\.max_steps'):
        build().run_steps(-1, 3)
    assert build().run_steps(7, -1) == 7


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'stream': Stream(cache_gb=0.1, window_shards=3)}, r'data\.stream\.window_shards was 2, is 3'),
        ({'seed': 5}, 'seed_everything was 42, is 5'),
        ({'max_len': 32}, r'data\.max_len was 16, is 32'),
        ({'sources': ['some']}, r'the texts of .*became|became .* \(6 shards then, 3 now\)'),
        ({'held_out': [Location('held.jsonl')]}, r"data\.held_out was \[\], is \[\['held\.jsonl', '\w+'\]\]\."),
    ],
)
def test_what_changed_since_the_checkpoint_is_refused_by_name(build, shards, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'held.jsonl').write_text('{"text": "held out"}')
    first = build()
    read(first, 5)
    state = first.state_dict()
    if 'sources' in settings:
        settings = {'sources': [RemoteFiles(f'{shards.url}/[0-2].jsonl')]}
    with pytest.raises(ValueError, match=message):
        build(step=5, **settings).load_state_dict(state)
    accepted = build(step=5, accept_changes=True, **settings)
    accepted.load_state_dict(state)
    assert accepted.state_dict()['row'] == 0
    assert len(read(accepted, 6)) == 1
    kept = build(Stream(cache_gb=0.2, window_shards=2, eval_shards=2), step=5)
    kept.load_state_dict(state)  # the cache's size, and what is evaluated on, may change
    assert torch.equal(kept.state_dict()['tokenizer'], state['tokenizer'])


def test_stores_and_streams_are_told_apart_and_nothing_else_is_named(build, shards):
    held_out = [RemoteFiles(f'{shards.url}/3.jsonl')]
    streamed = build(held_out=held_out).texts.trained_on()
    stored = XLabDataModule(
        [RemoteFiles(f'{shards.url}/[012].jsonl')],
        tokenizer_path=shards.tokenizer,
        n_vocab=300,
        max_len=16,
        batch_tokens=128,
        n_processes=1,
        held_out=held_out,
    ).texts.trained_on()
    assert find_changes(stored, streamed) == ['data.stream was not set, is set']
    assert find_changes(streamed, stored) == ['data.stream was set, is not set']


def test_a_file_that_changes_while_a_run_reads_it_is_named_when_the_run_goes_on(build, tmp_path, monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 2000)
    lines = [json.dumps({'text': f'document {i} says one two three'}) + '\n' for i in range(200)]
    sources = [Location(str(tmp_path / name)) for name in ('x.jsonl', 'held.jsonl')]
    for source in sources:
        Path(source.path).write_text(''.join(lines[: 150 if source is sources[0] else 1]))
    data = build(sources=sources[:1], held_out=sources[1:])
    data.texts.check_training()
    Path(sources[0].path).write_text(''.join(lines))
    Path(sources[1].path).unlink()
    state = data.state_dict()  # of what the run reads, not of what lies there now
    Path(sources[1].path).write_text(lines[0])
    with pytest.raises(
        ValueError, match=r'trained on: the texts of .*x\.jsonl changed \(\d+ shards then, \d+ now\)\. R'
    ):
        build(sources=sources[:1], held_out=sources[1:]).load_state_dict(state)


def test_a_tokenizer_is_trained_on_the_shards_that_stay(build, shards):
    shards.asked.clear()
    data = build(tokenizer_path=None, stream=Stream(cache_gb=0.1, window_shards=2, eval_shards=2))
    assert len(data.tokenizer) == 300
    assert {*shards.asked} == {'0.jsonl', '1.jsonl'}


def test_a_split_that_the_shards_that_stay_do_not_have_is_refused(build):
    data = build(splits={'val': 0.0, 'test': 0.1})
    with pytest.raises(
        ValueError, match=r"'val' has none of the 40 documents .* the data\.stream\.eval_shards, 1: more"
    ):
        data.val_dataloader()


def test_shards_to_evaluate_on_without_text_are_refused(build, tmp_path):
    (tmp_path / 'x.jsonl').write_text('{"text": ""}\n' * 9)
    with pytest.raises(ValueError, match=r'x\.jsonl has no document with text, but is what is evaluated on'):
        build(sources=[Location(str(tmp_path / 'x.jsonl'))])


def test_local_files_are_streamed_too(build, tmp_path, monkeypatch, shards):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 2000)
    texts = [{'text': f'document {i} says one two three ' * (i % 4 + 1)} for i in range(200)]
    (tmp_path / 'x.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in texts))
    data = build(sources=[Location(str(tmp_path / 'x.jsonl'))])
    assert len(data.texts.cache.shards) > 5
    assert len(read(data, 20)) == 20
