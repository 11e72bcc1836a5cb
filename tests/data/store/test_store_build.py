"""A store is built from parts: the same bytes for any number of processes, kills, restarts and touched files."""

import gzip
import json
import lzma
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from xlabml.data import Location, Part, encode_part, prepare_store
from xlabml.data.sources import recorded
from xlabml.data.store.processes import Processes

WORDS = ['the', 'a', 'cat', 'dog', 'été', 'sat', 'on', 'mat', 'ran', 'far', 'away', 'über', '12', 'days']


def some_texts(n, seed=0):
    draw = random.Random(seed)
    return [' '.join(draw.choices(WORDS, k=draw.randrange(1, 40))) for _ in range(n)]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 4_000)


@pytest.fixture
def folder(tmp_path):
    """Files of several kinds, some worth several parts, with invalid documents in each."""
    folder = tmp_path / 'texts'
    folder.mkdir()
    rows = [{'text': text, 'label': i} for i, text in enumerate([*some_texts(150), '', None, *some_texts(60, 1)])]
    (folder / 'a.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / 'b.parquet', row_group_size=40)
    (folder / 'c.csv').write_text('text,label\n"one, two",5\n,6\nthree,7\n')
    (folder / 'd.jsonl').write_text(json.dumps(rows[3]))
    return folder


def test_parts_hold_what_the_source_holds(folder, small_parts):
    source = Location(str(folder))
    parts = source.parts(['label'])
    assert len(parts) > 6
    assert parts == source.parts(['label'])
    assert [part.n_bytes for part in parts if part.n_bytes < 100] == []
    found = [document[1:] for part in parts for document in source.read(part, ['label'])]
    assert found == [document[1:] for document in source.documents(['label'])]
    assert [document.row for document in source.read(parts[2])] == list(range(len(list(source.read(parts[2])))))


@pytest.mark.parametrize('size', [1, 7, 100, 1_000])
def test_lines_are_cut_nowhere(tmp_path, monkeypatch, size):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', size)
    monkeypatch.setattr('xlabml.data.sources.location._MAX_PARTS', 1 << 30)
    texts = ['été', 'x' * 50, '', 'two\nlines', 'end']
    (tmp_path / 'a.jsonl').write_bytes(('\ufeff' + '\r\n'.join(json.dumps({'text': text}) for text in texts)).encode())
    source = Location(str(tmp_path / 'a.jsonl'))
    assert [document.text for part in source.parts() for document in source.read(part)] == texts


def test_a_broken_line_is_named_whatever_part_it_is_in(tmp_path, small_parts, tokenizer):
    lines = [json.dumps({'text': text}) for text in some_texts(200)]
    lines[150] = '{"text": broken'
    (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
    for n_processes in (1, 2):
        with pytest.raises(ValueError, match=r'a\.jsonl:151: not JSON .*; mend the line'):
            prepare_store(Location(str(tmp_path / 'a.jsonl')), tokenizer, tmp_path / 'store', n_processes=n_processes)
        assert sorted(path.name for path in tmp_path.iterdir()) == ['a.jsonl', 'store.lock']


def test_any_number_of_processes_makes_the_same_files(folder, small_parts, tokenizer, tmp_path):
    made = [
        prepare_store(Location(str(folder)), tokenizer, tmp_path / f'{n}', ['label'], n_processes=n) for n in (1, 2, 3)
    ]
    contents = [{path.name: path.read_bytes() for path in sorted(store.folder.glob('*.bin'))} for store in made]
    assert contents[0] == contents[1] == contents[2]
    documents = [d for d in Location(str(folder)).documents(['label']) if d.text]
    store = made[2]
    assert store.rows.tolist() == [document.row for document in documents]
    for i in (0, 149, 150, len(store) - 1):
        assert tokenizer.decode(store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist()) == documents[i].text
        assert store.columns(i) == documents[i].columns
    # 150 and 151 are empty and None; so again in the second file of 212 rows; an empty field of csv is empty text
    assert store.manifest['invalid'] == {
        'empty': {'count': 3, 'rows': [150, 362, 425]},
        'not a string': {'count': 2, 'rows': [151, 363]},
    }
    assert store.manifest['n_rows'] == 428
    assert sorted(path.name for path in store.folder.iterdir()) == sorted([*contents[0], 'manifest.json'])


def slow_build(path, tokenizer, folder):
    """Build as many processes do, a part in a tenth of a second."""
    os.setsid()
    read = Location.read

    def slowly(self, part, columns=()):
        time.sleep(0.1)
        return read(self, part, columns)

    Location.read = slowly
    prepare_store(Location(str(path)), tokenizer, folder, n_processes=2)


def alive(group):
    """Processes of a group that are no zombies."""
    found = []
    for entry in os.listdir('/proc'):
        if entry.isdecimal():
            try:
                fields = Path(f'/proc/{entry}/stat').read_text().rpartition(')')[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != 'Z':
                found.append(int(entry))
    return found


def test_a_killed_preparation_goes_on_from_its_last_whole_part(folder, small_parts, tokenizer, tmp_path):
    whole = prepare_store(Location(str(folder)), tokenizer, tmp_path / 'whole')
    process = multiprocessing.get_context('fork').Process(target=slow_build, args=(folder, tokenizer, tmp_path / 's'))
    process.start()
    parts, deadline = tmp_path / 's.partial' / 'parts', time.monotonic() + 60
    while len([path for path in parts.glob('?????') if path.is_dir()]) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)  # the workers went with it
    there = {path.name for path in parts.glob('?????')}
    assert len(there) >= 3
    encoded, said = [], []

    def spy(self, part, columns=()):
        encoded.append(part)
        return Location.read(self, part, columns)

    source = Location(str(folder))
    source.read = spy.__get__(source)
    store = prepare_store(source, tokenizer, tmp_path / 's', n_processes=1, say=said.append)
    assert store.fingerprint == whole.fingerprint
    assert len(encoded) == 1 + len(source.parts()) - len(there)  # one for the estimate
    assert f'{len(there)} of {len(source.parts())} parts are there already' in said[0]
    assert not (tmp_path / 's.partial').exists()


def test_parts_of_other_texts_are_not_gone_on_with(folder, small_parts, tokenizer, tmp_path):
    path, source = folder / 'd.jsonl', Location(str(folder / 'd.jsonl'))
    partial = tmp_path / 's.partial'
    encode_part(source, source.parts()[0], tokenizer, [], partial / 'parts' / '00000')
    path.write_text(path.read_text().replace('a', 'b'))
    store = prepare_store(source, tokenizer, tmp_path / 's')
    assert tokenizer.decode(store.tokens.tolist()) == json.loads(path.read_text())['text']


def test_a_part_that_is_not_as_it_was_written_is_made_again(folder, small_parts, tokenizer, tmp_path):
    """As after a power cut: the size and the time are right, the content is not."""
    source = Location(str(folder))

    def spoil(job, tell):
        Processes(1)(job, tell)
        path = job.part_folder(1) / 'tokens.bin'
        times = path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(times, times))

    with pytest.raises(ChildProcessError, match=r'part 1 of .* is not as it was written .*tokenizes it again'):
        prepare_store(source, tokenizer, tmp_path / 's', engine=spoil)
    assert (tmp_path / 's.partial').exists()
    store = prepare_store(source, tokenizer, tmp_path / 's')
    assert store.fingerprint == prepare_store(source, tokenizer, tmp_path / 'whole').fingerprint


def test_many_compressed_files_are_many_parts(tmp_path, monkeypatch):
    """A compressed file is one part: it cannot be begun in the middle."""
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 4_000)
    pack = {'gz': gzip.compress, 'xz': lzma.compress}
    for i, kind in enumerate(['gz', 'xz', 'gz']):
        rows = b'\n'.join(json.dumps({'text': text}).encode() for text in some_texts(200, i))
        (tmp_path / f'{i}.jsonl.{kind}').write_bytes(pack[kind](rows))
    (tmp_path / '3.csv').write_text('text\n' + '\n'.join(some_texts(100, 3)))
    (tmp_path / '4.json').write_text(json.dumps([{'text': text} for text in some_texts(100, 4)]))
    source = Location(str(tmp_path))
    assert [len(part.where) for part in source.parts()] == [1] * 5
    read = [document.text for part in source.parts() for document in source.read(part)]
    assert read == [text for i, n in enumerate([200, 200, 200, 100, 100]) for text in some_texts(n, i)]


