"""Collapsed vectors are named at a validation, shown as histograms, and end the run on request."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from xlabml.batches import Batch, PairTargets
from xlabml.callbacks import Collapse
from xlabml.commands.trainer import Trainer
from xlabml.engine import Run, Task
from xlabml.evaluation import Geometry, Sums
from xlabml.losses import InfoNCE, make_views
from xlabml.training import AdamW, WarmupConstant

pytestmark = pytest.mark.filterwarnings('ignore:.*ParameterList.*')
N_TEXTS = 24


class Outputs(NamedTuple):
    vectors: torch.Tensor


class Table(Task):
    """A vector for each text."""

    formats = (PairTargets,)

    def __init__(self, is_collapsed: bool = False, has_geometry: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Embedding(N_TEXTS, 8)
        if is_collapsed:
            with torch.no_grad():
                self.network.weight.copy_(1 + 0.01 * self.network.weight)
        self.optimizer = AdamW
        self.schedule = WarmupConstant
        self.evaluators = [Geometry()] if has_geometry else []
        self.objective = InfoNCE()

    def outputs(self, batch):
        return Outputs(self.network(batch.ids[0]))

    def loss(self, batch):
        losses = self.objective(make_views(self.outputs(batch).vectors, batch))
        return Sums(losses.sum(), losses.new_tensor(float(len(losses))), {})


class Shown:
    """A logger's experiment that keeps what it is shown."""

    def __init__(self):
        self.histograms = {}

    def add_histogram(self, name, values, step):
        self.histograms[name, step] = values


def fit(task, folder, callback, logger=False):
    text = torch.arange(N_TEXTS)
    targets = PairTargets(None, None, None, text, 0)
    batch = Batch(text[None], None, text // 2, text // 2, text % 2, targets, N_TEXTS / 2, 0)
    trainer = Trainer(
        accelerator='cpu', precision='32-true', logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[callback], num_sanity_val_steps=0, max_steps=4,
        val_check_interval=2,
    )  # fmt: skip
    loader = DataLoader([batch] * 4, batch_size=None)
    trainer.fit(task, loader, DataLoader([batch], batch_size=None))
    return trainer


@pytest.mark.parametrize('action', ['warn', 'stop'])
def test_a_collapse_is_named_and_ends_the_run_on_request(tmp_path, capsys, action):
    trainer = fit(Table(is_collapsed=True), tmp_path, Collapse(action))
    assert 'collapse at step 2: all vectors point one way' in capsys.readouterr().err
    assert trainer.global_step == (2 if action == 'stop' else 4)
    assert Run.of(trainer).status == (3 if action == 'stop' else 0)


def test_vectors_that_lie_apart_are_let_be(tmp_path, capsys):
    trainer = fit(Table(), tmp_path, Collapse('stop'))
    assert trainer.global_step == 4
    assert 'collapse' not in capsys.readouterr().err


def test_histograms_are_shown_to_loggers_that_have_them():
    shown = Shown()
    loggers = [SimpleNamespace(), SimpleNamespace(experiment=shown)]
    trainer = SimpleNamespace(sanity_checking=False, loggers=loggers, global_step=7, is_global_zero=True)
    task = Table()
    task.evaluators[0].shown = {'cosine_together': torch.ones(3).numpy(), 'cosine_apart': torch.ones(0).numpy()}
    Collapse.on_validation_end.__wrapped__(Collapse(), trainer, task)
    assert list(shown.histograms) == [('val_cosine_together', 7)]


def test_without_figures_of_geometry_it_says_what_to_add(tmp_path):
    with pytest.raises(ValueError, match=r'add xlabml\.evaluation\.Geometry to model\.evaluators'):
        fit(Table(has_geometry=False), tmp_path, Collapse())
    with pytest.raises(ValueError, match="'warn' or 'stop'"):
        Collapse.__init__.__wrapped__(Collapse(), 'end')
