"""Manifests are read as what a stranger wrote: anything but what xlabml writes is refused by name, with a remedy."""

import copy
import json
import os
import random
import re
import shutil

import numpy as np
import pytest
from token_batches import batch_of

from xlabml.artifacts import folders, manifests
from xlabml.data import (
    Corpus,
    NearDuplicates,
    NearPairs,
    Pack,
    Rows,
    SharedJob,
    TokenStore,
    encode_part,
    open_copies,
    open_near_duplicates,
    open_plan,
    plan_store,
    prepare_store,
    verify_copies,
    verify_plan,
)
from xlabml.data.corpus import near_duplicates as near_module
from xlabml.data.rows.plan_rows import open_rows
from xlabml.data.store.store_parts import PART, read_part

SPLITS = {'train': 0.8, 'val': 0.1, 'test': 0.1, 'predict': 0.0}
HOSTILE = [None, True, -1, 1 << 70, 1.5, float('nan'), '', '../../x', '/etc/passwd', 'O', '\ud800', [], {}, [[]], ['O']]


@pytest.fixture(scope='module')
def made(tmp_path_factory, source, tokenizer, store):
    """A folder of each kind that has a manifest, and what opens it."""
    root = tmp_path_factory.mktemp('made')
    shutil.copytree(store.folder, root / 'store')
    encode_part(source, source.parts()[0], tokenizer, ['label'], root / 'part')
    corpus = Corpus([store], SPLITS)
    open_plan(Pack(32), corpus, 'train', False, root / 'plans').folder.rename(root / 'plan')
    return root


OPENERS = {
    'store': TokenStore.open,
    'part': lambda folder: manifests.read_manifest(folder, PART),
    'plan': open_rows,
}


