"""Curves of a task that counts other things than tokens: its rows have the tokens that were read."""

import json
from functools import partial

import pytest
import torch
from pair_batches import pair_batch, random_groups
from torch.utils.data import DataLoader

from xlabml.callbacks import Curves
from xlabml.commands.trainer import Trainer
from xlabml.models import Embedder
from xlabml.transformer import Transformer


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
def test_tokens_of_groups_are_those_that_were_read_padding_aside(tmp_path):
    groups = [random_groups(6, seed=seed) for seed in range(3)]
    torch.manual_seed(0)
    task = Embedder(50, 16, trunk=partial(Transformer, d_model=8, n_layers=1, n_heads=2, d_ff=8, causal=False))
    trainer = Trainer(
        max_steps=3,
        accelerator='cpu',
        precision='32-true',
        default_root_dir=tmp_path,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[Curves(spectra_every_n_steps=0, peak_tflops=1.0)],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.fit(task, DataLoader([pair_batch(some, row_slots=20) for some in groups], batch_size=None))
    folder = next((tmp_path / 'logs').iterdir())
    rows = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    n_tokens = [sum(len(text) for group in some for text in group) for some in groups]
    assert [row['tokens'] for row in rows] == [sum(n_tokens[: i + 1]) for i in range(3)]
    assert all('train_n_read' not in row for row in rows)
