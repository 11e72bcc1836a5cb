"""Every bit of a checkpoint and of an exported file counts: one that flips is noticed, or changes nothing."""

import io
import json
import random
import zipfile

import fsspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from xlabml import checkpoints
from xlabml.artifacts import checksums
from xlabml.checkpoints.contents import EXPORTED
from xlabml.engine import CheckpointIO

DAMAGED = r'is damaged: its content is not what its checksum says; copy it again, or choose another checkpoint'
TOKENIZER = b'a tokenizer\0\xff' * 50


def a_checkpoint(**values):
    generator = torch.Generator().manual_seed(0)
    return {
        'epoch': 0,
        'global_step': 7,
        'pytorch-lightning_version': '2.6.6',
        'state_dict': {
            'network.a': torch.randn(30, 40, generator=generator),
            'network.b': torch.randn(40, 30, generator=generator).T,
            'network.half': torch.randn(9, generator=generator).bfloat16(),
            'network.empty': torch.zeros(0, 3),
            'network.scalar': torch.tensor(3),
        },
        'hyper_parameters': {'n_vocab': 30, 'dropout': 0.5, '_class_path': 'xlabml.models.XLabModel'},
        'datamodule_hyper_parameters': {'max_len': 16, 'splits': {'train': 0.9}},
        'XLabDataModule': {
            'tokenizer': torch.frombuffer(bytearray(TOKENIZER), dtype=torch.uint8),
            'row': 9,
            'step': 7,
            'rows': 'x',
            'data': {'sources': [], 'n_documents': [], 'settings': {}},
        },
        'optimizer_states': [
            {'state': {0: {'mean': torch.randn(10_000)}}, 'param_groups': [{'params': [0], 'lr': 0.1}]}
        ],
        'lr_schedulers': [{}],
        'callbacks': {},
        **values,
    }


@pytest.fixture(params=['checkpoint', 'export'])
def path(request, tmp_path):
    path = tmp_path / 'run.ckpt'
    checkpoints.write(a_checkpoint(), path)
    return path if request.param == 'checkpoint' else checkpoints.export(path, tmp_path / 'run.safetensors').path


def same(left, right):
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def flip(content, at, bit=0):
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_a_flipped_bit_anywhere_is_refused_by_name_or_changes_nothing(path, tmp_path):
    content, whole, draw = path.read_bytes(), checkpoints.read(path), random.Random(0)
    places = [*range(0, 400, 3), *range(len(content) - 130, len(content))]
    places += [draw.randrange(len(content)) for _ in range(300)]
    other, n_refused = tmp_path / 'other', 0
    for at in places:
        other.write_bytes(flip(content, at, draw.randrange(8)))
        try:
            found = checkpoints.read(other)
        except ValueError as error:
            n_refused += 1
            found = whole if str(other) in str(error) else error
        assert same(whole, found), at
    assert n_refused == len(places)


