"""Files that hold a run: whole or not there, read without running code, and what is said of those that are not ours."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from xlabml import checkpoints, settings
from xlabml.checkpoints import Contents, migrations
from xlabml.transformer import Transformer

TOKENIZER = b'a tokenizer\0\xff' * 50


def a_checkpoint(**values):
    generator = torch.Generator().manual_seed(0)
    return {
        'epoch': 0,
        'global_step': 7,
        'pytorch-lightning_version': '2.6.6',
        'state_dict': {
            'network.a': torch.randn(30, 40, generator=generator),
            'network.b': torch.randn(40, 30, generator=generator).T,  # not contiguous
            'network.half': torch.randn(9, generator=generator).bfloat16(),
            'network.empty': torch.zeros(0, 3),
            'network.scalar': torch.tensor(3),
        },
        'hyper_parameters': {
            'n_vocab': 30,
            'trunk': {
                'class_path': 'xlabml.transformer.Transformer',
                'init_args': {'window': [1, None], 'dropout': 0.5},
            },
            '_class_path': 'xlabml.models.XLabModel',
        },
        'datamodule_hyper_parameters': {'max_len': 16, 'splits': {'train': 0.9}},
        'XLabDataModule': {'tokenizer': torch.frombuffer(bytearray(TOKENIZER), dtype=torch.uint8), 'row': 9},
        'optimizer_states': [{'state': {0: {'momentum_buffer': torch.randn(10_000)}}, 'param_groups': []}],
        'lr_schedulers': [{}],
        'callbacks': {'Checkpoints': {'saved': {'x': 1.0}}},
        **values,
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'run.ckpt'
    checkpoints.write(a_checkpoint(), path)
    return path


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for name in left:
            assert_same(left[name], right[name])
    else:
        assert left == right


def test_what_is_written_is_read(path):
    checkpoint = checkpoints.read(path)
    assert checkpoint.pop('xlabml_format') == checkpoints.FORMAT
    expected = a_checkpoint()
    expected.pop('optimizer_states'), checkpoint.pop('optimizer_states')
    assert_same(checkpoint, expected)


def test_folders_are_made(tmp_path):
    checkpoints.write(a_checkpoint(), tmp_path / 'logs' / 'version_0' / 'x.ckpt')
    assert [file.name for file in (tmp_path / 'logs' / 'version_0').iterdir()] == ['x.ckpt']


# Exported files


def test_an_export_has_the_same_weights_settings_and_tokenizer_and_nothing_else(path):
    export = checkpoints.export(path)
    whole, part = checkpoints.read(path), checkpoints.read(export.path)
    assert_same(dict(sorted(part['state_dict'].items())), dict(sorted(whole['state_dict'].items())))
    assert part['hyper_parameters'] == whole['hyper_parameters']
    assert part['datamodule_hyper_parameters'] == whole['datamodule_hyper_parameters']
    assert Contents.of(part).tokenizer_bytes() == Contents.of(whole).tokenizer_bytes() == TOKENIZER
    assert part['global_step'] == 7
    assert Contents.of(part).is_export
    assert not Contents.of(whole).is_export
    assert export.path.stat().st_mode == path.stat().st_mode
    n_parameter_bytes = sum(tensor.nbytes for tensor in whole['state_dict'].values())
    assert export.n_bytes == export.path.stat().st_size <= n_parameter_bytes + len(TOKENIZER) + 65_536


def test_an_export_is_named_by_its_hash_and_always_the_same(path, tmp_path):
    export = checkpoints.export(path)
    assert export.sha256 == hashlib.sha256(export.path.read_bytes()).hexdigest()
    assert export.path == tmp_path / f'run-{export.sha256[:8]}.safetensors'
    assert checkpoints.export(path, tmp_path / 'again').sha256 == export.sha256
    assert checkpoints.export(export.path, tmp_path / 'of an export').sha256 == export.sha256


def test_an_export_overwrites_nothing(path, tmp_path):
    there = tmp_path / 'there'
    there.write_text('mine')
    with pytest.raises(FileExistsError, match='there is there already; delete it, or choose another --output'):
        checkpoints.export(path, there)
    checkpoints.export(path)
    with pytest.raises(FileExistsError, match='there already'):
        checkpoints.export(path)
    assert there.read_text() == 'mine'
    assert len(list(tmp_path.iterdir())) == 3


def test_an_export_into_no_folder_is_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no folder .*nowhere'):
        checkpoints.export(path, tmp_path / 'nowhere' / 'x')


def test_weights_that_share_memory_are_exported_each(tmp_path):
    table = torch.randn(4, 4)
    checkpoints.write(a_checkpoint(state_dict={'a': table, 'b': table, 'c': table[1]}), tmp_path / 'x.ckpt')
    state = checkpoints.read(checkpoints.export(tmp_path / 'x.ckpt').path)['state_dict']
    assert torch.equal(state['a'], table)
    assert torch.equal(state['b'], table)
    assert torch.equal(state['c'], table[1])


def test_settings_that_are_not_plain_are_not_exported(tmp_path):
    checkpoints.write(
        a_checkpoint(hyper_parameters={'_class_path': 'xlabml.models.XLabModel', 'dtype': torch.float32}),
        tmp_path / 'x.ckpt',
    )
    with pytest.raises(ValueError, match=r'hyper_parameters\.dtype is dtype; it must be plain values'):
        checkpoints.export(tmp_path / 'x.ckpt')


# What is no checkpoint of ours


class Evil:
    def __reduce__(self):
        return os.system, ('touch pwned',)


def foreign_files(folder):
    """Files that cannot be used, and what is said of them."""

    def save(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    whole = (folder / 'run.ckpt').read_bytes()
    export = checkpoints.export(folder / 'run.ckpt').path.read_bytes()
    yield save('empty', b''), 'is empty'
    yield save('one byte', b'P'), 'is no checkpoint'
    yield save('half', whole[: len(whole) // 2]), 'is cut short'
    yield save('half an export', export[: len(export) // 2]), 'is damaged'
    yield save('start of an export', export[:40]), 'is cut short'
    yield save('text', b'Once upon a time there was a model'), 'is no checkpoint'
    yield save('pickle', pickle.dumps({'state_dict': {}})), 'is no checkpoint'
    with zipfile.ZipFile(folder / 'zip', 'w') as file:
        file.writestr('readme.txt', 'hello')
    yield folder / 'zip', 'is no checkpoint of xlabml: it cannot be read'
    torch.save({'xlabml_format': 1, 'state_dict': Evil()}, folder / 'evil')
    yield folder / 'evil', 'only running code could open'
    torch.save({'state_dict': {}}, folder / 'other')
    yield folder / 'other', 'it has no format number'
    torch.save([1, 2], folder / 'list')
    yield folder / 'list', 'it has no format number'
    save_file({'w': torch.zeros(2)}, folder / 'weights')
    yield folder / 'weights', 'it has no format number'
    torch.save({'xlabml_format': checkpoints.FORMAT + 1}, folder / 'later')
    yield folder / 'later', 'update xlabml'
    yield folder, 'is a folder'


def test_what_is_no_checkpoint_is_refused_by_its_path_and_runs_no_code(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, message in foreign_files(tmp_path):
        with pytest.raises((ValueError, IsADirectoryError), match=message) as caught:
            checkpoints.read(file)
        assert str(caught.value).startswith(str(file)), file
    assert not (tmp_path / 'pwned').exists()


def test_an_absent_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nothing\.ckpt; check the path, or say 'last'"):
        checkpoints.read(tmp_path / 'nothing.ckpt')


def test_a_checkpoint_of_an_earlier_format_is_migrated_step_by_step(path, monkeypatch):
    now = checkpoints.FORMAT
    monkeypatch.setattr(migrations, 'FORMAT', now + 2)
    monkeypatch.setitem(migrations.MIGRATIONS, now, lambda checkpoint: {**checkpoint, 'steps': ['one']})
    monkeypatch.setitem(migrations.MIGRATIONS, now + 1, lambda c: {**c, 'steps': [*c['steps'], 'two']})
    checkpoint = checkpoints.read(path)
    assert checkpoint['steps'] == ['one', 'two']
    assert checkpoint['xlabml_format'] == now + 2


def test_a_network_that_was_called_model_gets_its_name_in_all_weights_and_no_other(tmp_path):
    weights = {'model.model.a': torch.ones(1), 'probe.model.b': torch.ones(2), 'models.c': torch.ones(3)}
    expected = ['network.model.a', 'probe.model.b', 'models.c']
    old = a_checkpoint(state_dict=weights, current_model_state=weights, xlabml_format=1)
    torch.save(old, tmp_path / 'old.ckpt')
    checkpoint = checkpoints.read(tmp_path / 'old.ckpt')
    assert list(checkpoint['state_dict']) == list(checkpoint['current_model_state']) == expected
    torch.save({**old, 'state_dict': {**weights, 3: torch.ones(1)}}, tmp_path / 'bad.ckpt')
    with pytest.raises(ValueError, match='state_dict is dict; it must be tensors by name'):
        checkpoints.read(tmp_path / 'bad.ckpt')
    torch.save({**old, 'state_dict': 5}, tmp_path / 'bad.ckpt')
    with pytest.raises(ValueError, match=r'bad\.ckpt is no whole checkpoint'):
        checkpoints.read(tmp_path / 'bad.ckpt')


def test_removed_settings_are_dropped_and_those_that_were_set_keep_a_run_from_resuming(tmp_path):
    defaults = {'first_batch_tokens': None, 'batch_warmup_steps': 0, 'first_len': None, 'len_warmup_steps': 0}
    for name, was_set in (('unset', {}), ('set', {'first_len': 8, 'len_warmup_steps': 3})):
        data = {'max_len': 4, **defaults, **was_set}
        torch.save(a_checkpoint(datamodule_hyper_parameters=data, xlabml_format=3), tmp_path / name)
    assert checkpoints.load(tmp_path / 'unset').removed == {}
    contents = checkpoints.load(tmp_path / 'set')
    assert contents.data == checkpoints.load(tmp_path / 'unset').data == {'max_len': 4}
    assert contents.removed == {'data.first_len': 8, 'data.len_warmup_steps': 3}
    with pytest.raises(ValueError, match=r'set was trained with .* data\.first_len \(8\), .* --init_from .*set'):
        checkpoints.require_whole(contents, tmp_path / 'set', training=True)
    checkpoints.require_whole(contents, tmp_path / 'set', training=False)


class Derived(Transformer):
    pass


class Narrow(Transformer):
    def __init__(self, n_vocab, max_len):
        super().__init__(n_vocab, max_len, d_model=8)


def test_settings_that_came_later_are_written_out_as_what_was_done_before(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, '_TRUSTED', settings._TRUSTED | {__name__})
    added = {'shift_width': 1, 'shift_places': ['projections']}
    trunk = {'class_path': 'xlabml.transformer.Transformer', 'init_args': {'d_model': 8}}
    for name, part, expected in (
        ('ours', trunk, {**added, 'd_model': 8}),
        ('set', {**trunk, 'init_args': {'shift_width': 5}}, {**added, 'shift_width': 5}),
        ('derived', {**trunk, 'class_path': f'{__name__}.Derived'}, {**added, 'd_model': 8}),
        ('narrow', {'class_path': f'{__name__}.Narrow', 'init_args': {}}, {}),
        ('theirs', {**trunk, 'class_path': 'their.Transformer'}, {'d_model': 8}),
    ):
        arguments = {'n_vocab': 9, 'max_len': 4, 'trunk': part}
        saved = {
            'hyper_parameters': {**arguments, '_class_path': 'xlabml.models.XLabModel'},
            'network': {'class_path': 'xlabml.heads.LanguageModel', 'init_args': arguments},
            'config': {'model': {'class_path': 'xlabml.models.XLabModel', 'init_args': arguments}},
        }
        torch.save(a_checkpoint(**saved, xlabml_format=4), tmp_path / name)
        found = checkpoints.read(tmp_path / name)
        network = found['network']['init_args']
        for place in (found['hyper_parameters'], network, found['config']['model']['init_args']):
            assert place['trunk']['init_args'] == expected
        muon = {'class_path': 'xlabml.training.Muon', 'init_args': {'ns_steps': 3}}
        saved['hyper_parameters'] = {**saved['hyper_parameters'], 'optimizer': muon}
        torch.save(a_checkpoint(**saved, xlabml_format=4), tmp_path / name)
        optimizer = checkpoints.read(tmp_path / name)['hyper_parameters']['optimizer']
        assert optimizer['init_args'] == {'iteration': 'quintic', 'ns_steps': 3}
        torch.save(a_checkpoint(**saved, xlabml_format=checkpoints.FORMAT), tmp_path / 'today')
        assert checkpoints.read(tmp_path / 'today')['network']['init_args'] == arguments


@pytest.mark.parametrize(
    ('limits', 'expected'),
    [
        ({'max_steps': -1, 'max_epochs': None, 'max_time': None}, 1950),
        ({'max_steps': 7, 'max_epochs': None, 'max_time': None}, 7),
        ({'max_steps': -1, 'max_epochs': 2, 'max_time': None}, -1),
        ({'max_steps': -1, 'max_epochs': None, 'max_time': '00:01:00:00'}, -1),
    ],
)
def test_the_length_that_an_earlier_run_had_by_default_is_written_out(tmp_path, limits, expected):
    for format, length in ((4, expected), (checkpoints.FORMAT, limits['max_steps'])):
        torch.save(a_checkpoint(config={'trainer': limits}, xlabml_format=format), tmp_path / 'saved')
        assert checkpoints.read(tmp_path / 'saved')['config']['trainer'] == {**limits, 'max_steps': length}


# All or nothing


def test_a_failed_write_leaves_what_was_there(path, tmp_path, monkeypatch):
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match=r'cannot write into .*: No space left on device'):
        checkpoints.write(a_checkpoint(), path)
    with pytest.raises(OSError, match='No space left'):
        checkpoints.export(path)
    with pytest.raises(OSError, match='No space left'):
        checkpoints.unpack_tokenizer(b'1', tmp_path / 'cache')
    assert not list((tmp_path / 'cache').iterdir())
    shutil.rmtree(tmp_path / 'cache')
    assert [file.name for file in tmp_path.iterdir()] == ['run.ckpt']
    assert path.read_bytes() == before


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from xlabml import checkpoints
from xlabml.checkpoints import Contents, migrations
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
for action in (lambda: checkpoints.write(checkpoints.read(path), path), lambda: checkpoints.export(path)):
    try:
        action()
    except OSError as error:
        print(error)
"""


