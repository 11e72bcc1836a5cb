"""One parser: all commands take names in full, and refuse others in one line that names the nearest."""

import argparse

import pytest

from xlabml.commands import fit, infer, manage
from xlabml.commands.arguments import Parser, take_common
from xlabml.commands.errors import UsageError
from xlabml.commands.parser import SettingsParser

COMMANDS = {'xlab': fit.main, 'xlab-infer': infer.main, 'xlab-manage': manage.main}


def test_the_parser_of_settings_adds_nothing_to_how_names_and_errors_are_treated():
    assert issubclass(SettingsParser, Parser)
    shared = {name for name, value in vars(Parser).items() if callable(value) or isinstance(value, property)}
    assert shared & set(vars(SettingsParser)) == {
        'error',
        'hint',
        '_nearest',
    }  # each adds to the base's
    assert not SettingsParser().allow_abbrev


@pytest.mark.parametrize(
    ('program', 'typed', 'nearest'),
    [
        ('xlab', ['compute_stats', '--trainer.max_step=3'], '--trainer.max_steps'),
        ('xlab', ['compute_stats', '--sample_sise', '3'], '--sample_size'),
        ('xlab', ['comptue_stats'], 'compute_stats'),
        ('xlab-infer', ['x', 'y', '--temp', '1'], '--temperature'),
        ('xlab-infer', ['x', 'y', '--bean-width=1'], '--beam-width'),
        ('xlab-manage', ['export-checkpiont', 'x'], 'export-checkpoint'),
        ('xlab-manage', ['describe', 'x', '--outptu', 'y'], '--output'),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_one(program, typed, nearest, capsys):
    assert COMMANDS[program](typed) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f'{program}: ')
    assert printed.count('\n') == 1
    assert f'; did you mean {nearest}? (' in printed


@pytest.mark.parametrize(('program', 'typed'), [('xlab-infer', ['x', 'y', '--zigzag']), ('xlab-manage', ['paint'])])
def test_where_nothing_is_near_nothing_is_proposed(program, typed, capsys):
    assert COMMANDS[program](typed) == 2
    assert 'did you mean' not in capsys.readouterr().err


def test_a_message_is_one_line_of_bounded_length():
    with pytest.raises(UsageError) as caught:
        Parser('x').error('a\n  b ' + 'c ' * 1000)
    message = str(caught.value)
    assert message.startswith('a b c c')
    assert message.endswith(' … (see x --help)')
    assert len(message) < 1000


def test_a_name_that_is_shortened_is_not_completed():
    parser = Parser('x')
    parser.add_argument('--output')
    with pytest.raises(UsageError, match=r'unrecognized arguments: --out y; did you mean --output\? \(see x --help\)'):
        parser.parse_args(['--out', 'y'])


def test_common_flags_are_taken_from_any_place_and_the_rest_keeps_its_order():
    typed = ['fit', '--import', 'a', '-c', 'b.yaml', '--data.weights', '-1', '--import=c', '-cd.yaml', '--debug', '{}']
    assert take_common(typed) == (
        argparse.Namespace(modules=['a', 'c'], debug=True),
        ['fit', '-c', 'b.yaml', '--data.weights', '-1', '-cd.yaml', '{}'],
    )


def test_ctrl_c_during_a_task_of_manage_ends_with_a_line(monkeypatch, capsys):
    def interrupt(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(manage, 'parse', interrupt)
    assert manage.main(['describe', 'x']) == 130
    assert capsys.readouterr().err == '\nxlab-manage: interrupted\n'
