"""A task whose losses are given, so that guards can be watched without a model."""

from typing import NamedTuple

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from xlabml.commands.trainer import Trainer
from xlabml.evaluation import Monitor


class GivenBatch(NamedTuple):
    loss: Tensor
    documents: Tensor


class Given(L.LightningModule):
    """The loss of each batch is what the batch says; the only weight counts the steps."""

    monitor = Monitor('val_loss', 'min')

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.n_seen = self.n_validated = 0

    def training_step(self, batch, batch_idx):
        self.n_seen += 1
        return batch.loss - self.weight + self.weight.detach()

    def validation_step(self, batch, batch_idx):
        self.n_validated += 1
        self.log('val_loss', batch.loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(module, losses, folder, callbacks, validate=(), ckpt_path=None, **options):
    """Train on batches of these losses, one document each, numbered from 0."""

    def loader(values):
        batches = [GivenBatch(torch.tensor(float(value)), torch.tensor([i])) for i, value in enumerate(values)]
        return DataLoader(batches, batch_size=None)

    options = {'max_steps': len(losses), 'val_check_interval': 10**6, **options}
    trainer = Trainer(
        accelerator='cpu',
        precision='32-true',
        logger=False,
        enable_checkpointing=any(type(item).__name__ == 'Checkpoints' for item in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, loader(losses), loader(validate) if validate else None, ckpt_path=ckpt_path)
    return trainer
