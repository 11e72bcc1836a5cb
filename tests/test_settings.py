import functools
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from xlabml import settings
from xlabml.training import Schedule, WarmupCosine


class _Part:
    def __init__(self, size: int = 3) -> None:
        self.size = size


@pytest.fixture
def user_module(monkeypatch):
    """A module of the user's, importable, and forgotten afterwards."""
    module = types.ModuleType('mypkg_for_settings')
    module.MyNorm = type('MyNorm', (nn.Module,), {'__module__': module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(settings, '_TRUSTED', set(settings._TRUSTED))
    return module


@pytest.mark.parametrize(
    ('value', 'written'),
    [
        (3, 3),
        ((1, 'a', None), [1, 'a', None]),
        (nn.Tanh, {'class_path': 'torch.nn.Tanh'}),
        (nn.GELU, {'class_path': 'torch.nn.GELU', 'init_args': {'approximate': 'none'}}),
        (
            functools.partial(WarmupCosine, warmup_steps=5),
            {
                'class_path': 'xlabml.training.WarmupCosine',
                'init_args': {'warmup_steps': 5, 'warmup_ratio': None, 'end_ratio': 0.0},
            },
        ),
    ],
)
def test_describes_in_plain_values(value, written):
    assert settings.describe(value) == written


def test_a_part_is_described_by_what_it_was_built_from():
    assert settings.describe([_Part(5)])[0]['init_args'] == {'size': 5}


@pytest.mark.parametrize('value', [lambda: 0, nn.Linear(2, 2), torch.ones(2), functools.partial(WarmupCosine, 10)])
def test_refuses_what_only_a_pickle_could_hold(value):
    with pytest.raises(ValueError, match=r'pass a class, functools\.partial'):
        settings.describe(value)


def test_a_callable_is_built_as_a_partial_and_a_class_as_an_instance():
    written = {'class_path': 'xlabml.training.WarmupCosine', 'init_args': {'warmup_steps': 5}}
    built = settings.build(written, Callable[[int], Schedule])
    assert built(20).warmup_steps == 5
    assert settings.describe(built)['init_args']['warmup_steps'] == 5
    assert isinstance(settings.build({'class_path': 'torch.nn.GELU'}, nn.Module | None), nn.GELU)


@pytest.mark.parametrize(
    'path',
    ['os.system', 'subprocess.Popen', 'xlabml.settings.importlib.import_module', 'xlabml.settings.functools.partial'],
)
def test_nothing_outside_the_trusted_roots_is_ever_found(path):
    with pytest.raises(ValueError, match=r'is not a class of xlabml|there is no class'):
        settings.find_class(path)


def test_a_module_of_the_users_is_built_once_it_is_named(user_module):
    path = f'{user_module.__name__}.MyNorm'
    with pytest.raises(ValueError, match=f'--import {user_module.__name__}'):
        settings.find_class(path)
    settings.trust(user_module.__name__)
    assert settings.find_class(path) is user_module.MyNorm


def test_an_argument_that_a_class_does_not_take_is_refused():
    with pytest.raises(ValueError, match="takes no 'warmup'"):
        settings.build(
            {'class_path': 'xlabml.training.WarmupCosine', 'init_args': {'warmup': 5}}, Callable[[int], Schedule]
        )


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(ValueError, match='is not a Schedule'):
        settings.build({'class_path': 'torch.nn.GELU'}, Callable[[int], Schedule])


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match="cannot import 'no_such_module'"):
        settings.trust('no_such_module')


def test_nothing_is_built_before_its_kind_is_known(monkeypatch):
    built = []
    monkeypatch.setattr(WarmupCosine, '__init__', lambda self, *_, **__: built.append(self))
    inner = {'class_path': 'xlabml.training.WarmupCosine', 'init_args': {}}
    with pytest.raises(ValueError, match='is not a Schedule'):
        settings.build({'class_path': 'torch.nn.Sequential', 'init_args': {'args': inner}}, Callable[[int], Schedule])
    with pytest.raises(ValueError, match='where no class is expected'):
        settings.build(inner)
    assert not built


def test_commands_are_no_parts():
    with pytest.raises(ValueError, match='is a command, not a part'):
        settings.find_class('xlabml.commands.fit.XLabCLI')
