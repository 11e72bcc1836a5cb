"""The console script `xlab`: fit, validate, test, predict, and what prepares data for them.

How the pieces go together: what needs no torch is answered before it is loaded (overview.py, starter.py); jsonargparse
checks every setting against the signatures, whatever file or flag it comes from (parsing.py); a checkpoint's settings
are put below what is typed (resuming.py); what is `auto` is filled in (resolving.py); parts are then built from the
checked settings by `xlabml.settings`, as a checkpoint's are (building.py); what each command does with them is in
running.py. `--autotune`, `--smoke`, `--folds` and `--seeds` are functions of settings.
"""

import contextlib
import importlib
import sys
from collections.abc import Sequence

from . import overview, starter
from .arguments import import_modules, take_common
from .errors import report_errors
from .output import lossy_output
from .quiet import interruptible_imports, quieten

__all__ = ['main', 'quieten']

_ELSEWHERE = {'DEFAULTS': 'parsing', 'SettingsParser': 'parser', 'XLabCLI': 'cli'}
"""Names that can be imported from here, and the modules that have them: these load torch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with lossy_output() if 'fit' in given else contextlib.nullcontext():
        return report_errors('xlab', lambda: _run(given), '--debug' in given)


def _run(given: list[str]) -> int:
    """Run a command line."""
    common, typed = take_common(given)
    command = overview.command_of(typed)
    if command == 'init':
        print(starter.run(typed[1:]))
        return 0
    if command is None and '--completion' not in {word.partition('=')[0] for word in typed}:
        print(overview.answer(typed), end='')
        return 0 if typed else 2
    with interruptible_imports('xlab'):
        from . import cli, completion, setting_help, smoke, sweeps
        from .parser import SettingsParser

    quieten()
    SettingsParser.said.clear()
    import_modules(common)
    if command is None:
        print(completion.script(typed))
    elif text := setting_help.answer(command, typed):
        print(text)
    elif any(word.partition('=')[0] in sweeps.FLAGS for word in typed):
        sweeps.sweep(typed)
    elif '--smoke' in typed:
        smoke.smoke([argument for argument in typed if argument != '--smoke'])
    else:
        cli.XLabCLI(typed)
    return 0


def __getattr__(name: str) -> object:
    if name not in _ELSEWHERE:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'.{_ELSEWHERE[name]}', __package__), name)
