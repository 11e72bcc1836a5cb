"""What to type for a run to go on without the rows of some steps."""

from typing import Any

import lightning.pytorch as L

from .checkpointing import Checkpoints


def skip_argument(trainer: L.Trainer, first: int, last: int) -> str:
    """The argument that leaves out what the steps first to last have read, where a run goes on from the newest
    checkpoint before them; '' where rows cannot be left out.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    saver = next((callback for callback in callbacks if isinstance(callback, Checkpoints)), None)
    find_pairs = getattr(trainer.datamodule, 'pairs_to_skip', None)  # type: ignore[attr-defined]
    if find_pairs is None:
        return ''
    pairs = find_pairs(first, last, None if saver is None else saver.step_before(first))
    return f"--data.skip='{pairs}'" if pairs else ''
