"""Optimizers, schedules and guards from the command line."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from curves import read_curve

from xlabml import checkpoints
from xlabml.models import XLabModel
from xlabml.pipelines import TextGenerator

AVERAGED = '--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.5}}]'
FLAT = ['--model.schedule=WarmupConstant', '--model.schedule.warmup_steps=0']


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
    assert read_curve(run, 'learning_rate/others')[6] == pytest.approx(0.015)


def test_another_optimizer_than_the_checkpoints_is_refused(xlab, tiny):
    xlab('fit', *tiny, '--trainer.max_steps=2', '--model.optimizer=xlabml.training.Muon')
    status, printed = xlab(
        'fit', *tiny, '--trainer.max_steps=4', '--ckpt_path=last', '--model.optimizer=xlabml.training.AdamW'
    )
    assert status == 2
    assert 'trained by xlabml.training.Muon' in printed


@pytest.mark.parametrize(
    ('optimizer', 'module'), [('torch.optim.Adafactor', ''), ('bitsandbytes.optim.AdamW8bit', 'bitsandbytes.optim')]
)
def test_optimizers_of_other_libraries_train_and_go_on_bit_for_bit(xlab, tiny, tmp_path, optimizer, module):
    """A factored one, and one whose state is of 8 bits where a tensor has 4,096 numbers or more."""
    if module:
        pytest.importorskip('bitsandbytes', reason='the extra `optimizers` is not installed')
    more = [f'--import={module}'] if module else []
    arguments = [
        *tiny,
        '--model.trunk.d_model=64',
        *more,
        f'--model.optimizer={optimizer}',
        '--model.optimizer.lr=0.01',
    ]
    arguments += ['--model.schedule=WarmupConstant', '--model.schedule.warmup_steps=0', '--trainer.max_steps=6']
    status, printed = xlab('fit', *arguments, '--trainer.default_root_dir=whole')
    assert status == 0, printed
    assert xlab('fit', *arguments, '--trainer.max_steps=3')[0] == 0
    status, printed = xlab('fit', *arguments, '--ckpt_path=last')
    assert status == 0, printed
    losses = read_curve(tmp_path / 'logs/version_0', 'train_loss')
    assert losses == read_curve(tmp_path / 'whole/logs/version_0', 'train_loss')
    assert losses[6] < losses[1]


def test_a_schedule_may_have_another_length_than_the_run(xlab, tiny, tmp_path):
    """512 tokens are 4 steps of 128."""
    schedule = ['--model.schedule=WarmupLinear', '--model.schedule.warmup_steps=0', '--model.horizon_tokens=512']
    status, printed = xlab('fit', *tiny, *schedule, '--trainer.max_steps=5')
    assert status == 0, printed
    rates = read_curve(tmp_path / 'logs/version_0', 'learning_rate/matrices')
    assert [rates[step] / rates[1] for step in range(1, 6)] == pytest.approx([1, 3 / 4, 1 / 2, 1 / 4, 0])
    status, printed = xlab('fit', *tiny, '--model.horizon_tokens=0')
    assert status == 2
    assert 'model.horizon_tokens is 0' in printed


def test_a_longer_run_says_what_becomes_of_its_rate(xlab, tiny):
    flat = ['--model.schedule.warmup_steps=0', '--model.optimizer.matrix_lr=0.01']
    assert xlab('fit', *tiny, *flat)[0] == 0
    status, printed = xlab('fit', '--ckpt_path=last', '--trainer.max_steps=16')
    assert status == 0, printed
    assert 'the schedule is 16 steps long, it was 12: the learning rate of matrices rises from 0 to 0.0025\n' in printed
    status, printed = xlab('fit', '--ckpt_path=last', '--trainer.max_steps=22', '--model.horizon_tokens=2560')
    assert status == 0, printed
    assert 'the schedule is 20 steps long, it was 16: the learning rate of matrices rises from 0 to 0.002\n' in printed
    for length in ('--trainer.max_steps=24', '--model.schedule=WarmupConstant'):
        status, printed = xlab('fit', '--ckpt_path=last', '--trainer.max_steps=24', length)
        assert status == 0, printed
        assert 'the schedule is' not in printed


@pytest.mark.parametrize(
    'length',
    [['--trainer.max_steps=5'], ['--model.horizon_tokens=640'], ['--trainer.max_steps=-1', '--trainer.max_epochs=1']],
)
def test_a_warmup_longer_than_the_run_is_refused_before_it_begins(xlab, tiny, tmp_path, length):
    status, printed = xlab('fit', *tiny, '--model.schedule.warmup_steps=500', *length)
    assert status == 2, printed
    assert 'model.schedule: a warmup of 500 steps does not fit into' in printed
    assert not (tmp_path / 'logs').exists()


def test_a_few_steps_that_try_a_run_need_not_hold_its_warmup(xlab, tiny):
    status, printed = xlab('fit', *tiny, '--model.schedule.warmup_steps=500', '--trainer.fast_dev_run=2')
    assert status == 0, printed


def test_a_run_of_a_few_steps_needs_no_other_schedule(xlab, tiny, tmp_path):
    for i, n in enumerate((1, 2, 5)):
        status, printed = xlab('fit', *tiny, f'--trainer.max_steps={n}', '--trainer.val_check_interval=1')
        assert status == 0, printed
        rates = read_curve(tmp_path / f'logs/version_{i}', 'learning_rate/matrices')
        assert all(rate > 0 for rate in rates.values())


def test_clipping_and_guards_are_settings_of_their_own_and_in_the_curves(xlab, tiny, tmp_path):
    clip = ['--model.clip=AdaptiveClip', '--model.clip.min_steps=2', '--model.clip.window_steps=4']
    status, printed = xlab('fit', *tiny, *clip, '--trainer.max_steps=4', '--nonfinite.max_in_row=2')
    assert status == 0, printed
    run = tmp_path / 'logs/version_0'
    assert yaml.safe_load((run / 'config.yaml').read_text())['nonfinite']['max_in_row'] == 2
    norms, limits = read_curve(run, 'gradient_norm'), read_curve(run, 'clip_limit')
    assert limits == pytest.approx({1: 1.0, 2: 1.0, 3: max(norms[1], norms[2]), 4: max(norms[i] for i in (1, 2, 3))})
    assert set(read_curve(run, 'skipped_steps').values()) == {0.0}
    status, printed = xlab('fit', *tiny, '--ckpt_path=last', '--trainer.max_steps=5')
    assert status == 0, printed
    assert read_curve(run, 'clip_limit')[5] == pytest.approx(max(norms.values()))


def test_averaged_weights_are_those_that_are_saved_and_a_resume_goes_on_with_both(xlab, tiny, tmp_path):
    """By hand: half the mean so far, half the new weights, after each step."""
    run = (*tiny, AVERAGED, *FLAT, '--trainer.val_check_interval=99', '--checkpoint.save_last_k=9')
    run = (*run, '--checkpoint.every_n_steps=1')
    status, printed = xlab('fit', *run, '--trainer.max_steps=5', '--trainer.default_root_dir=whole')
    assert status == 0, printed
    saved = [checkpoints.read(path) for path in sorted((tmp_path / 'whole/logs/version_0/checkpoints').glob('*.ckpt'))]
    assert len(saved) == 5
    for old, new in itertools.pairwise(saved):
        for name, mean in new['state_dict'].items():
            expected = (old['state_dict'][name] + new['current_model_state'][name]) / 2
            torch.testing.assert_close(mean, expected, msg=lambda text, name=name: f'{name}: {text}')
    xlab('fit', *run, '--trainer.max_steps=3')
    status, printed = xlab('fit', *run, '--trainer.max_steps=5', '--ckpt_path=last')
    assert status == 0, printed
    assert_same(checkpoints.read(checkpoints.find('last', tmp_path)), saved[-1])


def assert_same(resumed, whole):
    for part in ('state_dict', 'current_model_state'):
        for name, weight in whole[part].items():
            torch.testing.assert_close(resumed[part][name], weight, rtol=0, atol=0, msg=f'{part}: {name}')


@pytest.mark.parametrize(
    ('method', 'step'),
    [pytest.param('training_step', 3, marks=pytest.mark.slow), ('training_step', 2), ('validation_step', 3)],
)
def test_averaged_weights_go_on_after_an_interruption_as_if_there_had_been_none(
    xlab, tiny, tmp_path, interrupted, method, step
):
    """Between validations, before one and in one."""
    run = (*tiny, AVERAGED, *FLAT, '--trainer.val_check_interval=3', '--trainer.max_steps=5')
    assert xlab('fit', *run, '--trainer.default_root_dir=whole')[0] == 0
    with interrupted(method, step):
        assert xlab('fit', *run)[0] == 143
    status, printed = xlab('fit', *run, '--ckpt_path=last')
    assert status == 0, printed
    resumed, whole = (checkpoints.read(checkpoints.find('last', root)) for root in (tmp_path, tmp_path / 'whole'))
    assert_same(resumed, whole)
    curves = [read_curve(root / 'logs/version_0', 'val_loss') for root in (tmp_path, tmp_path / 'whole')]
    assert curves[0] == curves[1]


def as_before(checkpoint):
    """As the first format had it: the network of a task was its attribute `model`."""
    names = ('state_dict', 'current_model_state')
    weights = {
        part: {name.replace('network.', 'model.'): weight for name, weight in checkpoint[part].items()}
        for part in names
        if part in checkpoint
    }
    return {**checkpoint, **weights, 'xlabml_format': 1}


@pytest.mark.parametrize('averaged', [[], [AVERAGED]])
def test_a_checkpoint_of_the_first_format_is_resumed_and_opened(xlab, tiny, tmp_path, averaged):
    run = (
        *tiny,
        *averaged,
        *FLAT,
        '--trainer.val_check_interval=99',
        '--trainer.max_steps=4',
        '--checkpoint.save_last_k=9',
    )
    run = (*run, '--checkpoint.every_n_steps=2')
    assert xlab('fit', *run, '--trainer.default_root_dir=whole')[0] == 0
    folder = tmp_path / 'whole/logs/version_0/checkpoints'
    old, whole = (
        as_before(checkpoints.read(folder / 'step=0000002.ckpt')),
        checkpoints.read(checkpoints.find_newest(folder)),
    )
    torch.save(old, tmp_path / 'old.ckpt')
    status, printed = xlab('fit', *run, f'--ckpt_path={tmp_path}/old.ckpt')
    assert status == 0, printed
    resumed = checkpoints.read(checkpoints.find('last', tmp_path))
    for part in ('state_dict', *(['current_model_state'] if averaged else [])):
        for name, weight in whole[part].items():
            assert name.startswith('network.')
            assert torch.equal(resumed[part][name], weight), f'{part}: {name}'
    exported = checkpoints.export(tmp_path / 'old.ckpt', tmp_path / 'old.safetensors').path
    for path in (tmp_path / 'old.ckpt', exported):
        model = XLabModel.load_from_checkpoint(path)
        for name, weight in old['state_dict'].items():
            assert torch.equal(model.state_dict()[name.replace('model.', 'network.')], weight)
        assert TextGenerator.load(path, 'cpu').generate('the cat', 3, greedy=True)


def test_without_a_validation_the_end_saves_trained_and_averaged_weights_apart(xlab, tiny, tmp_path):
    run = (*tiny, AVERAGED, *FLAT, '--trainer.limit_val_batches=0', '--checkpoint.save_last_k=9')
    assert xlab('fit', *run, '--trainer.max_steps=4', '--trainer.default_root_dir=whole')[0] == 0
    assert xlab('fit', *run, '--trainer.max_steps=2')[0] == 0
    assert xlab('fit', *run, '--trainer.max_steps=4', '--ckpt_path=last')[0] == 0
    assert_same(*(checkpoints.read(checkpoints.find('last', root)) for root in (tmp_path, tmp_path / 'whole')))


def test_the_overlay_averages_from_the_first_step_on(xlab, tiny, tmp_path):
    """The mean of one step's weights are these, not those that the run began with."""
    overlay = Path(__file__).parents[2] / 'conf/extra/ema.yaml'
    status, printed = xlab('fit', *tiny, *FLAT, '-c', overlay, '--trainer.max_steps=1')
    assert status == 0, printed
    saved = checkpoints.read(checkpoints.find('last', tmp_path))
    for name, weight in saved['current_model_state'].items():
        torch.testing.assert_close(saved['state_dict'][name], weight, rtol=0, atol=0)
