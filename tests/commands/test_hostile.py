"""A checkpoint is data: whatever stands in it, no command runs, imports, reads or deletes anything that it names."""

import copy
import io
import json
import math
import os
import pickle
import sys
import tempfile
import zipfile

import pytest
import torch
from watched import watched

from xlabml import checkpoints
from xlabml.commands import fit, infer, manage
from xlabml.commands.saved import Seals, saved_settings
from xlabml.datamodules import XLabDataModule
from xlabml.models import XLabModel
from xlabml.pipelines import TextGenerator
from xlabml.untrusted.building import naming

CALL = {'class_path': 'os.system', 'init_args': {'command': 'touch pwned'}}
EVIL = {'class_path': 'evil_module.Part'}
TRAINER, MODEL, DATA = ('config', 'trainer'), ('hyper_parameters',), ('datamodule_hyper_parameters',)


def remote(**options):
    arguments = {'path': 'http://127.0.0.1:9/x.jsonl', **options}
    return [{'class_path': 'xlabml.data.RemoteFiles', 'init_args': arguments}]


ATTACKS = {
    'dotted key': {
        (*TRAINER, 'callbacks.class_path'): 'os.system',
        (*TRAINER, 'callbacks.init_args.command'): 'touch pwned',
    },
    'list of classes by a key with a plus': {(*TRAINER, 'callbacks+'): json.dumps(CALL)},
    'class as JSON': {(*TRAINER, 'accelerator'): json.dumps(CALL)},
    'class as YAML': {(*TRAINER, 'accelerator'): 'class_path: evil_module.Part'},
    'class in a file': {(*TRAINER, 'accelerator'): 'evil.yaml'},
    'time as JSON': {(*TRAINER, 'max_time'): json.dumps(CALL)},
    'class for a number': {(*TRAINER, 'max_steps'): CALL},
    'JSON for a number': {(*TRAINER, 'max_steps'): json.dumps(CALL)},
    'group as JSON': {('config', 'trainer'): json.dumps(CALL)},
    'group as a file': {('config', 'samples'): 'evil.yaml'},
    'no number': {(*TRAINER, 'val_check_interval'): math.nan},
    'no number for a part': {(*MODEL, 'optimizer', 'init_args', 'lr'): math.nan},
    'unknown name': {(*TRAINER, 'evil'): 1},
    'unknown name of a callback': {('config', 'spikes', 'command'): 'touch pwned'},
    'class as text': {(*MODEL, 'schedule'): 'evil_module.Part'},
    'schedule as JSON': {(*MODEL, 'schedule'): json.dumps(EVIL)},
    'dotted key of the model': {(*MODEL, 'trunk.class_path'): 'evil_module.Part'},
    'dotted key of a part': {(*MODEL, 'trunk', 'init_args', 'norm.class_path'): 'evil_module.Part'},
    'trunk in a file': {(*MODEL, 'trunk'): 'evil.yaml'},
    'norm in a file': {(*MODEL, 'trunk', 'init_args', 'norm'): 'evil.yaml'},
    'norm': {(*MODEL, 'trunk', 'init_args', 'norm'): EVIL},
    'more keys beside a class': {(*MODEL, 'trunk', 'dict_kwargs'): {'a': 1}},
    'class with a path': {(*MODEL, 'trunk', '__path__'): 'evil.yaml'},
    'metric': {(*MODEL, 'metrics'): ['evil_module.Part']},
    'class in a list of numbers': {(*MODEL, 'optimizer', 'init_args', 'betas'): [0.9, EVIL]},
    'task': {(*MODEL, '_class_path'): 'evil_module.Part'},
    'task that is a function': {(*MODEL, '_class_path'): 'os.system'},
    'task that is a path': {(*MODEL, '_class_path'): '../evil_module.Part'},
    'task that is none': {(*MODEL, '_class_path'): 'torch.nn.Linear'},
    'task that is no text': {(*MODEL, '_class_path'): CALL},
    'sources in a file': {(*DATA, 'sources'): 'evil.yaml'},
    'source as text': {(*DATA, 'sources'): ['evil_module.Part']},
    'source': {(*DATA, 'sources'): [EVIL]},
    'plan as text': {(*DATA, 'plan'): 'evil_module.Part'},
    'seed': {(*DATA, 'seed'): json.dumps(CALL)},
    'seed below 0': {(*DATA, 'seed'): -1},
    'splits': {(*DATA, 'splits'): {'train.class_path': 'os.system'}},
    'unknown name of the data': {(*DATA, 'callbacks'): json.dumps(CALL)},
    'tokenizer': {('XLabDataModule', 'tokenizer'): json.dumps(CALL)},
}
AT_THE_SOURCE = {
    'class among options': {
        (*DATA, 'sources'): remote(storage_options={'a': json.dumps(EVIL)}),
        (*DATA, 'stream'): None,
    },
    'chained address': {(*DATA, 'sources'): remote(path='simplecache::http://127.0.0.1:9/x.jsonl')},
    'templates': {(*DATA, 'sources'): remote(path='reference://', storage_options={'fo': 'evil.json'})},
}


