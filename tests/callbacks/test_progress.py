"""What a terminal and a log show of a run's progress."""

import io
import re
import time
from types import SimpleNamespace
from unittest import mock

import lightning.pytorch as L
import pytest
from rich.console import Console

from xlabml.callbacks import Progress
from xlabml.callbacks.bar import Bar, Piece, fit_pieces
from xlabml.engine import Run
from xlabml.figures import describe_figures, describe_seconds

MODULE = mock.Mock(spec=L.LightningModule)
PIECES = [
    Piece('12 min 5 s left', 1),
    Piece('loss 4.123', 2),
    Piece('val 2.101 bits/byte', 3),
    Piece('10,234 tokens/s', 4),
    Piece('lr 1.0e-03', 5),
]


@pytest.mark.parametrize(
    ('width', 'shown'),
    [
        (200, ['left', 'loss', 'val', 'tokens/s', 'lr']),
        (60, ['left', 'loss', 'val']),
        (40, ['left', 'loss']),
        (30, ['left', 'loss']),
        (16, ['left']),
        (3, ['left']),
    ],
)
def test_the_most_important_pieces_stay_in_their_order(width, shown):
    found = fit_pieces(PIECES, width)
    assert [piece.text for piece in PIECES if piece.text in found] == found
    assert [word for word in ('left', 'loss', 'val', 'tokens/s', 'lr') if any(word in text for text in found)] == shown


@pytest.mark.parametrize('width', [60, 80, 120])
def test_a_bar_keeps_step_time_left_and_loss_on_one_line_of_any_width(width):
    printed = io.StringIO()
    console = Console(file=printed, width=width, force_terminal=True, color_system=None)
    bar = Bar(console=console, auto_refresh=False)
    bar.add_task('train', total=1950, completed=390, pieces=PIECES, unit='steps')
    console.print(bar)
    (line,) = printed.getvalue().rstrip('\n').splitlines()
    assert len(line) < width
    for word in ('390/1,950 steps', '12 min 5 s left', 'loss 4.123'):
        assert word in line
    assert ('val 2.101' in line) == (width >= 80)
    assert ('tokens/s' in line) == (width == 120)
    assert '━╌' in line


def test_a_bar_follows_the_width_of_its_terminal():
    printed = io.StringIO()
    console = Console(file=printed, width=120, force_terminal=True, color_system=None)
    bar = Bar(console=console, auto_refresh=False)
    bar.add_task('train', total=None, completed=3, pieces=PIECES, unit='steps')
    console.print(bar)
    console.width = 50
    console.print(bar)
    wide, narrow = printed.getvalue().rstrip('\n').splitlines()
    assert len(narrow) < 50 < len(wide)
    assert narrow.startswith('3 steps')


@pytest.mark.parametrize(
    ('seconds', 'said'),
    [
        (0.2, '0 s'),
        (42.0, '42 s'),
        (60.0, '1 min'),
        (200.0, '3 min 20 s'),
        (7500.0, '2 h 5 min'),
        (360000.0, '4 d 4 h'),
    ],
)
def test_durations(seconds, said):
    assert describe_seconds(seconds) == said


def trainer_at(step, row, data=None):
    """As much of a trainer as the lines ask for."""
    trainer = mock.Mock(
        spec=L.Trainer,
        global_step=step,
        max_steps=200,
        is_global_zero=True,
        callback_metrics={},
        lightning_module=None,
        datamodule=data,
        fit_loop=SimpleNamespace(_should_accumulate=lambda: False),
    )
    Run.of(trainer).newest_row = row
    return trainer


def test_a_log_has_a_line_every_n_seconds(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    progress = Progress(line_seconds=60.0)
    progress.on_train_start(trainer_at(0, {}), MODULE)
    said = {}
    for step in range(1, 151):
        now += 1.0
        row = {'tokens_per_second': 1234.5, 'learning_rate/all': 0.01} if step >= 5 else {}
        progress.on_train_batch_end(trainer_at(step, row), MODULE)
        if printed := capsys.readouterr().out:
            said[step] = printed
    assert list(said) == [10, 70, 130]
    assert re.fullmatch(r'\d\d:\d\d:\d\d  step 70 of 200  2 min 10 s left  1,234 tokens/s  lr 1.0e-02\n', said[70])


@pytest.mark.parametrize(('refresh', 'every'), [(0.0, 60.0), (0.25, 0.0)])
def test_lines_can_be_turned_off(monkeypatch, capsys, refresh, every):
    now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    progress = Progress(refresh, every)
    progress.on_train_start(trainer_at(0, {}), MODULE)
    now += 1000
    progress.on_train_batch_end(trainer_at(9, {'tokens_per_second': 1.0}), MODULE)
    assert capsys.readouterr().out == ''


def test_ends_of_epochs_are_marked_and_those_of_many_only_in_part(capsys):
    for steps_per_epoch, marked in ((60.0, ['1', '2', '3']), (1.0, ['10', '20', '30'])):
        data = SimpleNamespace(steps_per_epoch=lambda each=steps_per_epoch: each)
        progress = Progress(line_seconds=0.0)
        progress.on_train_start(trainer_at(0, {}, data), MODULE)
        for step in range(1, 200):
            progress.on_train_batch_end(trainer_at(step, {}), MODULE)
        found = re.findall(r'step (\d+): end of epoch (\d+) of', capsys.readouterr().out)
        assert [epoch for _, epoch in found][:3] == marked
        assert all(int(step) == int(epoch) * steps_per_epoch for step, epoch in found)


def test_seconds_below_zero_are_refused():
    with pytest.raises(ValueError, match=r'progress\.line_seconds is -1'):
        Progress(line_seconds=-1.0)


FIGURES = {'loss': 0.5, 'loss_low': 0.25, 'loss_high': 0.75, 'accuracy': 0.8, 'f1': 0.5, 'snow_low': 1.0, 'bits/a': 9.0}


@pytest.mark.parametrize(
    ('width', 'line'),
    [
        (None, '0.5000 nats (0.2500 to 0.7500), accuracy 80.00%, f1 0.5000, snow_low 1.0000'),
        (200, '0.5000 nats, accuracy 80.00%, f1 0.5000, snow_low 1.0000'),
        (56, '0.5000 nats, accuracy 80.00%, f1 0.5000, snow_low 1.0000'),
        (55, '0.5000 nats, accuracy 80.00%, f1 0.5000, and 1 more'),
        (45, '0.5000 nats, accuracy 80.00%, and 2 more'),
        (5, '0.5000 nats, and 3 more'),
    ],
)
def test_a_line_has_as_many_figures_as_fit_and_counts_the_others(width, line):
    assert describe_figures(FIGURES, {'loss': 'nats', 'accuracy': '%'}, width) == line
