"""`xlab COMMAND --help`, of one group `--help data`, and `--data.plan.help`: settings for people, by group.

argparse's own page had 870 lines, most of which were paths of classes of other libraries. Here a command's page has
what is needed most first, then every setting of ours in a sentence; a group's page has the whole text, the type and the
default of each. The words are those of the docstrings.
"""

import inspect
import re
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping, Sequence

from jsonargparse import Namespace

from xlabml.models import DEFAULT, Task
from xlabml.transformer import Transformer
from xlabml.untrusted.matching import parameters

from .classes import classes_for, short_name
from .columns import first_sentence, lowered, page_width, row, wrap
from .errors import UsageError
from .groups import GROUPS, LINKED
from .overview import SHORT
from .parser import SettingsParser
from .parsing import EPILOGUES, make_parsers
from .signatures import kind, meanings, one_line, shown, summary

_FIRST = (
    'data.sources',
    'trainer.max_steps',
    'data.batch_tokens',
    'trainer.precision',
    'data.max_len',
    'data.n_vocab',
    'data.splits',
    'model.trunk.d_model',
    'model.trunk.n_layers',
    'model.trunk.n_heads',
    'model.optimizer',
    'model.schedule',
    'trainer.val_check_interval',
    'trainer.devices',
    'trainer.default_root_dir',
)
"""What runs differ in most."""

_OF_THE_TRUNK = 'model.trunk.'
_PEOPLES = {
    'trainer.devices': 'Number of GPUs, or of processes on CPUs.',
    'trainer.default_root_dir': 'Folder of the runs: each is written to logs/version_N in it.',
    'trainer.accelerator': 'What trains: auto, cpu, gpu …',
    'trainer.num_nodes': 'Number of machines.',
}
"""Settings of Lightning's that its own words explain less well."""

_FLAGS = {
    '-c FILE, --config FILE': 'Read settings from a YAML file; may be repeated. What is typed counts before files.',
    '--print_config': 'Print all settings, and end.',
    '--smoke': 'Try these settings on a batch of everything, in a temporary folder, and end.',
    '--autotune': 'Measure which data.device_batch_tokens is the fastest, use it and save it.',
    '--folds N': 'Train and test a run for each of n folds (data.fold), in folders of their own, and print a table.',
    '--seeds N,N': 'The same for each of these seeds; with --folds, for each of both.',
    '--import MODULE': 'Import a module of yours, and let checkpoints name its classes; may be repeated.',
    '--debug': 'Show where an error comes from.',
}
"""Flags that are taken before settings are parsed."""

_OF_FIT = ('--smoke', '--autotune', '--folds N', '--seeds N,N')


def answer(command: str, words: Sequence[str]) -> str:
    """The page that a command line asks for; '': it asks for none, or for one of jsonargparse's (`--model.help CLASS`).

    Args:
        command: The command in it.
        words: All of it.

    Raises:
        UsageError: There is no such group.
    """
    for at, word in enumerate(words):
        after = words[at + 1] if at + 1 < len(words) else ''
        if word in ('-h', '--help'):
            topic = after if after not in ('', command) and not after.startswith('-') else ''
            return page(command, topic)
        if found := re.fullmatch(r'--([\w.]+)\.help(?:=(.*))?', word):
            name, cls = found[1], found[2] or ('' if after.startswith('-') else after)
            return _class_page(command, name, cls) if cls else _choices(command, name)
    return ''


def page(command: str, topic: str = '') -> str:
    """The help of a command, or of one group of its settings.

    Args:
        topic: The group; '': the overview.
    """
    parser = make_parsers([command]).commands[command]
    width = page_width()
    if not topic:
        return '\n'.join(_overview(command, parser, width))
    if topic not in GROUPS:
        raise UsageError(f'--help {topic}: the groups of settings are {", ".join(GROUPS)}')
    return '\n'.join(_group(topic, parser, width))


def _overview(command: str, parser: SettingsParser, width: int) -> Iterator[str]:
    yield f'usage: xlab {command} [-c FILE] [--SETTING VALUE ...]\n'
    yield SHORT[command]
    yield '\nMost used settings:'
    actions = _settings(parser)
    for name in _FIRST:
        yield from row(f'--{name}', first_sentence(_words(name, actions)), _default(name, actions), width)
    yield '\nFlags of this command:'
    for action in _own(parser):
        yield from row(f'--{action.dest}', one_line(action.help or ''), _shown_default(action.default), width)
    for flag, words in _FLAGS.items():
        if command == 'fit' or flag not in _OF_FIT:
            yield from row(flag, words, '', width)
    yield from wrap(f'\nAll settings by group; xlab {command} --help data explains a group in full:', width)
    for group, cls in GROUPS.items():
        if group == 'model':
            yield from wrap(f'\nmodel: the task, by default {DEFAULT.__name__}', width)
            yield from row('--model', 'A class; --model.help lists all.', DEFAULT.__name__, width)
            yield from row(f'--model.help {DEFAULT.__name__}', 'The settings of a class.', '', width)
            continue
        yield from wrap(f'\n{group}: {lowered(summary(cls))}', width)
        others = []
        for name, action in actions.items():
            if not name.startswith(f'{group}.'):
                continue
            if group == 'trainer' and name.partition('.')[2] not in meanings(cls) and name not in _PEOPLES:
                others.append(name.partition('.')[2])
                continue
            yield from row(f'--{name}', first_sentence(_words(name, actions)), _shown_default(action.default), width)
        if others:
            yield from wrap(f"  and of Lightning's Trainer: {', '.join(sorted(others))}", width, '    ')
    yield ''
    yield from wrap(EPILOGUES.get(command, EPILOGUES['']), width)


