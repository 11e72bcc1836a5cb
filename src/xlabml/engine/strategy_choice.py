"""Check `trainer.strategy` before anything is built."""

from collections.abc import Mapping

from lightning.pytorch.strategies import StrategyRegistry

from .deepspeed import DeepSpeed, check_deepspeed, value_at
from .sharded import Sharded

_NOT_OURS = {
    'FSDPStrategy': 'is FSDP1, whose checkpoints hold flattened tensors',
    'ModelParallelStrategy': 'would train the devices of one machine on the same rows',
    'DeepSpeedStrategy': 'does not know the size of our batches',
}
"""Strategies of Lightning that are refused, and why."""

_INSTEAD = {'DeepSpeedStrategy': f'{DeepSpeed.__module__.rpartition(".")[0]}.{DeepSpeed.__name__}'}


def check_strategy(settings: Mapping[str, object]) -> None:
    """Refuse a strategy that would not train what the settings say.

    Args:
        settings: All settings, in plain values.

    Raises:
        ValueError: Says what is wrong with it, and what to take instead.
    """
    chosen = value_at(settings, 'trainer', 'strategy')
    path, arguments = _read(chosen)
    name = path.rpartition('.')[2]
    if path.startswith('lightning.') and name in _NOT_OURS:
        instead = _INSTEAD.get(name, 'sharded (FSDP2)')
        shown = chosen if isinstance(chosen, str) else path
        raise ValueError(f'trainer.strategy {shown} {_NOT_OURS[name]}; take {instead}')
    if name == DeepSpeed.__name__:
        check_deepspeed(settings, arguments)
    precision = value_at(settings, 'trainer', 'precision')
    if name == Sharded.__name__ and precision == '16-mixed':
        raise ValueError(
            f'trainer.precision is {precision}, whose loss scaling trainer.strategy sharded does not support; take '
            'bf16-mixed or 32-true'
        )


def _read(chosen: object) -> tuple[str, Mapping[str, object]]:
    """The dotted path and the arguments of a strategy; both are empty where none is set."""
    if isinstance(chosen, Mapping):
        return chosen.get('class_path', ''), chosen.get('init_args') or {}
    if isinstance(chosen, str) and chosen in StrategyRegistry:
        entry = StrategyRegistry[chosen]
        cls = entry['strategy']
        return f'{cls.__module__}.{cls.__qualname__}', entry['init_params']
    return '', {}
