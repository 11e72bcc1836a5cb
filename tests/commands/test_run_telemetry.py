"""What a real run writes of itself: rows of training and evaluations, the parts of its steps, starts and ends."""

import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from curves import read_curve

from xlabml.callbacks import Curves
from xlabml.commands import manage
from xlabml.data import BatchSequence
from xlabml.models import Task, XLabModel
from xlabml.telemetry import records
from xlabml.telemetry.flops import TrainFlops
from xlabml.telemetry.step_clock import PARTS


def rows(run, name=records.TRAINING):
    read = records.read(run / name)
    assert not read.n_broken
    return read.rows


def test_the_lines_hold_what_tensorboard_has(xlab, tiny, tmp_path):
    status, printed = xlab('fit', *tiny, '--trainer.log_every_n_steps=5')
    assert status == 0, printed
    run = tmp_path / 'logs/version_0'
    written = rows(run)
    assert [row['step'] for row in written] == [5, 10, 12]
    assert [row['step'] for row in rows(run, records.EVALUATION)] == [6, 12]
    names = {name for row in written for name in row} - {'step', 'time'}
    groups = {
        'train_loss',
        'tokens',
        'tokens_per_second',
        'mfu_ratio',
        'gradient_norm',
        'clipped_ratio',
        'skipped_steps',
    }
    assert groups <= names
    for group in ('time/', 'memory/', 'spectra/', 'learning_rate/'):
        assert any(name.startswith(group) for name in names), group
    for name in names:
        curve = read_curve(run, name)
        assert curve == pytest.approx({row['step']: row[name] for row in written if name in row}, rel=1e-6), name
    curve = read_curve(run, 'val_loss')
    assert curve == pytest.approx({row['step']: row['val_loss'] for row in rows(run, records.EVALUATION)}, rel=1e-6)
    start, end = rows(run, records.EVENTS)
    assert (start['event'], start['step'], start['max_steps']) == ('start', 0, 12)
    assert start['precision'] == '32-true'
    assert shlex.split(start['command_line']) == sys.argv
    assert (end['event'], end['step']) == ('finished', 12)


def test_an_evaluation_leaves_the_training_rows_as_they_are(xlab, tiny, tmp_path):
    figures = []
    for every in (3, 12):
        xlab('fit', *tiny, f'--trainer.val_check_interval={every}', f'--trainer.default_root_dir=every{every}')
        written = rows(tmp_path / f'every{every}/logs/version_0')
        assert not [name for row in written for name in row if name.startswith('val_')]
        figures.append(
            [{name: row[name] for name in ('step', 'tokens', 'train_loss', 'train_accuracy')} for row in written]
        )
    assert figures[0] == figures[1]


def test_commands_add_their_evaluations_and_say_so(xlab, root):
    for command in ('validate', 'test'):
        status, printed = xlab(command, '--ckpt_path', 'last')
        assert status == 0, printed
    *_, validated, tested = rows(root / 'logs/version_0', records.EVALUATION)
    assert (validated['step'], validated['command'], validated['split']) == (12, 'validate', 'val')
    assert (tested['step'], tested['command'], tested['split']) == (12, 'test', 'test')
    assert f'{tested["test_loss"]:.4f} nats/token' in printed
    assert len(rows(root / 'logs/version_0')) == 12


def test_a_resumed_run_has_the_rows_of_an_unbroken_one(xlab, tiny, tmp_path):
    """The broken run saved after step 6 last, wrote three more rows and died in the middle of the fourth."""
    arguments = [*tiny, '--trainer.log_every_n_steps=1', '--checkpoint.save_last_k=5']
    xlab('fit', *arguments, '--trainer.default_root_dir=whole')
    xlab('fit', *arguments, '--trainer.default_root_dir=broken', '--trainer.val_check_interval=6')
    run = tmp_path / 'broken/logs/version_0'
    next((run / 'checkpoints').glob('step=0000012*')).unlink()
    lines = (run / records.TRAINING).read_bytes().splitlines(keepends=True)
    (run / records.TRAINING).write_bytes(b''.join(lines[:9]) + lines[9][:30])
    status, printed = xlab('fit', *arguments, '--trainer.default_root_dir=broken', '--ckpt_path=last')
    assert status == 0, printed
    whole = tmp_path / 'whole/logs/version_0'
    for name, figures in (
        (
            records.TRAINING,
            ('step', 'tokens', 'train_loss', 'gradient_norm', 'learning_rate/matrices', 'clipped_ratio'),
        ),
        (records.EVALUATION, ('step', 'tokens', 'val_loss', 'val_bits_per_byte')),
    ):
        kept, expected = ([[row[figure] for figure in figures] for row in rows(of, name)] for of in (run, whole))
        assert kept == expected
    looks = [[row['step'] for row in rows(of) if 'spectra/query/top' in row] for of in (run, whole)]
    assert looks[0] == looks[1] == list(range(1, 13))
    assert [(row['event'], row['step']) for row in rows(run, records.EVENTS)] == [
        ('start', 0),
        ('finished', 12),
        ('start', 6),
        ('finished', 12),
    ]


