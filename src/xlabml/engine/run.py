"""What a run is beside its weights: its folder, how it ends, what it shows and what it still owes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L

from .loops import end_now


class End(NamedTuple):
    """Why a run ends before its last step.

    Args:
        status: The exit status of the process.
        why: A phrase for people.
        is_saved: Whether the run is still saved where it stands.
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
        newest_checkpoint: The newest checkpoint that this run has written or taken over; None before the first.
        owes_validation: Whether the step of the newest checkpoint is still to be validated, because the run was stopped
            before or in it.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._trainer: Any = trainer
        self.folder: Path | None = None
        self.ended: End | None = None
        self.newest_row: dict[str, float] = {}
        self.newest_checkpoint: str | None = None
        self.owes_validation = False

    @staticmethod
    def of(trainer: L.Trainer) -> Run:
        """The run of a trainer; a plain L.Trainer gets one the first time that it is asked for."""
        run = getattr(trainer, 'run', None)
        if not isinstance(run, Run):
            run = Run(trainer)
            vars(trainer)['run'] = run
        return run

    def end(self, status: int, why: str, is_saved: bool = True) -> None:
        """End the run at this optimizer step. Of several reasons the first counts, or one after which nothing is saved.

        To be called on all ranks at the same step.
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
        """Whether `trainer.fast_dev_run` tries a few steps, of which nothing is kept."""
        return bool(self._trainer.fast_dev_run)

    @property
    def log_every_n_steps(self) -> int:
        """Optimizer steps between rows of the curves; 0: no rows."""
        return int(self._trainer.log_every_n_steps)

    @property
    def status(self) -> int:
        """The exit status: 0 where nothing has ended the run early."""
        return 0 if self.ended is None else self.ended.status

    def places_read(self, first: int, last: int) -> list[list[list[int]]]:
        """The rows that the steps first to last (counted from 1) have read, as data.skip_rows names them: pairs of the
        first and the last place, each [pass, row]; [] where the data knows no places."""
        find = getattr(self.data, 'places_read', None)
        return [] if find is None else find(first, last)

    def output_folder(self) -> Path:
        """Where files about the run go, on this rank."""
        return self.folder or Path(self._trainer.log_dir or self._trainer.default_root_dir)
