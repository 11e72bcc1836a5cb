"""The token store holds exactly the texts, is whole or absent, and knows when it was touched."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import threading
import time

import filelock
import numpy as np
import pytest

from xlabml.artifacts import folders, manifests
from xlabml.data import (
    Document,
    Location,
    Source,
    TokenStore,
    describe_changed,
    prepare_store,
    store_folder,
)
from xlabml.data.store import content_hash
from xlabml.tokenizer import train_tokenizer


class Texts(Source):
    """Whatever it is given, as documents."""

    def __init__(self, texts, **columns):
        self.texts, self.columns, self.n_read = texts, columns, 0

    def documents(self, columns=()):
        self.n_read += 1
        for row, text in enumerate(self.texts):
            yield Document(row, text, {name: self.columns[name] for name in columns})

    def fingerprint(self):
        return {'texts': list(map(repr, self.texts))}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_store_holds_every_text_its_bytes_hash_row_and_columns(store, texts, tokenizer):
    assert len(store) == len(texts)
    for i, text in enumerate(texts):
        assert tokenizer.decode(store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist()) == text
        assert store.n_bytes[i] == len(text.encode())
        assert store.hashes[i].astype('>u8').tobytes() == content_hash(text.encode())
        assert store.rows[i] == i
        assert store.columns(i) == {'label': i % 3, 'title': f'title {i}'}
    assert store.tokens.dtype == np.uint16
    assert store.manifest['n_bytes'] == sum(len(text.encode()) for text in texts)
    store.verify()


def test_many_small_batches_give_the_same_files_as_one(monkeypatch, tmp_path, source, tokenizer, store):
    monkeypatch.setattr('xlabml.data.store.store_parts._BATCH_BYTES', 500)
    other = prepare_store(source, tokenizer, tmp_path / 'other', ['label', 'title'])
    assert other.fingerprint == store.fingerprint


def test_invalid_documents_are_counted_by_reason_and_left_out(tmp_path, tokenizer):
    texts = ['fine', '', None, 'also fine', 'a\ud800', 7, '', *[''] * 20]
    store = prepare_store(Texts(texts), tokenizer, tmp_path / 'store')
    assert store.rows.tolist() == [0, 3]
    assert {reason: item['count'] for reason, item in store.manifest['invalid'].items()} == {
        'empty': 22,
        'not a string': 2,
        'lone surrogate': 1,
    }
    assert store.manifest['invalid']['not a string']['rows'] == [2, 5]
    assert store.manifest['invalid']['empty']['rows'] == [1, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.mark.parametrize('nothing', [[], ['', None]])
def test_a_source_without_text_is_refused_and_leaves_nothing(tmp_path, tokenizer, nothing):
    with pytest.raises(ValueError, match=r'Texts has no document with text \(.*\); check its path and column'):
        prepare_store(Texts(nothing), tokenizer, tmp_path / 'store')
    assert names(tmp_path) == ['store.lock']


def test_a_ready_store_is_opened_and_not_read_again(tmp_path, tokenizer):
    source = Texts(['one', 'two'])
    first = prepare_store(source, tokenizer, tmp_path / 'store')
    again = prepare_store(source, tokenizer, tmp_path / 'store')
    assert (source.n_read, again.fingerprint) == (1, first.fingerprint)


def test_other_documents_tokenizers_or_columns_are_prepared_anew(tmp_path, tokenizer, texts):
    other = train_tokenizer(texts, tmp_path / 'other.model', 340)
    made = [
        (Texts(['one']), tokenizer, ()),
        (Texts(['two']), tokenizer, ()),
        (Texts(['two'], label=1), tokenizer, ('label',)),
        (Texts(['two']), other, ()),
    ]
    assert len({store_folder(tmp_path, *asked) for asked in made}) == len(made)
    for asked in made:
        store = prepare_store(asked[0], asked[1], tmp_path / 'store', asked[2])
        assert store.manifest['identity']['tokenizer'] == asked[1].hash
        assert store.manifest['columns'] == list(asked[2])
        assert asked[1].decode(store.tokens.tolist()) == asked[0].texts[0]


@pytest.fixture
def copy(store, tmp_path):
    """A copy that may be spoilt: its files are newer than those that were written."""
    return shutil.copytree(store.folder, tmp_path / 'copy', copy_function=shutil.copyfile)


def test_a_copied_store_is_compared_once(copy, store, monkeypatch):
    assert TokenStore.open(copy).fingerprint == store.fingerprint
    monkeypatch.setattr(manifests, 'check_content', lambda *_: pytest.fail('compared twice'))
    TokenStore.open(copy)


def test_a_store_edited_by_hand_is_refused_by_name(copy, source, tokenizer):
    content = bytearray((copy / 'tokens.bin').read_bytes())
    content[100] ^= 1
    (copy / 'tokens.bin').write_bytes(content)
    for ask in (TokenStore.open, lambda folder: prepare_store(source, tokenizer, folder, ['label', 'title'])):
        with pytest.raises(ValueError, match=r'tokens\.bin is not what manifest\.json says .*delete .*copy'):
            ask(copy)


def test_an_edit_that_hides_its_time_is_found_by_verify(copy, store):
    content = bytearray((copy / 'n_bytes.bin').read_bytes())
    content[0] ^= 1
    (copy / 'n_bytes.bin').write_bytes(content)
    time = store.manifest['files']['n_bytes']['modified']
    os.utime(copy / 'n_bytes.bin', ns=(time, time))
    with pytest.raises(ValueError, match=r'n_bytes\.bin is not what'):
        TokenStore.open(copy).verify()


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('hashes.bin', b'short', r'hashes\.bin has 5 bytes, but manifest\.json says 4800'),
        ('rows.bin', None, r'rows\.bin is gone'),
        ('manifest.json', b'{"format": 1', r'manifest\.json was changed by hand'),
        ('manifest.json', b'{"format": 0, "files": {}}', r'has format 0, this xlabml reads 2'),
    ],
)
def test_a_spoilt_store_is_refused_by_name(copy, name, content, message):
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=message + r'.*delete'):
        TokenStore.open(copy)


def test_a_folder_of_the_users_is_never_replaced(tmp_path, tokenizer):
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / 'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds something that xlabml did not make'):
        prepare_store(Texts(['one']), tokenizer, tmp_path / 'store')
    assert (tmp_path / 'store' / 'thesis.txt').read_text() == 'mine'


def test_a_full_disk_half_way_through_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr('xlabml.data.store.store_parts._BATCH_BYTES', 100)
    append = folders.ArrayFile.append

    def fill_up(self, values):
        if self._n_bytes > 1_000:
            raise OSError(errno.ENOSPC, 'No space left on device')
        append(self, values)

    monkeypatch.setattr(folders.ArrayFile, 'append', fill_up)
    with pytest.raises(ValueError, match=r'the disk is full .*store could not be written.*XLABML_CACHE'):
        prepare_store(Texts(['some text of forty bytes or a little less'] * 500), tokenizer, tmp_path / 'store')
    assert names(tmp_path) == ['store.lock']


def limited(texts, tokenizer, folder, answer):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    try:
        prepare_store(Texts(texts), tokenizer, folder)
    except Exception as error:
        answer.send(f'{type(error).__name__}: {error}')


def test_a_limit_of_the_system_half_way_through_leaves_nothing(tmp_path, tokenizer):
    here, there = multiprocessing.Pipe()
    texts = ['some text of forty bytes or a little less'] * 2_000
    process = multiprocessing.get_context('fork').Process(
        target=limited, args=(texts, tokenizer, tmp_path / 'store', there)
    )
    process.start()
    assert here.poll(30)
    assert here.recv().startswith('ValueError: the disk is full (File too large)')
    process.join()
    assert names(tmp_path) == ['store.lock']


def test_what_a_killed_process_left_is_cleared_away(tmp_path, tokenizer):
    (tmp_path / 'store.partial').mkdir()
    (tmp_path / 'store.partial' / 'tokens.bin').write_bytes(b'half')
    prepare_store(Texts(['one']), tokenizer, tmp_path / 'store').verify()
    assert names(tmp_path) == ['store', 'store.lock']


def prepare_slowly(folder, tokenizer, answer):
    source = Texts(['one', 'two'] * 50)
    store = prepare_store(source, tokenizer, folder)
    answer.send((source.n_read, store.fingerprint))


def test_of_two_processes_one_builds_and_one_waits(tmp_path, tokenizer):
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=prepare_slowly, args=(tmp_path / 'store', tokenizer, there)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    answers = [here.recv() for _ in processes if here.poll(10)]
    assert sorted(n_read for n_read, _ in answers) == [0, 1]
    assert answers[0][1] == answers[1][1]


def test_who_waits_says_so(tmp_path, tokenizer):
    said = []
    lock = filelock.FileLock(tmp_path / 'store.lock')
    lock.acquire()
    waiting = threading.Thread(
        target=prepare_store, args=(Texts(['one']), tokenizer, tmp_path / 'store'), kwargs={'say': said.append}
    )
    waiting.start()
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    assert said == [f'waiting for another process, which is preparing {tmp_path / "store"}']
    assert not (tmp_path / 'store').exists()
    lock.release()
    waiting.join(30)
    assert len(TokenStore.open(tmp_path / 'store')) == 1


def test_a_column_that_json_cannot_hold_is_refused_by_row(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r'Texts, row 0: one of label holds what JSON cannot: .*bytes'):
        prepare_store(Texts(['one'], label=b'raw'), tokenizer, tmp_path / 'store', ['label'])


def test_a_missing_column_is_refused_with_those_there_are(tmp_path, tokenizer, source):
    with pytest.raises(ValueError, match="no column 'topic'; its columns are text, label, title"):
        prepare_store(source, tokenizer, tmp_path / 'store', ['topic'])
    with pytest.raises(ValueError, match="no column 'body'"):
        prepare_store(Location(source.path, column='body'), tokenizer, tmp_path / 'store')


def test_preparation_tells_how_far_it_is(tmp_path, tokenizer, texts, monkeypatch):
    monkeypatch.setattr('xlabml.data.store.store_parts._BATCH_BYTES', 5_000)
    told = []
    prepare_store(Texts(texts), tokenizer, tmp_path / 'store', report=lambda *what: told.append(what))
    assert {what for what, _, _ in told} == {'tokenizing Texts'}
    done = [n for _, n, _ in told]
    assert done == sorted(done)
    assert done[-1] == sum(len(text.encode()) for text in texts)


def test_a_store_travels_to_another_process_by_its_folder(store):
    data = pickle.dumps(store)
    assert len(data) < 4_000
    assert pickle.loads(data).fingerprint == store.fingerprint


def test_a_manifest_is_plain_json(store):
    assert json.loads((store.folder / 'manifest.json').read_text()) == store.manifest
    assert store.manifest['identity']['source']['class'] == 'Location'


def test_a_store_of_ours_has_no_bytes_to_make_up_for(corpus):
    assert corpus.stores[0].end_bytes is None
    assert 'end_bytes' not in corpus.stores[0].manifest['files']
    assert corpus.n_changed is None
    assert describe_changed(corpus.stores[0].manifest) == ''
