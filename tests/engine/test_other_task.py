"""A task of another kind than a language model, through the engine and every callback that observes a run."""

import functools
import json
import statistics

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from xlabml.batches import Batch, ClassTargets
from xlabml.callbacks import Checkpoints, Curves, NonFinite, Predictions, Progress, SampledText, Spikes, Summary
from xlabml.commands.trainer import Trainer
from xlabml.engine import DocumentParts, Run, Task
from xlabml.evaluation import Evaluator, Monitor, Sums
from xlabml.training import AdamW, WarmupConstant

ADAMW = functools.partial(AdamW, lr=0.05)
CONSTANT = functools.partial(WarmupConstant, warmup_steps=0)


class MedianFigure(Evaluator):
    """A figure that is no sum: it needs every value."""

    def names(self):
        return ['median_error']

    @property
    def n_counted(self):
        return self.n_values

    def start(self):
        self.values, self.n_values = [], 0

    def update(self, outputs, batch):
        self.values += outputs.tolist()

    def result(self, gather):
        values = [value for some in gather.everything(self.values) for value in some]
        self.n_values = len(values)
        return {'median_error': statistics.median(values)}


class OwnFigure(MedianFigure):
    """The same on examples of its own: the data module hands its loader on behind that of the split."""

    has_own_examples = True

    def names(self):
        return ['twenties_error']

    def result(self, gather):
        return {'twenties_error': super().result(gather)['median_error']}


class Regression(Task):
    """Predicts a number for each example from the mean of its tokens' vectors."""

    formats = (ClassTargets,)
    monitor = Monitor('val_median_error', 'min')
    counted = 'examples'

    def __init__(self, own_examples: bool = False) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Embedding(30, 4), nn.Flatten(), nn.Linear(4 * 5, 1))
        self.optimizer = ADAMW
        self.schedule = CONSTANT
        self.evaluators = [MedianFigure(), *([OwnFigure()] if own_examples else [])]

    def errors(self, batch):
        return self.network(batch.ids).squeeze(-1) - batch.targets.labels

    def loss(self, batch):
        errors = self.errors(batch) * batch.targets.weights
        return Sums(errors.square().sum(), batch.targets.weights.sum(), {'absolute': errors.abs().sum()})

    def figures(self, sums):
        return {'loss': sums['objective'] / sums['count'], 'absolute': sums['absolute'] / sums['count']}

    def outputs(self, batch):
        return self.errors(batch).abs()

    def predictions(self, batch):
        return DocumentParts(batch.documents, {'error': self.errors(batch)})