def test_a_full_disk_leaves_what_was_there(path, tmp_path):
    before = path.read_bytes()
    result = subprocess.run([sys.executable, '-c', FULL_DISK, path], capture_output=True, text=True, check=True)
    assert result.stdout.count(f'cannot write into {tmp_path}: ') == 2, result
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ['run.ckpt']


# Finding


def a_run(root, version, *names, class_path='xlabml.models.XLabModel'):
    for i, name in enumerate(names):
        file = root / 'logs' / f'version_{version}' / 'checkpoints' / name
        checkpoints.write(a_checkpoint(hyper_parameters={'_class_path': class_path}), file)
        os.utime(file, (i, i))
    return root / 'logs' / f'version_{version}' / 'checkpoints'


def test_last_is_the_file_of_the_latest_step_of_the_newest_run_that_has_one(tmp_path):
    """Whatever the times of the files say: they are those of a copy, perhaps."""
    a_run(tmp_path, 9, 'step=5000.ckpt')
    newest = a_run(tmp_path, 10, 'step=900.ckpt', 'step=30.ckpt', 'step=0000100-val_loss=1.0000.ckpt')
    (tmp_path / 'logs' / 'version_11' / 'checkpoints').mkdir(parents=True)
    (tmp_path / 'logs' / 'version_notes').mkdir()
    assert checkpoints.find('last', tmp_path) == newest / 'step=900.ckpt'


