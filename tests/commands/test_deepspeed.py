"""DeepSpeed's configuration owns nothing that is a setting of ours: each value that stands twice is an error."""

import importlib.util
import json

import pytest

from xlabml.engine import DeepSpeed
from xlabml.engine.deepspeed import OWNERS

STAGE_2 = {'zero_optimization': {'stage': 2}}


@pytest.fixture
def told(xlab, tiny, tmp_path):
    """What `fit` says to a DeepSpeed configuration, before anything is built."""

    def run(config, *flags):
        path = tmp_path / 'ds.json'
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        strategy = f'--trainer.strategy={{class_path: xlabml.engine.DeepSpeed, init_args: {{config: {path}}}}}'
        status, printed = xlab('fit', *tiny, '--model.optimizer=xlabml.training.AdamW', strategy, *flags)
        assert status == 2
        assert not (tmp_path / 'logs').exists()
        return printed

    return run


@pytest.mark.parametrize('name', OWNERS)
def test_a_value_of_ours_in_the_configuration_is_an_error_that_names_both(told, name):
    printed = told({**STAGE_2, name: 1})
    assert f'ds.json sets {name} to 1, but its setting is {OWNERS[name]}' in printed
    assert f'remove {name}, and set {OWNERS[name]}' in printed


def test_even_the_same_value_twice_is_an_error_and_all_are_named_at_once(told):
    config = {'gradient_clipping': 0.5, 'train_batch_size': 4, 'bf16': {'enabled': False}, **STAGE_2}
    printed = told(config, '--trainer.gradient_clip_val=0.5')
    assert 'sets gradient_clipping to 0.5, but its setting is trainer.gradient_clip_val, which is 0.5' in printed
    assert 'sets train_batch_size to 4, but its setting is data.batch_tokens, which is 128' in printed
    assert 'sets bf16 to {"enabled": false}, but its setting is trainer.precision, which is "32-true"' in printed


def test_a_dictionary_an_argument_and_the_environment_are_held_to_the_same(xlab, tiny, tmp_path, monkeypatch):
    inline = {'config': {'gradient_accumulation_steps': 2}}
    status, printed = xlab('fit', *tiny, f'--trainer.strategy={_strategy(inline)}')
    assert status == 2
    assert 'trainer.strategy.config sets gradient_accumulation_steps to 2' in printed
    status, printed = xlab('fit', *tiny, f'--trainer.strategy={_strategy({"logging_batch_size_per_gpu": 8})}')
    assert status == 2
    assert 'logging_batch_size_per_gpu sets train_micro_batch_size_per_gpu to 8' in printed
    (tmp_path / 'env.json').write_text(json.dumps({'optimizer': {'type': 'Adam'}}))
    monkeypatch.setenv('PL_DEEPSPEED_CONFIG_PATH', str(tmp_path / 'env.json'))
    status, printed = xlab('fit', *tiny, '--trainer.strategy=deepspeed_stage_2')
    assert status == 2
    assert 'env.json sets optimizer to {"type": "Adam"}, but its setting is model.optimizer' in printed


def _strategy(arguments):
    return json.dumps({'class_path': 'xlabml.engine.DeepSpeed', 'init_args': arguments})


def test_a_configuration_and_arguments_beside_it_are_refused(told):
    printed = told(STAGE_2, '--trainer.strategy.stage=3')
    assert 'trainer.strategy.stage is 3, but ' in printed
    assert 'ds.json is used instead' in printed


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('--model.optimizer=xlabml.training.Muon', 'model.optimizer is Muon, which needs whole matrices'),
        ('--model.clip=AdaptiveClip', 'model.clip is set, but DeepSpeed clips by itself'),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(told, flag, message):
    assert message in told(STAGE_2, flag)


@pytest.mark.parametrize('config', ['{', '[1]', None])
def test_a_broken_configuration_is_named(told, xlab, tiny, config):
    if config is None:
        status, printed = xlab('fit', *tiny, f'--trainer.strategy={_strategy({"config": "none.json"})}')
        assert status == 2
        assert 'trainer.strategy.config names none.json, but there is no such file' in printed
    else:
        assert 'ds.json' in told(config)


def test_without_deepspeed_it_is_said_what_to_install(told, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'deepspeed' else find(name))
    assert "pip install 'xlabml[deepspeed]'" in told(STAGE_2)


@pytest.mark.parametrize(
    ('strategy', 'instead'),
    [
        ('fsdp', 'take sharded'),
        ('{class_path: lightning.pytorch.strategies.ModelParallelStrategy}', 'take sharded'),
        ('{class_path: lightning.pytorch.strategies.DeepSpeedStrategy}', 'take xlabml.engine.DeepSpeed'),
    ],
)
def test_strategies_that_would_train_something_else_are_refused(xlab, tiny, strategy, instead):
    status, printed = xlab('fit', *tiny, f'--trainer.strategy={strategy}')
    assert status == 2
    assert instead in printed


def test_fp16_is_refused_where_no_loss_scale_is_kept(xlab, tiny):
    status, printed = xlab('fit', *tiny, '--trainer.strategy=sharded', '--trainer.precision=16-mixed')
    assert status == 2
    assert 'take bf16-mixed or 32-true' in printed


def test_every_deepspeed_name_of_lightning_gives_our_strategy():
    from lightning.pytorch.strategies import StrategyRegistry

    names = [name for name in StrategyRegistry.available_strategies() if name.startswith('deepspeed')]
    assert len(names) > 3
    assert {StrategyRegistry[name]['strategy'] for name in names} == {DeepSpeed}
    assert StrategyRegistry['deepspeed_stage_3']['init_params'] == {'stage': 3}
