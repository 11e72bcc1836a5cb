"""Texts are read as they are: quotes, delimiters, encodings, kinds of files; what is wrong is said with its line."""

import bz2
import contextlib
import csv
import gzip
import io
import json
import random
import re
from pathlib import Path

import datasets
import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import served

from xlabml.data import JoinColumns, Location, RemoteFiles, prepare_store
from xlabml.data.sources.quotes import CheckedQuotes

TEXTS = ['plain', '"quoted" first', 'a "b" c', '5" disk; and, more', 'été', 'one\\two', '"', ' spaced ', '007', 'NA']
"""No tabs and no line ends, so that a tsv can hold them."""


def as_csv(texts, **how):
    written = io.StringIO()
    writer = csv.writer(written, **how)
    writer.writerows([['text', 'n'], *([text, i] for i, text in enumerate(texts))])
    return written.getvalue()


def as_jsonl(texts):
    return ''.join(json.dumps({'text': text, 'n': i}, ensure_ascii=False) + '\n' for i, text in enumerate(texts))


def as_arrow(texts, open_writer):
    table = pyarrow.table({'n': range(len(texts)), 'text': texts})
    file = io.BytesIO()
    with open_writer(file, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=3):
            writer.write_batch(batch)
    return file.getvalue()


def as_parquet(texts):
    pyarrow.parquet.write_table(pyarrow.table({'text': pyarrow.array(texts).dictionary_encode()}), file := io.BytesIO())
    return file.getvalue()


PLAIN_TSV = 'text\tn\n' + ''.join(f'{text}\t{i}\n' for i, text in enumerate(TEXTS))
FILES = {
    'a.jsonl': (as_jsonl(TEXTS), {}),
    'A.JSONL': (as_jsonl(TEXTS), {}),
    'a.ndjson': (as_jsonl(TEXTS).encode('utf-8-sig'), {}),
    'a.json': (json.dumps([{'text': text} for text in TEXTS]), {}),
    'utf16.json': (json.dumps([{'text': text} for text in TEXTS], ensure_ascii=False).encode('utf-16'), {}),
    'utf16.jsonl': (as_jsonl(TEXTS).encode('utf-16'), {}),
    'latin.jsonl': (as_jsonl(TEXTS).encode('latin-1'), {'encoding': 'latin-1'}),
    'a.jsonl.bz2': (bz2.compress(as_jsonl(TEXTS).encode()), {}),
    'a.Jsonl.GZ': (gzip.compress(as_jsonl(TEXTS).encode(), mtime=0), {}),
    'a.csv': (as_csv(TEXTS), {}),
    'all.csv': (as_csv(TEXTS, quoting=csv.QUOTE_ALL), {}),
    'mark.csv': (as_csv(TEXTS).encode('utf-8-sig'), {}),
    'utf16.csv': (as_csv(TEXTS).encode('utf-16'), {}),
    'utf16-le.csv': (as_csv(TEXTS).encode('utf-16-le'), {'encoding': 'UTF-16-LE'}),
    'latin.csv.bz2': (bz2.compress(as_csv(TEXTS).encode('latin-1')), {'encoding': 'latin1'}),
    'a.csv.zst': (pyarrow.compress(as_csv(TEXTS).encode(), 'zstd', asbytes=True), {}),
    'semicolon.csv': (as_csv(TEXTS, delimiter=';'), {'delimiter': ';'}),
    'blank.csv': (as_csv(TEXTS, delimiter=' '), {'delimiter': ' '}),
    'escaped.csv': (
        as_csv(TEXTS, doublequote=False, escapechar='\\', quoting=csv.QUOTE_ALL),
        {'quoting': 'escaped'},
    ),
    'a.tsv': (PLAIN_TSV, {}),
    'crlf.TSV': (PLAIN_TSV.replace('\n', '\r\n'), {}),
    'quoted.tsv': (as_csv(TEXTS, delimiter='\t'), {'quoting': 'doubled'}),
    'none.csv': (PLAIN_TSV, {'quoting': 'none', 'delimiter': '\t'}),
    'stream.arrow': (as_arrow(TEXTS, pyarrow.ipc.new_stream), {}),
    'file.arrow': (as_arrow(TEXTS, pyarrow.ipc.new_file), {}),
    'a.parquet': (as_parquet(TEXTS), {}),
}


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.fixture(scope='module')
def fingerprint(tmp_path_factory, tokenizer):
    """That of the store of TEXTS."""
    folder = tmp_path_factory.mktemp('texts')
    source = Location(write(folder / 'texts.jsonl', as_jsonl(TEXTS)))
    assert [document.text for document in source.documents()] == TEXTS
    return prepare_store(source, tokenizer, folder / 'store', n_processes=1).fingerprint