def test_the_parts_of_a_step_sum_to_it_and_each_has_its_own(xlab, tiny, tmp_path, monkeypatch):
    """Sleeps stand for work in each part; two micro-batches a step, so that each but the optimizer sleeps twice."""
    sleeps = {'data': 0.02, 'forward': 0.03, 'backward': 0.025, 'optimizer': 0.035}
    clocks = []

    def sleepy(function, part):
        def run(*arguments, **options):
            time.sleep(sleeps[part])
            return function(*arguments, **options)

        return run

    training_step = sleepy(XLabModel.training_step, 'forward')

    def step(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        loss.register_hook(lambda gradient: time.sleep(sleeps['backward']))
        return loss

    begin, write = Curves._begin_step, Curves._write_row

    def note_begin(self, *arguments):
        begin(self, *arguments)
        clocks.append(-time.perf_counter())

    def note_end(self, *arguments):
        clocks[-1] += time.perf_counter()
        write(self, *arguments)

    monkeypatch.setattr(BatchSequence, '__getitem__', sleepy(BatchSequence.__getitem__, 'data'))
    monkeypatch.setattr(XLabModel, 'training_step', step)
    clipping = sleepy(Task.configure_gradient_clipping, 'optimizer')
    monkeypatch.setattr(Task, 'configure_gradient_clipping', lambda *a, **k: clipping(*a, **k))
    monkeypatch.setattr(Curves, '_begin_step', note_begin)
    monkeypatch.setattr(Curves, '_write_row', note_end)
    arguments = ['--data.device_batch_tokens=64', '--trainer.limit_val_batches=0', '--samples.n_tokens=0']
    status, printed = xlab('fit', *tiny, *arguments, '--trainer.max_steps=6')
    assert status == 0, printed
    written = rows(tmp_path / 'logs/version_0')
    for row, seconds in zip(written, clocks):
        assert sum(row[f'time/{part}_seconds'] for part in PARTS) == pytest.approx(row['time/step_seconds'])
        assert row['time/step_seconds'] == pytest.approx(seconds, rel=0.02)
        assert row['time/waiting_ratio'] * row['time/mean_step_seconds'] > 0.04
    for part, slept in sleeps.items():
        n = 1 if part == 'optimizer' else 2
        assert min(row[f'time/{part}_seconds'] for row in written) >= n * slept, part
    assert min(row['time/other_seconds'] for row in written) < min(sleeps.values())


def test_speed_is_useful_tokens_and_the_flops_of_what_they_see(xlab, tiny, tmp_path, monkeypatch):
    """Counted again from the batches, by hand."""
    seen = []

    def note(self, ids, layout, add=TrainFlops.add):
        seen.append((layout.starts.diff() * layout.is_text).tolist())
        add(self, ids, layout)

    monkeypatch.setattr(TrainFlops, 'add', note)
    peak = ['--curves.peak_tflops=0.25', '--trainer.max_steps=3', '--model.trunk.window=[32, 4]']
    status, printed = xlab('fit', *tiny, *peak, '--trainer.limit_val_batches=0')
    assert status == 0, printed
    written = rows(tmp_path / 'logs/version_0')
    assert len(seen) == 3
    matrices = 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64)
    for row, lengths in zip(written, seen):
        pairs = sum(sum(i + 1 + min(i + 1, 4) for i in range(length)) for length in lengths)
        flops = 6 * (matrices + 320 * 16) * sum(lengths) + 12 * 16 * pairs
        assert row['tflops_per_second'] / row['tokens_per_second'] == pytest.approx(1e-12 * flops / sum(lengths))
        assert row['mfu_ratio'] == pytest.approx(row['tflops_per_second'] / 0.25)
    assert [row['tokens'] for row in written] == [sum(map(sum, seen[: i + 1])) for i in range(3)]
    assert rows(tmp_path / 'logs/version_0', records.EVENTS)[0]['peak_is'] == 'given'


def test_rows_can_be_read_while_the_run_goes_on(xlab, tiny, tmp_path, monkeypatch):
    seen = []

    def look(self, trainer, *arguments, take=Curves._begin_step):
        path = tmp_path / 'logs/version_0' / records.TRAINING
        seen.append((trainer.global_step, [row['step'] for row in records.read(path).rows]))
        take(self, trainer, *arguments)

    monkeypatch.setattr(Curves, '_begin_step', look)
    xlab('fit', *tiny, '--trainer.max_steps=3')
    assert seen == [(step, list(range(1, step + 1))) for step in range(4)]


