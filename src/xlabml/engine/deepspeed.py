"""DeepSpeed by configuration, which may say nothing that our settings say already.

Two places for one value drift apart in silence: a batch or an accumulation that the engine and the training loop count
differently trains another model than the settings describe. So a value has one owner, and a second one is an error.
"""

import importlib.util
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, StrategyRegistry

from .run import Run

OWNERS = {
    'train_batch_size': 'data.batch_tokens',
    'train_micro_batch_size_per_gpu': 'data.device_batch_tokens',
    'gradient_accumulation_steps': 'data.device_batch_tokens',
    'gradient_clipping': 'trainer.gradient_clip_val',
    'fp16': 'trainer.precision',
    'bf16': 'trainer.precision',
    'bfloat16': 'trainer.precision',
    'amp': 'trainer.precision',
    'torch_autocast': 'trainer.precision',
    'optimizer': 'model.optimizer',
    'scheduler': 'model.schedule',
    'data_efficiency': 'data.plan',
    'curriculum_learning': 'data.plan',
}
"""What a DeepSpeed configuration could set although it is a setting of ours, and which."""

_MEANING = {
    'data.batch_tokens': 'what a step sees over all devices, in tokens',
    'data.device_batch_tokens': 'what a device holds at a time, in tokens; accumulation follows',
}


class DeepSpeed(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy on our batches, under any of its names (deepspeed_stage_2 and so on)."""

    def _auto_select_batch_size(self) -> int:
        """Rows that a device holds at a time: our loader gives whole batches, of which Lightning reads no size."""
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        data = Run.of(trainer).data
        return data.batch_tokens // data.max_len // (trainer.world_size * trainer.accumulate_grad_batches)


for _name in [name for name in StrategyRegistry.available_strategies() if name.startswith('deepspeed')]:
    _entry = StrategyRegistry[_name]
    StrategyRegistry.register(_name, DeepSpeed, _entry['description'], override=True, **_entry['init_params'])


def check_deepspeed(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse a DeepSpeed configuration that sets what our settings set, equal or not, and what goes with neither.

    Args:
        settings: All settings, in plain values.
        arguments: Those of the strategy.

    Raises:
        ValueError: Both places are named, with their values; or DeepSpeed is not installed.
    """
    given, where = _read(arguments.get('config'))
    problems = [*_twice(settings, given, where), *_unread(arguments, where), *_unfit(settings)]
    if arguments.get('logging_batch_size_per_gpu', 'auto') != 'auto':
        given = {'train_micro_batch_size_per_gpu': arguments['logging_batch_size_per_gpu']}
        problems += _twice(settings, given, 'trainer.strategy.logging_batch_size_per_gpu')
    if problems:
        raise ValueError('; '.join(problems))
    if importlib.util.find_spec('deepspeed') is None:
        raise ValueError("trainer.strategy is DeepSpeed, which is not installed; pip install 'xlabml[deepspeed]'")


def _read(config: Any) -> tuple[dict[str, Any], str]:
    """A configuration, and where it is from: the file or dictionary of the settings, or the file that Lightning takes
    from the environment."""
    variable = DeepSpeedStrategy.DEEPSPEED_ENV_VAR
    if config is None and os.environ.get(variable):
        return _read(os.environ[variable])
    if config is None:
        return {}, ''
    if isinstance(config, Mapping):
        return dict(config), 'trainer.strategy.config'
    path = Path(config)
    if not path.is_file():
        raise ValueError(f'trainer.strategy.config names {path}, but there is no such file')
    try:
        content = json.loads(path.read_text('utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}); DeepSpeed reads its configuration from JSON') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no settings; a DeepSpeed configuration is a JSON object')
    return content, str(path)


def _twice(settings: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, owner in OWNERS.items():
        if name in given:
            group, _, key = owner.partition('.')
            own = settings[group].get('init_args', settings[group]).get(key)
            meaning = f', {_MEANING[owner]}' if owner in _MEANING else ''
            yield (
                f'{where} sets {name} to {json.dumps(given[name])}, but that is for {owner} to say, which is '
                f'{json.dumps(own)}{meaning}; take {name} out, and set {owner}'
            )


def _unread(arguments: Mapping[str, Any], where: str) -> Iterator[str]:
    """Lightning reads a configuration or the strategy's own arguments, not both."""
    if not where:
        return
    defaults = inspect.signature(DeepSpeedStrategy).parameters
    apart = {'config', 'logging_level', 'load_full_weights', 'process_group_backend', 'timeout', 'remote_device'}
    for name, value in arguments.items():
        if name in defaults and name not in apart and value != defaults[name].default:
            yield f'trainer.strategy.{name} is {value}, but {where} is read instead; leave one of them out'


def _unfit(settings: Mapping[str, Any]) -> Iterator[str]:
    model = settings['model'].get('init_args') or {}
    optimizer = (model.get('optimizer') or {}).get('class_path', '')
    if optimizer.rpartition('.')[2] == 'Muon':
        yield (
            'model.optimizer is Muon, which needs whole matrices, but DeepSpeed cuts weights into flat pieces; take '
            'xlabml.training.AdamW, or trainer.strategy sharded'
        )
    if model.get('clip') is not None:
        yield (
            'model.clip is set, but DeepSpeed clips by itself; set trainer.gradient_clip_val, or take trainer.strategy '
            'sharded'
        )
    if settings.get('ckpt_path') is not None:
        yield (
            f'ckpt_path is {settings["ckpt_path"]}, but under DeepSpeed checkpoints are folders of its own, which '
            'xlab does not go on from; take trainer.strategy sharded for runs that are to be resumed'
        )
