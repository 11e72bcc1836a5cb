"""Clipping and skipping at work in Lightning's own training loop."""

import contextlib
import functools
import json
import math

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins import MixedPrecision
from token_batches import token_batch
from torch.utils.data import DataLoader

from xlabml import checkpoints
from xlabml.batches import IGNORED
from xlabml.callbacks import NonFinite
from xlabml.checkpoints import Contents
from xlabml.commands.trainer import Trainer
from xlabml.losses import CrossEntropy
from xlabml.models import XLabModel
from xlabml.training import AdamW, AdaptiveClip, Muon, WarmupConstant
from xlabml.transformer import Transformer

# These runs have nothing to validate on.
pytestmark = pytest.mark.filterwarnings('ignore:You defined a `validation_step`')

SMALL = functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2)
CONSTANT = functools.partial(WarmupConstant, warmup_steps=0)
PLAIN_ADAMW = functools.partial(torch.optim.AdamW, lr=6e-3, betas=(0.9, 0.98), weight_decay=0.05)


def _batches(n, b=2):
    for seed in range(n):
        ids, targets = torch.randint(0, 20, (2, b, 8), generator=torch.Generator().manual_seed(seed))
        yield token_batch(ids, targets, seed, torch.arange(b) + 10 * seed)


class _Scaled(MixedPrecision):
    """The scaled loss of 16-mixed with products in float32, so that a run has to be the same as without it."""

    def __init__(self):
        super().__init__('16-mixed', 'cpu')

    def forward_context(self):
        return contextlib.nullcontext()


