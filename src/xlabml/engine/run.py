"""The state of a run beside its weights: its folder, why it ended, its newest row and checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L

from .loops import end_now


class End(NamedTuple):
    """Why a run ends before its last step.

    Args:
        status: The exit status of the process.
        why: The reason, a phrase for people.
        is_saved: Whether a last checkpoint is still saved.
    """

    status: int
    why: str
    is_saved: bool = True


class Run:
    """The state of one start of a run, shared by the trainer, the task and the callbacks.

    Args:
        trainer: The trainer whose run this is.

    Attributes:
        folder: The run's folder; None: the trainer's logger decides.
        ended: Why the run was ended early; None: it was not.
        newest_row: The newest training row of the curves.
        newest_checkpoint: The newest checkpoint that this run has written, or resumed from; None before the first.
        owes_validation: Whether the validation of the newest checkpoint's step was interrupted, and must be made up.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._trainer: Any = trainer  # Lightning does not declare all attributes of its Trainer
        self.folder: Path | None = None
        self.ended: End | None = None
        self.newest_row: dict[str, float] = {}
        self.newest_checkpoint: str | None = None
        self.owes_validation = False

    @staticmethod
    def of(trainer: L.Trainer) -> Run:
        """The run of a trainer; created at the first call for a plain L.Trainer."""
        run = getattr(trainer, 'run', None)
        if not isinstance(run, Run):
            run = Run(trainer)
            vars(trainer)['run'] = run
        return run

    def end(self, status: int, why: str, is_saved: bool = True) -> None:
        """End the run at this optimizer step. The first reason counts, unless a later one forbids saving.

        Call it on all ranks at the same step.
        """
        if self.ended is None or (self.ended.is_saved and not is_saved):
            self.ended = End(status, why, is_saved)
        end_now(self._trainer)

    @property
    def callbacks(self) -> list[L.Callback]:
        """The callbacks of the trainer, in their order."""
        return list(self._trainer.callbacks)

    @property
    def command(self) -> str:
        """What the trainer does: fit, validate, test or predict."""
        return str(self._trainer.state.fn.value)

    @property
    def data(self) -> Any:
        """The data module; None where the trainer was given loaders."""
        return getattr(self._trainer, 'datamodule', None)

    @property
    def is_trial(self) -> bool:
        """Whether `trainer.fast_dev_run` runs a few steps, of which nothing is saved."""
        return bool(self._trainer.fast_dev_run)

    @property
    def log_every_n_steps(self) -> int:
        """Optimizer steps between rows of the curves; 0: no rows."""
        return int(self._trainer.log_every_n_steps)

    @property
    def status(self) -> int:
        """The exit status; 0 unless the run was ended early."""
        return 0 if self.ended is None else self.ended.status

    def places_read(self, first: int, last: int) -> list[list[list[int]]]:
        """The rows of steps first to last (counted from 1), as in data.skip_rows: pairs of a first and a last place,
        each [pass, row]; [] where the data has no places."""
        find = getattr(self.data, 'places_read', None)
        return [] if find is None else find(first, last)

    def output_folder(self) -> Path:
        """The folder for files about the run, on this rank."""
        return self.folder or Path(self._trainer.log_dir or self._trainer.default_root_dir)
