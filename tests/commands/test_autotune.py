"""`xlab fit --autotune`: the run that follows is the one that the chosen value alone would give."""

import signal

import pytest
import torch
import yaml

from xlabml import checkpoints
from xlabml.commands import autotune
from xlabml.models import XLabModel


def saved(folder):
    run = folder / 'logs/version_0'
    (path,) = (run / 'checkpoints').glob('*.ckpt')
    return yaml.safe_load((run / 'config.yaml').read_text()), checkpoints.read(path), path


def test_the_run_is_bit_for_bit_the_one_of_the_chosen_value_which_a_resume_keeps(xlab, tiny, tmp_path):
    run = [*tiny, '--data.batch_tokens=256', '--trainer.max_steps=3', '--trainer.val_check_interval=3']
    status, printed = xlab('fit', '--autotune', *run, '--trainer.default_root_dir=tuned')
    assert status == 0, printed
    for size in (32, 64, 128, 256):
        assert f'\n{size:20,}' in printed
    config, checkpoint, _ = saved(tmp_path / 'tuned')
    chosen = config['data']['device_batch_tokens']
    assert f'data.device_batch_tokens={chosen} is the fastest' in printed
    assert checkpoint['datamodule_hyper_parameters']['device_batch_tokens'] == chosen

    status, printed = xlab('fit', *run, f'--data.device_batch_tokens={chosen}', '--trainer.default_root_dir=given')
    assert status == 0, printed
    other_config, other, _ = saved(tmp_path / 'given')
    config['trainer']['default_root_dir'] = other_config['trainer']['default_root_dir']
    assert config == other_config
    for name, weight in other['state_dict'].items():
        assert torch.equal(checkpoint['state_dict'][name], weight), name

    run[run.index('--trainer.max_steps=3')] = '--trainer.max_steps=4'
    status, printed = xlab('fit', '--autotune', *run, '--trainer.default_root_dir=tuned', '--ckpt_path=last')
    assert status == 0, printed
    assert f'resuming with data.device_batch_tokens={chosen}: nothing is tuned' in printed


def test_what_does_not_fit_into_memory_ends_the_search(capsys, monkeypatch):
    def measure(config, size, are_groups):
        assert not are_groups
        if size > 64:
            raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return {32: 0.01, 64: 0.04}[size], 1

    monkeypatch.setattr(autotune, 'measure', measure)
    data = {'device_batch_tokens': None, 'batch_tokens': 256, 'max_len': 32}
    assert autotune.tune({'data': data}) == 32
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ['32', '10.0', '3,200', '-'] or torch.cuda.is_available()
    assert lines[3].split() == ['128', 'out', 'of', 'memory']
    assert '256' not in ' '.join(lines)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def measure(config, size, are_groups):
        raise RuntimeError('shapes do not match')

    monkeypatch.setattr(autotune, 'measure', measure)
    with pytest.raises(RuntimeError, match='shapes'):
        autotune.tune({'data': {'device_batch_tokens': None, 'batch_tokens': 64, 'max_len': 32}})


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize('step', [0, 2])
def test_a_signal_while_it_measures_ends_the_command(xlab, tiny, tmp_path, monkeypatch, step, number, status):
    training_step, n_runs = XLabModel.training_step, []

    def interrupted(model, batch, index):
        n_runs.extend([model] * (not index))
        if index == 2 * step:  # every step has two
            signal.raise_signal(number)
        return training_step(model, batch, index)

    monkeypatch.setattr(XLabModel, 'training_step', interrupted)
    found, printed = xlab('fit', '--autotune', *tiny, '--data.batch_tokens=256')
    assert found == status, printed
    assert 'interrupted while it measured' in printed
    assert len(n_runs) == 1
    assert not (tmp_path / 'logs').exists()


@pytest.mark.parametrize(
    ('batch_tokens', 'expected'),
    [(32, [32]), (256, [32, 64, 128, 256]), (192, [32, 64, 192]), (2**13, [2**i for i in range(8, 14)])],
)
def test_sizes_divide_a_step_into_micro_batches(batch_tokens, expected):
    assert autotune.sizes(batch_tokens, 32) == expected


def test_a_value_that_is_set_and_other_commands_are_refused(xlab, tiny):
    status, printed = xlab('fit', '--autotune', *tiny, '--data.device_batch_tokens=64')
    assert status == 2
    assert '--autotune chooses data.device_batch_tokens, which is set to 64' in printed
    status, printed = xlab('fit', '--autotune', *tiny, '--data.batch_tokens=96', '--data.max_len=64')
    assert status == 2
    assert 'data.batch_tokens is 96' in printed
    assert 'tokens/s' not in printed
    status, printed = xlab('prepare_data', '--autotune', *tiny)
    assert status == 2
    assert '--autotune goes with fit, not with prepare_data' in printed