def _fit(model, folder, batches, ckpt_path=None, is_scaled=False, **options):
    batches = list(batches)
    options = {'max_steps': len(batches) if ckpt_path is None else 99, **options}
    trainer = Trainer(
        accelerator='cpu',
        precision='32-true',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    if is_scaled:
        trainer.strategy.precision_plugin = _Scaled()  # Lightning has none for a CPU
    trainer.fit(model, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def _model(**options):
    torch.manual_seed(0)
    return XLabModel(20, 8, SMALL, schedule=CONSTANT, **options)


class _Poison(L.Callback):
    """Makes one entry of the gradient of some steps no number."""

    def __init__(self, steps):
        self.steps = steps

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step in self.steps:
            next(iter(module.parameters())).grad[0, 0] = math.nan


class _EarlyPoison(_Poison):
    """The same before a scale is taken out."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        pass

    def on_after_backward(self, trainer, module):
        super().on_before_optimizer_step(trainer, module, None)


@pytest.mark.parametrize('optimizer', [AdamW, Muon, PLAIN_ADAMW])
@pytest.mark.parametrize(('poison', 'is_scaled'), [(_Poison, False), (_Poison, True), (_EarlyPoison, True)])
@pytest.mark.parametrize('is_asynchronous', [False, True])
def test_a_step_that_is_not_finite_changes_nothing(
    tmp_path, monkeypatch, optimizer, poison, is_scaled, is_asynchronous
):
    """Weights and the optimizer's state are those of a run that never saw it."""
    monkeypatch.setattr('xlabml.engine.optimization._is_asynchronous', lambda x: is_asynchronous)
    batches = list(_batches(5))
    poisoned, clean = _model(optimizer=optimizer), _model(optimizer=optimizer)
    a = _fit(poisoned, tmp_path, batches, callbacks=[poison({2})], gradient_clip_val=1.0, is_scaled=is_scaled)
    if is_scaled:
        assert a.precision_plugin.scaler.get_scale() == 2.0 ** (16 - (poison is _EarlyPoison))
    b = _fit(clean, tmp_path, [batch for i, batch in enumerate(batches) if i != 2], gradient_clip_val=1.0)
    assert poisoned.skipped.tolist() == [0, 1]
    assert clean.skipped.tolist() == [0, 0]
    for weight, other in zip(poisoned.parameters(), clean.parameters()):
        torch.testing.assert_close(weight, other, rtol=0, atol=0)
        states = a.optimizers[0].state[weight], b.optimizers[0].state[other]
        assert states[0].keys() == states[1].keys()
        for name in states[0]:
            torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=0)


@pytest.mark.parametrize('is_asynchronous', [False, True])
def test_a_first_step_that_is_skipped_leaves_a_clean_state(tmp_path, monkeypatch, is_asynchronous):
    monkeypatch.setattr('xlabml.engine.optimization._is_asynchronous', lambda x: is_asynchronous)
    model = _model(optimizer=Muon)
    before = [weight.detach().clone() for weight in model.parameters()]
    _fit(model, tmp_path, _batches(1), callbacks=[_Poison({0})])
    for weight, old in zip(model.parameters(), before):
        torch.testing.assert_close(weight, old, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_spoils_all_gradients_whatever_they_are():
    weight = torch.ones(3, requires_grad=True)
    XLabModel.spoil_unless_finite(weight.sum() + math.inf).backward()
    assert weight.grad.isnan().all()
    weight.grad = None
    XLabModel.spoil_unless_finite(weight.sum()).backward()
    assert torch.equal(weight.grad, torch.ones(3))


class _Overflowing(CrossEntropy):
    """An objective of inf in some calls, at a plain cross-entropy that is finite."""

    def __init__(self):
        super().__init__()
        self.n_calls = 0

    def forward(self, *args, **options):
        sums = super().forward(*args, **options)
        self.n_calls += 1
        return sums._replace(objective=sums.objective * (math.inf if self.n_calls == 3 else 1.0))


@pytest.mark.parametrize('cause', ['gradient', 'objective'])
@pytest.mark.parametrize('n_batches', [1, 2])
def test_a_skipped_step_is_in_no_curve(tmp_path, cause, n_batches):
    """Nor are the other micro-batches of it: where there are two, the first has the objective of inf."""
    loss = _Overflowing if cause == 'objective' else CrossEntropy
    bad, batches = {1: 2, 2: 1}[n_batches], list(_batches(4 * n_batches))
    model, clean = _model(loss=loss), _model()
    poison = [_Poison({bad})] if cause == 'gradient' else []
    _fit(model, tmp_path, batches, callbacks=poison, accumulate_grad_batches=n_batches, max_steps=4)
    kept = [batch for i, batch in enumerate(batches) if i // n_batches != bad]
    _fit(clean, tmp_path, kept, accumulate_grad_batches=n_batches, max_steps=3)
    assert (model.skipped.tolist(), clean.skipped.tolist()) == ([0, 1], [0, 0])
    assert model.train_sums == clean.train_sums
    assert model.train_sums['count'] == 3 * n_batches * 16


def test_the_weights_that_differ_are_counted_among_all_of_both(tmp_path):
    """One weight of ten is longer, two are new and two are gone."""
    saved, model = _model(), _model(tied=False, head_bias=True)
    weights = saved.state_dict()
    names = {*weights, *model.state_dict()}
    checkpoint = {'state_dict': weights, 'hyper_parameters': dict(saved.hparams)}
    with pytest.raises(ValueError, match=rf'\(2 of {len(names)} weights differ\)'):
        model.check_weights(Contents.of(checkpoint))
    checkpoint['state_dict'] = {f'old.{name}': tensor for name, tensor in weights.items()}
    with pytest.raises(ValueError, match=rf'\({2 * len(weights)} of {2 * len(weights)} weights differ\)'):
        saved.check_weights(Contents.of(checkpoint))


@pytest.mark.parametrize('optimizer', [AdamW, Muon, PLAIN_ADAMW])
@pytest.mark.parametrize(
    'limit', [{'gradient_clip_val': 0.5}, {'gradient_clip_val': 1e-3, 'gradient_clip_algorithm': 'value'}, {}]
)
def test_a_scaled_loss_changes_neither_norms_nor_steps(tmp_path, optimizer, limit):
    clip = {} if limit else {'clip': functools.partial(AdaptiveClip, window_steps=4, min_steps=1)}
    models, batches = [_model(optimizer=optimizer, **clip) for _ in range(2)], list(_batches(8))
    norms = [[], []]
    for is_scaled, (model, seen) in enumerate(zip(models, norms)):
        norm_before = LambdaCallback(
            on_before_optimizer_step=lambda trainer, module, _, seen=seen: seen.append(
                torch.nn.utils.get_total_norm([weight.grad for weight in module.parameters()])
            )
        )
        options = {**limit, 'callbacks': [norm_before], 'accumulate_grad_batches': 2}
        _fit(model, tmp_path, batches, is_scaled=bool(is_scaled), **options)
        assert seen[-1] == model.grad_norm
    assert norms[0] == norms[1]
    for weight, other in zip(*(model.parameters() for model in models)):
        torch.testing.assert_close(weight, other, rtol=0, atol=0)


@pytest.mark.parametrize(('limit', 'is_clipped'), [(1e6, False), (1e-3, True)])
def test_gradients_within_the_limit_are_left_alone(tmp_path, monkeypatch, limit, is_clipped):
    """Where reading the norm waits for no device; torch multiplies by 1, to the same weights."""
    calls = []
    clip = torch.nn.utils.clip_grads_with_norm_
    monkeypatch.setattr(torch.nn.utils, 'clip_grads_with_norm_', lambda *parts: calls.append(parts) or clip(*parts))
    batches = list(_batches(3))
    found = _model(optimizer=AdamW)
    _fit(found, tmp_path, batches, gradient_clip_val=limit)
    assert len(calls) == 3 * is_clipped
    monkeypatch.setattr('xlabml.engine.optimization._is_asynchronous', lambda x: True)
    other = _model(optimizer=AdamW)
    _fit(other, tmp_path, batches, gradient_clip_val=limit)
    assert len(calls) == 3 * is_clipped + 3
    for weight, expected in zip(found.parameters(), other.parameters()):
        torch.testing.assert_close(weight, expected, rtol=0, atol=0)


@pytest.mark.parametrize('is_scaled', [False, True])
@pytest.mark.parametrize('optimizer', [AdamW, Muon, PLAIN_ADAMW])
def test_a_step_whose_targets_are_all_ignored_is_no_step(tmp_path, optimizer, is_scaled):
    """No weight decays and no momentum moves; it is no skipped step either, and in no curve."""
    batches = list(_batches(5))
    empty = token_batch(batches[2].ids, torch.full_like(batches[2].ids, IGNORED), batches[2].seed, n_counted=0)
    model, clean = _model(optimizer=optimizer), _model(optimizer=optimizer)
    a = _fit(model, tmp_path, [*batches[:2], empty, *batches[3:]], gradient_clip_val=1.0, is_scaled=is_scaled)
    b = _fit(clean, tmp_path, [*batches[:2], *batches[3:]], gradient_clip_val=1.0)
    assert model.skipped.tolist() == [0, 0]
    for weight, other in zip(model.parameters(), clean.parameters()):
        torch.testing.assert_close(weight, other, rtol=0, atol=0)
        for name, value in a.optimizers[0].state[weight].items():
            torch.testing.assert_close(value, b.optimizers[0].state[other][name], rtol=0, atol=0)
    assert model.train_sums['count'] == 4 * 16
    sums, kept = (dict(one.train_sums) for one in (model, clean))
    for name in ('nats', 'correct', 'count', 'objective'):
        assert sums[name] == kept[name]


def test_a_micro_batch_of_ignored_targets_leaves_the_step_to_the_others(tmp_path):
    whole, half = _batches(2)
    ignored = token_batch(half.ids, torch.full_like(half.ids, IGNORED), half.seed, n_counted=16)
    a, b = _model(), _model()
    _fit(a, tmp_path, [whole, ignored], accumulate_grad_batches=2)  # twice over
    _fit(b, tmp_path, [whole, whole])
    for weight, other in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(weight, other)


@pytest.mark.parametrize(
    ('name', 'token'), [('ids', 20), ('ids', -1), ('ids', IGNORED), ('targets', 20), ('targets', -7)]
)
def test_a_token_that_the_vocabulary_lacks_is_refused_before_the_model_sees_it(tmp_path, name, token):
    (batch,) = _batches(1)
    batch.targets.ids[0, 0] = IGNORED
    tokens = batch.ids if name == 'ids' else batch.targets.ids
    tokens[1, 3] = token
    with pytest.raises(ValueError, match=rf'token {token} in row 1, position 3 of the {name} .* vocabulary of 20'):
        _fit(_model(), tmp_path, [batch])


def test_skipped_steps_in_a_row_end_the_run_and_name_their_documents(tmp_path):
    model = _model()
    callbacks = [_Poison({1, 3, 4, 5, 6}), NonFinite(max_in_row=3)]
    with pytest.raises(ValueError, match='3 steps in a row, up to step 6'):
        _fit(model, tmp_path, _batches(8), callbacks=callbacks)
    rows = [json.loads(line) for line in (tmp_path / 'nonfinite.jsonl').read_text().splitlines()]
    assert rows == [{'step': step, 'documents': [10 * (step - 1), 10 * step - 9]} for step in (4, 5, 6)]


def test_every_micro_batch_of_a_skipped_step_is_named(tmp_path):
    callbacks = [_Poison({1}), NonFinite(max_in_row=1)]
    with pytest.raises(ValueError, match='1 steps in a row, up to step 2'):
        _fit(_model(), tmp_path, _batches(6), callbacks=callbacks, accumulate_grad_batches=2)
    rows = [json.loads(line) for line in (tmp_path / 'nonfinite.jsonl').read_text().splitlines()]
    assert [row['documents'] for row in rows] == [[20, 21], [30, 31]]


def test_steps_between_two_looks_are_remembered(tmp_path):
    callbacks = [_Poison(range(2, 9)), NonFinite(max_in_row=2, every_n_steps=3)]
    with pytest.raises(ValueError, match='4 steps in a row, up to step 6'):
        _fit(_model(), tmp_path, _batches(9), callbacks=callbacks)
    assert len((tmp_path / 'nonfinite.jsonl').read_text().splitlines()) == 4


class _Norms(L.Callback):
    """Keeps each step's norm, limit, and norm after clipping."""

    def __init__(self):
        self.seen = []

    def on_before_zero_grad(self, trainer, module, optimizer):
        if module.grad_norm is not None:
            after = torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])
            self.seen.append([float(value) for value in (module.grad_norm, module.clip_limit, after)])


def test_a_step_is_clipped_to_the_percentile_of_those_before_it(tmp_path):
    norms = _Norms()
    model = _model(clip=functools.partial(AdaptiveClip, percentile=50.0, window_steps=8, min_steps=3))
    _fit(model, tmp_path, _batches(10), callbacks=[norms], gradient_clip_val=0.5)
    before = [norm for norm, _, _ in norms.seen]
    for i, (norm, limit, after) in enumerate(norms.seen):
        window = sorted(before[max(0, i - 8) : i])
        expected = 0.5 if i < 3 else window[math.ceil(len(window) / 2) - 1]
        assert limit == pytest.approx(expected)
        assert after == pytest.approx(min(norm, limit), rel=1e-4)


def test_the_window_and_the_count_go_on_after_a_resume(tmp_path):
    clip = functools.partial(AdaptiveClip, percentile=50.0, window_steps=4, min_steps=2)
    model = _model(clip=clip)
    trainer = _fit(model, tmp_path, _batches(5), callbacks=[_Poison({2})])
    checkpoints.write(trainer._checkpoint_connector.dump_checkpoint(), tmp_path / 'a.ckpt')
    resumed, seen = _model(clip=clip), []

    class Watch(L.Callback):
        def on_train_start(self, trainer, module):
            seen.append((module.clip.norms.tolist(), module.skipped.tolist()))

    _fit(resumed, tmp_path, _batches(1), ckpt_path=tmp_path / 'a.ckpt', callbacks=[Watch()])
    assert seen == [(model.clip.norms.tolist(), [0, 1])]
    assert len(model.clip.state_dict()['norms']) == 4


def test_a_limit_on_values_and_one_on_norms_do_not_go_together(tmp_path):
    with pytest.raises(ValueError, match=r'leave out trainer\.gradient_clip_algorithm'):
        _fit(_model(clip=AdaptiveClip), tmp_path, _batches(1), gradient_clip_val=1.0, gradient_clip_algorithm='value')


@pytest.mark.parametrize('arguments', [{'max_in_row': 0}, {'every_n_steps': 0}])
def test_counts_below_one_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf'nonfinite\.{name} is 0'):
        NonFinite(**arguments)