@pytest.mark.parametrize('name', FILES)
def test_every_kind_of_file_makes_the_same_store(tmp_path, tokenizer, fingerprint, name):
    content, how = FILES[name]
    source = Location(write(tmp_path / name, content), **how)
    assert [document.text for document in source.documents()] == TEXTS
    assert prepare_store(source, tokenizer, tmp_path / 'store', n_processes=1).fingerprint == fingerprint


def test_any_number_of_processes_makes_one_store_of_all_kinds(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 1_000)
    folder = tmp_path / 'texts'
    names = [name for name, (_, how) in FILES.items() if not how]
    for i, name in enumerate(names):
        (folder / f'{i % 3}').mkdir(parents=True, exist_ok=True)
        write(folder / f'{i % 3}' / name, FILES[name][0])
    stores = [prepare_store(Location(str(folder)), tokenizer, tmp_path / f'{n}', n_processes=n) for n in (1, 2, 3)]
    assert len({store.fingerprint for store in stores}) == 1
    assert [store.manifest['read'] for store in stores] == [stores[0].manifest['read']] * 3
    assert len(stores[0]) == len(names) * len(TEXTS)


def test_text_files_of_every_ending_make_the_same_store(tmp_path, tokenizer, fingerprint):
    folder = tmp_path / 'texts'
    ways = [
        ('txt', str.encode),
        ('TXT', lambda text: text.encode('utf-8-sig')),
        ('md', lambda text: text.encode('utf-16')),
    ]
    ways += [
        ('text.bz2', lambda text: bz2.compress(text.encode())),
        ('Md.GZ', lambda text: gzip.compress(text.encode(), mtime=0)),
    ]
    for i, text in enumerate(TEXTS):
        ending, encode = ways[i % len(ways)]
        (folder / f'{i // 4}').mkdir(parents=True, exist_ok=True)
        (folder / f'{i // 4}' / f'{i}.{ending}').write_bytes(encode(text))
    store = prepare_store(Location(str(folder)), tokenizer, tmp_path / 'store', n_processes=1)
    assert store.fingerprint == fingerprint
    assert store.manifest['read'] == {'files': len(TEXTS), 'lines': 0}


@pytest.mark.parametrize('split', ['train', 'test'])
def test_a_dataset_that_was_saved_makes_the_same_store(tmp_path, tokenizer, fingerprint, split):
    rows = datasets.Dataset.from_dict({'n': range(len(TEXTS)), 'text': TEXTS})
    rows.save_to_disk(tmp_path / 'one', num_shards=3)
    rows.map(lambda row: {'text': 'changed'}, cache_file_name=str(tmp_path / 'one' / 'cache-1234.arrow'))
    others = datasets.Dataset.from_dict({'n': [0], 'text': ['other']})
    splits = datasets.DatasetDict({split: rows, 'train' if split == 'test' else 'test': others})
    splits.save_to_disk(tmp_path / 'dict', num_shards=dict.fromkeys(splits, 1))
    for name, how in (('one', {}), ('dict', {'split': split})):
        store = prepare_store(Location(str(tmp_path / name), **how), tokenizer, tmp_path / f'{name}.store')
        assert store.fingerprint == fingerprint


