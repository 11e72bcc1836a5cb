"""How a command ends when something is wrong: one message, and a status that a script can read."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator


class UsageError(ValueError):
    """What was typed cannot be done: exit status 2, where everything else is 1."""


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Errors of constructors are errors of usage: the values were typed."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        # Lightning's own, for settings of its Trainer; the class is not imported for the sake of other commands.
        if type(error).__name__ != 'MisconfigurationException':
            raise
        raise UsageError(str(error)) from error


def report_errors(program: str, run: Callable[[], int | None], debug: bool) -> int:
    """Run a command; turn what goes wrong into a line on the terminal and an exit status.

    Args:
        program: What stands before the message.
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
        print(error.code, file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        kind = '' if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: '
        hint = '' if debug or not kind else ' (--debug shows where)'
        print(f'{_speaker(program)}: {kind}{error or type(error).__name__}{hint}', file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _speaker(program: str) -> str:
    """Who says it: of several ranks each says what it met, for the first to fail may end the others unheard."""
    names = ('RANK', 'SLURM_PROCID', 'LOCAL_RANK')
    rank = next((os.environ[name] for name in names if name in os.environ), '0')
    return program if rank == '0' else f'{program} (rank {rank})'
