"""Muon from the command line."""

import pytest
import yaml
from curves import read_curve


def test_muon_trains_accumulates_and_goes_on_at_the_rate_that_is_typed_now(xlab, tiny, tmp_path):
    muon = [
        '--model.optimizer=xlabml.training.Muon',
        '--model.optimizer.matrix_lr=0.03',
        '--model.schedule=WarmupConstant',
    ]
    status, printed = xlab('fit', *tiny, *muon, '--data.device_batch_tokens=64', '--trainer.max_steps=4')
    assert status == 0, printed
    run = tmp_path / 'logs/version_0'
    optimizer = yaml.safe_load((run / 'config.yaml').read_text())['model']['init_args']['optimizer']
    assert optimizer['class_path'] == 'xlabml.training.Muon'
    assert optimizer['init_args']['matrix_lr'] == 0.03
    status, printed = xlab(
        'fit',
        *tiny,
        '--trainer.max_steps=6',
        '--ckpt_path=last',
        '--model.optimizer=xlabml.training.Muon',
        '--model.optimizer.matrix_lr=0.01',
    )
    assert status == 0, printed
    rates = read_curve(run, 'learning_rate/matrices')
    assert (rates[4], rates[6]) == pytest.approx((0.03, 0.01))
    assert read_curve(run, 'learning_rate/others')[6] == pytest.approx(0.006)


def test_another_optimizer_than_the_checkpoints_is_refused(xlab, tiny):
    xlab('fit', *tiny, '--trainer.max_steps=2', '--model.optimizer=xlabml.training.Muon')
    status, printed = xlab(
        'fit', *tiny, '--trainer.max_steps=4', '--ckpt_path=last', '--model.optimizer=xlabml.training.AdamW'
    )
    assert status == 1
    assert 'trained by xlabml.training.Muon' in printed
