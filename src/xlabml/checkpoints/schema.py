"""What a checkpoint or an exported file may hold: which keys, of which kind, how large. Checked once, as it is read.

Values beside these are those of a user's own hooks: plain values and tensors, which nothing here reads.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from xlabml import bounds
from xlabml.untrusted.kinds import (
    Check,
    WrongError,
    by_name,
    count,
    flag,
    items,
    mapping,
    number,
    or_none,
    plain_mapping,
    refuse,
    text,
)

from . import contents as keys

_MAX_VALUES = 4_000_000
_MAX_SETTINGS = 50_000
"""Values of the settings: a parser takes a second for them. Those of a run are some hundreds, and ten a source."""

_MAX_DEPTH = 40
_MAX_TEXT = 4_000_000
_MAX_NAME = 1000
_MAX_TOKENIZER_BYTES = 1 << 30
_SPREAD_BYTES = 1 << 20


def check(checkpoint: Mapping[str, object]) -> None:
    """Refuse a checkpoint whose keys or values are not those that ours have.

    Raises:
        ValueError: Names the key and the error.
    """
    _check_values(checkpoint, '', _MAX_VALUES)
    for name in (keys.TASK, keys.DATA, keys.NETWORK, keys.FACTS, keys.SETTINGS):
        _check_values(checkpoint.get(name), name, _MAX_SETTINGS)
    if keys.LOOPS in checkpoint:
        raise WrongError(f'{keys.LOOPS} is there, which no checkpoint of xlabml has')
    for name in (keys.WEIGHTS, keys.TASK):
        if name not in checkpoint:
            raise WrongError(f'it has no {name}')
    for name, value in checkpoint.items():
        if name in _KEYS:
            _KEYS[name](value, name)
    if not isinstance(by_name(checkpoint[keys.TASK], keys.TASK).get(keys.CLASS), str):
        raise WrongError(f'{keys.TASK} does not say of which task it is ({keys.CLASS})')


def check_complete(contents: keys.Contents, training: bool) -> None:
    """Refuse a checkpoint that lacks values which a run is restored from.

    Args:
        contents: Of one that `check` has passed.
        training: Whether a run resumes; else it is evaluated.

    Raises:
        ValueError: Names the missing key.
    """
    for name in (keys.STEP, keys.VERSION, *(_OF_TRAINING if training else ())):
        if name not in contents.training:
            raise WrongError(f'it has no {name}')
    if training and contents.tokenizer is not None:
        for name in ('step', 'rows', 'data'):
            if name not in contents.place:
                raise WrongError(f'{keys.DATA_STATE} has no {name}')
        if contents.place['step'] != contents.step:
            raise WrongError(f'{keys.DATA_STATE}.step is {contents.place["step"]}, but {keys.STEP} {contents.step}')


def check_export(values: object) -> None:
    """Refuse the settings of an exported file where they are none, or those of a training checkpoint."""
    if not isinstance(values, dict):
        raise WrongError('its settings are no JSON object')
    for name in (*_OF_TRAINING[1:], keys.SETTINGS, keys.GUARDS, keys.LOOPS, keys.WEIGHTS, keys.DATA_STATE):
        if name in values:
            raise WrongError(f'{name} is there, which no exported file has')


def _check_values(values: object, name: str, most: int) -> None:
    """Every value, to the innermost: plain values and tensors, not too many, not nested too deep."""
    todo: list[tuple[object, str, int]] = [(values, name, 0)]
    n_values = 0
    while todo:
        value, where, depth = todo.pop()
        n_values += 1
        if n_values > most:
            raise WrongError(f'{name or "it"} holds more than {most:,} values')
        if depth > _MAX_DEPTH:
            raise WrongError(f'{where} is nested too deep')
        if isinstance(value, Tensor):
            _check_tensor(value, where)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(key, str):
                    if len(key) > _MAX_NAME or not _is_text(key):
                        raise WrongError(f'{where or "it"} has a key of {len(key):,} characters that is no name')
                elif not (type(key) is int and abs(key) < bounds.ANY):
                    raise WrongError(f'{where or "it"} has a key that is a {type(key).__name__}')
                todo.append((item, f'{where}.{key}' if where else str(key), depth + 1))
        elif isinstance(value, list | tuple):
            todo.extend((item, where, depth + 1) for item in value)
        elif isinstance(value, str):
            if len(value) > _MAX_TEXT or not _is_text(value):
                raise WrongError(f'{where} is no text of at most {_MAX_TEXT:,} characters')
        elif isinstance(value, int):
            if not -bounds.ANY < value < bounds.ANY:
                raise WrongError(f'{where} is {bounds.shown(value)}')
        elif not isinstance(value, (float, type(None), torch.dtype, torch.device)):
            raise WrongError(f'{where} is a {type(value).__name__}')


def _check_tensor(value: Tensor, where: str) -> None:
    if value.layout is not torch.strided or value.is_quantized:
        raise WrongError(f'{where} is a tensor of the layout {value.layout}; only dense ones are read')
    n_bytes = value.numel() * value.element_size()
    if n_bytes > max(value.untyped_storage().nbytes(), _SPREAD_BYTES):
        raise WrongError(f'{where} is a tensor of {n_bytes:,} bytes, of which the file holds fewer')


def _is_text(value: str) -> bool:
    """Whether it can be written: a lone surrogate is no character."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _version(value: object, where: str) -> None:
    if (
        not isinstance(value, str)
        or len(value) > 60
        or not re.match(r'2\.\d{1,4}(\.\d{1,4})?([.+]?[A-Za-z]\w*)?$', value)
    ):
        refuse(value, where, 'the version of Lightning that wrote it, 2 or later')


