"""How long `make fit` will take on this machine: times a few steps of the default model, on random tokens.

python scripts/how_long.py
"""

import logging
import statistics
import time
import warnings

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader

from xlabml.batches import batch_of_rows
from xlabml.datamodules import XLabDataModule
from xlabml.engine import Trainer
from xlabml.models import XLabModel

STEPS = 2246
"""As conf/fit.yaml has it."""
N_STEPS = 9
WARM_UP = 4
"""Steps that are not counted: memory and kernels are set up in them."""
OTHERS_RATIO = 0.08
"""What validations and checkpoints add: a default run took 10 min 52 s, its steps 10 min 03 s of them."""
STEP_RATIO = 0.99
"""A step of conf/fit.yaml to one of the default: shifts cost what Muon's three rounds save (measured: docs/log.md)."""


class Clock(L.Callback):
    """The time at the end of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.times.append(time.perf_counter())


def step_seconds() -> float:
    """The median time of a step of the default model and data, in seconds."""
    data = XLabDataModule()
    clock = Clock()
    off = dict.fromkeys(('logger', 'enable_checkpointing', 'enable_progress_bar', 'enable_model_summary'), False)
    trainer = Trainer(max_steps=N_STEPS, callbacks=[clock], val_check_interval=N_STEPS, **off)
    rows = torch.randint(data.n_vocab, (N_STEPS * data.examples_per_batch, data.max_len + 1))
    loader = DataLoader(rows, data.examples_per_batch, collate_fn=lambda some: batch_of_rows(torch.stack(some)))
    trainer.fit(XLabModel(data.n_vocab, data.max_len), loader)
    return statistics.median(after - before for before, after in zip(clock.times[WARM_UP:], clock.times[WARM_UP + 1 :]))


def main() -> None:
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    warnings.simplefilter('ignore')
    seconds = STEPS * step_seconds() * (STEP_RATIO + OTHERS_RATIO)
    told = f'{round(seconds / 60)} minutes' if seconds > 90 else f'{round(seconds)} seconds'
    print(f'make fit trains for about {told} on this machine ({STEPS:,} steps)', flush=True)


if __name__ == '__main__':
    main()
