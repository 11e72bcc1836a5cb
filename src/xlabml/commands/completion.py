"""`xlab --completion SHELL`: a script that completes commands, flags and classes in a shell, made by shtab."""

import argparse
from collections.abc import Sequence

from .arguments import Parser
from .classes import classes_for, short_name
from .errors import UsageError
from .overview import COMMANDS
from .parsing import make_parsers

_FILES = ('config', 'ckpt_path', 'init_from', 'ngram', 'data.tokenizer_path')
"""Arguments that are paths."""


def script(words: Sequence[str]) -> str:
    """The script for the shell that a command line asks for.

    Raises:
        UsageError: There is no such shell, or shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UsageError("--completion needs shtab; install it with: pip install 'xlabml[completion]'") from None
    options = Parser('xlab')
    options.add_argument('--completion', metavar='SHELL', choices=shtab.SUPPORTED_SHELLS, required=True)
    shell = options.parse_args(words).completion
    parsers = make_parsers(COMMANDS)
    for parser in parsers.commands.values():
        for action in parser._actions:
            _prepare(action, shtab.FILE)
    return shtab.complete(parsers.main, shell)


def _prepare(action: argparse.Action, files: object) -> None:
    """Say what can stand behind a flag, where it is not any text."""
    if action.dest in _FILES or action.dest == 'data.sources':
        action.complete = files  # type: ignore[attr-defined]
    elif action.choices is None and (found := classes_for(getattr(action, '_typehint', None))):
        action.choices = [short_name(path) for path in found]
    elif getattr(action, '_typehint', None) is bool:
        action.choices = ['true', 'false']
