"""A class that takes another's place starts from its own defaults, wherever the command line takes a class."""

import gc
import inspect
import json
import typing
from collections.abc import Callable

import pytest
import torch
import yaml
from jsonargparse import _typehints
from jsonargparse._common import parser_context
from jsonargparse._typehints import ActionTypeHint, get_all_subclass_paths, get_subclass_types, import_object

from xlabml.commands import parsing
from xlabml.commands.command_line import plain
from xlabml.commands.parser import SettingsParser

SKIPPED = ('torch.nn.', 'torch.ao.', 'torch.utils.', 'torch.distributed.')
"""Where a part may be any module of torch, those of ours are looked at."""


REQUIRED = {'xlabml.data.Location': {'path': 'a.jsonl'}, 'xlabml.data.RemoteFiles': {'path': 'https://host/a.jsonl'}}
"""What these classes have to be given."""

LISTS = ('data.sources', 'data.held_out', 'model.init_args.evaluators')


def parse(*arguments):
    SettingsParser.said.clear()
    found = plain(parsing.parse(['fit', *map(str, arguments)]).values)
    found.pop('config')  # which files there were
    return found


@pytest.fixture(scope='module')
def write(tmp_path_factory):
    """Write settings to a file of their own."""
    folder = tmp_path_factory.mktemp('settings')

    def run(settings):
        path = folder / f'{len([*folder.iterdir()])}.yaml'
        path.write_text(yaml.safe_dump(settings))
        return path

    return run


def _class_parser(path, action):
    return ActionTypeHint.get_class_parser(path, getattr(action, 'sub_add_kwargs', {}))


def _arguments(path, action):
    """What the command line takes for a class, with another value than the default, of the same type; {} of others."""
    found = {}
    for name, value in list(vars(_class_parser(path, action).get_defaults()).items())[_n_handed(action._typehint) :]:
        if isinstance(value, bool):
            found[name] = not value
        elif isinstance(value, int | float):
            found[name] = type(value)(value * 2 + 3)
    return found


def _n_handed(kind):
    """How many arguments a factory gets from whoever calls it, which are none of the command line's."""
    members = [kind, *typing.get_args(kind)]
    handed = [typing.get_args(member)[0] for member in members if typing.get_origin(member) is Callable]
    return max((len(arguments) for arguments in handed), default=0)


def _is_complete(path, n_handed):
    """Whether nothing has to be given that this test does not."""
    parameters = list(inspect.signature(import_object(path)).parameters.values())[n_handed:]
    needed = {item.name for item in parameters if item.default is item.empty and item.kind is not item.VAR_KEYWORD}
    return needed <= REQUIRED.get(path, {}).keys()


def _is_part(path):
    """Whether it is a class of a library: those that other tests in this process have made are none."""
    return path.startswith(('xlabml.', 'torch.', 'lightning.')) and not path.startswith(SKIPPED)


def _find_parts(parser, owner=''):
    """Every setting that takes one of several classes: its path, and the two with the most arguments in common.

    Where there is one class only, or the task, those of its own settings.
    """
    for action in parser._actions:
        where = f'{owner}{action.dest}'
        if not isinstance(action, ActionTypeHint):
            continue
        kinds = get_subclass_types(action._typehint, also_lists=True, callable_return=True) or ()
        paths = {path for kind in kinds for path in get_all_subclass_paths(kind) if _is_part(path)}
        paths = sorted(path for path in paths if not inspect.isabstract(import_object(path)))
        if where == 'model':
            yield from _find_parts(_class_parser('xlabml.models.XLabModel', action), 'model.init_args.')
        elif len(paths) == 1:
            yield from _find_parts(_class_parser(paths[0], action), f'{where}.init_args.')
        elif paths:
            n_handed = _n_handed(action._typehint)
            taken = {path: _arguments(path, action) for path in paths if _is_complete(path, n_handed)}
            pairs = [(a, b) for a in taken for b in taken if a != b]
            yield where, max(pairs, key=lambda pair: len(taken[pair[0]].keys() & taken[pair[1]].keys())), taken


@pytest.fixture(scope='module')
def parts():
    gc.unfreeze()
    gc.collect()  # Lightning makes classes of optimizers, which are subclasses as long as nothing collects them
    parser = parsing.make_parsers(['fit']).commands['fit']
    with parser_context(parent_parser=parser):
        return list(_find_parts(parser))


def _set(settings, where, value):
    *groups, name = where.split('.')
    for group in groups:
        settings = settings.setdefault(group, {})
    settings[name] = value


def test_every_part_that_replaces_another_is_as_it_is_alone(parts, write, capfd):
    """All parts of the parser at once: one file sets what each pair has in common, a second one names the other."""
    before, after = {}, {}
    for where, (a, b), taken in parts:
        for settings, path, arguments in ((before, a, taken[a]), (after, b, {})):
            part = {'class_path': path, 'init_args': {**arguments, **REQUIRED.get(path, {})}}
            _set(settings, where, [part] if where in LISTS else part)
    names = {where.rpartition('.')[2] for where, *_ in parts}
    assert names >= {'optimizer', 'schedule', 'positions', 'norm', 'activation', 'init', 'plan', 'sources', 'logger'}
    assert names >= {'strategy', 'profiler', 'held_out'}
    alone = parse('-c', write(after))
    assert parse('-c', write(before)) != alone
    capfd.readouterr()
    assert parse('-c', write(before), '-c', write(after)) == alone
    said = capfd.readouterr().err
    for where, (a, b), taken in parts:
        assert not taken[a] or where in LISTS or f'{b} replaces {a}, and drops what was set' in said
    flags = [f'--{name}={json.dumps(value)}' for name, value in _flat(after)]
    assert parse('-c', write(before), *flags) == parse(*flags) == alone


