"""The data module's arguments, checked before anything is opened."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xlabml.data import Source, check_ratios, check_weights, split_names
from xlabml.errors import SettingsError
from xlabml.tokenizer import check_coverage, check_roles


def require_number(name: str, value: int | str) -> int:
    """A size that is a number.

    Raises:
        ValueError: It is `auto`.
    """
    if isinstance(value, str):
        raise ValueError(
            f'data.{name} is {value!r}, which the commands of xlab find before they build this; give a number'
        )
    return value


def require_shares(splits: Mapping[str, float | str] | str | None) -> dict[str, float]:
    """The shares that are set, all of them numbers; {} where none is.

    Raises:
        ValueError: One is `auto`.
    """
    if isinstance(splits, str) or any(isinstance(share, str) for share in (splits or {}).values()):
        raise ValueError(
            f'data.splits is {splits}, where the commands of xlab find auto before they build this; give numbers'
        )
    return {name: float(share) for name, share in (splits or {}).items()}


def check_arguments(arguments: Mapping[str, Any], constructor: Callable) -> None:
    """Raise ValueError where one of XLabDataModule's arguments cannot be; the message says how to set it.

    Args:
        arguments: By name.
        constructor: Has their defaults, which settings that the format does not use must keep.
    """
    get = arguments.__getitem__
    n_sources = len(get('sources'))
    if not n_sources:
        raise ValueError('data.sources is empty; name at least one source')
    check_ratios(get('splits'))
    if get('weights') is not None:
        check_weights(get('weights'), n_sources)
    check_roles(get('special_tokens'), 'data.special_tokens')
    caps = get('max_source_epochs')
    if caps is not None and len(caps) != n_sources:
        raise ValueError(f'data.max_source_epochs has {len(caps)} numbers for {n_sources} sources; give one for each')
    if get('stream') is not None:
        if get('near_duplicates'):
            raise ValueError(
                'data.near_duplicates is set, but a stream is read in windows, and near-duplicates of another window '
                'cannot be found; leave it out, or data.stream'
            )
        if caps is not None and get('weights') is None:
            raise ValueError(
                'data.max_source_epochs is set, but a stream without data.weights reads all of its sources equally '
                'often; leave it out, or set data.weights'
            )
        for name in ('group', 'stratify'):
            if arguments.get(name) is not None:
                raise ValueError(
                    f'data.{name} is set, but a stream keeps no columns, and each of its documents is divided by its '
                    'own hash; leave it out, or data.stream'
                )
        for source in get('sources'):
            if source.only is not None:
                raise ValueError(
                    f'source {source} is fixed to a split (only: {source.only}), but a stream is trained on and '
                    'evaluated by the hash of each document; leave it out, or data.stream'
                )
    for name in ('n_vocab', 'max_len', 'batch_tokens', 'batch_groups', 'device_batch_tokens', 'n_processes'):
        if get(name) is not None and get(name) < 1:
            raise ValueError(f'data.{name} is {get(name)}; it must be at least 1')
    for source in get('sources'):
        if source.only is not None and source.only not in split_names:
            raise ValueError(
                f'source {source} is fixed to the split {source.only!r} (only); the splits are {", ".join(split_names)}'
            )
    for name in ('group', 'stratify'):
        if get(name) == '':
            raise ValueError(f'data.{name} is empty; name a column of the sources, or leave it out')
    for source in get('held_out'):
        if source.only is not None:
            raise ValueError(
                f'data.held_out: {source} is fixed to a split (only: {source.only}), but held-out texts are in none; '
                'leave out only'
            )
    check_coverage(get('coverage'), 'data.coverage')
    if get('seed') < 0:
        raise ValueError(f'seed_everything is {get("seed")}; it must be 0 or more')
    if get('num_workers') < 0:
        raise ValueError(f'data.num_workers is {get("num_workers")}; it must be 0 or more')
    if get('predict_split') not in split_names:
        raise ValueError(f'data.predict_split is {get("predict_split")!r}; the splits are {", ".join(split_names)}')
    for steps in get('skip'):
        if len(steps) != 2 or not 1 <= steps[0] <= steps[1]:
            raise ValueError(f'data.skip has {steps}; give pairs of a first and a last step, as in [[118, 120]]')
    for places in get('skip_rows'):
        if len(places) != 2 or any(len(place) != 2 or min(place) < 0 for place in places) or places[0] > places[1]:
            raise ValueError(
                f'data.skip_rows has {places}; give pairs of a first and a last place, each [pass, row], as in '
                '[[[0, 118], [0, 120]]]'
            )
    max_len = get('max_len')
    for name in ('batch_tokens', 'device_batch_tokens'):
        value = get(name)
        if value is not None and value % max_len and name not in get('examples').unused:
            raise ValueError(
                f'data.{name} is {value}, no multiple of data.max_len, {max_len}; '
                f'the nearest is {max(1, round(value / max_len)) * max_len}'
            )
    _check_unused(arguments, constructor)
    get('plan')(max_len)  # its own arguments are checked as it is built


def check_fold(
    fold: list[int], ratios: Mapping[str, float], sources: Sequence[Source], is_stream: bool, by_content: bool
) -> dict[str, float]:
    """The ratios of the splits where one of several folds is tested.

    Args:
        fold: data.fold.
        ratios: data.splits, with its defaults.
        sources: Of the data.
        is_stream: Whether they are streamed.
        by_content: Whether no column decides.

    Raises:
        SettingsError: It is no fold, or does not go with the rest.
    """
    if len(fold) != 2 or fold[1] < 2 or not 0 <= fold[0] < fold[1]:
        raise SettingsError(f'data.fold is {fold}; give a number from 0 and how many folds there are, as in [0, 5]')
    check_ratios(ratios)
    if is_stream:
        raise SettingsError('data.fold is set, but a stream has no folds; leave it out, or data.stream')
    if ratios['predict']:
        raise SettingsError('data.fold is set, but data.splits has a share for predict; leave it out: all is tested')
    if not ratios['train']:
        raise SettingsError('data.fold is set, but data.splits has nothing for train; give it a share')
    for source in sources:
        if source.only in ('val', 'test'):
            raise SettingsError(
                f'data.fold is set, but source {source} is fixed to {source.only} (only); leave that out to have its '
                'documents in the folds too, or the source'
            )
        if source.in_order and by_content:
            raise SettingsError(
                f'data.fold is set, but source {source} is one text that is cut, and divided by the place in it; name '
                'a column in data.group, or give documents that stand alone'
            )
    rest = 1 - 1 / fold[1]
    train = ratios['train'] / (ratios['train'] + ratios['val'])
    return {'train': rest * train, 'val': rest * (1 - train), 'test': 1 / fold[1], 'predict': 0.0}


def _check_unused(arguments: Mapping[str, Any], constructor: Callable) -> None:
    examples = arguments['examples']
    defaults = inspect.signature(constructor).parameters
    max_len = arguments['max_len']
    for name in examples.unused_settings:
        value = arguments[name]
        default = defaults[name].default
        if callable(default):  # the plan; what makes it may be another object that makes the same
            value = value(max_len).settings()
            default = default(max_len).settings()
        if (value or None) != (default or None):
            raise ValueError(
                f'data.{name} is set, but the examples of {type(examples).__name__} do not use it; leave it out, or '
                'choose other data.examples'
            )
