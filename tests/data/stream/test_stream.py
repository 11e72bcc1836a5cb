"""Shards over http in a bounded cache, windows of them in a keyed order, and a place that is found again."""

import gzip
import json
import math
import os
import random
from itertools import chain, pairwise

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from served import served
from token_batches import batch_of, plain

from xlabml.artifacts import folders
from xlabml.data import (
    BatchSequence,
    Chunk,
    Corpus,
    Location,
    NoRoom,
    Pack,
    Place,
    RemoteFiles,
    Rows,
    ShardCache,
    Stream,
    StreamedRows,
    open_plan,
    prepare_store,
    splits_of,
)
from xlabml.data.rows import join_batches, take_rows
from xlabml.data.store import content_hash, hash_words
from xlabml.data.stream.shards import Stopped

SPLITS = {'train': 0.8, 'val': 0.1, 'test': 0.1, 'predict': 0.0}
N_SHARDS, N_TEXTS = 7, 30


@pytest.fixture(scope='module')
def shard_texts(texts):
    return [texts[i * N_TEXTS : (i + 1) * N_TEXTS] for i in range(N_SHARDS)]


@pytest.fixture(scope='module')
def server(tmp_path_factory, shard_texts):
    folder = tmp_path_factory.mktemp('served')
    for i, some in enumerate(shard_texts):
        (folder / f'part-{i}.jsonl').write_text(''.join(json.dumps({'text': text, 'n': i}) + '\n' for text in some))
    (folder / 'README.md').write_text('no shard')
    with served(folder) as server:
        server.folder = folder
        yield server


@pytest.fixture(autouse=True)
def _patience(monkeypatch, request):
    monkeypatch.setattr('xlabml.data.sources.remote._FIRST_WAIT_SECONDS', 0.001)
    if 'server' in request.fixturenames:
        server = request.getfixturevalue('server')
        server.asked.clear()
        server.broken.clear()


@pytest.fixture
def build(server, tokenizer, tmp_path):
    made = []

    def build(max_bytes=10**8, folder='cache', source=None, plan=None, held_out=(), seed=3, say=None, **stream):
        source = source or RemoteFiles(f'{server.url}/*.jsonl')
        cache = ShardCache([source], tokenizer, tmp_path / folder, max_bytes, 1)
        settings = Stream(**{'window_shards': 2, **stream})
        rows = StreamedRows(cache, settings, plan or Pack(16), SPLITS, True, held_out, seed, say)
        made.append(rows)
        return rows

    yield build
    for rows in made:
        rows.close()


def is_train(text):
    return splits_of(hash_words(content_hash(text.encode())), SPLITS)[0] == 0


def test_files_behind_a_url_are_parts_with_their_documents(server, shard_texts):
    source = RemoteFiles(f'{server.url}/*.jsonl')
    parts = source.parts()
    assert [part.where[0].rpartition('/')[2] for part in parts] == [f'part-{i}.jsonl' for i in range(N_SHARDS)]
    assert [part.n_bytes for part in parts] == [
        (server.folder / f'part-{i}.jsonl').stat().st_size for i in range(N_SHARDS)
    ]
    assert [document.text for document in source.read(parts[3])] == shard_texts[3]
    documents = list(source.documents(['n']))
    assert [document.text for document in documents] == list(chain.from_iterable(shard_texts))
    assert [document.row for document in documents] == list(range(N_SHARDS * N_TEXTS))
    assert documents[-1].columns == {'n': N_SHARDS - 1}
    assert [part.where for part in RemoteFiles(f'{server.url}/part-2.jsonl').parts()] == [parts[2].where]
    assert RemoteFiles(f'{server.url}/').parts() == parts


def test_a_remote_source_is_tokenized_like_a_local_one(server, tokenizer, tmp_path):
    remote = prepare_store(RemoteFiles(f'{server.url}/*.jsonl'), tokenizer, tmp_path / 'remote', n_processes=1)
    local = prepare_store(Location(f'{server.folder}/*.jsonl'), tokenizer, tmp_path / 'local', n_processes=1)
    assert remote.fingerprint == local.fingerprint


