"""What may stand as `trainer.strategy`, looked at before anything is built."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from .deepspeed import DeepSpeed, check_deepspeed
from .sharded import Sharded

_NOT_OURS = {
    'FSDPStrategy': "is torch's first FSDP, in whose checkpoints tensors are flattened",
    'ModelParallelStrategy': 'would give the devices of one machine the same rows',
    'DeepSpeedStrategy': 'does not know how large our batches are',
}
"""Lightning's own, and why not."""

_INSTEAD = {'DeepSpeedStrategy': f'{DeepSpeed.__module__.rpartition(".")[0]}.{DeepSpeed.__name__}'}


def check_strategy(settings: Mapping[str, Any]) -> None:
    """Refuse a strategy that would train something else than the settings say.

    Args:
        settings: All settings, in plain values.

    Raises:
        ValueError: What is wrong with it, and what to take instead.
    """
    chosen = settings['trainer'].get('strategy')
    path, arguments = _read(chosen)
    name = path.rpartition('.')[2]
    if path.startswith('lightning.') and name in _NOT_OURS:
        instead = _INSTEAD.get(name, 'sharded (FSDP2)')
        shown = chosen if isinstance(chosen, str) else path
        raise ValueError(f'trainer.strategy {shown} {_NOT_OURS[name]}; take {instead}')
    if name == DeepSpeed.__name__:
        check_deepspeed(settings, arguments)
    precision = settings['trainer'].get('precision')
    if name == Sharded.__name__ and precision == '16-mixed':
        raise ValueError(
            f'trainer.precision is {precision}, whose loss scale trainer.strategy sharded does not know; take '
            'bf16-mixed or 32-true'
        )


def _read(chosen: Any) -> tuple[str, Mapping[str, Any]]:
    """The dotted path and the arguments of a strategy that is named in any way; of none, empty ones."""
    if isinstance(chosen, Mapping):
        return chosen.get('class_path', ''), chosen.get('init_args') or {}
    if isinstance(chosen, str) and chosen in StrategyRegistry:
        entry = StrategyRegistry[chosen]
        cls = entry['strategy']
        return f'{cls.__module__}.{cls.__qualname__}', entry['init_params']
    return '', {}
