"""What other libraries print, kept off the user's terminal; and Ctrl-C while they load."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


def quieten() -> None:
    """Keep other libraries' advertising and news for developers off the user's terminal."""
    import logging  # late, as what follows: until this module is there, Ctrl-C shows a traceback
    import warnings

    for name in ('lightning.pytorch', 'lightning.fabric'):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        '.*does not have many workers.*',
        '.*LeafSpec.*',
        '.*Checkpoint directory.*',
        '.*smaller than the logging interval.*',
        '.*overrides the configure_model callback.*',  # ours cuts the model for one strategy, and that one only
        '.*is deprecated and will be removed in jsonargparse.*',
        '.*loading a checkpoint outside the .fit. stage.*',  # of averaged weights: they are what is evaluated
    ):
        warnings.filterwarnings('ignore', message=message)
    from jsonargparse._deprecated import JsonargparseDeprecationWarning

    warnings.filterwarnings('ignore', category=JsonargparseDeprecationWarning)


@contextlib.contextmanager
def interruptible_imports(program: str) -> Iterator[None]:
    """While this lasts, Ctrl-C ends the process at once, with one line and status 130.

    Libraries are being loaded, and nothing was begun. A KeyboardInterrupt would reach whatever code of theirs runs at
    that moment: extensions turn it into errors of their own, and some swallow it.
    """
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in the background job of a shell
    if is_ignored or threading.current_thread() is not threading.main_thread():
        yield  # no other thread may set a handler
        return

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f'\n{program}: interrupted\n'.encode())
        os._exit(130)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