def test_a_small_source_is_cut_into_small_parts(tmp_path, monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._MIN_PART_BYTES', 1_000)
    rows = [json.dumps({'text': text}) for text in some_texts(2_000)]
    (tmp_path / 'a.jsonl').write_text('\n'.join(rows))
    sizes = [part.n_bytes for part in Location(str(tmp_path / 'a.jsonl')).parts()]
    assert 60 <= len(sizes) <= 66
    assert max(sizes) < 1.1 * sum(sizes) / 64


def kill_myself(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told_and_what_is_whole_is_kept(folder, small_parts, tokenizer, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr('xlabml.data.store.store_parts._encode', kill_myself)
        with pytest.raises(ChildProcessError, match=r'was killed .*resumes from the last whole part'):
            prepare_store(Location(str(folder)), tokenizer, tmp_path / 's', n_processes=2)
    assert (tmp_path / 's.partial').exists()
    prepare_store(Location(str(folder)), tokenizer, tmp_path / 's', n_processes=2).verify()


def test_too_little_disk_is_refused_before_the_start(folder, tokenizer, tmp_path, monkeypatch):
    said = []
    prepare_store(Location(str(folder)), tokenizer, tmp_path / 'a', say=said.append)
    assert 'of text; takes about' in said[0]
    assert said[1].endswith('left out of 428 documents: 3 empty, 2 not a string (validate_data names them)')
    monkeypatch.setattr('xlabml.data.store.store_parts.encode_part', lambda *_: pytest.fail('it has begun'))
    monkeypatch.setattr('shutil.disk_usage', lambda _: type('Usage', (), {'free': 10_000}))
    with pytest.raises(ValueError, match=r'takes about .* kB of disk, half of it for good, but only 10 kB are free'):
        prepare_store(Location(str(folder)), tokenizer, tmp_path / 'b')
    assert not (tmp_path / 'b.partial').exists()


def test_the_estimate_is_not_less_than_what_is_needed(folder, tokenizer, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr('xlabml.data.store.store_build._size', lambda n: sizes.append(n) or '')
    store = prepare_store(Location(str(folder)), tokenizer, tmp_path / 's')
    used = sum(path.stat().st_size for path in store.folder.glob('*.bin'))
    assert 2 * used <= sizes[1] <= 4 * used


@pytest.fixture
def one_file(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('\n'.join(json.dumps({'text': text}) for text in some_texts(20)))
    return path


def test_a_ready_store_reads_nothing_of_its_source(one_file, tokenizer, tmp_path, monkeypatch):
    first = prepare_store(Location(str(one_file)), tokenizer, tmp_path / 's')
    monkeypatch.setattr('xlabml.data.sources.location.read_span', lambda *_: pytest.fail('read'))
    monkeypatch.setattr(recorded, 'hash_file', lambda *_: pytest.fail('read'))
    assert prepare_store(Location(str(one_file)), tokenizer, tmp_path / 's').fingerprint == first.fingerprint


def test_a_touched_file_is_compared_once_and_an_edited_one_read_again(one_file, tokenizer, tmp_path, monkeypatch):
    first, hashed = prepare_store(Location(str(one_file)), tokenizer, tmp_path / 's'), []
    original = recorded.hash_file
    monkeypatch.setattr(recorded, 'hash_file', lambda path: hashed.append(path) or original(path))
    os.utime(one_file, ns=(1, 1))
    for _ in range(2):
        assert prepare_store(Location(str(one_file)), tokenizer, tmp_path / 's').fingerprint == first.fingerprint
    assert len(hashed) == 1
    one_file.write_text(one_file.read_text().replace('cat', 'dog'))  # of the same size
    assert prepare_store(Location(str(one_file)), tokenizer, tmp_path / 's').fingerprint != first.fingerprint


def test_a_source_that_is_written_to_meanwhile_is_refused(one_file, tokenizer, tmp_path):
    source = Location(str(one_file))

    def write(*_):
        with one_file.open('a') as file:
            file.write('\n{"text": "late"}')

    with pytest.raises(ValueError, match='was written to while it was read'):
        prepare_store(source, tokenizer, tmp_path / 's', report=write)


def test_progress_ends_at_the_total(folder, small_parts, tokenizer, tmp_path):
    for n_processes in (1, 2):
        told = []
        prepare_store(
            Location(str(folder)),
            tokenizer,
            tmp_path / f'{n_processes}',
            report=lambda *what: told.append(what),  # noqa: B023
            n_processes=n_processes,
        )
        done = [n for _, n, _ in told]
        assert done == sorted(done)
        assert {total for _, _, total in told} == {sum(part.n_bytes for part in Location(str(folder)).parts())}
        assert 0 < done[-1] <= told[-1][2]


def rows_of_shards(shards):
    for shard in shards:
        yield from ({'text': f'shard {shard}, text {i}'} for i in range(3))


def test_a_dataset_of_a_hub_is_read_by_its_shards(tokenizer, tmp_path, monkeypatch):
    hub = datasets.IterableDataset.from_generator(rows_of_shards, gen_kwargs={'shards': list(range(4))})
    monkeypatch.setattr(datasets, 'load_dataset', lambda *_, **__: hub)
    source = Location('someone/something')
    parts = source.parts()
    assert [part.where for part in parts] == [(i, 4) for i in range(4)]
    texts = [document.text for document in source.documents()]
    assert [document.text for part in parts for document in source.read(part)] == texts
    assert len(texts) == 12
    stores = [prepare_store(source, tokenizer, tmp_path / f'{n}', n_processes=n) for n in (1, 2)]
    assert stores[0].fingerprint == stores[1].fingerprint


def spoil_parquet(folder):
    content = (folder / 'b.parquet').read_bytes()
    (folder / 'b.parquet').write_bytes(content[: len(content) // 2])


def spoil_column(folder):
    pyarrow.parquet.write_table(pyarrow.table({'body': ['a']}), folder / 'b.parquet')


def spoil_rows(folder):
    pyarrow.parquet.write_table(pyarrow.table({'text': pyarrow.array([], 'string')}), folder / 'b.parquet')


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (spoil_parquet, r'b\.parquet is broken or cut short .*fetch it again, or leave it out'),
        (spoil_column, r"b\.parquet, has no column 'text'; its columns are body"),
        (spoil_rows, r'b\.parquet is empty; fetch it again, or leave it out'),
        (lambda folder: (folder / 'd.jsonl').write_text('\n'), r'd\.jsonl is empty'),
        (lambda folder: (folder / 'd.jsonl').write_text('["text"]'), r'd\.jsonl:1: a row must be an object .*is list'),
    ],
)
def test_a_spoilt_file_is_refused_before_the_others_are_tokenized(folder, tokenizer, tmp_path, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        prepare_store(Location(str(folder)), tokenizer, tmp_path / 's', report=lambda *_: pytest.fail('it has begun'))


def test_a_part_is_plain():
    assert Part((1, 'a')) == ((1, 'a'), None)
