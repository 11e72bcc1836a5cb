"""Several sources by weight, from the command line to the curves."""

import json

import pytest
from curves import read_curve


@pytest.fixture
def mixed(tiny, texts, tmp_path):
    """The flags of a tiny run on two sources of unlike size."""
    for name, some in (('large', texts[:220]), ('small', texts[220:])):
        (tmp_path / f'{name}.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in some))
    sources = f'--data.sources=[{{path: {tmp_path}/large.jsonl}}, {{path: {tmp_path}/small.jsonl}}]'
    return [*[flag for flag in tiny if 'data.sources' not in flag], sources]


def test_realised_shares_are_logged_and_those_asked_for(xlab, mixed, tmp_path):
    asked = [*mixed, '--data.weights=[1, 3]', '--trainer.log_every_n_steps=6']
    status, printed = xlab('fit', *asked)
    assert status == 0, printed
    shares = [read_curve(tmp_path / 'logs/version_0', f'share/{tmp_path}/{name}.jsonl') for name in ('large', 'small')]
    assert list(shares[0]) == list(shares[1]) == [6, 12]
    assert sum(shares[1].values()) / 2 == pytest.approx(0.75, abs=0.01)
    status, printed = xlab('fit', *asked, '--ckpt_path=last', '--trainer.max_steps=18')
    assert status == 0, printed
    assert list(read_curve(tmp_path / 'logs/version_0', f'share/{tmp_path}/small.jsonl')) == [6, 12, 18]


def test_a_run_that_would_exceed_a_cap_is_refused_before_it_starts(xlab, mixed, tmp_path):
    capped = [*mixed, '--data.weights=[1, 3]', '--data.max_source_epochs=[1, 2]']
    status, printed = xlab('fit', *capped, '--trainer.max_steps=60')
    assert status == 2, printed
    assert 'small.jsonl, but data.max_source_epochs allows 2; set trainer.max_steps to' in printed
    assert not list(tmp_path.glob('logs/version_0/checkpoints/*'))
    status, printed = xlab('fit', *capped, '--trainer.max_steps=2')
    assert status == 0, printed


def test_a_cap_needs_an_end_that_is_counted_in_steps(xlab, mixed):
    clocked = [flag for flag in mixed if 'max_steps' not in flag]
    clocked += ['--trainer.max_time=00:00:01:00', '--trainer.val_check_interval=6', '--model.schedule=WarmupConstant']
    status, printed = xlab('fit', *clocked, '--model.schedule.warmup_steps=0', '--data.max_source_epochs=[9, 9]')
    assert status == 2, printed
    assert 'nothing but trainer.max_time ends the run' in printed
    assert 'set trainer.max_steps too' in printed


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('weights=[0, 0]', 'sums to 0; give at least one source a weight above 0'),
        ('weights=[1]', 'has 1 numbers (1) for 2 sources'),
        ('max_source_epochs=[1]', 'has 1 numbers for 2 sources'),
    ],
)
def test_weights_and_caps_that_do_not_fit_are_refused(xlab, mixed, setting, message):
    status, printed = xlab('fit', *mixed, f'--data.{setting}')
    assert status == 2
    assert message in printed