@pytest.mark.parametrize('name', ['a.jsonl', 'latin.csv.bz2', 'semicolon.csv', 'a.tsv', 'stream.arrow', 'utf16.csv'])
def test_remote_files_make_the_same_store(tmp_path, tokenizer, fingerprint, name):
    content, how = FILES[name]
    (tmp_path / 'served' / 'inner').mkdir(parents=True)
    write(tmp_path / 'served' / 'inner' / name, content)
    with served(tmp_path / 'served') as server:
        store = prepare_store(RemoteFiles(f'{server.url}/', **how), tokenizer, tmp_path / 'store', n_processes=1)
    assert store.fingerprint == fingerprint


def test_quotes_in_a_tsv_swallow_nothing(tmp_path):
    lines = [f'text {i}' for i in range(500)]
    lines[3], lines[200] = '"a quote that opens', '"and another" one'
    path = write(tmp_path / 'a.tsv', 'text\n' + '\n'.join(lines) + '\n')
    assert [document.text for document in Location(path).documents()] == lines


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('text,n\na,1\n"b,2\nc,3\n', r"""a\.csv:3: the quoted field that begins here, '"b,2' …, is not closed"""),
        ('text,n\na,1\nb,"2\nc,3\n', r'a\.csv:3: the quoted field that begins here, .* is not closed'),
        ('text\r\n"a\r\n\r\nb"\r\n"c', r'a\.csv:5: .* is not closed'),
        ('text\n"a""\n', r'a\.csv:2: .* is not closed'),
        ('text\n"', r'a\.csv:2: .* is not closed'),
        ('"text\na\n', r'a\.csv:1: .* is not closed'),
        ('text\n"a\nb\nc\n"d\ne\n', r'a\.csv:2: .* goes on behind its closing quote.*set quoting to none'),
        ('text\na\n"b" c\n', r'a\.csv:3: .* goes on behind its closing quote'),
        ('text,n\na,1\n"b\n\nc",2\n\nd\n', r'a\.csv:7 \(Expected 2 columns, got 1: d\)'),
        ('text,n\na,1,2\n', r'a\.csv:2 \(Expected 2 columns, got 3'),
    ],
)
def test_a_quote_that_is_not_closed_is_named_with_its_line(tmp_path, content, message):
    path = write(tmp_path / 'a.csv', content)
    for ask in (lambda source: list(source.documents()), lambda source: source.parts()):
        with pytest.raises(ValueError, match=message):
            ask(Location(path))


@pytest.mark.parametrize('name', ['a.csv', 'a.csv.gz'])
@pytest.mark.parametrize('ending', ['\n', '\r\n', '\r'])
def test_rows_of_any_length_and_quotes_in_any_place_are_read_block_by_block(tmp_path, monkeypatch, name, ending):
    """Quotes, delimiters and line ends on both sides of where blocks of the file meet."""
    monkeypatch.setattr('xlabml.data.sources.delimited._BLOCK_BYTES', (64, 256))
    draw = random.Random(0)
    pieces = ['"', '""', ',', ending, 'word', ' ', 'été', '\\', "'", 'a,"b",c']
    rows = [[''.join(draw.choices(pieces, k=draw.randrange(12))) or 'x', str(i)] for i in range(500)]
    written = io.StringIO()
    csv.writer(written, lineterminator=ending).writerows([['text', 'n'], *rows])
    data = written.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith('gz') else data)
    documents = list(Location(str(tmp_path / name)).documents(['n']))
    assert [[document.text, str(document.columns['n'])] for document in documents] == rows


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text('ab",\n \r', max_size=8), min_size=1, max_size=6), st.data())
def test_a_csv_that_is_cut_short_is_refused_or_gives_its_first_rows(tmp_path_factory, texts, data):
    """Cut behind any byte of a file whose last column has one digit, so that a half of it is no other."""
    whole = as_csv(texts, quoting=csv.QUOTE_ALL, lineterminator='\n').encode()
    cut = data.draw(st.integers(len('"text","n"\n'), len(whole)))
    path = write(tmp_path_factory.mktemp('cut') / 'a.csv', whole[:cut])
    try:
        found = [document.text for document in Location(path).documents()]
    except ValueError as error:
        assert cut < len(whole) - 1 or not texts
        assert 'a.csv' in str(error)  # noqa: PT017
    else:
        assert found == texts[: len(found)]
        assert cut < len(whole) - 1 or len(found) == len(texts)