def _group(group: str, parser: SettingsParser, width: int) -> Iterator[str]:
    if group == 'model':
        yield from _class_list('model', classes_for(Task), width)
        return
    yield from wrap(f'{group}: {lowered(summary(GROUPS[group]))}', width)
    actions = _settings(parser)
    for name, action in actions.items():
        if name.startswith(f'{group}.'):
            default = _shown_default(action.default)
            yield f'\n--{name}'
            by_default = f', by default {default}' if default else ''
            yield from wrap(f'    {_kind(action)}{by_default}', width, '    ')
            yield from wrap(f'    {_words(name, actions)}', width, '    ')
            if found := classes_for(getattr(action, '_typehint', None)):
                names = list(map(short_name, found))
                of_one = f'--{name}.help {names[0]}'
                yield from wrap(f'    Classes: {", ".join(names)}. {of_one} explains one.', width, '    ')
    if linked := [f'{name} (model)' for name, source in LINKED.items() if source.startswith(f'{group}.')]:
        yield from wrap(f'\nThe model takes over {", ".join(linked)}.', width)


def _choices(command: str, name: str) -> str:
    """The classes that can stand for a setting; '' where it takes none."""
    names = classes_for(_annotation(command, name))
    return '\n'.join(_class_list(name, names, page_width())) if names else ''


def _class_page(command: str, name: str, asked: str) -> str:
    """The settings of a class that can stand for a setting; '' where it is not one of ours."""
    found = [cls for path, cls in classes_for(_annotation(command, name)).items() if asked in (path, short_name(path))]
    if not found:
        return ''
    cls = found[0]
    said = meanings(cls)
    width = page_width()
    lines = [*wrap(f'{short_name(asked)}, a class for --{name}: {lowered(summary(cls))}', width)]
    defaults = inspect.signature(cls).parameters
    linked = LINKED if name == 'model' else {}
    for argument, annotation in parameters(cls).items():
        is_set = argument in defaults and defaults[argument].default is not inspect.Parameter.empty
        if argument in linked or not (is_set or said.get(argument)):
            continue  # what xlabml hands to a part: a width, a length
        default = _shown_default(defaults[argument].default) if is_set else ''
        by_default = f', by default {default}' if default else ''
        lines += ['', f'--{name}.{argument}', *wrap(f'    {kind(annotation)}{by_default}', width, '    ')]
        lines += wrap(f'    {one_line(said.get(argument, ""))}', width, '    ')
        if names := classes_for(annotation):
            of_one = f'--{name}.{argument}.help CLASS'
            lines += wrap(f'    Classes: {", ".join(map(short_name, names))}. {of_one} explains one.', width, '    ')
    return '\n'.join(lines)


def _annotation(command: str, name: str) -> object:
    """The type of a setting; None where there is none of this name. Within the model it is that of the default task."""
    first, *others = name.split('.')
    if first == 'model' and others:
        cls: type = DEFAULT
        for other in others[:-1]:
            inner = classes_for(parameters(cls).get(other))
            default = inspect.signature(cls).parameters.get(other)
            if not inner or default is None:
                return None
            cls = default.default if inspect.isclass(default.default) else next(iter(inner.values()))
        return parameters(cls).get(others[-1])
    action = make_parsers([command]).commands[command]._option_string_actions.get(f'--{name}')
    return getattr(action, '_typehint', None)


def _class_list(name: str, names: Mapping[str, type], width: int) -> Iterator[str]:
    yield f'Classes for --{name}:\n'
    for path, cls in names.items():
        yield from row(short_name(path), summary(cls), '', width)
    yield ''
    yield from wrap(f'--{name}.help CLASS explains the settings of one.', width)


def _own(parser: SettingsParser) -> list[Action]:
    """The arguments of a command that are in no group."""
    others = (*GROUPS, 'help', 'config', 'print_config')
    return [
        action
        for action in parser._actions
        if '.' not in action.dest and action.dest not in others and action.help != SUPPRESS
    ]


def _settings(parser: SettingsParser) -> dict[str, Action]:
    """The settings in groups, by their dotted names."""
    return {
        action.dest: action
        for action in parser._actions
        if action.dest.partition('.')[0] in GROUPS
        and '.' in action.dest
        and action.dest != 'data.seed'  # follows from seed_everything
        and not action.dest.endswith('.help')
        and action.help != SUPPRESS
    }


def _words(name: str, actions: dict[str, Action]) -> str:
    """What a setting means."""
    if name in _PEOPLES:
        return _PEOPLES[name]
    if name.startswith(_OF_THE_TRUNK):
        return one_line(meanings(Transformer)[name.removeprefix(_OF_THE_TRUNK)])
    if name.startswith('model.'):
        return one_line(meanings(DEFAULT)[name.removeprefix('model.')])
    return one_line(actions[name].help or '')


def _default(name: str, actions: dict[str, Action]) -> str:
    if name in actions:
        return _shown_default(actions[name].default)
    cls: type = Transformer if name.startswith(_OF_THE_TRUNK) else DEFAULT
    return shown(inspect.signature(cls).parameters[name.rpartition('.')[2]].default)


def _shown_default(value: object) -> str:
    """A default as YAML has it; '' for null, and for what is longer than a line."""
    if isinstance(value, Namespace | dict) and 'class_path' in value:
        value = short_name(str(value['class_path']))
    if value is None or value == SUPPRESS:
        return ''
    text = shown(value)
    return text if len(text) <= 40 else ''


def _kind(action: Action) -> str:
    found = getattr(action, '_typehint', None) or getattr(action, 'type', None)
    return kind(found) if found is not None else 'a file of settings'
