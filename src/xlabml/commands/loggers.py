"""The loggers that are named in one word, `--trainer.logger wandb`, all in the folder of the run."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from xlabml.callbacks.events import Events

from .errors import UsageError

_PROJECT = 'xlabml'
_EXTRAS = {'wandb': 'wandb', 'mlflow': 'mlflow'}
"""The extra, and the package, that a logger needs."""


def make_loggers(names: Sequence[str], folder: Path, resumed_step: int | None) -> list[Logger]:
    """Build the loggers of a run.

    Args:
        names: `tensorboard`, `csv`, `wandb` or `mlflow`.
        folder: The run's.
        resumed_step: The first step that a resumed run writes; None: the run is new.

    Raises:
        UsageError: The package of one is not installed.
    """
    return [_make(name, folder, resumed_step) for name in dict.fromkeys(names)]


def _make(name: str, folder: Path, resumed_step: int | None) -> Logger:
    if name == 'tensorboard':
        return Events(folder.parent.parent, folder.parent.name, folder.name, purge_step=resumed_step)
    if name == 'csv':
        # A file once written is complete: a resumed run writes another one beside it, from its first step on.
        version = 'csv' if resumed_step is None else f'csv_from_step_{resumed_step}'
        return CSVLogger(folder, name='', version=version)
    title = f'{folder.absolute().parent.parent.name}/{folder.name}'
    try:
        if name == 'wandb':
            return WandbLogger(name=title, save_dir=folder, project=_PROJECT, id=_wandb_id(folder), resume='allow')
        place = folder.absolute()
        return MLFlowLogger(
            experiment_name=_PROJECT,
            run_name=title,
            tracking_uri=f'sqlite:///{place / "mlflow.db"}',
            artifact_location=(place / 'mlruns').as_uri(),
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            f"trainer.logger {name} needs {_EXTRAS[name]}; install it with: pip install 'xlabml[{name}]'"
        ) from error


def _wandb_id(folder: Path) -> str | None:
    """The name that W&B has given to the run in a folder; None: it has none yet."""
    with contextlib.suppress(OSError):
        runs = sorted((folder / 'wandb').glob('*run-*-*'), key=lambda path: path.name.partition('run-')[2])
        return runs[-1].name.rpartition('-')[2] if runs else None
    return None