@pytest.fixture(scope='module')
def run(tmp_path_factory, tiny):
    """What a checkpoint of a tiny run holds."""
    folder = tmp_path_factory.mktemp('run')
    assert fit.main(['fit', *tiny, f'--trainer.default_root_dir={folder}']) == 0
    return torch.load(checkpoints.find('last', folder), weights_only=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that commands run in, with what a hostile file could name."""
    (tmp_path / 'evil_module.py').write_text("open('imported', 'w').close()\nclass Part: pass\n")
    (tmp_path / 'evil.yaml').write_text(json.dumps(EVIL))
    (tmp_path / 'evil.json').write_text('{}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def changed(run, changes):
    """The run's checkpoint with other values; what its task and its network are built from says the same."""
    values = copy.deepcopy(run)
    of_network = {
        ('network', 'init_args', *path): value
        for (first, *path), value in changes.items()
        if first == 'hyper_parameters' and path[0] in values['network']['init_args']
    }
    for (*path, name), value in {**changes, **of_network}.items():
        node = values
        for key in path:
            node = node[key]
        node[name] = value
    return values


def settings_of(path):
    with naming(path):
        contents = checkpoints.load(path)
        checkpoints.require_whole(contents, path, training=True)
        return saved_settings(contents, Seals())


def harmless(folder, found):
    """Nothing was done, and nothing is left. A run's own folder may have been made for it, and removed again."""
    own = {'logs', 'logs/version_0'}
    assert not [(event, path) for event, path in found if event not in ('os.mkdir', 'os.rmdir') or path not in own]
    assert 'evil_module' not in sys.modules
    assert sorted(path.name for path in folder.iterdir()) == ['evil.ckpt', 'evil.json', 'evil.yaml', 'evil_module.py']


@pytest.mark.parametrize('name', ATTACKS)
def test_no_door_opens_to_what_a_checkpoint_names(name, run, folder, tmp_path_factory):
    checkpoints.write(changed(run, ATTACKS[name]), folder / 'evil.ckpt')
    path, cache = folder / 'evil.ckpt', tmp_path_factory.getbasetemp()
    doors = {
        'settings': lambda: settings_of(path),
        'model': lambda: XLabModel.load_from_checkpoint(path),
        'data': lambda: XLabDataModule.load_from_checkpoint(path),
        'generator': lambda: TextGenerator.load(path),
        'export': lambda: checkpoints.export(path, folder / 'exported'),
    }
    errors = []
    for door in doors.values():
        with watched(cache) as found:
            try:
                door()
            except ValueError as error:
                errors.append(error)
        (folder / 'exported').unlink(missing_ok=True)
        harmless(folder, found)
    assert errors
    assert all(str(path) in str(error) and len(str(error)) < 600 for error in errors), errors


@pytest.mark.parametrize(
    'name', ['dotted key', 'seed below 0', 'class as JSON', 'schedule as JSON', 'trunk in a file', 'source']
)
@pytest.mark.parametrize('command', ['fit', 'validate', 'test', 'predict'])
def test_commands_refuse_them_by_file_and_name(name, command, run, folder, tmp_path_factory, capfd):
    checkpoints.write(changed(run, ATTACKS[name]), folder / 'evil.ckpt')
    with watched(tmp_path_factory.getbasetemp(), f'{tempfile.gettempdir()}/xlabml-') as found:
        status = fit.main([command, '--ckpt_path=evil.ckpt'])
    printed = ''.join(capfd.readouterr())
    assert status == 1
    assert 'evil.ckpt' in printed
    assert len(printed.splitlines()) == 1, printed
    harmless(folder, found)


@pytest.mark.parametrize('name', AT_THE_SOURCE)
def test_a_source_of_a_checkpoint_is_opened_in_no_other_way(name, run, folder, tmp_path_factory, capfd):
    checkpoints.write(changed(run, AT_THE_SOURCE[name]), folder / 'evil.ckpt')
    with watched(tmp_path_factory.getbasetemp(), f'{tempfile.gettempdir()}/xlabml-') as found:
        assert fit.main(['test', '--ckpt_path=evil.ckpt']) != 0
    printed = ''.join(capfd.readouterr())
    assert 'Traceback' not in printed
    assert 'reading' in printed or 'names' in printed
    harmless(folder, found)


def test_an_address_that_only_a_checkpoint_names_is_said_before_it_is_opened(run, folder, capfd):
    checkpoints.write(changed(run, {(*DATA, 'sources'): remote()}), folder / 'evil.ckpt')
    fit.main(['test', '--ckpt_path=evil.ckpt'])
    said, failed = ''.join(capfd.readouterr()).splitlines()[:2]
    assert said == "reading 'http://127.0.0.1:9/x.jsonl', which evil.ckpt names as a source of its data"
    assert 'cannot be listed' in failed
    fit.main(
        ['test', '--ckpt_path=evil.ckpt', f'--data.sources={json.dumps(remote(path="http://127.0.0.1:9/y.jsonl"))}']
    )
    assert 'which evil.ckpt names' not in ''.join(capfd.readouterr())


def test_texts_of_a_checkpoint_stay_texts(run):
    texts = {('config', 'samples', 'prompt'): json.dumps(CALL), ('config', 'checkpoint', 'monitor'): 'null'}
    seals = Seals()
    found = saved_settings(checkpoints.Contents.of(changed(run, texts)), seals)
    assert 'os.system' not in str(found)
    seals.open(found)
    assert found['samples']['prompt'] == json.dumps(CALL)
    assert found['checkpoint']['monitor'] == 'null'


def test_inference_and_exports_refuse_them_too(run, folder, capfd):
    checkpoints.write(changed(run, {(*MODEL, 'trunk'): EVIL}), folder / 'evil.ckpt')
    with watched() as found:
        assert infer.main(['evil.ckpt', 'the cat']) == 1
    assert capfd.readouterr().err.startswith('xlab-infer: ')
    harmless(folder, found)
    assert manage.main(['export-checkpoint', 'evil.ckpt', '--output', 'exported']) == 0  # data stays data
    assert infer.main(['exported', 'the cat']) == 1


# Sizes


HUGE = {
    'layers': {(*MODEL, 'trunk', 'init_args', 'n_layers'): 10**7},
    'layers within the bound': {(*MODEL, 'trunk', 'init_args', 'n_layers'): 9_999},
    'width': {(*MODEL, 'trunk', 'init_args', 'd_model'): 10**9},
    'width within the bound': {(*MODEL, 'trunk', 'init_args', 'd_model'): 1 << 19},
    'inner width': {(*MODEL, 'trunk', 'init_args', 'd_ff'): 1 << 24},
    'vocabulary': {(*MODEL, 'n_vocab'): 1 << 24, (*DATA, 'n_vocab'): 1 << 24},
    'norm': {
        (*MODEL, 'trunk', 'init_args', 'norm'): {'class_path': 'torch.nn.Linear', 'init_args': {'out_features': 10**9}}
    },
    'positions': {
        (*MODEL, 'max_len'): 1 << 24,
        (*MODEL, 'trunk', 'init_args', 'positions'): {'class_path': 'xlabml.transformer.Learned'},
    },
    'window': {(*MODEL, 'trunk', 'init_args', 'window'): -1},
    'heads': {(*MODEL, 'trunk', 'init_args', 'n_heads'): 0},
    'negative': {(*MODEL, 'trunk', 'init_args', 'd_model'): -16},
    'endless': {(*MODEL, 'trunk', 'init_args', 'd_model'): 10**30},
    'copies of a layer': {
        (*MODEL, 'trunk', 'init_args', 'norm'): {
            'class_path': 'torch.nn.Transformer',
            'init_args': {'nhead': 1, 'dim_feedforward': 1, 'num_encoder_layers': 10**9},
        }
    },
    'signature that cannot be read': {(*MODEL, 'trunk', 'init_args', 'norm'): {'class_path': 'torch.nn.ParameterList'}},
}


@pytest.mark.parametrize('name', HUGE)
def test_sizes_that_contradict_the_weights_are_refused_at_once(name, run, tmp_path):
    torch.save(changed(run, HUGE[name]), tmp_path / 'huge.ckpt')
    for door in (XLabModel.load_from_checkpoint, TextGenerator.load):
        with pytest.raises(ValueError, match=r'huge\.ckpt'):
            door(tmp_path / 'huge.ckpt')


# Archives


def rewritten(path, output, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(output, 'w', compression) as other:
        for name in archive.namelist():
            other.writestr(name, change(name, archive.read(name)))


class Named:
    """A pickle that names a function, to be called with some arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def replaced_pickle(value):
    return lambda name, content: pickle.dumps(value, 2) if name.endswith('data.pkl') else content


def test_archives_that_lie_are_refused_before_torch_reads_them(run, tmp_path):
    path, output = tmp_path / 'a.ckpt', tmp_path / 'b.ckpt'
    torch.save(run, path)

    def refused(match):
        with pytest.raises(ValueError, match=match) as caught:
            checkpoints.read(output)
        assert str(caught.value).startswith(str(output))

    rewritten(path, output, lambda _, content: content, zipfile.ZIP_DEFLATED)
    refused('compressed')
    rewritten(path, output, lambda name, content: b'' if name.endswith('data/0') else content)
    refused(r'tensor 0 is not in its archive')
    rewritten(path, output, replaced_pickle({'xlabml_format': Named(bytearray, 1 << 40)}))
    refused('only running code could open')
    rewritten(path, output, replaced_pickle({'xlabml_format': Named(torch.zeros, 3)}))
    refused('only running code could open')
    cut = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(cut)) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(output, 'w') as other:
        other.writestr(names[0], b'x')
        with pytest.warns(UserWarning, match='Duplicate name'):
            other.writestr(names[0], b'y')
    refused('not laid out')


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / 'a.ckpt')
    for door in (checkpoints.read, checkpoints.export, TextGenerator.load):
        with pytest.raises(ValueError, match=r'a\.ckpt is no file but a pipe'):
            door(tmp_path / 'a.ckpt')


def test_values_that_share_one_another_without_end_are_refused(run, tmp_path):
    bomb = []
    for _ in range(60):
        bomb = [bomb, bomb]
    torch.save({**run, 'mine': bomb}, tmp_path / 'a.ckpt')
    with pytest.raises(ValueError, match=r'holds more than|nested too deep'):
        checkpoints.read(tmp_path / 'a.ckpt')
    loop = []
    loop.append(loop)
    torch.save({**run, 'mine': loop}, tmp_path / 'a.ckpt')
    with pytest.raises(ValueError, match='mine is nested too deep'):
        checkpoints.read(tmp_path / 'a.ckpt')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'global_step': -1}, 'global_step is -1; it must be a whole number from 0'),
        ({'global_step': '12'}, "global_step is '12'"),
        ({'state_dict': {'a': 1}}, r'state_dict\.a is 1; it must be a tensor'),
        ({'state_dict': {'a': torch.zeros(1).expand(10**12)}}, r'state_dict\.a is a tensor of 4,000,000,000,000 bytes'),
        ({'state_dict': {'a': torch.eye(3).to_sparse()}}, 'only running code could open'),
        ({'optimizer_states': [{'state': {}}]}, r'optimizer_states\[0\] has no param_groups'),
        ({'optimizer_states': {}}, 'optimizer_states is dict; it must be a list'),
        ({'loops': {}}, 'loops is there'),
        ({'pytorch-lightning_version': '0.1'}, 'the version of Lightning'),
        ({'callbacks': {'Spikes': {}}}, r'callbacks\.Spikes has no window'),
        ({'guards': {'skipped': [1]}}, r'guards\.skipped is list; it must be a list of 2'),
        ({'guards': {'clip': {'norms': torch.zeros(2, 2)}}}, r'guards\.clip\.norms'),
        ({'XLabDataModule': {'tokenizer': torch.zeros(3)}}, r'XLabDataModule\.tokenizer is a tensor of torch\.float32'),
        ({'mine': 10**30}, 'mine is 1000000000000000000000000000000'),
        ({'mine': '\ud800'}, 'mine is no text'),
        ({'hyper_parameters': {}}, 'does not say of which task'),
        ({'hyper_parameters': {'a': torch.zeros(1)}}, r'hyper_parameters\.a is Tensor; it must be plain values'),
        ({'config': {'checkpoint': {'pin_steps': [1] * 50_000}}}, 'config holds more than 50,000 values'),
        ({'config': [1]}, 'config is list; it must be a mapping'),
    ],
)  # fmt: skip
def test_what_no_checkpoint_holds_is_refused_by_its_key(change, message, run, tmp_path):
    torch.save({**run, **change}, tmp_path / 'a.ckpt')
    with pytest.raises(ValueError, match=message) as caught:
        checkpoints.read(tmp_path / 'a.ckpt')
    assert str(caught.value).startswith(str(tmp_path / 'a.ckpt'))


@pytest.mark.parametrize('name', ['epoch', 'global_step', 'callbacks', 'lr_schedulers', 'pytorch-lightning_version'])
def test_a_run_resumes_from_a_whole_checkpoint_only(name, run, tmp_path):
    torch.save({key: value for key, value in run.items() if key != name}, tmp_path / 'a.ckpt')
    contents = checkpoints.load(tmp_path / 'a.ckpt')
    with pytest.raises(ValueError, match=rf'a\.ckpt is no whole checkpoint: it has no {name}'):
        checkpoints.require_whole(contents, tmp_path / 'a.ckpt', training=True)


def test_optimizer_states_of_another_shape_are_refused(run, folder, tiny, capfd):
    values = copy.deepcopy(run)
    values['optimizer_states'][0]['state'][0]['momentum_buffer'] = torch.zeros(3)
    checkpoints.write(values, folder / 'evil.ckpt')
    assert fit.main(['fit', *tiny, '--ckpt_path=evil.ckpt', '--trainer.max_steps=14']) == 1
    printed = ''.join(capfd.readouterr())
    assert 'momentum_buffer of parameter 0 (matrices) has shape (3,)' in printed
    assert 'evil.ckpt' in printed