def test_of_two_files_of_a_step_the_one_that_was_validated_is_last(tmp_path):
    folder = a_run(tmp_path, 0, 'step=0000007-val_loss=1.0000.ckpt', 'step=0000007.ckpt', 'copy of it.ckpt')
    assert [path.name for path in checkpoints.by_step(folder)] == [
        'copy of it.ckpt',  # step 7, too: what is inside says so
        'step=0000007.ckpt',
        'step=0000007-val_loss=1.0000.ckpt',
    ]


def test_a_renamed_file_goes_by_the_step_inside_and_what_is_no_checkpoint_comes_first(tmp_path):
    folder = a_run(tmp_path, 0, 'mine.ckpt', 'step=0000006.ckpt')
    (folder / 'notes.ckpt').write_text('no checkpoint')
    assert [path.name for path in checkpoints.by_step(folder)] == ['notes.ckpt', 'step=0000006.ckpt', 'mine.ckpt']


@pytest.mark.parametrize('asked', ['last', 'best'])
def test_where_the_newest_is_damaged_the_one_before_it_is_named(tmp_path, asked):
    folder = a_run(tmp_path, 0, 'step=3.ckpt', 'step=6.ckpt', 'step=8.ckpt', 'step=9.ckpt')
    whole = (folder / 'step=9.ckpt').read_bytes()
    (folder / 'step=9.ckpt').write_bytes(whole[:-100])
    (folder / 'step=8.ckpt').write_bytes(b'')
    with pytest.raises(ValueError, match=r'step=9\.ckpt is cut short') as caught:
        checkpoints.find(asked, tmp_path, 'xlabml.models.XLabModel', '--ckpt_path {}')
    assert str(caught.value).endswith(f'The one before it: --ckpt_path {folder}/step=6.ckpt')
    for name in ('step=3.ckpt', 'step=6.ckpt'):
        (folder / name).unlink()
    with pytest.raises(ValueError, match='has no other that opens'):
        checkpoints.find(asked, tmp_path, 'xlabml.models.XLabModel')


