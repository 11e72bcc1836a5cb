"""The denoising autoencoder through the doors: nothing of it stands outside its own files."""

import json

import pytest
import torch

from xlabml import checkpoints

FLAGS = [
    '--model=DenoisingAutoencoder',
    '--model.trunk.d_model=16',
    '--model.trunk.n_layers=2',
    '--model.trunk.n_heads=2',
    '--model.trunk.causal=false',
    '--model.schedule=WarmupConstant',
    '--model.schedule.warmup_steps=0',
    '--data.examples=DenoisedTexts',
    '--data.batch_groups=8',
]


@pytest.fixture
def denoising(tiny):
    left_out = ('--model.', '--data.batch_tokens', '--samples')
    return [flag for flag in tiny if not flag.startswith(left_out)] + FLAGS


def test_fit_test_predict_and_resume_bit_for_bit(xlab, denoising, tmp_path):
    status, printed = xlab('fit', *denoising, '--trainer.default_root_dir=whole')
    assert status == 0, printed
    assert 'nats/token' in printed
    status, printed = xlab('fit', *denoising, '--trainer.max_steps=6')
    assert status == 0, printed
    status, printed = xlab('fit', *denoising, '--ckpt_path=last')
    assert status == 0, printed
    assert 'resuming from' in printed
    whole, broken = (checkpoints.read(checkpoints.find('last', tmp_path / name)) for name in ('whole', '.'))
    for name, tensor in whole['state_dict'].items():
        assert torch.equal(tensor, broken['state_dict'][name]), name
    status, printed = xlab('predict', *denoising, '--ckpt_path=last')
    assert status == 0, printed
    line = json.loads(next(tmp_path.glob('logs/version_0/predictions*')).read_text().splitlines()[0])
    assert line['tokens'] > 1
    assert line['nats'] > 0
    status, printed = xlab('test', *denoising, '--ckpt_path=last')
    assert status == 0, printed
    assert 'accuracy' in printed


def test_a_language_model_does_not_train_on_noisy_texts(xlab, denoising):
    flags = [flag for flag in denoising if not flag.startswith('--model')]
    status, printed = xlab('fit', *flags)
    assert status == 2
    assert 'DenoisedTexts, which yields ReconstructionTargets, but XLabModel trains on TokenTargets' in printed
