"""The groups of settings, listed once: what a file may hold, what the parser knows and what a checkpoint may set."""

from xlabml.callbacks import (
    Checkpoints,
    ClassReport,
    Curves,
    NonFinite,
    Overfitting,
    Predictions,
    Progress,
    SampledText,
    Spikes,
    Stopping,
    Summary,
)
from xlabml.datamodules import XLabDataModule
from xlabml.models import Task

from .trainer import Trainer

CALLBACKS: dict[str, type] = {
    'baselines': ClassReport,
    'checkpoint': Checkpoints,
    'curves': Curves,
    'nonfinite': NonFinite,
    'overfitting': Overfitting,
    'predictions': Predictions,
    'progress': Progress,
    'samples': SampledText,
    'spikes': Spikes,
    'stopping': Stopping,
    'summary': Summary,
}
"""Groups whose settings are the arguments of a callback."""

GROUPS: dict[str, type] = {'trainer': Trainer, 'model': Task, 'data': XLabDataModule, **CALLBACKS}
"""Every group of settings, and the class whose arguments they are; of `model` any task's."""

LINKED = {'n_vocab': 'data.n_vocab', 'max_len': 'data.max_len'}
"""Settings of the data that arguments of a task follow from, by the argument's name; a task need not take them."""