def _flat(settings, owner=''):
    for name, value in settings.items():
        if isinstance(value, dict) and 'class_path' not in value and name != 'init_args':
            yield from _flat(value, f'{owner}{name}.')
        elif name == 'init_args':
            yield from _flat(value, owner)
        else:
            yield f'{owner}{name}', value


ADAMW = {'class_path': 'xlabml.training.AdamW', 'init_args': {'lr': 0.5, 'weight_decay': 0.25}}


def _optimizer(*arguments):
    return parse(*arguments)['model']['init_args']['optimizer']['init_args']


@pytest.mark.parametrize('name', ['SGD', 'RMSprop', 'Adafactor', 'AdamW', 'NAdam', 'Adagrad', 'Muon'])
def test_an_optimizer_of_torch_has_torchs_defaults(name, capfd):
    kind = getattr(torch.optim, name)
    found = _optimizer(f'--model.optimizer=torch.optim.{name}')
    for argument, parameter in list(inspect.signature(kind).parameters.items())[1:]:
        expected = parameter.default
        assert found[argument] == (list(expected) if isinstance(expected, tuple) else expected), argument
    assert not capfd.readouterr().err  # nothing was set for Muon


def test_what_is_set_with_a_class_or_after_it_counts(write):
    first, second = write({'model': {'optimizer': ADAMW}}), write({'model': {'optimizer': 'torch.optim.SGD'}})
    for found in (
        _optimizer('-c', first, '-c', second, '--model.optimizer.lr=0.125'),
        _optimizer('--model.optimizer.lr=0.125', '-c', first, '-c', second),  # files come before flags
        _optimizer('-c', first, '--model.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.125}}'),
        _optimizer('-c', first, '--model.optimizer=torch.optim.SGD', '--model.optimizer.init_args.lr=0.125'),
    ):
        assert (found['lr'], found['momentum'], found['weight_decay']) == (0.125, 0, 0)


def test_a_class_that_comes_back_has_its_own_defaults_too(write):
    first = write({'model': {'optimizer': ADAMW}})
    found = _optimizer('-c', first, *(f'--model.optimizer={name}' for name in ('torch.optim.SGD', ADAMW['class_path'])))
    assert (found['lr'], found['weight_decay']) == (6e-3, 0.1)


@pytest.mark.parametrize('again', ['xlabml.training.AdamW', 'xlabml.training.optimizers.AdamW'])
def test_the_same_class_named_again_keeps_what_was_set_for_it(write, again, capfd):
    """Under another path of it too: the second file overrides what it names."""
    named = {'class_path': again, 'init_args': {'lr': 0.125}}
    found = _optimizer('-c', write({'model': {'optimizer': ADAMW}}), '-c', write({'model': {'optimizer': named}}))
    assert (found['lr'], found['weight_decay']) == (0.125, 0.25)
    assert not capfd.readouterr().err


def test_of_what_nobody_typed_nothing_is_said(write, capfd):
    objective = parse('-c', 'conf/pairs.yaml')['model']['init_args']['objective']
    assert objective['class_path'] == 'xlabml.losses.Matryoshka'
    assert capfd.readouterr().err == ''
    typed = {'class_path': 'InfoNCE', 'init_args': {'directions': ['q2d', 'd2q']}}
    before = {'model': {'class_path': 'StaticEmbedder', 'init_args': {'objective': typed}}}
    parse('-c', write(before), '-c', 'conf/pairs.yaml')
    assert "Matryoshka replaces xlabml.losses.InfoNCE, and drops what was set for it: directions=['q2d', 'd2q']" in (
        ' '.join(capfd.readouterr().err.split())
    )


def test_a_list_replaces_a_list(write):
    """A source takes nothing over from the one that was first in another file, though it is of the same class."""
    settings = [write({'data': {'sources': [{'path': 'a.jsonl', **more}]}}) for more in ({'column': 'words'}, {})]
    (source,) = parse('-c', settings[0], '-c', settings[1])['data']['sources']
    assert source['init_args']['column'] == 'text'
    (source,) = parse('-c', settings[0], '--data.sources=[{path: b.jsonl}]')['data']['sources']
    assert source['init_args']['column'] == 'text'
    stopping = 'class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val_loss'
    lists = [f'--trainer.callbacks=[{{{stopping}{more}}}}}]' for more in (', patience: 99', '')]
    assert parse(*lists)['trainer']['callbacks'] == parse(lists[1])['trainer']['callbacks']


def test_the_rule_is_in_force_while_settings_are_parsed_and_no_longer():
    names = 'adapt_typehints', 'discard_init_args_on_class_path_change'
    before = [getattr(_typehints, name) for name in names]
    parse('--model.optimizer=torch.optim.SGD')
    with pytest.raises(ValueError, match='no_such'):
        parse('--model.optimizer=torch.optim.no_such')
    assert [getattr(_typehints, name) for name in names] == before