def test_last_of_a_task_passes_over_runs_of_others(tmp_path):
    ours = a_run(tmp_path, 0, 'a.ckpt')
    a_run(tmp_path, 1, 'b.ckpt', class_path='xlabml.models.Embedder')
    assert checkpoints.find('last', tmp_path, 'xlabml.models.XLabModel') == ours / 'a.ckpt'
    with pytest.raises(FileNotFoundError, match=r'no checkpoint of mine\.Task in .*logs/version_'):
        checkpoints.find('last', tmp_path, 'mine.Task')


def test_a_path_is_itself_and_must_be_there(path, tmp_path):
    assert checkpoints.find(str(path), tmp_path) == path
    with pytest.raises(FileNotFoundError, match=r'no checkpoint .*gone\.ckpt'):
        checkpoints.find(str(tmp_path / 'gone.ckpt'), tmp_path)
    with pytest.raises(FileNotFoundError, match=f'there is no checkpoint in {tmp_path}/logs'):
        checkpoints.find('last', tmp_path)


# The tokenizer


def test_the_tokenizer_goes_to_the_cache_under_its_hash(path, tmp_path):
    data = checkpoints.load(path).tokenizer_bytes()
    file = checkpoints.unpack_tokenizer(data, tmp_path)
    assert file == tmp_path / f'{hashlib.sha256(TOKENIZER).hexdigest()}.model'
    assert file.read_bytes() == TOKENIZER
    file.write_bytes(b'broken')
    assert checkpoints.unpack_tokenizer(data, tmp_path).read_bytes() == TOKENIZER
    written = file.stat().st_mtime_ns
    assert checkpoints.unpack_tokenizer(data, tmp_path).stat().st_mtime_ns == written


def test_a_checkpoint_without_a_tokenizer_says_so():
    with pytest.raises(ValueError, match='holds no tokenizer'):
        Contents.of({'state_dict': {}}).tokenizer_bytes()


def test_the_settings_in_an_export_are_json_that_anyone_can_read(path):
    data = checkpoints.export(path).path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
    assert json.loads(header['__metadata__']['xlabml'])['hyper_parameters']['n_vocab'] == 30
