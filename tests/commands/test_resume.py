import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from curves import read_curve

from xlabml import checkpoints

DROPOUT = ['--model.trunk.dropout=0.2', '--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']


def _losses(folder):
    return read_curve(folder, 'train_loss')


def _cut(run, step):
    """Make a run look as if it had been killed right after a step was saved."""
    for path in (run / 'checkpoints').glob('*.ckpt'):
        if int(path.name[5:12]) > step:
            path.unlink()


@pytest.mark.parametrize('step', [1, 6, 9])
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
    assert 'going on from' in printed
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


def test_an_older_checkpoint_opens_a_new_run(xlab, tiny, tmp_path):
    xlab('fit', *tiny, '--checkpoint.save_last_k=5')
    older = next((tmp_path / 'logs/version_0/checkpoints').glob('step=0000006*'))
    status, printed = xlab('fit', *tiny, f'--ckpt_path={older}')
    assert status == 0, printed
    assert list(_losses(tmp_path / 'logs/version_1')) == list(range(7, 13))
    assert _losses(tmp_path / 'logs/version_1').items() <= _losses(tmp_path / 'logs/version_0').items()


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


def test_last_looks_into_the_folder_that_checkpoints_go_to(xlab, tiny, tmp_path):
    elsewhere = [*tiny, '--checkpoint.folder=elsewhere']
    xlab('fit', *elsewhere)
    status, printed = xlab('fit', *elsewhere, '--ckpt_path=last', '--trainer.max_steps=14')
    assert status == 0, printed
    assert 'going on from' in printed
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


def test_the_number_of_rows_a_step_may_change(xlab, tiny, tmp_path):
    xlab('fit', *tiny)
    status, printed = xlab('fit', *tiny, '--ckpt_path=last', '--data.batch_tokens=64', '--trainer.max_steps=14')
    assert status == 0, printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert saved['XLabDataModule']['row'] == 12 * 4 + 2 * 2


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
        (['--data.n_vocab=400'], 'model.n_vocab was 320, is 400'),
    ],
)
def test_what_cannot_be_changed_is_refused(xlab, tiny, arguments, message):
    xlab('fit', *tiny)
    status, printed = xlab('fit', *tiny, *arguments, '--trainer.max_steps=20', '--ckpt_path=last')
    assert status == 1, printed
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
    assert status == 1, printed
    assert "is {'class': 'Concat'" in printed


def test_a_moved_corpus_is_the_same_data(xlab, tiny, tmp_path, corpus):
    xlab('fit', *tiny)
    (tmp_path / 'moved.jsonl').write_text((corpus / 'texts.jsonl').read_text())
    moved = f'--data.sources=[{{path: {tmp_path}/moved.jsonl}}]'
    status, printed = xlab('fit', *tiny, moved, '--ckpt_path=last', '--trainer.max_steps=13')
    assert status == 0, printed


def test_an_exported_file_evaluates_but_does_not_go_on(xlab, tiny, tmp_path):
    xlab('fit', *tiny)
    _, before = xlab('test', '--ckpt_path=last')
    exported = checkpoints.export(checkpoints.find('last', tmp_path)).path
    status, after = xlab('test', f'--ckpt_path={exported}', '--trainer.precision=32-true')
    assert status == 0, after
    line = next(line for line in before.splitlines() if line.startswith('test:'))
    assert line in after
    status, printed = xlab('fit', f'--ckpt_path={exported}')
    assert status == 1
    assert 'without optimizer state' in printed


def _start(tiny, folder, *arguments):
    environment = {**os.environ, 'XLABML_CACHE': os.environ['XLABML_CACHE'], 'PYTHONUNBUFFERED': '1'}
    command = [sys.executable, '-c', 'import sys; from xlabml.commands.fit import main; sys.exit(main())', 'fit']
    return subprocess.Popen(
        [*command, *tiny, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_checkpoint(process, folder, n=1):
    deadline = time.monotonic() + 120
    while len(list(folder.glob('logs/version_0/checkpoints/*.ckpt'))) < n:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_a_checkpoint_to_go_on_from(tiny, tmp_path, number, status):
    process = _start(tiny, tmp_path, '--trainer.max_steps=100000', '--checkpoint.every_n_steps=5')
    _wait_for_checkpoint(process, tmp_path)
    process.send_signal(number)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == status, printed
    assert 'Traceback' not in printed
    assert '--ckpt_path last goes on' in printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert saved['lr_schedulers'][0]['last_epoch'] == saved['global_step'] >= 5


def test_a_killed_run_goes_on_as_if_nothing_had_happened(xlab, tiny, tmp_path):
    arguments = [*tiny, *DROPOUT, '--trainer.max_steps=40', '--trainer.val_check_interval=20']
    folder = tmp_path / 'killed'
    folder.mkdir()
    for n in (3, 12, 25):
        process = _start(arguments, folder, '--ckpt_path=last', f'--data.num_workers={n % 2}')
        _wait_for_checkpoint(process, folder, n)
        process.kill()
        process.communicate()
    process = _start(arguments, folder, '--ckpt_path=last')
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    status, said = xlab('fit', *arguments, '--trainer.default_root_dir=whole')
    assert status == 0, said
    for name in ('train_loss', 'val_loss'):
        assert read_curve(folder / 'logs/version_0', name) == read_curve(tmp_path / 'whole/logs/version_0', name), name
