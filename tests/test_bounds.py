"""Whole numbers with too many zeros: every setting has a bound, and what is beyond it is refused by name."""

import importlib
import inspect
import typing

import pytest

from xlabml import bounds, settings
from xlabml.commands import data as data_commands
from xlabml.commands.groups import CALLBACKS
from xlabml.commands.overview import DATA_COMMANDS
from xlabml.commands.trainer import Trainer
from xlabml.datamodules import XLabDataModule
from xlabml.models import XLabModel
from xlabml.untrusted.matching import parameters

LEFT_TO_LIGHTNING = {'plugins', 'callbacks', 'profiler', 'logger', 'strategy'}
"""Objects, whose arguments are those of other libraries: no file sets them, and what a user types is theirs."""


def public_parts():
    for room in settings._ROOMS:
        module = importlib.import_module(f'xlabml.{room}')
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found) and found.__module__.startswith('xlabml.') and '__init__' in vars(found):
                yield found


def takes_whole_numbers(kind):
    if typing.get_origin(kind) in (typing.Literal, type):
        return False
    if kind is int:
        return True
    is_factory = typing.get_origin(kind) is not None and 'Callable' in str(typing.get_origin(kind))
    return not is_factory and any(map(takes_whole_numbers, typing.get_args(kind)))


HANDED = {'total_steps', 'length', 'start', 'total', 'full', 'steps'}
"""Arguments that xlabml hands to a part, from settings that have bounds themselves."""

INNER = {  # made by others of ours, from checked values: no setting ends there
    *('Attention', 'Block', 'FeedForward', 'Cache', 'Documents', 'LanguageModel', 'Rows', 'PlanRows', 'TokenStore'),
    *('BatchSequence', 'EvalBatches', 'Places', 'Corpus', 'Processes', 'ShardCache', 'StreamedRows', 'Mixture'),
    *('Scores', 'SharedJob', 'Document', 'Part', 'Invalid', 'Shapes', 'Shift'),
}


def groups():
    yield from ((name, cls) for name, cls in {'trainer': Trainer, 'data': XLabDataModule, **CALLBACKS}.items())
    yield from ((name, getattr(data_commands, name)) for name in DATA_COMMANDS)
    yield from ((f'{cls.__module__}.{cls.__name__}', cls) for cls in public_parts() if cls.__name__ not in INNER)


@pytest.mark.parametrize(
    ('where', 'function'), list(groups()), ids=lambda value: value if isinstance(value, str) else ''
)
def test_every_whole_number_has_a_bound(where, function):
    names = (
        {name for name, kind in parameters(function).items() if takes_whole_numbers(kind)} - LEFT_TO_LIGHTNING - HANDED
    )
    without = names - set(bounds.MOST)
    assert not without, f'{where} takes whole numbers without a bound: {sorted(without)}'


def test_the_walk_meets_those_that_are_known():
    names = {
        name for _, function in groups() for name, kind in parameters(function).items() if takes_whole_numbers(kind)
    }
    assert {'num_workers', 'n_layers', 'max_steps', 'pin_steps', 'window_steps', 'n_tasks', 'ngram_tokens'} <= names


@pytest.mark.parametrize('value', [10**30, 10**5000, -(10**30), 2000], ids=['large', 'endless', 'negative', 'small'])
def test_a_number_beyond_its_bound_is_refused_by_name_and_not_repeated(value):
    with pytest.raises(ValueError, match=r'data\.num_workers is .*; it can be at most 1024') as caught:
        bounds.check({'data': {'num_workers': value}})
    assert len(str(caught.value)) < 200


def test_numbers_in_parts_of_parts_are_found():
    trunk = {'class_path': 'xlabml.transformer.Transformer', 'init_args': {'window': [4, 10**30]}}
    with pytest.raises(ValueError, match=r'model\.trunk\.window is 1000'):
        bounds.check({'model': {'class_path': 'x', 'init_args': {'trunk': trunk}}})
    bounds.check({'model': {'init_args': {'tied': True, 'lr': 1e30}}})


def test_objects_made_in_python_are_bounded_too():
    with pytest.raises(ValueError, match='num_workers is 1000000000000000000000000000000; it can be at most 1024'):
        XLabDataModule(num_workers=10**30)
    with pytest.raises(ValueError, match='n_vocab'):
        XLabModel(10**30, 8)