def test_quotes_are_judged_as_pythons_strict_reader_judges_them_wherever_blocks_end():
    draw = random.Random(5)
    accepted = 0
    for _ in range(5000):
        text = ''.join(draw.choices('"",\na\r\\b', k=draw.randrange(1, 14)))
        size = draw.choice([1, 2, 3, 5, 100])
        try:
            list(csv.reader(io.StringIO(text, newline=''), strict=True))
            expected = None
        except csv.Error:
            expected = ValueError
        checked = CheckedQuotes(io.BytesIO(text.encode()), Path('a.csv'), ',', 'doubled', 1 << 20)
        with contextlib.nullcontext() if expected is None else pytest.raises(expected):
            while checked.read(size):
                pass
        if expected is None:
            accepted += 1
            assert checked.n_lines == len(re.findall(r'[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$', text)), text
    assert 1000 < accepted < 4000


def test_lines_rows_and_files_are_counted(tmp_path, tokenizer):
    write(tmp_path / 'a.csv', 'text\n"one\ntwo"\n\nthree')
    write(tmp_path / 'b.tsv', 'text\nfour\n')
    write(tmp_path / 'c.jsonl', '{"text": "five"}\n\n{"text": ""}')
    write(tmp_path / 'd.txt', 'six\nseven\n')
    source = Location(str(tmp_path))
    said = []
    for n_processes in (1, 2):
        store = prepare_store(source, tokenizer, tmp_path / f'_{n_processes}', n_processes=n_processes, say=said.append)
        assert store.manifest['read'] == {'files': 4, 'lines': 5 + 2 + 3}
        assert (store.manifest['n_rows'], len(store)) == (6, 5)


