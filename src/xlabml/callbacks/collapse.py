"""The guard against vectors that collapse: an embedder that gives every text nearly one vector learns no more."""

import sys
from typing import Literal

import lightning.pytorch as L

from xlabml.engine import Callback, Run, Task
from xlabml.evaluation import Geometry

COLLAPSED = 3
"""The exit status of a run that collapsed vectors ended, as that of a loss spike."""


class Collapse(Callback):
    """Name a collapse of the vectors at a validation, end the run on request, and write histograms of cosines.

    The figures are those of the evaluator `Geometry`, which the task has to have.
    Histograms go to loggers that have them (TensorBoard), as `val_cosine_together` and `val_cosine_apart`.

    Args:
        action: warn: print what has collapsed; stop: end the run as well, with a checkpoint, and exit status 3.
    """

    def __init__(self, action: Literal['warn', 'stop'] = 'warn') -> None:
        if action not in ('warn', 'stop'):
            raise ValueError(f"the action of Collapse is {action!r}; it must be 'warn' or 'stop'")
        self.action = action

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not _geometries(pl_module):
            raise ValueError(
                'the callback Collapse reads the figures of the evaluator Geometry, and the model has none; add '
                'xlabml.evaluation.Geometry to model.evaluators, or leave the callback out'
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for geometry in _geometries(pl_module):
            for logger in trainer.loggers:
                add_histogram = getattr(getattr(logger, 'experiment', None), 'add_histogram', None)
                for name, values in geometry.shown.items():
                    if add_histogram is not None and len(values):
                        add_histogram(f'val_{name}', values, trainer.global_step)
            if geometry.collapsed is None:
                continue
            if trainer.is_global_zero:
                print(f'collapse at step {trainer.global_step}: {geometry.collapsed}', file=sys.stderr)
            if self.action == 'stop':  # the figures are those of all ranks, so all of them stop here
                Run.of(trainer).end(COLLAPSED, 'collapsed vectors')


def _geometries(module: L.LightningModule) -> list[Geometry]:
    return [evaluator for evaluator in Task.of(module).evaluators if isinstance(evaluator, Geometry)]