def _weights(value: object, where: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        refuse(value, where, 'tensors by name')
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            refuse(tensor, f'{where}.{name}', 'a tensor')


def _tokenizer(value: object, where: str) -> None:
    shown = type(value).__name__
    if isinstance(value, Tensor):
        if value.dtype == torch.uint8 and value.dim() == 1 and 0 < value.numel() <= _MAX_TOKENIZER_BYTES:
            return
        shown = f'a tensor of {value.dtype}, {tuple(value.shape)}'
    raise WrongError(f'{where} is {shown}; it must be the bytes of a tokenizer, a uint8 tensor of one axis')


def _numbers(value: object, where: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() != 1:
        refuse(value, where, 'a tensor of numbers, of one axis')


def _state(value: object, where: str) -> None:
    """The state of one parameter, in an optimizer."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        refuse(value, where, 'values by name')


def _optimizer(value: object, where: str) -> None:
    values = by_name(value, where, ('state', 'param_groups'))
    states = values['state']
    if not isinstance(states, dict) or not all(type(i) is int for i in states):
        refuse(states, f'{where}.state', 'a mapping of the numbers of parameters')
    for i, state in states.items():
        _state(state, f'{where}.state.{i}')
    group = mapping({'params': items(count)}, needed=('params',))
    items(group)(values['param_groups'], f'{where}.param_groups')


def _step_or_place(value: object, where: str) -> None:
    (items(count, 2) if isinstance(value, list) else count)(value, where)


def _data(value: object, where: str) -> None:
    mapping({'settings': plain_mapping, 'unit': text}, needed=('sources', 'n_documents', 'settings'))(value, where)
    values = by_name(value, where)
    sources = values['sources']
    items(items(text, 2))(sources, f'{where}.sources')
    n_sources = len(sources) if isinstance(sources, list | tuple) else None
    items(count, n_sources)(values['n_documents'], f'{where}.n_documents')


def _part(value: object, where: str) -> None:
    mapping({'class_path': text, 'init_args': plain_mapping}, needed=('class_path',))(value, where)


def _overfitting(value: object, where: str) -> None:
    names = {'best': number, 'step': count, 'train_loss': number, 'worse': count, 'said': flag}
    if value != {}:  # before the first validation
        mapping(names, needed=tuple(names))(value, where)


_KEYS: dict[str, Check] = {
    keys.EPOCH: count,
    keys.STEP: count,
    keys.VERSION: _version,
    keys.WEIGHTS: _weights,
    keys.TASK: plain_mapping,
    keys.TASK_NAME: text,
    keys.DATA: plain_mapping,
    keys.DATA_NAME: text,
    keys.NETWORK: _part,
    keys.FACTS: plain_mapping,
    keys.REMOVED: plain_mapping,
    keys.SETTINGS: plain_mapping,
    keys.RUN_FOLDER: text,
    keys.RUN_ID: text,
    keys.BEST: or_none(text),
    keys.CALLBACKS: mapping(
        {
            'Checkpoints': mapping(
                {
                    'saved': mapping(every=or_none(number)),
                    'pinned': items(text),
                    'stopped_early': flag,
                    'owes_validation': flag,
                },
                needed=('saved',),
            ),
            'Curves': mapping({'sums': mapping(every=number), 'tokens': number}, needed=('sums',)),
            'Overfitting': _overfitting,
            'Spikes': mapping({'window': items(number), 'count': count}, needed=('window', 'count')),
        },
        every=mapping(),
    ),
    keys.OPTIMIZERS: items(_optimizer),
    keys.SCHEDULES: items(mapping({'last_epoch': count})),
    keys.GUARDS: mapping({'skipped': items(count, 2), 'clip': mapping({'norms': _numbers}, needed=('norms',))}),
    keys.DATA_STATE: mapping(
        {
            keys.TOKENIZER: _tokenizer,
            'step': count,
            'row': count,
            'window': count,
            'pass': count,
            'rows': text,
            'skipped': items(items(_step_or_place, 4)),
            'windows': items(items(count)),
            'data': _data,
        },
        needed=(keys.TOKENIZER,),
    ),
}
"""The check of each key's value."""

_OF_TRAINING = (keys.EPOCH, keys.OPTIMIZERS, keys.SCHEDULES, keys.CALLBACKS)
