"""Evaluating with metrics: one pass through the trunk for each batch, and the figures of two."""

import functools

import lightning.pytorch as L
import pytest
import torch
from token_batches import token_batch
from torch.utils.data import DataLoader

from xlabml.batches import IGNORED
from xlabml.evaluation import TokenMetric, WithinNats, summarize
from xlabml.models import XLabModel
from xlabml.transformer import Transformer


class _Within(TokenMetric):
    def __init__(self, limit, name):
        super().__init__(name)
        self.limit = limit

    def values(self, nats, targets):
        return (nats <= self.limit).float()


def test_a_metric_that_goes_says_so_and_still_counts():
    with pytest.warns(FutureWarning, match='WithinNats will be removed in the next version; leave it out'):
        metric = WithinNats()
    assert metric.values(torch.tensor([0.5, 0.6, 0.7]), torch.zeros(3, dtype=torch.long)).tolist() == [1, 1, 0]


def make_batch(seed):
    torch.manual_seed(seed)
    ids, targets = torch.randint(0, 20, (2, 2, 8))
    targets[:, -2:] = IGNORED
    return token_batch(ids, targets, seed, n_counted=int((targets != IGNORED).sum()))


@pytest.mark.parametrize('way', ['validate', 'test'])
@pytest.mark.parametrize('precision', ['32-true', 'bf16-mixed'])
def test_metrics_take_one_pass_through_the_trunk_and_change_no_figure(tmp_path, way, precision):
    torch.manual_seed(0)
    trunk = functools.partial(Transformer, d_model=16, n_layers=2, n_heads=2)
    metrics = [_Within(2.9, 'within_nats'), _Within(3.0, 'within_3')]
    model, batches, calls = XLabModel(20, 8, trunk, metrics=metrics), [make_batch(i) for i in range(3)], []
    model.network.trunk.register_forward_hook(lambda *_: calls.append(1))
    quiet = dict.fromkeys(['logger', 'enable_checkpointing', 'enable_progress_bar', 'enable_model_summary'], False)
    trainer = L.Trainer(accelerator='cpu', precision=precision, default_root_dir=tmp_path, **quiet)
    with torch.no_grad():
        getattr(trainer, way)(model, DataLoader(batches, batch_size=None), verbose=False)
    assert len(calls) == len(batches)

    sums, within = torch.zeros(4, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16-mixed'):
        for batch in batches:
            part = model.network(batch.ids, targets=batch.targets.ids)
            nats = model.network.nats(batch.ids, batch.targets.ids)[batch.targets.ids != IGNORED]  # a pass of its own
            sums += torch.stack([part.nats, part.correct, part.count, batch.targets.n_bytes.sum()]).double()
            within += torch.stack([(nats <= limit).double().sum() for limit in (2.9, 3.0)])
    expected = summarize(dict(zip(('nats', 'correct', 'count', 'n_bytes'), sums.tolist())))
    expected |= dict(zip(('within_nats', 'within_3'), (within / sums[2]).tolist()))
    stage = {'validate': 'val', 'test': 'test'}[way]
    assert 0 < expected['within_nats'] < expected['within_3'] < 1
    for name, value in expected.items():
        assert trainer.callback_metrics[f'{stage}_{name}'] == torch.tensor(value)  # bit for bit in float32
