import json
import random
import signal

import pytest
import torch
from curves import read_curve
from processes import finish, kill_again_and_again, start, wait_for_step

from xlabml import checkpoints
from xlabml.checkpoints import Contents
from xlabml.commands.saved import saved_settings
from xlabml.datamodules import XLabDataModule
from xlabml.models import XLabModel
from xlabml.telemetry import records

DROPOUT = ['--model.trunk.dropout=0.2', '--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']


def _losses(folder):
    return read_curve(folder, 'train_loss')


def _cut(run, step):
    """Make a run look as if it had been killed right after a step was saved."""
    for path in (run / 'checkpoints').glob('*.ckpt'):
        if int(path.name[5:12]) > step:
            path.unlink()


@pytest.mark.parametrize('step', [6, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 9))])
def test_a_resumed_run_is_bit_for_bit_an_unbroken_one(xlab, tiny, tmp_path, step):
    status, printed = xlab('fit', *tiny, *DROPOUT, '--trainer.default_root_dir=whole')
    assert status == 0, printed
    xlab('fit', *tiny, *DROPOUT, '--trainer.default_root_dir=broken')
    run = tmp_path / 'broken/logs/version_0'
    _cut(run, step)
    status, printed = xlab(
        'fit', *tiny, *DROPOUT, '--trainer.default_root_dir=broken', '--ckpt_path=last', '--data.num_workers=1'
    )
    assert status == 0, printed
    assert 'resuming from' in printed
    whole = tmp_path / 'whole/logs/version_0'
    for name in (
        'train_loss',
        'train_accuracy',
        'val_loss',
        'val_bits_per_byte',
        'gradient_norm',
        'learning_rate/others',
    ):
        assert read_curve(run, name) == read_curve(whole, name), name
    a, b = (checkpoints.read(checkpoints.find('last', tmp_path / name)) for name in ('whole', 'broken'))
    for name, tensor in a['state_dict'].items():
        assert torch.equal(tensor, b['state_dict'][name]), name
    assert a['XLabDataModule']['row'] == b['XLabDataModule']['row'] == 48


def test_a_run_goes_on_with_another_accumulation(xlab, tiny, tmp_path):
    arguments = [*tiny, '--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']
    xlab('fit', *arguments, '--trainer.default_root_dir=whole')
    xlab('fit', *arguments, '--trainer.default_root_dir=broken', '--data.device_batch_tokens=32')
    run = tmp_path / 'broken/logs/version_0'
    _cut(run, 5)
    status, printed = xlab(
        'fit', *arguments, '--trainer.default_root_dir=broken', '--data.device_batch_tokens=64', '--ckpt_path=last'
    )
    assert status == 0, printed
    assert _losses(run) == pytest.approx(_losses(tmp_path / 'whole/logs/version_0'), rel=1e-4)


def test_a_kill_while_validating_loses_no_validation(xlab, tiny, tmp_path, monkeypatch):
    arguments = [*tiny, '--checkpoint.every_n_steps=1']
    xlab('fit', *arguments, '--trainer.default_root_dir=whole')
    start = XLabModel.on_validation_epoch_start

    def die(model):
        if model.trainer.global_step == 6:
            raise RuntimeError('killed')
        start(model)

    with monkeypatch.context() as patch:
        patch.setattr(XLabModel, 'on_validation_epoch_start', die)
        xlab('fit', *arguments, '--trainer.default_root_dir=broken')
    assert checkpoints.find('last', tmp_path / 'broken').name.startswith('step=0000005')
    status, printed = xlab('fit', *arguments, '--trainer.default_root_dir=broken', '--ckpt_path=last')
    assert status == 0, printed
    for name in ('train_loss', 'val_loss'):
        broken, whole = (read_curve(tmp_path / run / 'logs/version_0', name) for run in ('broken', 'whole'))
        assert broken == whole, name


