"""How often a run may go through each source, held against how often it would."""

import math

from xlabml.data.order import Place
from xlabml.data.rows import Passes
from xlabml.errors import SettingsError

from .choices import ReadChoice


def check_epochs(read: ReadChoice, passes: Passes, end: Place | None) -> None:
    """Raise SettingsError if a run reads a source more often than it may, or where that is not known.

    Args:
        read: The sources, and how often each may be gone through.
        passes: What is trained on.
        end: Where the run ends; None: only a clock ends it.
    """
    caps = read.max_source_epochs
    if caps is None:
        return
    if end is None:
        raise SettingsError(
            'data.max_source_epochs is set, but nothing but trainer.max_time ends the run: how often it goes '
            'through a source is not known; set trainer.max_steps too, or leave data.max_source_epochs out'
        )
    for source, n_epochs, cap in zip(read.sources, passes.epochs(end), caps):
        if n_epochs is None and cap < math.inf:
            raise SettingsError(
                f'data.max_source_epochs allows {cap:g} for {source}, but how often the run goes through it is not '
                'known before a stream has read all of its shards once; set it to .inf for this source'
            )
        if n_epochs is not None and n_epochs > cap + 1e-9:
            raise SettingsError(
                f'this run would go {n_epochs:.2f} times through {source}, but data.max_source_epochs allows {cap:g}; '
                f'set trainer.max_steps to {cap / n_epochs:.1%} of what it is, give the source a smaller share in '
                'data.weights, or allow more'
            )
