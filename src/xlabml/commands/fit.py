"""The console script `xlab`: fit, validate, test, predict, and what prepares data for them.

How the pieces go together: jsonargparse checks every setting against the signatures, whatever file or flag it comes
from (parsing.py); a checkpoint's settings are put below what is typed (resuming.py); what is `auto` is filled in
(resolving.py); parts are then built from the checked settings by `xlabml.settings`, as a checkpoint's are
(building.py); what each command does with them is in running.py. `--autotune`, `--smoke`, `--folds` and
`--seeds` are functions of settings.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Sequence

from . import sweeps
from .arguments import import_modules, take_common
from .cli import XLabCLI
from .errors import report_errors
from .output import lossy_output
from .parser import SettingsParser
from .parsing import DEFAULTS
from .smoke import smoke

__all__ = ['DEFAULTS', 'SettingsParser', 'XLabCLI', 'main', 'quieten']


def quieten() -> None:
    """Keep other libraries' advertising and news for developers off the user's terminal."""
    for name in ('lightning.pytorch', 'lightning.fabric'):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        '.*does not have many workers.*',
        '.*LeafSpec.*',
        '.*Checkpoint directory.*',
        '.*smaller than the logging interval.*',
        '.*overrides the configure_model callback.*',  # ours cuts the model for one strategy, and that one only
        '.*is deprecated and will be removed in jsonargparse.*',
    ):
        warnings.filterwarnings('ignore', message=message)
    from jsonargparse._deprecated import JsonargparseDeprecationWarning

    warnings.filterwarnings('ignore', category=JsonargparseDeprecationWarning)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> None:
        quieten()
        SettingsParser.said.clear()
        common, typed = take_common(given)
        import_modules(common)
        if any(word.partition('=')[0] in sweeps.FLAGS for word in typed):
            sweeps.sweep(typed)
        elif '--smoke' in typed:
            smoke([argument for argument in typed if argument != '--smoke'])
        else:
            XLabCLI(typed)

    with lossy_output() if 'fit' in given else contextlib.nullcontext():
        return report_errors('xlab', run, '--debug' in given)