def places(value, path=()):
    """Where in plain values something can be changed: all of it, the first of a list's items."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(manifest, path, value):
    manifest = copy.deepcopy(manifest)
    here = manifest
    for key in path[:-1]:
        here = here[key]
    if value is KeyError:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return manifest


def why_refused(open_folder, folder):
    try:
        open_folder(folder)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize('kind', OPENERS)
def test_any_value_in_a_manifest_may_be_wrong(made, tmp_path, kind):
    """Refused by name with a remedy, or of no meaning: nothing else, and nothing outside is touched."""
    folder = shutil.copytree(made / kind, tmp_path / 'folder')
    (tmp_path / 'x.bin').write_bytes(b'mine')
    before = os.stat(tmp_path / 'x.bin').st_mtime_ns
    manifest = json.loads((folder / 'manifest.json').read_text())
    n_refused = 0
    for path in places(manifest):
        for value in [KeyError, *HOSTILE] if path else HOSTILE:
            content = changed(manifest, path, value) if path else value
            (folder / 'manifest.json').write_text(json.dumps(content))
            refusal = why_refused(OPENERS[kind], folder)
            if refusal is not None:
                n_refused += 1
                assert str(folder) in refusal, (path, value)
                assert 'delete' in refusal
                refusal.encode()
    assert n_refused > 100
    assert os.stat(tmp_path / 'x.bin').st_mtime_ns == before


@pytest.mark.parametrize('dtype', ['O', '|O', '<i8', 'V2', 'S2', '<f2', 'i4,i4', '>u2', 'uint16', None, 7])
def test_the_numbers_of_an_array_are_of_its_own_kind(made, tmp_path, dtype):
    folder = shutil.copytree(made / 'store', tmp_path / 'folder')
    manifest = json.loads((folder / 'manifest.json').read_text())
    manifest['files']['tokens']['dtype'] = dtype
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r'manifest\.json was changed .*files\.tokens\.dtype is .*; delete .*folder'):
        TokenStore.open(folder)


@pytest.mark.parametrize('name', ['../x', '/etc/hostname', 'x/../../x', 'more', ''])
def test_an_array_of_another_name_is_not_looked_at(made, tmp_path, name):
    folder = shutil.copytree(made / 'store', tmp_path / 'folder')
    shutil.copy(folder / 'rows.bin', tmp_path / 'x.bin')
    os.utime(tmp_path / 'x.bin', (1, 1))
    manifest = json.loads((folder / 'manifest.json').read_text())
    manifest['files'][name] = manifest['files']['rows']
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match='files has '):
        TokenStore.open(folder)
    assert os.stat(tmp_path / 'x.bin').st_mtime == 1


@pytest.mark.parametrize(
    'content',
    [b'', b'null', b'[]', b'"x"', b'\xff', b'{"format": 2', b'[' * 200_000, b'9' * 5000, b'{"format": 1e999}'],
)
def test_a_file_that_is_no_manifest_is_refused(made, tmp_path, content):
    folder = shutil.copytree(made / 'store', tmp_path / 'folder')
    (folder / 'manifest.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'folder/manifest\.json was changed by hand or is broken.*; delete'):
        TokenStore.open(folder)


def test_a_manifest_that_is_too_large_is_not_read(made, tmp_path):
    folder = shutil.copytree(made / 'store', tmp_path / 'folder')
    with (folder / 'manifest.json').open('r+b') as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ValueError, match=r'it has 1099511627776 bytes'):
        TokenStore.open(folder)


def rewrite(folder, name, values):
    """Change an array as someone would who knows what a manifest says."""
    manifest = json.loads((folder / 'manifest.json').read_text())
    with folders.ArrayFiles(folder, {name: values.dtype}) as files:
        files.append(**{name: values})
        manifest['files'] |= files.close()
    if 'fingerprint' in manifest:
        manifest['fingerprint'] = folders.short_hash(
            [manifest['identity']['stores'], [manifest['files'][n]['sha256'] for n in sorted(manifest['files'])], 32]
        )
    manifests.write_manifest(folder, manifest)


@pytest.mark.parametrize(
    ('name', 'place', 'value', 'when'),
    [
        ('offsets', 0, 1, 'open'),
        ('offsets', -1, 1 << 40, 'open'),
        ('offsets', -1, -5, 'open'),
        ('offsets', 7, 1 << 40, 'verify'),
        ('offsets', 7, -1, 'verify'),
        ('column_offsets', -1, 3, 'open'),
        ('column_offsets', 7, 1 << 50, 'verify'),
        ('tokens', 50, 60_000, 'verify'),
        ('n_bytes', 3, -3, 'verify'),
        ('rows', 3, 1 << 60, 'verify'),
    ],
)
def test_numbers_that_point_nowhere_are_found(made, tmp_path, name, place, value, when):
    folder = shutil.copytree(made / 'store', tmp_path / 'folder')
    values = np.array(getattr(TokenStore.open(folder), name if 'column' not in name else f'_{name}'))
    values[place] = value
    rewrite(folder, name, values)
    found = why_refused(TokenStore.open, folder)
    if when == 'verify':
        assert found is None
        found = why_refused(TokenStore.verify, TokenStore.open(folder))
    assert re.search(rf'{name}\.bin is not as xlabml writes it: .*; delete .*folder', found)


def test_columns_that_are_no_json_are_named(made, tmp_path):
    folder = shutil.copytree(made / 'store', tmp_path / 'folder')
    store = TokenStore.open(folder)
    columns = np.array(store._columns)
    columns[0] = 0
    rewrite(folder, 'columns', columns)
    with pytest.raises(ValueError, match=r'columns\.bin is not as xlabml writes it: .*document 0; delete'):
        TokenStore.open(folder).columns(0)


@pytest.mark.parametrize(
    ('name', 'place', 'value'),
    [
        ('row_starts', 3, 1 << 60),
        ('row_starts', 3, -2),
        ('documents', 0, 1 << 40),
        ('documents', 0, -1),
        ('begins', 0, 1 << 50),
        ('begins', 0, -7),
        ('lengths', 0, 1 << 30),
        ('lengths', 0, -4),
        ('lengths', 0, 0),
        ('first_counted', 0, 5),
        ('counted_before', 2, 1),
    ],
)
def test_rows_that_are_of_no_documents_are_found(made, store, tokenizer, tmp_path, name, place, value):
    """When they are verified; and where they would be read from beyond an array, before."""
    corpus = Corpus([store], SPLITS)
    open_plan(Pack(32), corpus, 'train', False, tmp_path)
    assert len(verify_plan(Pack(32), corpus, 'train', False, tmp_path)) > 10
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    values = np.array(getattr(open_rows(folder), name))
    values[place] = value
    rewrite(folder, name, values)
    with pytest.raises(
        ValueError, match=rf'{name}\.bin is not as xlabml writes it|counted_before\.bin is not'
    ) as found:
        verify_plan(Pack(32), corpus, 'train', False, tmp_path)
    assert f'delete {folder}' in str(found.value)
    if name not in ('first_counted', 'counted_before'):
        rows = Rows(corpus, open_rows(folder), tokenizer)
        with pytest.raises(ValueError, match='validate_data names the folder to delete'):
            batch_of(rows, np.arange(len(rows)), 1.0)


def test_a_token_that_is_not_in_the_vocabulary_never_reaches_the_model(made, tokenizer, tmp_path):
    folder = shutil.copytree(made / 'store', tmp_path / 'folder')
    store = TokenStore.open(folder)
    tokens = np.array(store.tokens)
    tokens[40] = len(tokenizer)
    rewrite(folder, 'tokens', tokens)
    corpus = Corpus([TokenStore.open(folder)], {'train': 1.0})
    rows = Rows(corpus, open_plan(Pack(32), corpus, 'train', False, tmp_path / 'plans'), tokenizer)
    with pytest.raises(ValueError, match='are not as xlabml writes them'):
        batch_of(rows, np.arange(len(rows)), 1.0)


def test_a_plan_that_was_edited_is_named_when_it_is_verified(store, tmp_path):
    corpus = Corpus([store], SPLITS)
    plan = open_plan(Pack(32), corpus, 'val', True, tmp_path)
    time = (plan.folder / 'begins.bin').stat().st_mtime_ns
    with (plan.folder / 'begins.bin').open('r+b') as file:
        file.write(b'\1')
    os.utime(plan.folder / 'begins.bin', ns=(time, time))
    open_plan(Pack(32), corpus, 'val', True, tmp_path)  # a start reads nothing
    with pytest.raises(ValueError, match=rf'begins\.bin is not what manifest\.json says .*delete {plan.folder}'):
        verify_plan(Pack(32), corpus, 'val', True, tmp_path)
    assert verify_plan(Pack(32), corpus, 'test', True, tmp_path) is None


def test_a_plan_of_other_settings_is_not_taken_for_this_one(store, tmp_path):
    corpus = Corpus([store], SPLITS)
    one, other = (open_plan(Pack(32), corpus, split, True, tmp_path).folder for split in ('val', 'test'))
    shutil.rmtree(one)
    shutil.copytree(other, one)
    with pytest.raises(ValueError, match='other documents or settings than the name of its folder says'):
        open_plan(Pack(32), corpus, 'val', True, tmp_path)


def test_copies_are_verified(store, tmp_path):
    assert verify_copies([store], tmp_path) is None
    open_copies([store], tmp_path)
    assert not verify_copies([store], tmp_path).any()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    rewrite(folder, 'copies', np.full(len(store), 2, np.uint8))
    with pytest.raises(ValueError, match=r'copies\.bin is not as xlabml writes it'):
        verify_copies([store], tmp_path)
    rewrite(folder, 'copies', np.zeros(len(store) - 1, np.uint8))
    with pytest.raises(ValueError, match=r'copies has 299 values, where 300 must be'):
        open_copies([store], tmp_path)


def test_near_duplicates_are_documents_of_the_stores(store, tmp_path, monkeypatch):
    settings = NearDuplicates()
    identity = near_module._identity([store], settings, False)
    folder = tmp_path / folders.short_hash(identity)
    folder.mkdir()
    for later, is_right in ((9, True), (300, False), (-1, False)):
        arrays = {'later': np.array([later]), 'earlier': np.array([2]), 'similarity': np.array([1], np.float32)}
        with folders.ArrayFiles(folder, {name: array.dtype for name, array in arrays.items()}) as files:
            files.append(**arrays)
            manifest = {'format': 1, 'identity': identity, 'files': files.close()}
        manifests.write_manifest(folder, manifest)
        if is_right:
            assert isinstance(open_near_duplicates([store], settings, None, tmp_path), NearPairs)
        else:
            with pytest.raises(ValueError, match=r'later\.bin is not as xlabml writes it: its values are not all in 0'):
                open_near_duplicates([store], settings, None, tmp_path)


def test_a_part_with_a_wrong_manifest_is_made_again(made, tmp_path):
    folder = shutil.copytree(made / 'part', tmp_path / 'part')
    assert read_part(folder) is not None
    manifest = json.loads((folder / 'manifest.json').read_text())
    manifest['invalid'] = {'\x1b[2J': {'count': 1, 'rows': []}}
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    assert read_part(folder) is None


@pytest.mark.parametrize(
    'content',
    [b'', b'[]', b'\xff', b'[' * 200_000, b'{}', b'{"source": "os.system", "columns": [], "begun": {}, "folder": "/"}'],
)
def test_a_shared_job_that_is_not_as_it_was_written_is_refused(source, tokenizer, tmp_path, content):
    job = plan_store(source, tokenizer)
    shared = SharedJob.named(job, str(tmp_path))
    shared.write(job)
    shared._files.pipe_file(shared._at('job.json'), content)
    with pytest.raises(ValueError, match=rf'{re.escape(shared.url)}/job.json was changed by hand or is broken.*delete'):
        shared.encode(0, 1, 1)


def test_a_shared_folder_with_other_things_in_it_is_let_be(source, tokenizer, tmp_path):
    job = plan_store(source, tokenizer)
    shared = SharedJob.named(job, str(tmp_path))
    shared.write(job)
    for name in ('x', '-1', '00999999', '٣٣٣٣٣'):
        shared._files.makedirs(shared._at(f'parts/{name}'))
        shared._files.pipe_file(shared._at(f'parts/{name}/manifest.json'), b'')
    assert shared.there() == {999_999}
    shared._files.makedirs(shared._at('errors'), exist_ok=True)
    shared._files.pipe_file(shared._at('errors/00000'), b'\xff')
    assert shared.errors() == ['\ufffd']


def test_stores_of_today_open_after_a_random_edit_of_their_text_or_are_refused(made, tmp_path):
    """Bytes of the manifest changed at random: nothing but ValueError."""
    draw, folder = random.Random(0), shutil.copytree(made / 'store', tmp_path / 'folder')
    text = (folder / 'manifest.json').read_bytes()
    for _ in range(300):
        content = bytearray(text)
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (folder / 'manifest.json').write_bytes(content)
        assert str(folder) in (why_refused(TokenStore.open, folder) or str(folder))


def test_a_state_of_a_build_that_is_no_text_is_started_over(source, tokenizer, tmp_path):
    partial = tmp_path / 'store.partial'
    partial.mkdir()
    (partial / 'begun.json').write_bytes(b'\xff\xfe')
    assert len(prepare_store(source, tokenizer, tmp_path / 'store')) == 300
