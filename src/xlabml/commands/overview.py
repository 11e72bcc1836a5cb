"""What `xlab` answers before it loads torch: --help, --version, and commands that there are not.

Whoever reads the screen has typed nothing yet, so it must come at once: this module imports no room of ours but errors.
"""

import difflib
import importlib.metadata
import itertools
import platform
from collections.abc import Sequence

from .errors import UsageError

RUN_COMMANDS = ('fit', 'validate', 'test', 'predict')
DATA_COMMANDS = ('prepare_data', 'validate_data', 'train_tokenizer', 'compute_stats')
COMMANDS = (*RUN_COMMANDS, *DATA_COMMANDS)
"""The commands that take settings."""

SHORT = {
    'fit': 'Train a model, or resume its run.',
    'validate': 'Evaluate a trained model on the validation split.',
    'test': 'Evaluate a trained model on the test split.',
    'predict': 'Score every document of a split, into a file.',
    'init': 'Write a commented file of settings for texts of your own.',
    'prepare_data': 'Train the tokenizer, and store the tokens of the texts.',
    'validate_data': 'Read every document, and report which are left out and why.',
    'train_tokenizer': 'Train the tokenizer only.',
    'compute_stats': 'Print lengths, tokens and fill ratio of a split.',
}
"""What each command does, in a sentence."""

_SCREEN = """\
usage: xlab COMMAND [-c FILE] [--SETTING VALUE ...]

Train language models, embedders and classifiers on texts, and evaluate them.

  xlab fit                                train a small model on built-in texts
  xlab fit --data.sources novel.txt       train it on a text of your own
  xlab init novel.txt                     write a file of settings to start from
  xlab fit -c run.yaml --ckpt_path last   train by that file, or resume its run

{commands}

xlab COMMAND --help lists the settings of a command, and xlab fit --help data
explains a group of them. --version prints versions; --completion SHELL (bash,
zsh, fish) prints a script that completes flags. xlab-infer continues texts with
a model, xlab-manage exports models and describes runs.
Exit status: 0 done; 2 what was typed has to change; 1 any other error.
"""

_OTHER_WORDS = {
    'train': 'fit',
    'resume': 'fit --ckpt_path last',
    'eval': 'validate',
    'evaluate': 'test',
    'score': 'predict',
    'new': 'init',
    'help': '--help',
    'tokenize': 'prepare_data',
    'stats': 'compute_stats',
}
"""What other programs call our commands."""

_OTHER_PROGRAMS = {
    **dict.fromkeys(('generate', 'infer', 'sample', 'chat', 'embed', 'search', 'classify'), 'xlab-infer (./infer.py)'),
    **dict.fromkeys(('export', 'export-checkpoint', 'describe', 'convert', 'manage'), 'xlab-manage (./manage.py)'),
}


def command_of(words: Sequence[str]) -> str | None:
    """The command that a line names; None where it names none."""
    if words and words[0] == 'init':
        return 'init'
    return next((word for word in words if word in COMMANDS), None)


def answer(words: Sequence[str]) -> str:
    """The answer to a line without a command.

    Raises:
        UsageError: It asks for nothing that there is.
    """
    flags = {word.partition('=')[0] for word in words}
    if '--version' in flags:
        return versions()
    if flags & {'-h', '--help'} or not words:
        return screen()
    given = next((word for word in words if not word.startswith('-')), None)
    file = next((after for word, after in itertools.pairwise(words) if word in ('-c', '--config')), None)
    if file is not None:
        raise UsageError(f'-c {file} goes with a command: {", ".join(COMMANDS)}')
    if given is None or words[0] != given:
        raise UsageError(f'{words[0]} goes with a command: {", ".join(COMMANDS)} (see xlab --help)')
    raise UsageError(f'there is no command {given!r}{_nearest(given)} (see xlab --help)')


def screen() -> str:
    """The answer to `xlab --help`."""
    return _SCREEN.format(commands='\n'.join(f'  {name:<16} {text}' for name, text in SHORT.items()))


def versions() -> str:
    """The versions that a report of a fault needs; nothing is imported for it."""
    found = {name: _version(name) for name in ('xlabml', 'torch', 'lightning')}
    return ', '.join(f'{name} {version}' for name, version in found.items()) + f', Python {platform.python_version()}\n'


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return '(not installed)'


def _nearest(word: str) -> str:
    if other := _OTHER_PROGRAMS.get(word.lower()):
        return f'; that is a matter of {other}'
    near = difflib.get_close_matches(word[:80], SHORT, 1, 0.6)
    meant = _OTHER_WORDS.get(word.lower()) or (near[0] if near else '')
    return f'; did you mean {meant}?' if meant else f'; the commands are {", ".join(SHORT)}'