@pytest.mark.parametrize(
    ('method', 'step'),
    [
        pytest.param('training_step', 5, marks=pytest.mark.slow),
        ('validation_step', 6),
        pytest.param('training_step', 11, marks=pytest.mark.slow),
        pytest.param('validation_step', 12, marks=pytest.mark.slow),
    ],
)
def test_an_interruption_at_a_validation_loses_none(xlab, tiny, tmp_path, interrupted, method, step):
    """Before it and in it; after the last step too, which nothing but the validation follows."""
    arguments = [*tiny, '--checkpoint.restore_best=true']
    assert xlab('fit', *arguments, '--trainer.default_root_dir=whole')[0] == 0
    with interrupted(method, step):
        assert xlab('fit', *arguments)[0] == 143
    status, printed = xlab('fit', *arguments, '--ckpt_path=last')
    assert status == 0, printed
    assert 'resuming from' in printed
    broken, whole = (root / 'logs/version_0' for root in (tmp_path, tmp_path / 'whole'))
    for name in ('train_loss', 'val_loss'):
        assert read_curve(broken, name) == read_curve(whole, name), name
    evaluated = records.read(broken / records.EVALUATION).rows
    assert [(row['step'], row['tokens']) for row in evaluated] == [
        (row['step'], row['tokens']) for row in records.read(whole / records.EVALUATION).rows
    ]
    for path in (whole / 'checkpoints').iterdir():
        assert (broken / 'checkpoints' / path.name).exists(), path.name
    assert checkpoints.find('best', tmp_path).name == checkpoints.find('best', tmp_path / 'whole').name
    assert 'has finished its 12 steps' in xlab('fit', *arguments, '--ckpt_path=last')[1]


def test_a_validation_that_is_cut_again_stays_due_whatever_is_monitored(xlab, tiny, tmp_path, interrupted):
    arguments = [*tiny, '--checkpoint.monitor=null']
    with interrupted('validation_step', 12):
        assert xlab('fit', *arguments)[0] == 143
        assert xlab('fit', *arguments, '--ckpt_path=last')[0] == 143
    status, printed = xlab('fit', *arguments, '--ckpt_path=last')
    assert status == 0, printed
    assert list(read_curve(tmp_path / 'logs/version_0', 'val_loss')) == [6, 12]
    assert 'has finished its 12 steps' in xlab('fit', *arguments, '--ckpt_path=last')[1]


def test_an_older_checkpoint_opens_a_new_run(xlab, tiny, root):
    older = next((root / 'logs/version_0/checkpoints').glob('step=0000006*'))
    status, printed = xlab('fit', *tiny, f'--ckpt_path={older}')
    assert status == 0, printed
    assert list(_losses(root / 'logs/version_1')) == list(range(7, 13))
    assert _losses(root / 'logs/version_1').items() <= _losses(root / 'logs/version_0').items()


def test_what_is_typed_beats_what_was_saved_in_effect(xlab, tiny, tmp_path):
    flat = ['--model.schedule=WarmupConstant', '--model.schedule.warmup_steps=0']
    xlab('fit', *tiny, *flat, '--model.optimizer.adamw_lr=0.001')
    status, printed = xlab(
        'fit', *tiny, '--ckpt_path=last', '--model.optimizer.adamw_lr=0.0005', '--trainer.max_steps=14'
    )
    assert status == 0, printed
    rates = read_curve(tmp_path / 'logs/version_0', 'learning_rate/others')
    assert [rates[step] for step in (12, 13, 14)] == pytest.approx([0.001, 0.0005, 0.0005])


def test_what_was_saved_holds_where_nothing_is_typed(xlab, tiny, tmp_path):
    xlab('fit', *tiny, '--model.optimizer.adamw_lr=0.001', '--seed_everything=7')
    status, printed = xlab('fit', '--ckpt_path=last', '--trainer.max_steps=13', '--trainer.accelerator=cpu')
    assert status == 0, printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert saved['hyper_parameters']['optimizer']['init_args']['adamw_lr'] == 0.001
    assert saved['datamodule_hyper_parameters']['seed'] == 7
    assert saved['global_step'] == 13


