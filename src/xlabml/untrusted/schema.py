"""What a checkpoint or an exported file may hold: which keys, of which kind, how large. Checked once, as it is read.

Values beside these are those of a user's own hooks: plain values and tensors, which nothing here reads.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from xlabml import bounds

_MAX_VALUES = 4_000_000
_MAX_DEPTH = 40
_MAX_TEXT = 4_000_000
_MAX_NAME = 1000
_MAX_TOKENIZER_BYTES = 1 << 30
_SPREAD_BYTES = 1 << 20
_PLAIN = (str, int, float, bool, type(None))

Check = Callable[[Any, str], None]
"""Raises _Wrong where a value is not what it should be; told how messages call it."""


class _Wrong(ValueError):
    """What is wrong, without the file."""


def check(checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that holds what none of ours does.

    Raises:
        ValueError: Names the key, and what is wrong with it.
    """
    _check_values(checkpoint)
    is_training = 'optimizer_states' in checkpoint
    if 'loops' in checkpoint:
        raise _Wrong('loops is there, which no checkpoint of xlabml has')
    for name in _NEEDED + (_NEEDED_TO_TRAIN if is_training else ()):
        if name not in checkpoint:
            raise _Wrong(f'it has no {name}')
    for name, value in checkpoint.items():
        if name in _KEYS:
            _KEYS[name](value, name)
    if is_training and 'XLabDataModule' in checkpoint:
        for name in ('step', 'rows', 'data'):
            if name not in checkpoint['XLabDataModule']:
                raise _Wrong(f'XLabDataModule has no {name}')
        if checkpoint['XLabDataModule']['step'] != checkpoint['global_step']:
            raise _Wrong('XLabDataModule.step is not global_step')
    if not isinstance(checkpoint['hyper_parameters'].get('_class_path'), str):
        raise _Wrong('hyper_parameters does not say of which task it is (_class_path)')


def check_export(values: Any) -> None:
    """Refuse the settings of an exported file where they are none, or those of a training checkpoint."""
    if not isinstance(values, dict):
        raise _Wrong('its settings are no JSON object')
    for name in (*_NEEDED_TO_TRAIN, 'config', 'guards', 'loops', 'state_dict', 'XLabDataModule'):
        if name in values:
            raise _Wrong(f'{name} is there, which no exported file has')


def _check_values(checkpoint: Mapping[str, Any]) -> None:
    """Every value, to the innermost: plain values and tensors, not too many, not nested too deep."""
    todo: list[tuple[Any, str, int]] = [(checkpoint, '', 0)]
    n_values = 0
    while todo:
        value, where, depth = todo.pop()
        n_values += 1
        if n_values > _MAX_VALUES:
            raise _Wrong(f'it holds more than {_MAX_VALUES:,} values')
        if depth > _MAX_DEPTH:
            raise _Wrong(f'{where} is nested too deep')
        if isinstance(value, Tensor):
            _check_tensor(value, where)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(key, str):
                    if len(key) > _MAX_NAME or not _is_text(key):
                        raise _Wrong(f'{where or "it"} has a key of {len(key):,} characters that is no name')
                elif not (type(key) is int and abs(key) < bounds.ANY):
                    raise _Wrong(f'{where or "it"} has a key that is a {type(key).__name__}')
                todo.append((item, f'{where}.{key}' if where else str(key), depth + 1))
        elif isinstance(value, list | tuple):
            todo.extend((item, where, depth + 1) for item in value)
        elif isinstance(value, str):
            if len(value) > _MAX_TEXT or not _is_text(value):
                raise _Wrong(f'{where} is no text of at most {_MAX_TEXT:,} characters')
        elif isinstance(value, int):
            if not -bounds.ANY < value < bounds.ANY:
                raise _Wrong(f'{where} is {bounds.shown(value)}')
        elif not isinstance(value, (float, type(None), torch.dtype, torch.device)):
            raise _Wrong(f'{where} is a {type(value).__name__}')


def _check_tensor(value: Tensor, where: str) -> None:
    if value.layout is not torch.strided or value.is_quantized:
        raise _Wrong(f'{where} is a tensor of the layout {value.layout}; only dense ones are read')
    n_bytes = value.numel() * value.element_size()
    if n_bytes > max(value.untyped_storage().nbytes(), _SPREAD_BYTES):
        raise _Wrong(f'{where} is a tensor of {n_bytes:,} bytes, of which the file holds fewer')


