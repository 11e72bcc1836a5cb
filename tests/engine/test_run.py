"""How a run ends, and what a plain trainer has in its place."""

import lightning.pytorch as L
import pytest

from xlabml.engine import Run, Trainer

QUIET = {'accelerator': 'cpu', 'logger': False, 'enable_checkpointing': False}


@pytest.fixture
def trainer():
    return Trainer(max_steps=9, min_steps=5, **QUIET)


def test_the_first_reason_to_end_counts_and_no_minimum_of_steps_holds_the_run_up(trainer):
    run = Run.of(trainer)
    assert run is trainer.run
    assert run.status == 0
    run.end(124, 'trainer.max_time is over')
    run.end(143, 'interrupted')
    assert (run.status, run.ended.why, run.ended.is_saved) == (124, 'trainer.max_time is over', True)
    assert trainer.should_stop
    assert trainer.min_steps is None


def test_a_reason_after_which_nothing_is_saved_beats_one_that_saves(trainer):
    run = Run.of(trainer)
    run.end(143, 'interrupted')
    run.end(3, 'a loss spike', is_saved=False)
    run.end(124, 'trainer.max_time is over')
    assert (run.status, run.ended.is_saved) == (3, False)


def test_a_plain_trainer_gets_a_run_when_it_is_first_asked_for():
    trainer = L.Trainer(**QUIET)
    assert Run.of(trainer) is Run.of(trainer)
    assert Run.of(trainer).places_read(1, 2) == []
