"""DeepSpeed by configuration, which must not set what our settings set.

A value with two places can differ between them: if DeepSpeed and the training loop disagree on batch size or
accumulation, another model is trained than the settings describe. So each value has one owner; a second is an error.
"""

import importlib.util
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

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
"""Keys of a DeepSpeed configuration that are settings of ours, and which."""

_MEANING = {
    'data.batch_tokens': 'tokens of a step over all devices',
    'data.device_batch_tokens': 'tokens of a micro-batch on a device, from which accumulation follows',
}


class DeepSpeed(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy with our batches, under any of its names (deepspeed_stage_2 and so on)."""

    def _auto_select_batch_size(self) -> int:
        """Rows or groups of a micro-batch on a device, which Lightning cannot read from our loader of whole batches."""
        assert self.lightning_module is not None
        return Run.of(self.lightning_module.trainer).data.examples_per_batch


for _name in [name for name in StrategyRegistry.available_strategies() if name.startswith('deepspeed')]:
    _entry = StrategyRegistry[_name]
    StrategyRegistry.register(_name, DeepSpeed, _entry['description'], override=True, **_entry['init_params'])


def value_at(values: object, *path: str) -> object:
    """The value at a path of nested mappings; None where there is none."""
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def check_deepspeed(settings: Mapping[str, object], arguments: Mapping[str, object]) -> None:
    """Refuse a DeepSpeed configuration that sets what our settings set, equal or not, or that contradicts them.

    Args:
        settings: All settings, in plain values.
        arguments: The arguments of the strategy.

    Raises:
        ValueError: A value is set twice (the message names both places and values) or contradicts another; or DeepSpeed
            is not installed.
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


def _read(config: object) -> tuple[dict[str, object], str]:
    """A configuration, and its origin: the file or dictionary of the settings, or the file named in the environment."""
    variable = DeepSpeedStrategy.DEEPSPEED_ENV_VAR
    if config is None and os.environ.get(variable):
        return _read(os.environ[variable])
    if config is None:
        return {}, ''
    if isinstance(config, Mapping):
        return dict(config), 'trainer.strategy.config'
    path = Path(str(config))
    if not path.is_file():
        raise ValueError(f'trainer.strategy.config names {path}, but there is no such file')
    try:
        content = json.loads(path.read_text('utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}); DeepSpeed reads its configuration from JSON') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no settings; a DeepSpeed configuration is a JSON object')
    return content, str(path)


def _twice(settings: Mapping[str, object], given: Mapping[str, object], where: str) -> Iterator[str]:
    for name, owner in OWNERS.items():
        if name in given:
            group, _, key = owner.partition('.')
            own = value_at(value_at(settings, group, 'init_args') or value_at(settings, group), key)
            meaning = f', {_MEANING[owner]}' if owner in _MEANING else ''
            yield (
                f'{where} sets {name} to {json.dumps(given[name])}, but its setting is {owner}, which is '
                f'{json.dumps(own)}{meaning}; remove {name}, and set {owner}'
            )


def _unread(arguments: Mapping[str, object], where: str) -> Iterator[str]:
    """Arguments of the strategy that Lightning ignores, since there is a configuration."""
    if not where:
        return
    defaults = inspect.signature(DeepSpeedStrategy).parameters
    apart = {'config', 'logging_level', 'load_full_weights', 'process_group_backend', 'timeout', 'remote_device'}
    for name, value in arguments.items():
        if name in defaults and name not in apart and value != defaults[name].default:
            yield f'trainer.strategy.{name} is {value}, but {where} is used instead; leave one of them out'


def _unfit(settings: Mapping[str, object]) -> Iterator[str]:
    model = value_at(settings, 'model', 'init_args')
    optimizer = value_at(model, 'optimizer', 'class_path')
    if str(optimizer).rpartition('.')[2] == 'Muon':
        yield (
            'model.optimizer is Muon, which needs whole matrices, but DeepSpeed flattens and partitions weights; take '
            'xlabml.training.AdamW, or trainer.strategy sharded'
        )
    if value_at(model, 'clip') is not None:
        yield (
            'model.clip is set, but DeepSpeed clips by itself; set trainer.gradient_clip_val, or take trainer.strategy '
            'sharded'
        )
    if settings.get('ckpt_path') is not None:
        yield (
            f'ckpt_path is {settings["ckpt_path"]}, but DeepSpeed saves checkpoints as folders of its own, from which '
            'xlab cannot resume; take trainer.strategy sharded for runs that are to be resumed'
        )