def test_the_lines_of_a_file_in_parts_are_counted_once(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr('xlabml.data.sources.location._PART_BYTES', 100)
    monkeypatch.setattr('xlabml.data.sources.location._MIN_PART_BYTES', 100)
    path = write(tmp_path / 'a.jsonl', '\ufeff' + as_jsonl(TEXTS * 9))
    source = Location(path)
    assert len(source.parts()) > 9
    store = prepare_store(source, tokenizer, tmp_path / 'store', n_processes=1)
    assert store.manifest['read'] == {'files': 1, 'lines': 90}
    assert len(store) == 90


DEEP = '[' * 100_000 + ']' * 100_000


@pytest.mark.parametrize(
    ('name', 'content', 'how', 'message'),
    [
        ('a.jsonl', f'{{"text": "a"}}\n{{"text": {DEEP}}}\n', {}, r'a\.jsonl:2: JSON nested too deep'),
        ('a.json', f'[{{"text": {DEEP}}}]', {}, r'a\.json: JSON nested too deep to be read; mend it'),
        ('a.jsonl', '{"text": "a"}\n{"text": ' + '9' * 5000 + '}\n', {}, r'a\.jsonl:2: .*limit'),
        ('a.json', '[{"text": ' + '9' * 5000 + '}]', {}, r'a\.json: not JSON \(.*limit'),
        ('a.jsonl', '{"text": "a"}\n\n{"text": ["b"]}\n', {}, r"a\.jsonl:3: column 'text' holds a list .*JoinColumns"),
        ('a.jsonl', '{"text": {"b": "c"}}\n', {}, r"a\.jsonl:1: column 'text' holds an object"),
        ('a.json', '[{"text": "a"}, {"text": []}]', {}, r"a\.json, entry 1: column 'text' holds a list"),
        ('a.txt', 'caf\u00e9\nol\u00e9'.encode('latin-1'), {}, r'a\.txt:1: not UTF-8 .*latin-1: set encoding to that'),
        ('a.md', 'It is\n\u201cquoted\u201d'.encode('cp1252'), {}, r'a\.md:2: not UTF-8 \(byte 0x93.* be cp1252'),
        ('a.csv', 'text\nplain\ncaf\u00e9\n'.encode('latin-1'), {}, r'a\.csv:3: not UTF-8 .*latin-1'),
        ('a.jsonl', '{"text": "caf\u00e9"}\n'.encode('latin-1'), {}, r'a\.jsonl:1: not UTF-8 .*latin-1'),
        ('a.json', '[\n{"text": "caf\u00e9"}]\n'.encode('latin-1'), {}, r'a\.json:2: not UTF-8 .*latin-1'),
        ('a.txt.gz', gzip.compress('caf\u00e9'.encode('latin-1'), mtime=0), {}, r'a\.txt\.gz:1: not UTF-8 .*latin-1'),
        ('a.txt', 'plain text'.encode('utf-16-le'), {}, r'a\.txt is not UTF-8 but utf-16-le'),
        ('a.csv', 'text\nplain'.encode('utf-16-be'), {}, r'a\.csv is not UTF-8 but utf-16-be'),
        ('a.txt', '\u0442\u0435\u043a\u0441\u0442'.encode('cp1251'), {}, r'set encoding to what it is written in'),
        ('a.txt', b'fine\nno \x81', {'encoding': 'cp1252'}, r'a\.txt:2: not cp1252 \(byte 0x81'),
        ('a.csv', b'text\nfine\nno \xff', {'encoding': 'utf-8'}, r'a\.csv:3: not UTF-8 \(byte 0xFF'),
        ('a.txt', b'\xff\xfea\0b', {}, r'a\.txt:1: not utf-16'),
        ('a.csv', 'text,text\na,b\n', {}, r"a\.csv, has the column 'text' twice"),
        ('a.csv', 'text;n\na;1\n', {}, r"no column 'text'; its columns are text;n; .* set delimiter"),
        ('a.csv', 'text,n\n', {}, r'a\.csv is empty'),
        ('a.csv.gz', gzip.compress(b'', mtime=0), {}, r'a\.csv\.gz is empty'),
        ('a.parquet', b'', {}, r'a\.parquet is empty'),
        ('a.arrow', b'', {}, r'a\.arrow is empty'),
        ('a.arrow', b'ARROW1 cut short', {}, r'a\.arrow is broken or cut short'),
        ('a.arrow', as_arrow(TEXTS, pyarrow.ipc.new_stream)[:-40], {}, r'a\.arrow is broken or cut short'),
        ('a.jsonl.bz2', bz2.compress(as_jsonl(TEXTS).encode())[:-20], {}, r'a\.jsonl\.bz2 is broken or cut short'),
        ('a.jsonl.bz2', b'no bzip2', {}, r'a\.jsonl\.bz2 is broken or cut short'),
        ('a.txt.gz', b'no gzip', {}, r'a\.txt\.gz is broken or cut short'),
        ('a.parquet.gz', b'', {}, r'cannot read .*a\.parquet\.gz'),
        ('a.txt', 'a', {'delimiter': ';'}, r'delimiter is .* none of the files is csv or tsv'),
        ('a.jsonl', '{"text": "a"}', {'quoting': 'none'}, r'quoting is .* none of the files is csv or tsv'),
        ('a.parquet', as_parquet(['a']), {'encoding': 'latin-1'}, r'encoding is .* none of the files is a text file'),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_what_to_do(tmp_path, tokenizer, name, content, how, message):
    source = Location(write(tmp_path / name, content), **how)
    with pytest.raises(ValueError, match=message) as caught:
        prepare_store(source, tokenizer, tmp_path / 'store', n_processes=1)
    assert len(str(caught.value)) < 1000 + len(str(tmp_path))


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, name):
    content, how = FILES[name]
    draw = random.Random(name)
    for _ in range(30):
        data = bytearray(content.encode() if isinstance(content, str) else content)
        for _ in range(draw.choice([1, 1, 2, 8])):
            at = draw.randrange(len(data))
            data[at : at + draw.randrange(4)] = draw.choice(
                [b'', b'\0', b'\n', b'\r', b'"', b'\xff', draw.randbytes(2)]
            )
        source = Location(write(tmp_path / name, bytes(data[: draw.choice([None, None, None, -7])])), **how)
        with contextlib.suppress(ValueError):
            source.fingerprint()
            assert all(document for part in source.parts() for document in source.read(part))


@pytest.mark.parametrize(
    ('values', 'kind'),
    [
        ([b'a', b'b'], 'binary'),
        ([['a'], ['b']], 'list<.*string>'),
        ([1, 2], 'int64'),
        ([{'a': 'b'}, None], 'struct<.*>'),
    ],
)
@pytest.mark.parametrize('name', ['a.parquet', 'stream.arrow', 'file.arrow'])
def test_a_column_of_another_type_is_refused_before_it_is_read(tmp_path, values, kind, name):
    table = pyarrow.table({'text': values})
    if name == 'a.parquet':
        pyarrow.parquet.write_table(table, tmp_path / name)
    else:
        open_writer = pyarrow.ipc.new_stream if 'stream' in name else pyarrow.ipc.new_file
        with open_writer(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match=rf"{name}, every row: column 'text' holds {kind} where a text should be"):
        Location(str(tmp_path / name)).parts()
    if 'list' in kind:
        joined = JoinColumns(Location(str(tmp_path / name)), ['text'])
        assert [document.text for document in joined.documents()] == ['a', 'b']


@pytest.mark.parametrize('make', [Location, lambda path, **how: RemoteFiles(f'http://host/{path}', **how)])
@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ({'delimiter': ''}, 'delimiter is .* one ASCII character'),
        ({'delimiter': ',,'}, 'delimiter is .* one ASCII character'),
        ({'delimiter': '\\t'}, r'delimiter is .* a tab is "\\t" in double quotes'),
        ({'delimiter': '"'}, 'delimiter is .* no quote'),
        ({'delimiter': '\n'}, 'delimiter is .* no quote'),
        ({'delimiter': '\u00a7'}, 'delimiter is .* one ASCII character'),
        ({'encoding': 'latin-42'}, "encoding is 'latin-42', which Python does not know"),
        ({'encoding': 'base64'}, "encoding is 'base64', which Python does not know"),
        ({'encoding': 'idna'}, "encoding is 'idna', which Python does not know"),
        ({'encoding': 'a\0'}, 'encoding is .*, which Python does not know'),
    ],
)
def test_settings_that_cannot_be_are_refused_as_the_source_is_built(make, how, message):
    with pytest.raises(ValueError, match=message):
        make('a.csv', **how)