def test_a_broken_connection_is_tried_again_and_then_named(server, tmp_path, shard_texts):
    source = RemoteFiles(f'{server.url}/part-1.jsonl')
    server.broken['part-1.jsonl'] = 3
    assert [document.text for document in source.read(source.parts()[0])] == shard_texts[1]
    assert server.asked.count('part-1.jsonl') >= 4
    server.broken['part-1.jsonl'] = 100
    with pytest.raises(
        ConnectionError, match=r'part-1\.jsonl could not be fetched in 6 attempts \(.*check the network'
    ):
        source.fetch(source.parts()[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('n_processes', [1, 2])
def test_what_was_tokenized_before_the_network_failed_is_kept(server, tokenizer, tmp_path, n_processes):
    source = RemoteFiles(f'{server.url}/*.jsonl')
    whole = prepare_store(source, tokenizer, tmp_path / 'whole', n_processes=1)
    server.broken['part-5.jsonl'] = 100
    with pytest.raises(ConnectionError, match='the same command resumes'):
        prepare_store(source, tokenizer, tmp_path / 'store', n_processes=n_processes)
    server.broken.clear()
    server.asked.clear()
    store = prepare_store(source, tokenizer, tmp_path / 'store', n_processes=n_processes)
    assert store.fingerprint == whole.fingerprint
    assert {f'part-{i}.jsonl' for i in range(1, 4)}.isdisjoint(server.asked)  # part 0 says how much text there is


@pytest.mark.parametrize('broken', [0, 100])
def test_who_does_not_want_a_file_any_more_is_not_kept_waiting(server, tmp_path, monkeypatch, broken):
    monkeypatch.setattr('xlabml.data.sources.remote._FIRST_WAIT_SECONDS', 60.0)
    server.broken['part-1.jsonl'] = broken
    told = []

    def advance(n_bytes):
        told.append(n_bytes)
        if n_bytes == 0 or not broken:
            raise Stopped

    source = RemoteFiles(f'{server.url}/part-1.jsonl')
    with pytest.raises(Stopped):
        source.fetch(source.parts()[0], tmp_path, advance)
    assert server.asked == ['part-1.jsonl']
    assert (0 in told) == bool(broken)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_refused(server, tmp_path):
    source = RemoteFiles(f'{server.url}/*.jsonl')
    part = source.parts()[0]
    gone = part._replace(where=(part.where[0].replace('part-0', 'part-x'),))
    with pytest.raises(ValueError, match=r'part-x\.jsonl was listed but is not there any more'):
        source.fetch(gone, tmp_path)
    for url, message in (('/*.parquet', 'there are no parquet'), ('/nothing/*.jsonl', 'cannot be listed')):
        with pytest.raises(ValueError, match=message):
            RemoteFiles(server.url + url).parts()
    with pytest.raises(ValueError, match=r"no column 'body'; its columns are text, n"):
        list(RemoteFiles(f'{server.url}/*.jsonl', column='body').documents())
    with pytest.raises(ValueError, match='is no URL'):
        RemoteFiles('texts/*.jsonl')
    with pytest.raises(ValueError, match=r'is a URL; write \{class_path: RemoteFiles'):
        Location(f'{server.url}/part-0.jsonl').parts()


def test_a_shard_is_the_store_that_the_file_alone_would_be(build, server, tokenizer, tmp_path):
    cache = build().cache
    store = cache.open(4, ())
    alone = prepare_store(Location(str(server.folder / 'part-4.jsonl')), tokenizer, tmp_path / 'alone')
    assert store.fingerprint == alone.fingerprint
    assert store.rows.tolist() == alone.rows.tolist()
    store.verify()
    assert server.asked == ['part-4.jsonl']
    cache.open(4, ())
    assert server.asked == ['part-4.jsonl']
    assert sorted(path.name for path in cache.folder.iterdir()) == ['lock', 'shards']


def test_the_cache_keeps_its_bound_and_drops_what_was_used_first(build, server, monkeypatch):
    one = folders.size(build(folder='measured').cache.open(0, ()).folder)
    largest = max(path.stat().st_size for path in server.folder.glob('*.jsonl'))
    cache = build(max_bytes=int(3.3 * one + largest)).cache
    seen = []
    append = folders.ArrayFile.append

    def watch(self, values):
        append(self, values)
        self._file.flush()
        seen.append(cache.n_bytes)

    monkeypatch.setattr(folders.ArrayFile, 'append', watch)
    for shard in (0, 1, 2, 3, 4):
        cache.open(shard, keep=[0])
    assert max(seen) <= cache.max_bytes
    there = sorted(int(path.name) for path in (cache.folder / 'shards').iterdir())
    assert there[0] == 0
    assert there[-1] == 4
    assert 2 <= len(there) < 5
    with pytest.raises(NoRoom, match=r'part-5\.jsonl, and what must stay .*data\.stream\.cache_gb allows .*; raise it'):
        cache.open(5, keep=range(5))
    assert cache.n_bytes <= cache.max_bytes
    assert not list((cache.folder / 'shards').glob('*.new'))


def test_what_a_killed_process_leaves_is_cleared_away(build, server):
    cache = build().cache
    cache.open(0, ())
    shards = cache.folder / 'shards'
    for name in ('000003.new', '000001.dropped'):
        (shards / name).mkdir()
        (shards / name / 'tokens.bin').write_bytes(bytes(99))
    (cache.folder / 'fetched').mkdir()
    (cache.folder / 'fetched' / 'part-3.jsonl.partial').write_bytes(bytes(99))
    cache.open(3, ())
    assert sorted(path.name for path in shards.iterdir()) == ['000000', '000003']
    assert not (cache.folder / 'fetched').exists()


def test_a_folder_that_goes_is_never_half_there_under_its_name(tmp_path, monkeypatch):
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / 'x').write_text('')
    monkeypatch.setattr(folders, 'remove', lambda _: None)  # killed before anything was deleted
    folders.drop(tmp_path / 'store')
    assert [path.name for path in tmp_path.iterdir()] == ['store.dropped']
    monkeypatch.undo()
    folders.drop(tmp_path / 'store.dropped')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('ending', ['parquet', 'jsonl.gz'])
def test_other_file_systems_and_kinds_of_files_work_too(build, shard_texts, ending):
    files = fsspec.filesystem('memory')
    folder = f'/xlabml-{ending}'
    for i, some in enumerate(shard_texts[:3]):
        with files.open(f'{folder}/{i}.{ending}', 'wb') as file:
            if ending == 'parquet':
                parquet.write_table(pa.table({'text': some}), file)
            else:
                file.write(gzip.compress(''.join(json.dumps({'text': text}) + '\n' for text in some).encode()))
    source = RemoteFiles(f'memory:/{folder}/*.{ending}')
    assert [part.n_bytes for part in source.parts()] == [4 * files.size(f'{folder}/{i}.{ending}') for i in range(3)]
    found = build(source=source).cache.open(1, ())
    assert found.n_bytes.tolist() == [len(text.encode()) for text in shard_texts[1]]


def test_each_pass_goes_through_every_shard_once_in_an_order_of_its_own(build):
    stream = build()
    passes = [[stream.shards(4 * epoch + i) for i in range(4)] for epoch in range(3)]
    for windows in passes:
        assert [len(shards) for shards in windows] == [2, 2, 2, 1]
        assert sorted(chain.from_iterable(windows)) == list(range(N_SHARDS))
    assert passes[0] != passes[1] != passes[2]
    assert build(seed=4).shards(0) != stream.shards(0) or build(seed=5).shards(0) != stream.shards(0)


def read_windows(stream, windows, tokenizer):
    """The texts of the documents in some windows' rows."""
    found = []
    for window in windows:
        rows = stream.open(window).examples
        numbers = {int(n) for n in rows.plan.documents}
        found += [tokenizer.decode(rows.corpus.tokens(number).tolist()) for number in numbers]
    return found


def test_a_pass_gives_every_train_document_once_and_no_other(build, tokenizer, shard_texts):
    found = read_windows(build(), range(4), tokenizer)
    assert sorted(found) == sorted(text for some in shard_texts for text in some if is_train(text))


def test_held_out_documents_and_copies_in_a_window_are_left_out(build, tokenizer, shard_texts, tmp_path):
    train = [text for some in shard_texts for text in some if is_train(text)]
    (tmp_path / 'held.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in train[5:9]))
    (tmp_path / 'twice').mkdir()
    for i in range(2):
        (tmp_path / 'twice' / f'{i}.jsonl').write_text(''.join(json.dumps({'text': t}) + '\n' for t in shard_texts[0]))
    found = read_windows(build(held_out=[Location(str(tmp_path / 'held.jsonl'))]), range(4), tokenizer)
    assert sorted(found) == sorted(train[:5] + train[9:])
    source = Location(str(tmp_path / 'twice' / '*.jsonl'))
    parts = build(folder='twice', source=source).cache.shards
    assert len(parts) == 1  # small files are one part
    assert sorted(read_windows(build(folder='other', source=source), [0], tokenizer)) == sorted(
        text for text in shard_texts[0] if is_train(text)
    )


def write_texts(path, texts):
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
    return Location(str(path))


def test_what_is_left_out_of_a_window_is_said_once(build, tmp_path, shard_texts):
    texts = [text for text in shard_texts[0] if is_train(text)]
    source = write_texts(tmp_path / 'a.jsonl', [*texts, '', None, '', texts[3], texts[5]])
    held_out = [write_texts(tmp_path / 'held.jsonl', texts[7:8])]
    for expected in (['2 empty, 1 not a string, 2 exact copies, 1 in data.held_out'], []):
        said = []
        build(source=source, held_out=held_out, say=said.append).open(0)
        assert [line.rpartition(': ')[2] for line in said] == expected
        assert all(
            f'window 0 of the stream ({tmp_path}/a.jsonl): left out of {len(texts) + 5} documents' in line
            for line in said
        )


def test_a_local_file_that_is_not_what_it_was_is_refused_by_name(build, tmp_path, shard_texts):
    texts = [text for text in shard_texts[0] if is_train(text)]
    source, held = write_texts(tmp_path / 'a.jsonl', texts), [write_texts(tmp_path / 'held.jsonl', texts[2:3])]
    n_rows = len(build(source=source, held_out=held).open(0))
    os.utime(tmp_path / 'a.jsonl', ns=(0, 0))
    assert len(build(source=source, held_out=held).open(0)) == n_rows
    write_texts(tmp_path / 'held.jsonl', texts[2:3])
    assert len(build(source=source, held_out=held).open(0)) == n_rows
    write_texts(tmp_path / 'held.jsonl', [texts[2][:-1] + '!'])
    with pytest.raises(ValueError, match=r'a\.jsonl, or of data\.held_out, is not what it was'):
        build(source=source, held_out=held).open(0)
    write_texts(tmp_path / 'held.jsonl', texts[2:3])
    write_texts(tmp_path / 'a.jsonl', [*texts[:4], texts[4][::-1], *texts[5:]])
    with pytest.raises(ValueError, match=r'a\.jsonl.* is not what it was when it was streamed before; restore it'):
        build(source=source, held_out=held).open(0)


def test_the_sizes_of_many_files_behind_a_url_are_known(tmp_path):
    for i in range(40):
        write_texts(tmp_path / f'{i}.jsonl', ['text ' * i])
    with served(tmp_path) as server:
        files = RemoteFiles(f'{server.url}/*.jsonl').fingerprint()['files']
    assert files == [[url, (tmp_path / url.rpartition('/')[2]).stat().st_size] for url, _ in files]
    assert len(files) == 40


def test_shards_without_text_are_gone_through(build, tmp_path, monkeypatch, shard_texts):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 1000)
    long = 'a line is longer than a shard ' * 300
    texts = [*shard_texts[0], long, *[''] * 200, *shard_texts[1]]
    stream = build(source=write_texts(tmp_path / 'a.jsonl', texts), window_shards=3)
    n_windows = math.ceil(len(stream.cache.shards) / 3)
    stores = [stream.cache.open(shard, ()) for shard in range(len(stream.cache.shards))]
    assert sum(not len(store) for store in stores) > 5
    stored = [
        stream.tokenizer.decode(store.tokens[a:b].tolist()) for store in stores for a, b in pairwise(store.offsets)
    ]
    assert stored == [text for text in texts if text]
    batches = batches_of(stream)
    found = {tuple(batches[i].ids.flatten().tolist()) for i in range(200)}
    assert batches.place(100).pass_index > n_windows
    assert len(found) > 50


def batches_of(stream, size=(4, 2), **place):
    return BatchSequence(stream, *size, seed=1, **place)


def test_steps_go_on_over_windows_and_passes_without_losing_a_row(build):
    stream = build(plan=Chunk(16))
    batches = batches_of(stream, (6, 6))
    n_rows = [stream.n_rows(window) for window in range(4)]
    n_steps = sum(n_rows) // 6
    rows = [row for step in range(n_steps) for row in batches[step].ids.tolist()]
    expected = []
    for window in range(4):
        of_window, numbers = stream.open(window), stream.order(window, np.arange(n_rows[window]))
        assert sorted(numbers.tolist()) == list(range(n_rows[window]))
        expected += batch_of(of_window, numbers, 1.0).ids.tolist()
    assert rows == expected[: len(rows)]
    assert any(sum(n_rows[: i + 1]) % 6 for i in range(3))  # a step lies in two windows
    assert sum(len({*batch.documents.tolist()} - {-1}) for batch in map(batches.__getitem__, range(n_steps))) > 0


def test_ranks_and_micro_batches_share_out_a_step(build):
    stream = build()
    whole = batches_of(stream, (8, 8))
    parts = [batches_of(stream, (8, 2), rank=rank, world=2) for rank in range(2)]
    for step in range(12):
        some = [parts[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert torch.equal(torch.cat([part.ids for part in some]), whole[step].ids)
        assert {part.n_counted for part in some} == {whole[step].n_counted}
        assert len({part.seed for part in some}) == 4
        assert {len(part.layout.starts) for part in some} == {2 * 64 + 1}
        assert sum(int((part.targets.ids >= 0).sum()) for part in some) == whole[step].n_counted


def test_a_run_goes_on_from_every_record_bit_for_bit(build, server):
    stream = build()
    batches = batches_of(stream, (12, 6))
    unbroken = [plain(batches[i]) for i in range(80)]
    windows = set()
    for step in range(0, 40, 3):
        place = batches.place(step)
        windows.add(place.pass_index)
        again = batches_of(build(), (12, 6), first_step=step, start=place)
        assert [plain(again[i]) for i in range(2 * step, 2 * step + 2)] == unbroken[2 * step :][:2]
        assert again.place(step) == place
    assert len(windows) > 3
    fresh = build(folder='elsewhere')
    again = batches_of(fresh, (12, 6), first_step=39, start=batches.place(39))
    assert [plain(again[i]) for i in (78, 79)] == unbroken[78:]
    with pytest.raises(ValueError, match='step 3 lies before step 39'):
        again[6]


def test_rows_left_out_of_a_stream_are_those_between_two_places_whatever_window_they_are_in(build):
    stream = build(plan=Chunk(16))
    n_rows = [stream.n_rows(window) for window in range(3)]
    stretch = (Place(0, n_rows[0] - 3), Place(1, 5))
    whole, left_out = (batches_of(stream, (1, 1), skipped=skipped) for skipped in ((), [stretch]))
    a, b = n_rows[0] - 3, n_rows[0] + 5
    for i in (*range(a - 2, a + 4), a + n_rows[1]):
        assert torch.equal(left_out[i].ids, whole[i if i < a else i + b - a].ids)
    assert left_out.place(a) == stretch[0]
    assert left_out.place(a + 1) == (1, 6)
    again = batches_of(build(plan=Chunk(16)), (1, 1), first_step=a + 1, start=Place(1, 6), skipped=[stretch])
    assert torch.equal(again[a + 1].ids, left_out[a + 1].ids)


def test_the_sources_of_a_windows_shards_are_known(build, tokenizer, tmp_path, shard_texts):
    sources = [write_texts(tmp_path / f'{name}.jsonl', some) for name, some in zip('ab', shard_texts)]
    cache = ShardCache(sources, tokenizer, tmp_path / 'two', 10**8, 1)
    stream = StreamedRows(cache, Stream(window_shards=2), Chunk(16), SPLITS, True, [], 3)
    batches = batches_of(stream, (4, 4))
    n = stream.n_rows(0)
    counts = batches.source_targets(0, n // 4, 2)
    names = [stream.name(int(d)) for step in range(n // 4) for d in batches[step].documents if d >= 0]
    assert sum(counts) == sum(batches[step].n_counted for step in range(n // 4))
    share = sum('/a.jsonl' in name for name in names) / len(names)
    assert 0.2 < share < 0.8
    assert counts[0] / sum(counts) == pytest.approx(share, abs=0.2)
    assert sorted(stream.sources(0)) == [0, 1]
    stream.close()


def test_the_bound_holds_while_windows_come_and_go_and_the_order_stays(build, monkeypatch):
    free = build(folder='free', plan=Pack(128))
    expected = [plain(batches_of(free)[i]) for i in range(60)]
    free.close()
    bound = int(0.8 * free.cache.n_bytes)
    stream = build(max_bytes=bound, plan=Pack(128))
    seen = []
    append = folders.ArrayFile.append

    def watch(self, values):
        append(self, values)
        self._file.flush()
        seen.append(stream.cache.n_bytes)

    monkeypatch.setattr(folders.ArrayFile, 'append', watch)
    batches = batches_of(stream)
    assert [plain(batches[i]) for i in range(60)] == expected
    stream.close()
    assert max(seen) <= bound
    assert stream.cache.n_bytes <= bound


def test_the_next_window_is_fetched_while_this_one_is_used(build, server):
    stream = build()
    stream.open(0)
    stream._ahead.join()
    assert sorted(server.asked) == sorted(f'part-{i}.jsonl' for window in (0, 1) for i in stream.shards(window))
    n_asked = len(server.asked)
    stream.open(1)
    assert set(server.asked[:n_asked]) >= {f'part-{i}.jsonl' for i in stream.shards(1)}


def test_a_far_place_costs_what_the_first_one_does(build, monkeypatch, server):
    """Step 1,000,000 is found by its record: as many rows are permuted, laid out and fetched as for step 0."""
    stream = build()
    work = []
    permute, lay_out = StreamedRows.order, StreamedRows._lay_out
    monkeypatch.setattr(StreamedRows, 'order', lambda *a: work.append(('order', len(a[2]))) or permute(*a))
    monkeypatch.setattr(StreamedRows, '_lay_out', lambda *a: work.append('window') or lay_out(*a))
    first = batches_of(stream)
    first[0]
    near, far = list(work), 10**6
    work.clear()
    window = 4 * 5000 + 1
    again = batches_of(build(folder='far'), first_step=far, start=Place(window, 2))
    again[2 * far]
    assert [kind for kind in work if kind == 'window'] == [kind for kind in near if kind == 'window']
    assert len(work) == len(near)
    assert again.place(far) == (window, 2)


def test_documents_of_a_stream_have_numbers_and_names_of_their_own(build, tokenizer, shard_texts):
    stream = build(plan=Chunk(64))
    batch = batches_of(stream, (4, 4))[0]
    for segment, number in enumerate(batch.documents.tolist()):
        if number >= 0:
            url, _, row = stream.name(number).rpartition(':')
            text = shard_texts[int(url[-7])][int(row)]
            start, end = batch.layout.starts[segment : segment + 2].tolist()
            ids = batch.targets.ids.flatten()[start:end].tolist()
            assert tokenizer.decode([id for id in ids if id > 3]) in text
    number = int(batch.documents[0])
    folders.remove(stream.cache.path((number >> 32) - 1))
    assert stream.name(number).endswith(f'.jsonl, valid document {number % 2**32}')


def test_joined_rows_are_the_rows_of_one_batch(corpus, tokenizer, tmp_path):
    plan = open_plan(Pack(16), corpus, 'train', counted_once=False, folder=tmp_path)
    rows = Rows(corpus, plan, tokenizer)
    draw = random.Random(0)
    numbers = np.array([draw.randrange(len(rows)) for _ in range(9)])
    whole = batch_of(rows, numbers, 7.0, 5)
    parts = [batch_of(rows, numbers[a:b], 7.0, 5) for a, b in ((0, 2), (2, 3), (3, 9))]
    assert plain(join_batches(parts)) == plain(whole)
    assert join_batches(parts).layout.starts.dtype == torch.int32
    others = np.array(draw.sample(range(9), 9))
    assert plain(take_rows(whole, others)) == plain(batch_of(rows, numbers[others], 7.0, 5))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'cache_gb': 0.0}, r'data\.stream\.cache_gb is 0\.0; it must be more than 0'),
        ({'window_shards': 0}, r'data\.stream\.window_shards is 0; it must be at least 1'),
        ({'eval_shards': 0}, r'data\.stream\.eval_shards is 0; it must be at least 1'),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Stream(**settings)


def test_a_corpus_without_training_documents_is_refused(build, tmp_path, shard_texts):
    kept = [text for some in shard_texts for text in some if not is_train(text)]
    (tmp_path / 'val.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in kept))
    stream = build(source=Location(str(tmp_path / 'val.jsonl')))
    with pytest.raises(ValueError, match='no shard of the stream has a document to train on'):
        batches_of(stream)[0]


def test_several_processes_fetch_a_shard_once(build, server):
    import multiprocessing

    stream = build()
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=lambda: stream.cache.open(2, ())) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert server.asked == ['part-2.jsonl']
    assert isinstance(Corpus([stream.cache.open(2, ())], SPLITS), Corpus)
