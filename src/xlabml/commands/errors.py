"""How a command ends after an error: one message, and an exit status."""

import contextlib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator

from xlabml.errors import RequestError, SettingsError, XLabError

from .rewording import in_words

EXIT_STATUS = (
    'Exit status: 0 done; 2 what was typed has to change (a flag, a value, a path where there is nothing, a setting '
    'that does not fit); 1 something else has (a damaged file, data without texts, a full disk)'
)
"""For --help; docs/exit_status.md has the table."""

MOST_SHOWN = 200
"""Characters of a value that a message shows."""

_QUOTED = re.compile(r"""(?<!\w)(['"`])((?:(?!\1).)*)\1(?!\w)""")
_UNBROKEN = re.compile(rf'\S{{{MOST_SHOWN + 1},}}')
_MOST_LINE = 1000
"""Characters of a line: more would be a list of values without an end."""


class UsageError(SettingsError):
    """An error in the command line: exit status 2; other errors have 1."""


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Errors of constructors are errors of usage: the values were typed."""
    try:
        yield
    except (SettingsError, RequestError):
        raise
    except (ValueError, TypeError) as error:
        raise UsageError(in_words(str(error))) from error
    except Exception as error:
        # Lightning's own, for settings of its Trainer; the class is not imported for the sake of other commands.
        if type(error).__name__ != 'MisconfigurationException':
            raise
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def typed_paths() -> Iterator[None]:
    """Errors of paths that do not exist, are of the wrong kind or are taken are errors of usage."""
    try:
        yield
    except OSError as error:
        is_typed = isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError)
        if not is_typed and error.errno != errno.ENAMETOOLONG:
            raise
        raise UsageError(str(error)) from error


def report_errors(program: str, run: Callable[[], int | None], debug: bool) -> int:
    """Run a command, and turn an error into a line on the terminal and an exit status.

    Args:
        program: The name that stands before the message.
        run: The command.
        debug: Whether to show where an error comes from.

    Returns:
        0; 1 after an error; 2 after one in what was typed; 130 after Ctrl-C.
    """
    try:
        return run() or 0
    except KeyboardInterrupt:
        print(f'\n{_speaker(program)}: interrupted', file=sys.stderr)
        return 130
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(show(str(error.code)), file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            print(*map(escape, traceback.format_exc().splitlines()), sep='\n', file=sys.stderr)
        kind = '' if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: '
        hint = '' if debug or not kind else ' (--debug shows where)'
        print(f'{_speaker(program)}: {kind}{describe(error)}{hint}', file=sys.stderr)
        return error.exit_status if isinstance(error, XLabError) else 1


def describe(error: Exception) -> str:
    """The message of an error, ready for a terminal. One with several strings has as many lines; any other has one."""
    if len(error.args) > 1 and all(isinstance(line, str) for line in error.args):
        return '\n'.join(map(show, error.args))
    message = str(error) or type(error).__name__
    if not isinstance(error, ValueError | OSError):  # a library's, whose lines are its own
        message = re.sub(r'\s*\n\s*', ' ', message)
    return show(message)


def show(message: str) -> str:
    """A message as it may stand on a terminal: on one line, nothing in it invisible, no value without an end.

    Values come from files and other people: a file's name that holds escape codes, line ends or marks that turn the
    direction of writing would change what the message seems to say.
    """
    line = _cut_brackets(_QUOTED.sub(_cut_quoted, escape(message)))
    line = _UNBROKEN.sub(lambda found: f'{found[0][:MOST_SHOWN]}…', line)
    return line if len(line) <= _MOST_LINE else f'{line[:_MOST_LINE]}…'


def escape(text: str) -> str:
    """The text with what does not print (control characters, line ends, marks of direction) as Python writes it."""
    return ''.join(
        item if item == ' ' or item.isprintable() else item.encode('unicode_escape').decode() for item in text
    )


def _cut_quoted(found: re.Match[str]) -> str:
    quote, text = found.groups()
    return found[0] if len(text) <= MOST_SHOWN else f'{quote}{text[:MOST_SHOWN]}…{quote}'


def _cut_brackets(line: str) -> str:
    """Cut lists and mappings: from a bracket to the one that closes it, or to the end."""
    parts = []
    end = 0
    while found := re.compile(r'[\[{]').search(line, end):
        depth = 0
        close = len(line)
        for place in range(found.start(), len(line)):
            depth += (line[place] in '[{') - (line[place] in ']}')
            if not depth:
                close = place + 1
                break
        value = line[found.start() : close]
        parts.append(line[end : found.start()])
        parts.append(value if len(value) <= MOST_SHOWN + 2 else f'{value[: MOST_SHOWN + 1]}…{value[-1]}')
        end = close
    return ''.join([*parts, line[end:]])


def _speaker(program: str) -> str:
    """The program's name, with the rank where there are several: the first rank to fail may end the others."""
    names = ('RANK', 'SLURM_PROCID', 'LOCAL_RANK')
    rank = next((os.environ[name] for name in names if name in os.environ), '0')
    return program if rank == '0' else f'{program} (rank {rank})'