def test_null_that_was_set_holds_where_nothing_is_typed(xlab, tiny, tmp_path):
    null = {'trainer': 'gradient_clip_val', 'checkpoint': 'monitor', 'samples': 'top_p'}
    xlab('fit', *tiny, *(f'--{group}.{name}=null' for group, name in null.items()))
    status, printed = xlab('fit', '--ckpt_path=last', '--trainer.max_steps=13')
    assert status == 0, printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert saved['global_step'] == 13
    assert [saved['config'][group][name] for group, name in null.items()] == [None] * 3


def test_devices_and_machines_are_not_those_of_the_checkpoint():
    trainer = {'devices': 8, 'num_nodes': 4, 'strategy': 'ddp', 'default_root_dir': '/there', 'max_steps': 9}
    model = {'_class_path': 'xlabml.models.XLabModel', 'n_vocab': 300, 'max_len': 8}
    found = saved_settings(Contents.of({'hyper_parameters': model, 'config': {'trainer': trainer}}))
    assert found['trainer'] == {'max_steps': 9}


def test_last_looks_into_the_folder_that_checkpoints_go_to(xlab, tiny, tmp_path):
    elsewhere = [*tiny, '--checkpoint.folder=elsewhere']
    xlab('fit', *elsewhere)
    status, printed = xlab('fit', *elsewhere, '--ckpt_path=last', '--trainer.max_steps=14')
    assert status == 0, printed
    assert 'resuming from' in printed
    assert list(_losses(tmp_path / 'logs/version_0')) == list(range(1, 15))
    assert not (tmp_path / 'logs/version_1').exists()


def test_from_another_folder_the_best_is_still_known(xlab, tiny, tmp_path, monkeypatch):
    xlab('fit', *tiny)
    (tmp_path / 'sub').mkdir()
    monkeypatch.chdir(tmp_path / 'sub')
    path = checkpoints.find('last', tmp_path)
    status, printed = xlab('fit', *tiny, f'--ckpt_path={path}')
    assert 'has finished' in printed
    assert 'best checkpoint' in printed
    status, printed = xlab('fit', *tiny, f'--ckpt_path={path}', '--trainer.max_steps=18')
    assert status == 0, printed
    assert len(list((tmp_path / 'logs/version_0/checkpoints').glob('*.ckpt'))) <= 2


def test_the_number_of_rows_a_step_may_change(xlab, tiny, root):
    status, printed = xlab('fit', *tiny, '--ckpt_path=last', '--data.batch_tokens=64', '--trainer.max_steps=14')
    assert status == 0, printed
    saved = checkpoints.read(checkpoints.find('last', root))
    assert saved['XLabDataModule']['row'] == 12 * 4 + 2 * 2


@pytest.mark.parametrize(('before', 'after'), [(64, 256), pytest.param(256, 64, marks=pytest.mark.slow)])
def test_an_epoch_ends_where_its_rows_do_whatever_the_batch_size_was(xlab, tiny, tmp_path, before, after):
    length = ['--trainer.max_epochs=1', '--trainer.val_check_interval=1000']
    asked = [flag for flag in tiny if 'max_steps' not in flag and 'val_check' not in flag]
    begun = ['--trainer.max_steps=8' if before > after else '--trainer.max_steps=32', length[1]]
    status, printed = xlab('fit', *asked, *begun, f'--data.batch_tokens={before}')
    assert status == 0, printed
    status, printed = xlab('fit', *asked, *length, f'--data.batch_tokens={after}', '--ckpt_path=last')
    assert status == 0, printed
    n_rows = len(XLabDataModule.load_from_checkpoint(checkpoints.find('last', tmp_path)).texts.train_examples)
    assert n_rows > 64  # the checkpoint's
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    place = saved['XLabDataModule']
    assert n_rows <= place['pass'] * n_rows + place['row'] < n_rows + after // 32
    status, printed = xlab('fit', *asked, *length, f'--data.batch_tokens={after}', '--ckpt_path=last')
    assert f'has finished its {saved["global_step"]} steps' in printed
    other = [
        *asked,
        *length,
        '--data.splits={train: 0.7, val: 0.2}',
        f'--data.batch_tokens={after}',
        '--ckpt_path=last',
    ]
    status, printed = xlab('fit', *other)
    assert 'data.splits was' in printed
    status, printed = xlab('fit', *other, '--data.accept_changes=true')
    assert status == 0, printed
    path = checkpoints.find('last', tmp_path)
    n_rows = len(XLabDataModule.load_from_checkpoint(path).texts.train_examples)
    place = checkpoints.read(path)['XLabDataModule']
    assert n_rows <= place['pass'] * n_rows + place['row'] < n_rows + after // 32