class Numbers(L.LightningDataModule):
    """A data module as far as predictions know one."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def predict_dataloader(self):
        return loader(self.batches)

    def document_id(self, document):
        return f'number {document}'


def batch_of(seed, n=8, low=0, weight=1.0, n_counted=None):
    ids = torch.randint(low, 30, (n, 5), generator=torch.Generator().manual_seed(seed))
    weights = torch.full((n,), weight)
    targets = ClassTargets((ids.float().mean(dim=1) / 30), weights)
    here = torch.arange(n)
    counted = float(weights.sum()) if n_counted is None else n_counted
    return Batch(ids, None, here + 100 * seed, here, torch.zeros_like(here), targets, counted, seed)


def loader(batches):
    return DataLoader(batches, batch_size=None)


def make_trainer(folder, n_steps, callbacks, **options):
    return Trainer(
        max_steps=n_steps,
        accelerator='cpu',
        precision='32-true',
        default_root_dir=folder,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
        callbacks=callbacks,
        num_sanity_val_steps=0,
        log_every_n_steps=5,
        **options,
    )


def test_another_task_learns_is_saved_by_its_own_figure_shown_in_its_own_words_and_predicts(tmp_path, capsys):
    torch.manual_seed(0)
    task, saver, predictions = Regression(), Checkpoints(), Predictions()
    others = [Curves(), NonFinite(), Progress(), SampledText(), Spikes('warn'), Summary()]
    trainer = make_trainer(tmp_path, 60, [*others, predictions, saver], val_check_interval=20)
    trainer.fit(task, loader([batch_of(seed) for seed in range(60)]), loader([batch_of(1000)]))
    run = Run.of(trainer)
    assert saver.monitor == 'val_median_error'
    assert 'val_median_error=' in saver.best
    assert run.newest_checkpoint == saver.newest
    folder = next((tmp_path / 'logs').iterdir())
    rows = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert rows[-1]['train_loss'] < rows[0]['train_loss'] / 4
    assert 'train_absolute' in rows[-1]
    (start, _) = [json.loads(line) for line in (folder / 'run.jsonl').read_text().splitlines()]
    assert start['monitor'] == ['val_median_error', 'min']
    said = capsys.readouterr().out
    assert 'step 60, val: median_error 0.' in said
    assert 'nats' not in said
    assert 'bits' not in said


def test_predictions_are_a_line_a_document(tmp_path):
    torch.manual_seed(0)
    task, predictions = Regression(), Predictions()
    trainer = make_trainer(tmp_path, 1, [predictions], logger=False)
    batch = batch_of(2)
    trainer.predict(task, datamodule=Numbers([batch, batch._replace(documents=batch.documents - 1)]))
    rows = [json.loads(line) for line in predictions.path.read_text().splitlines()]
    assert [row['id'] for row in rows] == [f'number {i}' for i in range(199, 208)]
    errors = task.errors(batch).tolist()
    assert rows[1]['error'] == pytest.approx(errors[0] + errors[1])  # of both batches
    assert (predictions.n_documents, predictions.n_counted) == (9, 0)


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
@pytest.mark.parametrize('n_shares', [1, 2])
def test_a_step_is_divided_by_the_weight_of_all_of_it(tmp_path, n_shares):
    """Weights below 1 in all, and micro-batches: the gradient is that of the weighted mean."""
    torch.manual_seed(0)
    task, other = Regression(), Regression()
    other.load_state_dict(task.state_dict())
    whole = batch_of(3, n=8, weight=0.1)
    size = 8 // n_shares
    parts = [
        whole._replace(
            ids=whole.ids[i : i + size],
            targets=ClassTargets(whole.targets.labels[i : i + size], whole.targets.weights[i : i + size]),
        )
        for i in range(0, 8, size)
    ]
    trainer = make_trainer(tmp_path, 1, [], logger=False, accumulate_grad_batches=n_shares, val_check_interval=10)
    trainer.fit(task, loader(parts))
    sums = other.loss(whole)
    (sums.objective / sums.count).backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in other.parameters()])
    torch.testing.assert_close(task.grad_norm, norm)


def test_an_evaluator_with_examples_of_its_own_reads_its_own_loader(tmp_path):
    torch.manual_seed(0)
    task = Regression(own_examples=True)
    trainer = make_trainer(tmp_path, 1, [], logger=False)
    (_, _) = trainer.validate(task, [loader([batch_of(1)]), loader([batch_of(2, low=20), batch_of(3, low=20)])])
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    with torch.no_grad():
        own = torch.cat([task.errors(batch_of(seed, low=20)).abs() for seed in (2, 3)])
        split = task.errors(batch_of(1)).abs()
    assert metrics['val_median_error'] == pytest.approx(statistics.median(split.tolist()))
    assert metrics['val_twenties_error'] == pytest.approx(statistics.median(own.tolist()))
    assert task.figure_names() == ['median_error', 'twenties_error']


def test_a_task_without_predictions_says_so():
    class Silent(Regression):
        predictions = Task.predictions

    with pytest.raises(ValueError, match='Silent scores no documents'):
        Silent().predictions(batch_of(0))


def test_a_task_must_say_what_a_batch_costs():
    class NoLoss(Task):
        pass

    with pytest.raises(TypeError, match='loss'):
        NoLoss()
