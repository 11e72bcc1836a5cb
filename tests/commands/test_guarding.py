"""Spikes, rows left out, the best weights, remote checkpoints and the smoke run, from the command line."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import pytest
import torch
from curves import read_curve

from xlabml import checkpoints
from xlabml.callbacks import Spikes
from xlabml.models import XLabModel

SAVED = ['--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100', '--trainer.val_check_interval=99']


def test_rows_of_skipped_steps_are_left_out_and_stay_out_however_the_run_goes_on(xlab, tiny, tmp_path):
    """Without steps 3 and 4, step 3 reads what step 5 did, and so on, in a run that is broken off as in a whole one."""
    flat = [*tiny, *SAVED, '--model.schedule=WarmupConstant', '--trainer.max_steps=8']
    skip = '--data.skip=[[3, 4]]'
    assert xlab('fit', *flat, skip, '--trainer.default_root_dir=whole')[0] == 0
    assert xlab('fit', *flat, '--trainer.max_steps=2', '--trainer.default_root_dir=broken')[0] == 0
    for n_steps, typed in ((5, [skip]), (6, [skip]), (8, [])):
        last = ['--trainer.default_root_dir=broken', '--ckpt_path=last', f'--trainer.max_steps={n_steps}']
        status, printed = xlab('fit', *flat, *last, *typed)
        assert status == 0, printed
    whole, broken = (read_curve(tmp_path / name / 'logs/version_0', 'train_loss') for name in ('whole', 'broken'))
    assert whole == broken
    saved = checkpoints.read(checkpoints.find('last', tmp_path / 'broken'))['XLabDataModule']
    assert saved['skipped'] == [[3, 4, [0, 8], [0, 16]]]
    assert (saved['pass'], saved['row']) == (0, 40)
    status, printed = xlab('fit', *flat, *last, '--trainer.max_steps=12', '--data.skip=[[3, 4], [8, 9]]')
    assert status == 2
    assert 'data.skip has [8, 9], but the checkpoint has trained 8 steps already' in printed


def test_a_spike_ends_the_run_with_status_3_and_the_run_goes_on_without_its_rows(xlab, tiny, tmp_path, monkeypatch):
    judge = Spikes._judge
    monkeypatch.setattr(
        Spikes, '_judge', lambda self, loss: judge(self, loss + 99 * (len(self.window) == 5 and not self.count))
    )
    stop = ['--spikes.action=stop', '--spikes.window_steps=8']
    status, printed = xlab('fit', *tiny, *SAVED, *stop)
    assert status == 3, printed
    assert "--ckpt_path last --data.skip_rows='[[[0, 20], [0, 23]]]'" in printed
    run = tmp_path / 'logs/version_0'
    rows = [json.loads(line) for line in (run / 'spikes.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows] == [6]
    assert checkpoints.read(checkpoints.find('last', tmp_path))['global_step'] == 5
    monkeypatch.setattr(Spikes, '_judge', judge)
    status, printed = xlab('fit', *tiny, *SAVED, *stop, '--ckpt_path=last', '--data.skip_rows=[[[0, 20], [0, 23]]]')
    assert status == 0, printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert (saved['global_step'], saved['XLabDataModule']['skipped']) == (
        12,
        [[[0, 20], [0, 23], [0, 20], [0, 24]]],
    )


def test_spike_after_spike_is_left_out_from_one_checkpoint_and_from_the_next(xlab, tiny, tmp_path, monkeypatch):
    def run(spike_at, *arguments):
        def judge(self, loss):
            self.window.append(loss)
            return {'loss': 9.0, 'mean': 1.0, 'deviation': 0.1} if len(self.window) == spike_at else {}

        monkeypatch.setattr(Spikes, '_judge', judge)
        flat = ['--model.schedule=WarmupConstant', '--trainer.val_check_interval=4', '--spikes.action=stop']
        status, printed = xlab('fit', *tiny, *flat, '--ckpt_path=last', *arguments)
        assert status == (3 if spike_at else 0), printed
        return printed

    def rows(*steps):
        """Those of steps that read 4 rows each, in an epoch in which nothing is left out."""
        return [[[0, 4 * step - 4], [0, 4 * step - 1]] for step in steps]

    assert f"--data.skip_rows='{rows(6)}' resumes" in run(6)
    skip = f'--data.skip_rows={rows(6)}'
    assert f"--data.skip_rows='{rows(6, 8)}' resumes" in run(7, skip)
    assert f"--data.skip_rows='{rows(6, 7)}' resumes" in run(6, skip)
    again = run(6, skip, '--checkpoint.pin_steps=[5]')  # a checkpoint that knows the rows
    assert f"--data.skip_rows='{rows(6, 7)}' resumes" in again
    assert f"--data.skip_rows='{rows(6, 7, 9)}' resumes" in run(7, f'--data.skip_rows={rows(6, 7)}')
    run(0, f'--data.skip_rows={rows(6, 7, 9)}')
    saved = checkpoints.read(checkpoints.find('last', tmp_path))['XLabDataModule']
    assert [entry[:2] for entry in saved['skipped']] == rows(6, 7, 9)


def test_steps_that_are_skipped_again_by_a_checkpoint_that_knows_them_leave_out_nothing_more(xlab, tiny):
    asked = [*tiny, *SAVED, '--data.skip=[[6, 6]]', '--ckpt_path=last']
    assert 'left out already' not in xlab('fit', *asked, '--trainer.max_steps=5')[1]
    status, printed = xlab('fit', *asked, '--trainer.max_steps=7')
    assert status == 0, printed
    assert 'the rows of data.skip [[6, 6]] are left out already, as the checkpoint says: no others are' in printed


def test_rows_of_steps_that_are_not_finite_are_named_whatever_checkpoint_is_before_them(
    xlab, tiny, tmp_path, monkeypatch
):
    compute = XLabModel.training_step

    def fail(self, batch, batch_idx):
        return compute(self, batch, batch_idx) * (math.nan if self.trainer.global_step >= 4 else 1.0)

    monkeypatch.setattr(XLabModel, 'training_step', fail)
    asked = [*tiny, '--trainer.val_check_interval=99', '--nonfinite.max_in_row=2', '--data.skip=[[2, 2]]']
    status, printed = xlab('fit', *asked)
    assert status == 1
    assert (
        "skip the steps' rows with --data.skip_rows='[[[0, 20], [0, 27]]]', and resume from the newest checkpoint"
        in printed
    )
    status, printed = xlab('fit', *asked, '--checkpoint.every_n_steps=3')
    assert "rows with --data.skip_rows='[[[0, 20], [0, 27]]]', and resume" in printed


def test_after_a_spike_before_the_first_checkpoint_no_other_run_goes_on(xlab, tiny, root, monkeypatch):
    judge = Spikes._judge
    monkeypatch.setattr(Spikes, '_judge', lambda self, loss: judge(self, loss + 99 * (len(self.window) == 4)))
    status, printed = xlab('fit', *tiny, '--spikes.action=stop', '--spikes.window_steps=8')
    assert status == 3, printed
    assert (
        "the same command with --data.skip_rows='[[[0, 16], [0, 19]]]' begins anew, without the rows of that step"
        in printed
    )


def test_the_best_weights_are_put_back_exported_and_found(xlab, tiny, tmp_path):
    # At this rate the loss is best at the first validation.
    bad = [
        '--model.optimizer=xlabml.training.AdamW',
        '--model.optimizer.lr=0.5',
        '--model.schedule=WarmupConstant',
        '--model.schedule.warmup_steps=0',
    ]
    asked = [*tiny, *bad, '--trainer.val_check_interval=4', '--checkpoint.restore_best=true']
    status, printed = xlab('fit', *asked)
    assert status == 0, printed
    best = checkpoints.find('best', tmp_path)
    assert f'best checkpoint: {best.relative_to(tmp_path)}' in printed
    assert 'best.safetensors' in printed
    exported = checkpoints.read(best.with_name('best.safetensors'))
    for name, weight in checkpoints.read(best)['state_dict'].items():
        assert torch.equal(weight, exported['state_dict'][name])
    lines = set()
    for ckpt in ('best', best.with_name('best.safetensors')):
        status, printed = xlab('validate', f'--ckpt_path={ckpt}', '--trainer.precision=32-true')
        assert status == 0, printed
        lines.add(next(line for line in printed.splitlines() if line.startswith('val:')))
    assert len(lines) == 1
    score = best.stem.partition('=')[2].partition('=')[2]
    assert score in lines.pop()


def test_last_and_best_are_found_in_remote_folders(xlab, tiny, tmp_path):
    remote = [*tiny, '--checkpoint.folder=memory://bucket/guarded', '--ckpt_path=last']
    remote.append('--checkpoint.save_last_k=2')
    status, printed = xlab('fit', *remote, '--trainer.max_steps=6')
    assert status == 0, printed
    status, printed = xlab('fit', *remote)
    assert status == 0, printed
    assert 'resuming from memory://bucket/guarded/step=0000006' in printed
    assert list(read_curve(tmp_path / 'logs/version_0', 'train_loss')) == list(range(1, 13))
    status, printed = xlab('fit', *remote)
    assert 'memory://bucket/guarded/step=0000012' in printed
    assert 'has finished its 12 steps' in printed
    status, printed = xlab('test', *remote, '--ckpt_path=best')
    assert status == 0, printed
    files = fsspec.filesystem('memory')
    older, newest = sorted(files.find('/bucket/guarded'))[-2:]
    files.pipe_file(newest, files.cat_file(newest)[:-1000])
    for command, flags in (('fit', tiny), ('test', [])):
        for asked in ('last', 'best'):
            status, printed = xlab(
                command, *flags, '--checkpoint.folder=memory://bucket/guarded', f'--ckpt_path={asked}'
            )
            assert status == 1, printed
            assert f'xlab: memory:/{newest} is cut short' in printed
            assert f"('{asked}' stands for it). The one before it: --ckpt_path memory:/{older}" in printed
    status, printed = xlab('fit', *tiny, '--ckpt_path=memory://bucket/none.ckpt')
    assert status == 2
    assert 'there is no checkpoint memory://bucket/none.ckpt' in printed


def test_smoke_tries_everything_and_leaves_nothing(xlab, tiny, tmp_path, monkeypatch):
    home, cache = tmp_path / 'tmp', Path(os.environ['XLABML_CACHE'])
    home.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(home))
    before = sorted(cache.rglob('*'))
    status, printed = xlab('fit', '--smoke', *tiny, '--trainer.max_steps=5000', '--checkpoint.restore_best=true')
    assert status == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith('smoke:')]
    for done in ('4 steps', 'saved, resumed', 'bits/byte', 'documents scored', 'sampled'):
        assert done in line
    assert not list(home.iterdir())
    assert sorted(tmp_path.iterdir()) == [home]
    assert sorted(cache.rglob('*')) == before


def test_smoke_goes_with_autotune(xlab, tiny, monkeypatch):
    status, printed = xlab('fit', '--smoke', '--autotune', *tiny)
    assert status == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith('smoke:')]
    assert line.endswith('; --autotune measured nothing')
    assert 'tokens/s' not in printed
    status, printed = xlab('fit', '--smoke', '--autotune', *tiny, '--data.device_batch_tokens=64')
    assert status == 2
    assert 'smoke (train): --autotune chooses data.device_batch_tokens, which is set to 64' in printed


def test_smoke_prints_help_and_settings_that_are_asked_for(xlab, tiny, tmp_path):
    for asked, words in (
        (['--help'], '--smoke'),
        (['--print_config'], 'default_root_dir: .\n'),
        (['--data.plan.help=Pack'], 'Pack'),
    ):
        status, printed = xlab('fit', '--smoke', *tiny, *asked)
        assert status == 0, printed
        assert words in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['test', '--smoke'], 2, '--smoke goes with fit'),
        (['fit', '--smoke', '--ckpt_path=last'], 2, 'leave out --ckpt_path'),
        (['fit', '--smoke', '--data.sources=[{path: nowhere.jsonl}]'], 2, 'smoke (train): there is no file or folder'),
        (
            ['fit', '--smoke', '--model.trunk.d_modle=3'],
            2,
            'there is no setting model.trunk.d_modle; did you mean model.trunk.d_model?',
        ),
        (['fit', '--data.skip=[[3]]'], 2, 'data.skip has [3]'),
        (['fit', '--data.skip=[[5, 4]]'], 2, 'data.skip has [5, 4]'),
    ],
)
def test_refuses(xlab, arguments, status, message):
    got, printed = xlab(*arguments)
    assert got == status, printed
    assert message in printed


def test_help_says_what_the_statuses_mean(xlab):
    status, printed = xlab('fit', '--help')
    assert status == 0
    printed = ' '.join(printed.split())
    for words in (
        '--smoke Try these settings',
        '3 a loss spike',
        '124 trainer.max_time was over',
        '143 Ctrl-C, SIGUSR1 and SIGTERM',
    ):
        assert words in printed


def _two_ranks(tiny, folder, *arguments):
    """Two processes as torchrun starts them."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-c', 'import sys; from xlabml.commands.fit import main; sys.exit(main())', 'fit']
    command += [*tiny, '--trainer.devices=2', '--trainer.strategy=ddp', '--trainer.num_nodes=1', *arguments]
    shared = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2'}
    shared |= {'GROUP_RANK': '0', 'TORCHELASTIC_RUN_ID': 'none', 'PYTHONUNBUFFERED': '1'}
    return [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(('rank', 'number'), [(0, signal.SIGTERM), (1, signal.SIGUSR1), (1, signal.SIGTERM), (None, 0)])
def test_a_signal_to_one_rank_or_the_clock_ends_both_with_one_checkpoint(tiny, tmp_path, rank, number):
    budget = [] if rank is not None else ['--trainer.max_time=00:00:00:05']
    flat = ['--model.schedule=WarmupConstant', '--model.schedule.warmup_steps=0', '--trainer.val_check_interval=100000']
    processes = _two_ranks(tiny, tmp_path, *flat, '--trainer.max_steps=1000000', '--checkpoint.pin_steps=[5]', *budget)
    try:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob('logs/version_0/checkpoints/*.ckpt')):
            assert time.monotonic() < deadline, 'no step was made'
            assert all(process.poll() is None for process in processes), [p.communicate()[0] for p in processes]
            time.sleep(0.05)
        if rank is not None:
            processes[rank].send_signal(number)
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    status = 128 + number if rank is not None else 124
    assert [process.returncode for process in processes] == [status, status], printed
    assert 'the same command with --ckpt_path last resumes it' in printed[0]
    kept = sorted(path.name for path in (tmp_path / 'logs/version_0/checkpoints').iterdir())
    assert len(kept) == 2, kept
    assert kept[0] == 'step=0000005.ckpt'
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    assert saved['lr_schedulers'][0]['last_epoch'] == saved['global_step'] > 5