def _is_text(value: str) -> bool:
    """Whether it can be written: a lone surrogate is no character."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# Kinds


def _refuse(value: Any, where: str, wanted: str) -> NoReturn:
    shown = f'{value!r:.60}' if isinstance(value, str | float | bool) else type(value).__name__
    shown = bounds.shown(value) if type(value) is int else shown
    raise _Wrong(f'{where} is {shown}; it must be {wanted}')


def _count(value: Any, where: str) -> None:
    if type(value) is not int or not 0 <= value <= 1 << 48:
        _refuse(value, where, 'a whole number from 0')


def _number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(value, where, 'a number')


def _flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        _refuse(value, where, 'true or false')


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        _refuse(value, where, 'text')


def _plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _text(key, f'a key of {where}')
            _plain(item, f'{where}.{key}')
    elif isinstance(value, list | tuple):
        for item in value:
            _plain(item, where)
    elif not isinstance(value, _PLAIN):
        _refuse(value, where, 'plain values')


def _version(value: Any, where: str) -> None:
    if not isinstance(value, str) or len(value) > 60 or not re.match(r'2\.\d{1,4}(\.\d{1,4})?([.+]?[A-Za-z]\w*)?$', value):
        _refuse(value, where, 'the version of Lightning that wrote it, 2 or later')


def _weights(value: Any, where: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        _refuse(value, where, 'tensors by name')
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            _refuse(tensor, f'{where}.{name}', 'a tensor')


def _tokenizer(value: Any, where: str) -> None:
    is_bytes = isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() == 1
    if not is_bytes or not 0 < value.numel() <= _MAX_TOKENIZER_BYTES:
        shown = f'a tensor of {value.dtype}, {tuple(value.shape)}' if isinstance(value, Tensor) else type(value).__name__
        raise _Wrong(f'{where} is {shown}; it must be the bytes of a tokenizer, a uint8 tensor of one axis')


def _numbers(value: Any, where: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() != 1:
        _refuse(value, where, 'a tensor of numbers, of one axis')


def _or_none(check: Check) -> Check:
    return lambda value, where: None if value is None else check(value, where)


def _mapping(known: Mapping[str, Check] | None = None, every: Check | None = None, needed: tuple[str, ...] = ()) -> Check:
    """Of names: some that are known, some that have to be there, all of one kind."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, where, 'a mapping')
        for name in needed:
            if name not in value:
                raise _Wrong(f'{where} has no {name}')
        for name, item in value.items():
            one = (known or {}).get(name, every)
            if one is not None:
                one(item, f'{where}.{name}')

    return check


def _list(every: Check | None = None, length: int | None = None) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            _refuse(value, where, 'a list' if length is None else f'a list of {length}')
        for i, item in enumerate(value):
            if every is not None:
                every(item, f'{where}[{i}]')

    return check


def _state(value: Any, where: str) -> None:
    """The state of one parameter, in an optimizer."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        _refuse(value, where, 'values by name')


def _optimizer(value: Any, where: str) -> None:
    _mapping(needed=('state', 'param_groups'))(value, where)
    if not isinstance(value['state'], dict) or not all(type(number) is int for number in value['state']):
        _refuse(value['state'], f'{where}.state', 'a mapping of the numbers of parameters')
    for number, state in value['state'].items():
        _state(state, f'{where}.state.{number}')
    group = _mapping({'params': _list(_count)}, needed=('params',))
    _list(group)(value['param_groups'], f'{where}.param_groups')


def _sources(value: Any, where: str) -> None:
    _list(_list(_text, 2))(value['sources'], f'{where}.sources')
    _list(_count, len(value['sources']))(value['n_documents'], f'{where}.n_documents')


def _data(value: Any, where: str) -> None:
    _mapping({'settings': _plain_mapping, 'unit': _text}, needed=('sources', 'n_documents', 'settings'))(value, where)
    _sources(value, where)


def _finite_or_none(value: Any, where: str) -> None:
    if value is not None:
        _number(value, where)


def _group(value: Any, where: str) -> None:
    """Settings of one group in `config`, or one that stands alone."""
    _plain(value, where)


_plain_mapping: Check = lambda value, where: (_mapping()(value, where), _plain(value, where))[0]  # noqa: E731

_KEYS: dict[str, Check] = {
    'epoch': _count,
    'global_step': _count,
    'pytorch-lightning_version': _version,
    'state_dict': _weights,
    'hyper_parameters': _plain_mapping,
    'hparams_name': _text,
    'datamodule_hyper_parameters': _plain_mapping,
    'datamodule_hparams_name': _text,
    'config': _plain_mapping,
    'run_folder': _text,
    'run_id': _text,
    'best_checkpoint': _or_none(_text),
    'callbacks': _mapping(
        {
            'Checkpoints': _mapping(
                {
                    'saved': _mapping(every=_finite_or_none),
                    'pinned': _list(_text),
                    'stopped_early': _flag,
                    'owes_validation': _flag,
                },
                needed=('saved',),
            ),
            'Curves': _mapping({'sums': _mapping(every=_number), 'tokens': _number}, needed=('sums',)),
            'Spikes': _mapping({'window': _list(_number), 'count': _count}, needed=('window', 'count')),
        },
        every=_mapping(),
    ),
    'optimizer_states': _list(_optimizer),
    'lr_schedulers': _list(_mapping({'last_epoch': _count})),
    'guards': _mapping({'skipped': _list(_count, 2), 'clip': _mapping({'norms': _numbers}, needed=('norms',))}),
    'XLabDataModule': _mapping(
        {
            'tokenizer': _tokenizer,
            'step': _count,
            'row': _count,
            'window': _count,
            'rows': _text,
            'skipped': _list(_list(_count, 4)),
            'data': _data,
        },
        needed=('tokenizer',),
    ),
}
"""What is known of a key's value."""

_NEEDED = ('state_dict', 'hyper_parameters', 'global_step', 'pytorch-lightning_version')
_NEEDED_TO_TRAIN = ('optimizer_states', 'lr_schedulers', 'callbacks')
