"""The optimizers at work in Lightning's own training loop."""

import functools

import lightning.pytorch as L
import pytest
import torch
from token_batches import token_batch
from torch.utils.data import DataLoader

from xlabml import checkpoints
from xlabml.batches import TokenTargets
from xlabml.commands.trainer import Trainer
from xlabml.models import XLabModel
from xlabml.training import AdamW, Muon, WarmupLinear, parameter_groups
from xlabml.transformer import SwiGLU, Transformer

# These runs have nothing to validate on.
pytestmark = pytest.mark.filterwarnings('ignore:You defined a `validation_step`')

SMALL = functools.partial(Transformer, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, activation=SwiGLU)
N_STEPS = 6


def _batches(n_rows=4):
    batches = []
    for seed in range(N_STEPS):
        ids, targets = torch.randint(0, 20, (2, n_rows, 8), generator=torch.Generator().manual_seed(seed))
        batches.append(token_batch(ids, targets, seed))
    return batches


def _halves(batches):
    for batch in batches:
        for rows in (slice(0, 2), slice(2, 4)):
            yield batch._replace(
                ids=batch.ids[rows],
                targets=TokenTargets(batch.targets.ids[rows], batch.targets.n_bytes[:2]),
                documents=batch.documents[:2],
                example=batch.example[:2],
                role=batch.role[:2],
            )


def _model(tied=True, **options):
    torch.manual_seed(0)
    optimizer = functools.partial(Muon, adamw_lr=0.01, matrix_lr=0.05, ns_dtype='float32', **options)
    return XLabModel(
        20, 8, SMALL, tied=tied, optimizer=optimizer, schedule=functools.partial(WarmupLinear, warmup_steps=2)
    )


def _fit(model, folder, batches, max_steps=N_STEPS, ckpt_path=None, **options):
    trainer = Trainer(
        max_steps=max_steps,
        accelerator='cpu',
        precision='32-true',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def _assert_equal(a, b, tolerance=0.0):
    for (name, weight), other in zip(a.named_parameters(), b.parameters()):
        torch.testing.assert_close(
            weight, other, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f'{name}: {text}'
        )


def test_muon_steps_on_accumulated_micro_batches_as_on_a_large_batch(tmp_path):
    whole, halves = _model(), _model()
    _fit(whole, tmp_path, _batches(), gradient_clip_val=0.1)
    _fit(halves, tmp_path, list(_halves(_batches())), gradient_clip_val=0.1, accumulate_grad_batches=2)
    _assert_equal(whole, halves, tolerance=2e-4)


def test_muon_does_not_mind_how_long_gradients_are(tmp_path):
    """What is made orthogonal has no length."""

    class Scaled(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            for group in optimizer.param_groups:
                if group['name'] == 'matrices':
                    torch._foreach_mul_([parameter.grad for parameter in group['params']], 8.0)

    plain, scaled = _model(), _model()
    _fit(plain, tmp_path, _batches())
    _fit(scaled, tmp_path, _batches(), callbacks=[Scaled()])
    _assert_equal(plain, scaled, tolerance=1e-3)


@pytest.mark.parametrize('tied', [True, False])
def test_a_resumed_muon_run_is_bit_for_bit_an_unbroken_one(tmp_path, tied):
    make = functools.partial(_model, tied=tied, split=True)
    unbroken, broken, resumed = make(), make(), make()
    _fit(unbroken, tmp_path, _batches())

    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                checkpoints.write(trainer._checkpoint_connector.dump_checkpoint(), tmp_path / 'a.ckpt')

    _fit(broken, tmp_path, _batches(), callbacks=[Save()])
    _fit(resumed, tmp_path, _batches()[3:], ckpt_path=tmp_path / 'a.ckpt')
    _assert_equal(resumed, unbroken)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    adamw = XLabModel(20, 8, SMALL, optimizer=AdamW)
    trainer = _fit(adamw, tmp_path, _batches(), max_steps=2)
    checkpoints.write(trainer._checkpoint_connector.dump_checkpoint(), tmp_path / 'a.ckpt')
    with pytest.raises(ValueError, match=r'trained by xlabml\.training\.AdamW'):
        _fit(_model(), tmp_path, _batches(), ckpt_path=tmp_path / 'a.ckpt')


def test_split_parts_are_those_of_the_layers():
    matrices = parameter_groups(_model())[0]
    assert matrices['parts'] == [[16, 8, 8], None, [64, 64], None] * 2