def test_changed_settings_are_another_source_and_defaults_are_what_they_were(tmp_path):
    path = write(tmp_path / 'a.csv', 'text,n\na,1\n')
    assert Location(path).fingerprint() == {
        'class': 'Location',
        'name': None,
        'split': 'train',
        'column': 'text',
        'files': [[path, 11]],
    }
    found = [
        json.dumps(Location(path, **how).fingerprint())
        for how in ({}, {'encoding': 'latin-1'}, {'delimiter': ';'}, {'quoting': 'none'}, {'quoting': 'escaped'})
    ]
    assert len(set(found)) == len(found)
    assert Location(path, encoding='latin1').fingerprint() == Location(path, encoding='ISO-8859-1').fingerprint()
    plain, marked = write(tmp_path / 'a.txt', 'a'), write(tmp_path / 'b.txt', '\ufeffa')
    assert set(Location(plain).fingerprint()) == {'class', 'name', 'split', 'column', 'files'}
    assert set(Location(marked).fingerprint()) - set(Location(plain).fingerprint()) == {'marks'}
    assert 'quoting' in Location(write(tmp_path / 'a.tsv', 'text\na')).fingerprint()  # quotes were not characters there


def test_a_hub_has_no_encoding():
    with pytest.raises(
        ValueError, match='encoding, delimiter, quoting and document are of files, and there is no file or folder'
    ):
        Location('some/dataset', encoding='latin-1').fingerprint()