def test_a_run_that_fails_says_why(xlab, tiny, tmp_path, monkeypatch):
    def fail(self, batch, batch_idx, training_step=XLabModel.training_step):
        if self.trainer.global_step == 2:
            raise RuntimeError('the machine is on fire')
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(XLabModel, 'training_step', fail)
    assert xlab('fit', *tiny)[0] == 1
    event = rows(tmp_path / 'logs/version_0', records.EVENTS)[-1]
    assert (event['event'], event['step'], event['error']) == ('error', 2, 'RuntimeError: the machine is on fire')


def test_steps_that_were_skipped_are_rows_without_a_loss(xlab, tiny, tmp_path, monkeypatch):
    def spoil(self, batch, batch_idx, training_step=XLabModel.training_step):
        if self.trainer.global_step == 1:
            self.network.trunk.embedding.weight.data.fill_(math.nan)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(XLabModel, 'training_step', spoil)
    arguments = ['--trainer.max_steps=3', '--trainer.limit_val_batches=0', '--curves.spectra_every_n_steps=0']
    status, printed = xlab('fit', *tiny, *arguments)
    assert status == 0, printed
    written = rows(tmp_path / 'logs/version_0')
    assert ['train_loss' in row for row in written] == [True, False, False]
    assert [row['skipped_steps'] for row in written] == [0, 1, 2]
    assert written[2]['gradient_norm'] is None
    json.dumps(written, allow_nan=False)


def test_a_real_run_is_described(xlab, tiny, tmp_path, capfd):
    xlab('fit', *tiny, '--trainer.max_steps=6')
    xlab('test', '--ckpt_path', 'last')
    capfd.readouterr()
    assert manage.main(['describe', 'last']) == 0
    printed = capfd.readouterr().out
    for name in ('model  ', 'parameters  ', 'optimizer  ', 'data  ', 'val, best  ', 'test, by xlab test  ', 'MFU  '):
        assert f'\n  {name}' in printed
    assert 'finished, 6 steps of 6' in printed
    drawn = {path.stem for path in (tmp_path / 'logs/version_0/describe').glob('*.png')}
    assert drawn == {'loss', 'learning_rate', 'speed', 'step_time', 'spectra'}


@pytest.mark.slow
def test_two_ranks_write_one_row_with_the_work_of_both(tiny, tmp_path):
    written = {}
    for n_ranks in (1, 2):
        folder = tmp_path / str(n_ranks)
        folder.mkdir()
        ranks = ['--trainer.strategy=ddp', f'--trainer.devices={n_ranks}', '--trainer.log_every_n_steps=3']
        command = [sys.executable, str(Path(__file__).parents[2] / 'xlab.py'), 'fit', *tiny, *ranks]
        done = subprocess.run(
            [*command, '--trainer.max_steps=6'], cwd=folder, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        written[n_ranks] = rows(folder / 'logs/version_0')
    for one, two in zip(*written.values()):
        for name in ('step', 'tokens', 'train_loss', 'gradient_norm', 'clipped_ratio', 'spectra/key/top'):
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
        flops = [n * row['tflops_per_second'] / row['tokens_per_second'] for n, row in ((1, one), (2, two))]
        assert flops[0] == pytest.approx(flops[1])
    assert len(written[1]) == len(written[2]) == 2


def test_shares_are_written_without_weights_too(xlab, tiny, texts, tmp_path):
    for name, some in (('large', texts[:220]), ('small', texts[220:])):
        (tmp_path / f'{name}.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in some))
    sources = f'--data.sources=[{{path: {tmp_path}/large.jsonl}}, {{path: {tmp_path}/small.jsonl}}]'
    xlab('fit', *[flag for flag in tiny if 'data.sources' not in flag], sources, '--trainer.log_every_n_steps=12')
    (row,) = rows(tmp_path / 'logs/version_0')
    shares = [row[f'share/{tmp_path}/{name}.jsonl'] for name in ('large', 'small')]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > shares[1] > 0


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('every_n_steps=0', 'curves.every_n_steps is 0; it must be at least 1'),
        ('spectra_every_n_steps=-1', 'curves.spectra_every_n_steps is -1; it must be 0 (never) or more'),
        ('peak_tflops=0', 'curves.peak_tflops is 0'),
    ],
)
def test_settings_out_of_range_are_refused(xlab, tiny, setting, message):
    status, printed = xlab('fit', *tiny, f'--curves.{setting}')
    assert status == 2
    assert message in printed