def test_last_starts_a_run_where_there_is_none_and_ends_at_once_where_it_is_finished(xlab, tiny):
    status, printed = xlab('fit', *tiny, '--ckpt_path=last')
    assert status == 0, printed
    status, printed = xlab('fit', *tiny, '--ckpt_path=last')
    assert status == 0
    assert 'has finished its 12 steps' in printed
    assert 'best checkpoint' in printed


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--model.trunk.d_model=32'], 'd_model'),
        (['--data.max_len=64'], 'data.max_len was 32, is 64'),
        (['--data.plan=Chunk'], "data.plan was {'class': 'Pack'"),
        (['--data.splits={train: 0.7}'], 'data.splits was'),
        (['--data.weights=[1]'], 'data.weights was None, is [1.0]'),
        (['--seed_everything=7'], 'seed_everything was 42, is 7. Restore it'),
        (['--data.n_vocab=400'], 'model.n_vocab was 320, is 400'),
    ],
)
def test_what_cannot_be_changed_is_refused(xlab, tiny, root, arguments, message):
    status, printed = xlab('fit', *tiny, *arguments, '--trainer.max_steps=20', '--ckpt_path=last')
    assert status == 2, printed
    assert message in printed
    assert 'Traceback' not in printed


def test_texts_that_changed_are_named_and_accepted_once(xlab, tiny, tmp_path, corpus):
    (tmp_path / 'texts.jsonl').write_text((corpus / 'texts.jsonl').read_text())
    asked = [
        *[flag for flag in tiny if 'data.sources' not in flag],
        f'--data.sources=[{{path: {tmp_path}/texts.jsonl}}]',
    ]
    xlab('fit', *asked)
    with (tmp_path / 'texts.jsonl').open('a') as file:
        file.write('{"text": "one more text"}\n')
    longer = [*asked, '--ckpt_path=last', '--trainer.max_steps=14']
    status, printed = xlab('fit', *longer)
    assert status == 1, printed
    assert f'the texts of {tmp_path}/texts.jsonl changed (300 documents then, 301 now)' in printed
    assert '--data.accept_changes=true' in printed
    status, printed = xlab('fit', *longer, '--data.accept_changes=true')
    assert status == 0, printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert (saved['global_step'], saved['XLabDataModule']['row']) == (14, 8)
    status, printed = xlab('fit', *asked, '--ckpt_path=last', '--trainer.max_steps=15', '--data.plan=Concat')
    assert status == 2, printed
    assert "is {'class': 'Concat'" in printed


def test_a_moved_corpus_is_the_same_data(xlab, tiny, root, corpus):
    (root / 'moved.jsonl').write_text((corpus / 'texts.jsonl').read_text())
    moved = f'--data.sources=[{{path: {root}/moved.jsonl}}]'
    status, printed = xlab('fit', *tiny, moved, '--ckpt_path=last', '--trainer.max_steps=13')
    assert status == 0, printed


