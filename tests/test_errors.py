"""The tree of errors, as its docstring shows it, and what a command ends with after each."""

import importlib
import pkgutil
import re

import pytest

import xlabml
from xlabml import errors
from xlabml.commands.errors import report_errors
from xlabml.errors import XLabError

NEEDS_MORE = ('xlabml.commands.embedding_step', 'xlabml.data.store.cluster', 'xlabml.reports.plots')
"""Modules of libraries that need not be there."""


def parents_of(base):
    """Each class below one that is ours, by its path within the package, and the class that it is made from."""
    for found in base.__subclasses__():
        if found.__module__.startswith('xlabml.'):
            yield path_of(found), path_of(base)
            yield from parents_of(found)


def path_of(cls):
    return f'{cls.__module__}.{cls.__qualname__}'.removeprefix('xlabml.').removeprefix('errors.')


@pytest.fixture(scope='module')
def tree():
    for module in pkgutil.walk_packages(xlabml.__path__, 'xlabml.'):
        if module.name not in NEEDS_MORE:
            importlib.import_module(module.name)
    return dict(parents_of(XLabError))


def test_the_docstring_shows_the_tree(tree):
    lines = re.findall(r'^( *)([\w.]+)(?: {2,}\w.*)?$', errors.__doc__, re.M)
    above, shown = {}, {}
    for indent, path in lines:
        above[len(indent)] = path
        if indent:
            shown[path] = above[len(indent) - 4]
    assert above[0] == 'XLabError'
    assert shown == tree


def test_each_is_what_callers_catch(tree):
    for path in tree:
        module, _, name = path.rpartition('.')
        found = getattr(importlib.import_module(f'xlabml.{module or "errors"}'), name)
        assert issubclass(found, OSError if name == 'RunInUse' else ValueError), path


@pytest.mark.parametrize(('error', 'status'), [
    (errors.SettingsError, 2), (errors.NotSupportedError, 2), (errors.RequestError, 2), (errors.DataError, 1),
    (errors.CheckpointError, 1), (errors.DamagedError, 1), (ValueError, 1), (OSError, 1), (RuntimeError, 1),
])  # fmt: skip
def test_a_command_ends_with_the_status_of_its_error(error, status, capsys):
    def fail():
        raise error('what is wrong')

    assert report_errors('xlab', fail, debug=False) == status
    assert capsys.readouterr().err.startswith('xlab: RuntimeError: ' if error is RuntimeError else 'xlab: what is')
