"""The classifier as a task: chunks, ranks, freezing, what is learnt, and what is calibrated and saved."""

import functools

import lightning.pytorch as L
import pytest
import torch
from pair_batches import pair_batch, random_groups
from torch.utils.data import DataLoader

from xlabml import checkpoints
from xlabml.batches import IGNORED, ClassTargets
from xlabml.errors import SettingsError
from xlabml.heads import AttentionPooling, MLPHead
from xlabml.losses import ClassCrossEntropy
from xlabml.models import Classifier
from xlabml.training import AdamW, WarmupConstant
from xlabml.transformer import Transformer

CLASSES = ['a', 'b', 'c']


def make_classifier(seed=0, dropout=0.0, double=True, noise=0.3, **options):
    torch.manual_seed(seed)
    trunk = functools.partial(Transformer, d_model=16, n_layers=2, n_heads=4, d_ff=24, causal=False, dropout=dropout)
    arguments = {'classes': CLASSES, 'trunk': trunk, 'pooling': AttentionPooling, **options}
    model = Classifier(50, 16, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    return model.double().eval() if double else model


def make_batch(labels, seed=0, row_slots=None, weights=None, n_counted=None, documents=None):
    labels = torch.tensor(labels)
    batch = pair_batch(random_groups(len(labels), n_texts=1, seed=seed), row_slots, n_counted=n_counted)
    weights = torch.ones(len(labels)) if weights is None else torch.tensor(weights)
    if documents is not None:
        numbers = torch.tensor(documents)
        batch = batch._replace(documents=torch.where(batch.example < 0, -1, numbers[batch.example.clamp(min=0)]))
    return batch._replace(targets=ClassTargets(labels, weights))


def gradients(model, batch):
    model.zero_grad()
    torch.manual_seed(1)
    sums = model.loss(batch)
    (sums.objective / batch.n_counted).backward()
    return sums.objective.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def make_trainer(folder, **options):
    return L.Trainer(
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def test_chunks_have_the_loss_and_the_gradient_of_one_pass():
    labels = [0, 1, 2, 0, 1, 2, 0]
    model = make_classifier()
    whole = gradients(model, make_batch(labels))
    batch = make_batch(labels, row_slots=14)
    assert len(batch.ids) > 2
    chunks = gradients(model, batch)
    assert chunks[0] == pytest.approx(whole[0], rel=1e-10)
    for one, other in zip(chunks[1], whole[1]):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_examples_are_weighed_and_those_without_a_class_left_out():
    model = make_classifier()
    losses = ClassCrossEntropy()(model.logits(make_batch([0, 1, 2])), torch.tensor([0, 1, 2]))
    sums = model.loss(make_batch([0, 1, 2], weights=[1.0, 0.0, 2.0]))
    assert sums.objective.item() == pytest.approx((losses[0] + 2 * losses[2]).item())
    assert sums.count == 2
    left_out = model.loss(make_batch([0, IGNORED, 2]))
    assert left_out.objective.item() == pytest.approx((losses[0] + losses[2]).item())


def test_the_sums_of_two_batches_are_those_of_one():
    model = make_classifier()
    batch = make_batch([0, 1, 2, 1])
    logits = model.logits(batch)
    sums = model.loss(batch)
    assert model.figures({'loss': sums.named['loss'].item(), 'correct': sums.named['correct'].item(), 'count': 4}) == {
        'loss': pytest.approx(ClassCrossEntropy()(logits, batch.targets.labels).mean().item()),
        'accuracy': pytest.approx(float((logits.argmax(-1) == batch.targets.labels).double().mean())),
    }


def train(model, folder, batches, n_steps, val=None, **options):
    trainer = make_trainer(folder, max_steps=n_steps, **options)
    loader = DataLoader([batches[i % len(batches)] for i in range(n_steps)], batch_size=None)
    trainer.fit(model, loader, None if val is None else DataLoader(val, batch_size=None))
    return trainer


FAST = {
    'optimizer': functools.partial(AdamW, lr=0.02, weight_decay=0.0),
    'schedule': functools.partial(WarmupConstant, warmup_steps=0),
}


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
@pytest.mark.parametrize(
    ('task', 'classes', 'labels'),
    [
        ('single-label', CLASSES, [0, 1, 2, 0, 1, 2]),
        ('ordinal', CLASSES, [0, 1, 2, 2, 1, 0]),
        ('multi-label', CLASSES, [[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]]),
        ('regression', None, [[0.5], [-1.0], [2.0], [0.0], [1.0], [-2.0]]),
    ],
)
def test_each_task_learns_a_batch_by_heart(tmp_path, task, classes, labels):
    model = make_classifier(
        double=False, noise=0.0, task=task, classes=classes, head=functools.partial(MLPHead, dropout=0.0), **FAST
    )
    batch = make_batch(labels)
    train(model, tmp_path, [batch], 250 if task == 'regression' else 120)
    model.eval()
    logits = model.logits(batch)
    if task == 'regression':
        torch.testing.assert_close(logits, batch.targets.labels, atol=0.2, rtol=0)
    elif task == 'multi-label':
        assert ((logits > 0) == (batch.targets.labels > 0.5)).all()
    else:
        assert logits.argmax(-1).tolist() == labels


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
@pytest.mark.parametrize(
    ('freeze', 'moves', 'stays'),
    [
        ('all', 'head.output.weight', 'trunk.'),
        ('bottom:1', 'trunk.blocks.1.', 'trunk.blocks.0.'),
        ('bottom:2', 'pooling.query', 'trunk.embedding'),
        ('none', 'trunk.blocks.0.', None),
    ],
)
def test_what_is_frozen_stays_as_it_is_and_has_no_dropout(tmp_path, freeze, moves, stays):
    model = make_classifier(double=False, dropout=0.5, freeze=freeze, **FAST)
    before = {name: parameter.clone() for name, parameter in model.network.named_parameters()}
    train(model, tmp_path, [make_batch([0, 1, 2])], 3)
    changed = [name for name, now in model.network.named_parameters() if not torch.equal(now, before[name])]
    assert any(name.startswith(moves) for name in changed)
    assert stays is None or not any(name.startswith(stays) for name in changed)
    assert model.network.head.training
    if freeze == 'all':
        batch = make_batch([0, 1, 2])
        hidden = model.network.trunk(batch.ids, batch.layout)
        assert torch.equal(model.network.trunk(batch.ids, batch.layout), hidden)
    assert model.network.trunk.blocks[1].training == (freeze in ('none', 'bottom:1'))


@pytest.mark.parametrize(
    ('freeze', 'message'), [('top', r"model\.freeze is 'top'"), ('bottom:3', 'the trunk has 2 blocks')]
)
def test_what_cannot_be_frozen_is_refused(freeze, message):
    with pytest.raises(SettingsError, match=message):
        make_classifier(freeze=freeze)


def test_lower_layers_learn_more_slowly():
    model = make_classifier(layer_decay=0.5, optimizer=functools.partial(AdamW, lr=0.08))
    built = model.build_optimizer()
    rates = {id(parameter): group['lr'] for group in built.param_groups for parameter in group['params']}
    found = {name: rates[id(parameter)] for name, parameter in model.network.named_parameters()}
    assert found['head.output.weight'] == found['pooling.query'] == 0.08
    assert {rate for name, rate in found.items() if name.startswith('trunk.blocks.1.')} == {0.04}
    assert {rate for name, rate in found.items() if name.startswith('trunk.blocks.0.')} == {0.02}
    assert found['trunk.embedding.weight'] == 0.01
    plain = make_classifier(optimizer=functools.partial(AdamW, lr=0.08)).build_optimizer()
    assert {group['lr'] for group in plain.param_groups} == {0.08}


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
def test_muon_takes_groups_of_several_depths(tmp_path):
    model = make_classifier(double=False, layer_decay=0.5)
    before = {name: parameter.clone() for name, parameter in model.network.named_parameters()}
    train(model, tmp_path, [make_batch([0, 1, 2])], 2)
    assert not [name for name, now in model.network.named_parameters() if torch.equal(now, before[name])]


def make_split(n_batches=6, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return [
        make_batch(
            torch.randint(3, (8,), generator=generator).tolist(), seed + i, documents=list(range(8 * i, 8 * i + 8))
        )
        for i in range(n_batches)
    ]


def test_calibration_is_fitted_at_each_validation_of_a_fit_and_is_in_the_checkpoint(tmp_path):
    model = make_classifier(double=False, **FAST)
    split = make_split()
    trainer = train(model, tmp_path, [make_batch([0, 1, 2])], 4, split, val_check_interval=2, num_sanity_val_steps=0)
    calibration = model.network.calibration
    assert calibration.n_fitted == 48
    assert calibration.scale[0] != 1
    # what a fit on what the trained network says of the split finds
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model.logits(batch) for batch in split])
    wanted = type(calibration)(3)
    wanted.fit(logits, torch.cat([batch.targets.labels for batch in split]))
    torch.testing.assert_close(calibration.scale, wanted.scale, rtol=1e-3, atol=1e-4)

    checkpoints.write(trainer._checkpoint_connector.dump_checkpoint(), tmp_path / 'a.ckpt')
    loaded = Classifier.load_from_checkpoint(tmp_path / 'a.ckpt').eval()
    assert loaded.classes == CLASSES
    with torch.no_grad():
        assert torch.equal(
            loaded.network.probabilities(loaded.logits(split[0])), model.network.probabilities(logits[:8])
        )


@pytest.mark.filterwarnings('ignore:.*does not have many workers')
def test_a_validation_alone_applies_what_was_fitted_and_changes_nothing(tmp_path):
    model = make_classifier(double=False)
    model.network.calibration.scale.fill_(0.5)
    trainer = make_trainer(tmp_path)
    trainer.validate(model, DataLoader(make_split(), batch_size=None), verbose=False)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert (model.network.calibration.scale == 0.5).all()
    assert model.network.calibration.n_fitted == 0
    assert figures['val_loss'] != pytest.approx(figures['val_uncalibrated_loss'])
    assert {f'val_{name}' for name in model.figure_names()} == set(figures)


def test_predictions_name_the_class_its_probability_and_its_set():
    model = make_classifier()
    batch = make_batch([0, 1], documents=[7, 5])
    parts = model.predictions(batch)
    assert parts.documents.tolist() == [7, 5]
    row = {name: value[0].item() for name, value in parts.values.items()}
    probs = model.network.probabilities(model.logits(batch))[0].tolist()
    line = model.merge(row)
    assert line['label'] == CLASSES[probs.index(max(probs))]
    assert line['probabilities'] == {name: pytest.approx(prob, abs=1e-6) for name, prob in zip(CLASSES, probs)}
    assert line['set'] == CLASSES  # nothing was fitted
    assert line['answered'] is True
    assert line['truncated'] is False


def test_labels_that_are_no_classes_are_refused_before_a_step():
    model = make_classifier()
    with pytest.raises(ValueError, match='the label 3 of example 1 of a batch is none of the 3 classes'):
        model.check_batch(make_batch([0, 3]))
    number = make_classifier(task='regression', classes=None)
    with pytest.raises(SettingsError, match=r'data\.examples\.number'):
        number.check_batch(make_batch([0, 1]))
    assert number.describe({'loss': 1.5, 'rmse': 1.2247}) == '1.5000 squared error, rmse 1.2247'
    assert model.describe({'loss': 1.5}) == '1.5000 nats/example'
    with pytest.raises(ValueError, match=r'set data\.examples to LabelledTexts'):
        model.loss(pair_batch(random_groups(2)))