def places_of(path):
    """A byte of each thing that is in a file."""
    content = path.read_bytes()
    found = {'end': len(content) - 60, 'tokenizer': content.index(TOKENIZER) + 9}
    if content.startswith(b'PK'):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                kind = entry.filename.partition('/')[2]
                if entry.file_size:
                    name_bytes, extra_bytes = content[entry.header_offset + 26], content[entry.header_offset + 28]
                    start = entry.header_offset + 30 + name_bytes + extra_bytes
                    found |= {kind: start + entry.file_size // 2, f'header of {kind}': entry.header_offset + 12}
        assert 'data.pkl' in found
    else:
        n = int.from_bytes(content[:8], 'little')
        header = json.loads(content[8 : 8 + n])
        settings = header.pop('__metadata__')['xlabml']
        assert 'd_model' not in settings
        found['settings'] = content.index(b'n_vocab')
        found |= {name: 8 + n + item['data_offsets'][0] for name, item in header.items() if item['shape'] != [0, 3]}
    return found


def test_each_thing_in_a_file_is_compared(path):
    content = path.read_bytes()
    places = places_of(path)
    assert len(places) >= 7
    for name, at in places.items():
        path.write_bytes(flip(content, at))
        with pytest.raises(ValueError, match=r'run\.\w+ is (damaged|no |cut)') as found:
            checkpoints.read(path)
        assert 'copy it again' in str(found.value) or 'give a .ckpt file' in str(found.value), name


def test_a_flipped_weight_is_called_damage(path):
    content = path.read_bytes()
    weight = checkpoints.read(path)['state_dict']['network.a'].numpy().tobytes()
    path.write_bytes(flip(content, content.index(weight) + 1001, 7))
    with pytest.raises(ValueError, match=DAMAGED):
        checkpoints.read(path)


def test_a_file_cut_anywhere_is_refused(path):
    content = path.read_bytes()
    for n in [*range(len(content) - 60, len(content)), *range(0, len(content), 1789)]:
        path.write_bytes(content[:n])
        with pytest.raises(ValueError, match=r'run\.\w+ '):
            checkpoints.read(path)


def test_other_tools_read_these_files(path):
    if path.suffix == '.ckpt':
        assert zipfile.ZipFile(path).testzip() is None
        for mmap in (False, True):
            assert torch.load(path, weights_only=True, mmap=mmap)['global_step'] == 7
    else:
        with safe_open(path, 'pt') as file:
            assert 'network.a' in file.keys()  # noqa: SIM118
    assert checksums.EXPORT_KEY not in checkpoints.read(path)


def before_checksums(tmp_path):
    old = {**a_checkpoint(), 'xlabml_format': 1, 'state_dict': {'model.a': torch.ones(3)}}
    torch.save(old, tmp_path / 'old.ckpt')
    yield tmp_path / 'old.ckpt'
    values = {name: a_checkpoint()[name] for name in EXPORTED if name in a_checkpoint()}
    tensors = {'model.a': torch.ones(3), 'XLabDataModule.tokenizer': torch.zeros(4, dtype=torch.uint8)}
    metadata = {'xlabml': json.dumps({'xlabml_format': 1, **values}, sort_keys=True)}
    save_file(tensors, tmp_path / 'old.safetensors', metadata)
    yield tmp_path / 'old.safetensors'


def test_a_file_from_before_checksums_opens_with_a_note_once(tmp_path, capsys):
    for path in before_checksums(tmp_path):
        checkpoint = checkpoints.read(path)
        assert checkpoint['global_step'] == 7
        assert 'network.a' in checkpoint['state_dict']
        assert f'{path} is from before xlabml wrote checksums' in capsys.readouterr().err
        checkpoints.read(path)
        assert capsys.readouterr().err == ''


def test_only_the_first_rank_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    for path in before_checksums(tmp_path):
        checkpoints.read(path)
    assert capsys.readouterr().err == ''


def test_a_look_at_the_settings_reads_no_weights_but_compares_the_settings(tmp_path, monkeypatch):
    folder = tmp_path / 'logs/version_0/checkpoints'
    checkpoints.write(a_checkpoint(best_checkpoint='step=7.ckpt'), folder / 'step=7.ckpt')
    monkeypatch.setattr(checksums, '_hash_file', lambda *_: pytest.fail('hashed'))
    found = checkpoints.find('best', tmp_path, 'xlabml.models.XLabModel')
    assert found == folder / 'step=7.ckpt'
    content = found.read_bytes()
    found.write_bytes(flip(content, content.index(b'XLabModel') + 2))
    with pytest.raises(ValueError, match=r'step=7\.ckpt'):
        checkpoints.find('best', tmp_path, 'xlabml.models.XLabModel')


@pytest.mark.parametrize('size', [1, 7, 21, 22, 23, 100, 1 << 20])
def test_the_checksum_does_not_depend_on_how_the_archive_is_written(tmp_path, size):
    archive = io.BytesIO()
    torch.save({'a': torch.arange(50)}, archive)
    data, out = archive.getvalue(), io.BytesIO()
    sealed = checksums.SealedArchive(out)
    assert sum(sealed.write(memoryview(data)[at : at + size]) for at in range(0, len(data), size)) == len(data)
    sealed.seal()
    (tmp_path / 'x').write_bytes(out.getvalue())
    assert out.getvalue()[: len(data) - 2] == data[:-2]
    place = checksums.find_checksum(tmp_path / 'x')
    assert checksums._hash_file(tmp_path / 'x', place) == place.digits
    assert zipfile.ZipFile(tmp_path / 'x').comment == out.getvalue()[-48:]


@pytest.mark.parametrize('block', [5, 31, 32, 33, 48, 1000])
def test_the_checksum_does_not_depend_on_how_the_file_is_read(path, monkeypatch, block):
    monkeypatch.setattr(checksums, '_BLOCK_BYTES', block)
    place = checksums.find_checksum(path)
    assert checksums._hash_file(path, place) == place.digits


def test_a_reader_that_fails_on_a_whole_file_is_heard(path):
    with pytest.raises(RuntimeError, match='mine'), checksums.compared(path):
        raise RuntimeError('mine')
    with pytest.raises(KeyboardInterrupt), checksums.compared(path):
        raise KeyboardInterrupt


def test_a_remote_checkpoint_has_a_checksum_too(tmp_path):
    url, io = 'memory://bucket/verified/step=7.ckpt', CheckpointIO()
    io.save_checkpoint(a_checkpoint(), url)
    assert io.load_checkpoint(url)['global_step'] == 7
    files = fsspec.filesystem('memory')
    content = files.cat_file('/bucket/verified/step=7.ckpt')
    checkpoints.write(a_checkpoint(), tmp_path / 'here.ckpt')
    assert len(content) == (tmp_path / 'here.ckpt').stat().st_size
    files.pipe_file('/bucket/verified/step=7.ckpt', flip(content, len(content) // 2))
    with pytest.raises(ValueError, match=r'is damaged: its content'):
        io.load_checkpoint(url)


def test_a_remote_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    url, io = 'memory://bucket/as-it-was/step=7.ckpt', CheckpointIO()
    io.save_checkpoint(a_checkpoint(), url)
    with pytest.raises((AttributeError, TypeError, ValueError, RuntimeError)):
        io.save_checkpoint(a_checkpoint(global_step=8, bad=lambda: None), url)
    assert io.load_checkpoint(url)['global_step'] == 7