def test_an_exported_file_evaluates_but_does_not_go_on(xlab, root):
    _, before = xlab('test', '--ckpt_path=last')
    exported = checkpoints.export(checkpoints.find('last', root)).path
    status, after = xlab('test', f'--ckpt_path={exported}', '--trainer.precision=32-true')
    assert status == 0, after
    line = next(line for line in before.splitlines() if line.startswith('test:'))
    assert line in after
    status, printed = xlab('fit', f'--ckpt_path={exported}')
    assert status == 2
    assert 'without optimizer state' in printed


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_a_checkpoint_to_go_on_from(tiny, tmp_path, number, status):
    process = start(tmp_path, *tiny, '--trainer.max_steps=100000', '--checkpoint.every_n_steps=5')
    wait_for_step(process, tmp_path, 1)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    printed = (tmp_path / 'printed').read_text()
    assert 'Traceback' not in printed
    assert '--ckpt_path last resumes it' in printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert saved['lr_schedulers'][0]['last_epoch'] == saved['global_step'] >= 5


def test_a_killed_run_goes_on_as_if_nothing_had_happened(xlab, tiny, tmp_path):
    arguments = [*tiny, *DROPOUT, '--trainer.max_steps=40', '--trainer.val_check_interval=20']
    killed_at = kill_again_and_again(tmp_path / 'killed', arguments, 3, 30, random.Random(0))
    assert len(killed_at) == 3
    status, said = xlab('fit', *arguments, '--trainer.default_root_dir=whole')
    assert status == 0, said
    for name in ('train_loss', 'val_loss'):
        killed, whole = (read_curve(tmp_path / run / 'logs/version_0', name) for run in ('killed', 'whole'))
        assert killed == whole, name


SOURCES = '--data.sources=[{path: a.jsonl}, {path: b.jsonl}]'
MODES = {
    'chunked': (13, ['--data.plan=Chunk', SOURCES]),
    'packed': (13, ['--data.plan=Pack', SOURCES]),
    'mixed': (12, ['--data.plan=Pack', SOURCES, '--data.weights=[3, 1]']),
    'accumulating': (12, ['--data.plan=Pack', SOURCES, '--data.device_batch_tokens=32']),
}


@pytest.mark.slow
@pytest.mark.parametrize('mode', MODES)
def test_fifty_kills_leave_no_trace(tiny, tmp_path, texts, mode, monkeypatch):
    n_kills, settings = MODES[mode]
    for run in ('killed', 'whole'):
        (tmp_path / run).mkdir()
        for name, some in (('a', texts[:150]), ('b', texts[150:])):
            lines = ''.join(json.dumps({'text': text}) + '\n' for text in some)
            (tmp_path / run / f'{name}.jsonl').write_text(lines)
    length = ['--trainer.max_steps=150', '--trainer.val_check_interval=50', '--checkpoint.every_n_steps=2']
    arguments = [*tiny, *settings, '--model.trunk.dropout=0.2', *length]
    killed_at = kill_again_and_again(tmp_path / 'killed', arguments, n_kills, 120, random.Random(mode))
    print(f'{mode}: {len(killed_at)} kills, at steps {killed_at}')
    assert len(killed_at) == n_kills
    assert killed_at == sorted(killed_at)
    finish(start(tmp_path / 'whole', *arguments), tmp_path / 'whole')
    for name in ('train_loss', 'train_accuracy', 'gradient_norm', 'val_loss'):
        killed, whole = (read_curve(tmp_path / run / 'logs/version_0', name) for run in ('killed', 'whole'))
        assert killed == whole, name
    assert list(read_curve(tmp_path / 'whole/logs/version_0', 'train_loss')) == list(range(1, 151))
    saved = checkpoints.read(checkpoints.find('last', tmp_path / 'killed'))
    monkeypatch.chdir(tmp_path / 'killed')
    data = XLabDataModule.load_from_checkpoint(checkpoints.find('last', tmp_path / 'killed'))
    n_rows = len(data.texts.train_examples)
    place = saved['XLabDataModule']
    assert place['pass'] * n_rows + place['row'] == 600 > n_rows  # an epoch ended on the way; a mixture's pass did not
