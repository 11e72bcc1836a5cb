import functools

import lightning.pytorch as L
import pytest
import torch
from token_batches import token_batch
from torch.utils.data import DataLoader

from xlabml import checkpoints
from xlabml.batches import IGNORED
from xlabml.heads import language_model
from xlabml.models import XLabModel
from xlabml.training import AdamW, WarmupConstant
from xlabml.transformer import Sinusoidal, Transformer

# These runs have nothing to validate on.
pytestmark = pytest.mark.filterwarnings('ignore:You defined a `validation_step`')

SMALL = functools.partial(Transformer, d_model=16, n_layers=2, n_heads=2)


def _batch(seed=0, b=2, n=8):
    torch.manual_seed(seed)
    ids, targets = torch.randint(0, 20, (2, b, n))
    targets[:, -2:] = IGNORED
    return token_batch(ids, targets, seed, n_bytes=3 * n, n_counted=int((targets != IGNORED).sum()))


def _trainer(folder, **options):
    return L.Trainer(
        max_steps=4,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def _fit(model, folder, batches, **options):
    trainer = _trainer(folder, **options)
    trainer.fit(model, DataLoader(batches, batch_size=None))
    return trainer


def test_learns_a_batch_by_heart(tmp_path):
    torch.manual_seed(0)
    model = XLabModel(
        20,
        8,
        SMALL,
        optimizer=functools.partial(AdamW, lr=0.02),
        schedule=functools.partial(WarmupConstant, warmup_steps=0),
    )
    trainer = _trainer(tmp_path)
    trainer.fit_loop.epoch_loop.max_steps = 150
    trainer.fit(model, DataLoader([_batch()] * 150, batch_size=None))
    logits = model.eval()(_batch().ids)
    asked = _batch().targets.ids != IGNORED
    assert (logits.argmax(-1)[asked] == _batch().targets.ids[asked]).float().mean() > 0.95


@pytest.mark.parametrize(
    'arguments',
    [
        {},
        {'trunk': SMALL},
        {'trunk': functools.partial(Transformer, d_model=8, n_heads=2, n_layers=1, positions=Sinusoidal)},
        {'trunk': SMALL, 'optimizer': functools.partial(AdamW, lr=0.1), 'tied': False, 'logit_cap': 20.0},
    ],
)
def test_a_model_built_by_hand_saves_a_checkpoint_that_loads(tmp_path, arguments):
    model = XLabModel(20, 8, **arguments)
    trainer = _fit(model, tmp_path, [_batch(i) for i in range(4)])
    trainer.save_checkpoint(tmp_path / 'hand.ckpt')
    torch.load(tmp_path / 'hand.ckpt', weights_only=True)
    content = trainer._checkpoint_connector.dump_checkpoint()
    checkpoints.write(content, tmp_path / 'ours.ckpt')
    loaded = XLabModel.load_from_checkpoint(tmp_path / 'ours.ckpt')
    assert dict(loaded.hparams) == dict(model.hparams)
    torch.testing.assert_close(loaded.eval()(_batch().ids), model.eval()(_batch().ids), rtol=0, atol=0)


def test_a_model_that_no_checkpoint_can_hold_is_refused_at_the_first_save(tmp_path):
    model = XLabModel(20, 8, lambda n_vocab, max_len: SMALL(n_vocab, max_len))
    trainer = _fit(model, tmp_path, [_batch(i) for i in range(4)])
    with pytest.raises(ValueError, match=r'cannot be saved: .*pass a class, functools\.partial'):
        trainer.save_checkpoint(tmp_path / 'hand.ckpt')


def test_accumulated_micro_batches_step_as_one_large_batch(tmp_path):
    """Their targets are of different number, so that a mean of means would be another step."""
    whole = _batch(1, b=4)
    whole.targets.ids[:2, 1:] = IGNORED
    n_counted = int((whole.targets.ids != IGNORED).sum())
    whole = whole._replace(n_counted=n_counted)
    halves = [token_batch(whole.ids[i : i + 2], whole.targets.ids[i : i + 2], n_counted=n_counted) for i in (0, 2)]
    trained = []
    for batches, accumulate in (([whole], 1), (halves, 2)):
        torch.manual_seed(0)
        model = XLabModel(20, 8, SMALL, optimizer=AdamW, schedule=functools.partial(WarmupConstant, warmup_steps=0))
        _fit(model, tmp_path, batches * 4, accumulate_grad_batches=accumulate)
        trained.append(model.state_dict())
    for name, weight in trained[0].items():
        torch.testing.assert_close(weight, trained[1][name], rtol=1e-4, atol=1e-5)


def test_all_ignored_targets_do_no_harm(tmp_path):
    batch = _batch()
    empty = token_batch(batch.ids, torch.full_like(batch.ids, IGNORED), n_counted=0)
    model = XLabModel(20, 8, SMALL, optimizer=functools.partial(AdamW, weight_decay=0.0))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    _fit(model, tmp_path, [empty] * 4)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name])


@pytest.mark.parametrize('clip', [None, 0.05])
def test_the_gradient_norm_is_that_before_clipping(tmp_path, clip):
    torch.manual_seed(0)
    model = XLabModel(20, 8, SMALL)
    seen = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()]))

        def on_before_zero_grad(self, trainer, module, optimizer):
            if module.grad_norm is not None:
                torch.testing.assert_close(seen[-1], module.grad_norm)
                now = torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])
                assert now <= (clip or float('inf')) * 1.001

    _fit(model, tmp_path, [_batch(i) for i in range(4)], gradient_clip_val=clip, callbacks=[Watch()])
    assert len(seen) == 4


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    class Other(XLabModel):
        pass

    model = XLabModel(20, 8, SMALL)
    trainer = _fit(model, tmp_path, [_batch(i) for i in range(4)])
    checkpoints.write(trainer._checkpoint_connector.dump_checkpoint(), tmp_path / 'a.ckpt')
    with pytest.raises(ValueError, match='holds a XLabModel, not a Other'):
        Other.load_from_checkpoint(tmp_path / 'a.ckpt')


class _Earlier(XLabModel):
    """A task from when the network was the attribute `model`."""

    def __init__(self, n_vocab: int, max_len: int) -> None:
        super().__init__(n_vocab, max_len, SMALL)
        self.model = language_model(n_vocab, max_len, SMALL, tied=False)

    def forward(self, ids, *args, **options):
        return 2 * self.model(ids, *args, **options)


def test_a_task_that_sets_model_has_it_as_its_network():
    task = _Earlier(20, 8)
    assert task.network is task.model
    assert task.network.head_weight is not None
    assert {name.partition('.')[0] for name in task.state_dict()} == {'network'}
    torch.testing.assert_close(task(_batch().ids), 2 * task.network(_batch().ids))
