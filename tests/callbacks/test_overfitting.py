"""A model that overfits: said once, and the end of the run where that is asked for."""

from types import SimpleNamespace
from unittest import mock

import lightning.pytorch as L
import pytest
import torch

from xlabml.callbacks import Overfitting
from xlabml.engine import Run
from xlabml.evaluation import Monitor


def validate(callback, losses, train_losses, mode='min', ended=None):
    """Feed figures of validations to a callback; the steps at which the run was ended."""
    ends = []
    for i, (loss, train) in enumerate(zip(losses, train_losses), 1):
        trainer = mock.Mock(
            spec=L.Trainer,
            state=SimpleNamespace(fn='fit'),
            sanity_checking=False,
            global_step=10 * i,
            is_global_zero=True,
            callback_metrics={'val_loss': torch.tensor(float(loss))},
        )
        run = Run.of(trainer)
        run.newest_row = {'train_loss': float(train)}
        run.end = lambda status, why, step=10 * i: ends.append((step, status, why))
        callback.on_validation_end(trainer, mock.Mock(spec=L.LightningModule, monitor=Monitor('val_loss', mode)))
    return ends


def test_it_is_said_once_with_the_flag_that_ends_such_a_run(capsys):
    ends = validate(Overfitting(), [3, 2, 2.1, 2.2, 2.3, 2.4, 2.5], [3, 2, 1.9, 1.8, 1.7, 1.6, 1.5])
    said = capsys.readouterr().out
    assert said.count('overfits') == said.count('\n') == 1
    assert '3 validations in a row were no better than that of step 20 (val_loss 2.0000)' in said
    assert '--overfitting.patience 3' in said
    assert ends == []


@pytest.mark.parametrize(
    ('losses', 'train'),
    [
        ([3, 2, 2.1, 2.2, 1.9, 2.1, 2.2], [3, 2, 1.9, 1.8, 1.7, 1.6, 1.5]),  # better between
        ([3, 2, 2.1, 2.2, 2.3, 2.4, 2.5], [3, 2, 2.1, 2.2, 2.3, 2.4, 2.5]),  # training gets worse too: it diverges
    ],
)
def test_what_is_no_overfitting_is_not_called_so(losses, train, capsys):
    validate(Overfitting(), losses, train)
    assert capsys.readouterr().out == ''


def test_patience_ends_the_run_with_status_0(capsys):
    ends = validate(Overfitting(patience=2), [3, 2, 2.1, 2.2], [3, 2, 1.9, 1.8])
    assert [(step, status) for step, status, _ in ends] == [(40, 0)]
    assert 'overfitting.patience' in ends[0][2]


def test_a_figure_that_rises_as_it_gets_better(capsys):
    assert validate(Overfitting(patience=2), [0.1, 0.2, 0.3, 0.2, 0.1], [3, 2, 1, 0.9, 0.8], mode='max')[0][0] == 50


def test_a_resumed_run_counts_on(capsys):
    first = Overfitting(patience=3)
    validate(first, [3, 2, 2.1, 2.2], [3, 2, 1.9, 1.8])
    second = Overfitting(patience=3)
    second.load_state_dict(first.state_dict())
    assert validate(second, [2.3], [1.7])
    assert Overfitting().state_dict() == {}


@pytest.mark.parametrize(('options', 'name'), [({'patience': 0}, 'patience'), ({'notice': -1}, 'notice')])
def test_bounds(options, name):
    with pytest.raises(ValueError, match=rf'overfitting\.{name} is'):
        Overfitting(**options)
