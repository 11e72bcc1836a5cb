"""What a step does beside the model's work: nothing that waits for the device, no collection of garbage."""

import functools
import gc

import lightning.pytorch as L
import pytest
import torch
from token_batches import token_batch
from torch.utils._python_dispatch import TorchDispatchMode

from xlabml.callbacks import Curves, Garbage, NonFinite, Progress
from xlabml.commands.trainer import Trainer
from xlabml.models import XLabModel
from xlabml.training import AdamW, AdaptiveClip, Muon
from xlabml.transformer import Transformer

LOG_STEPS = 4


class NoSync(TorchDispatchMode):
    """Refuses what brings a value from the device to Python: float(x), int(x), bool(x), x.item()."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError('a step waited for the device')
        return func(*args, **(kwargs or {}))


def test_the_mode_sees_what_waits():
    x = torch.ones(1)
    for wait in (float, int, bool, torch.Tensor.item):
        with pytest.raises(AssertionError, match='waited'), NoSync():
            wait(x)


def batches(n, b=2):
    for seed in range(n):
        ids, targets = torch.randint(0, 20, (2, b, 8), generator=torch.Generator().manual_seed(seed))
        yield token_batch(ids, targets, seed)


def make_model(**options):
    torch.manual_seed(0)
    return XLabModel(20, 8, functools.partial(Transformer, d_model=16, n_layers=1, n_heads=2), **options)


def make_trainer(folder, n, **options):
    return Trainer(
        max_steps=n // options.get('accumulate_grad_batches', 1),
        accelerator='cpu',
        logger=False,
        precision='32-true',
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=LOG_STEPS,
        **options,
    )


def train(trainer, model, n):
    loader = torch.utils.data.DataLoader(list(batches(n)), batch_size=None)
    trainer.fit(model, loader)


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
@pytest.mark.parametrize(
    'options', [{'optimizer': AdamW}, {'optimizer': Muon}, {'clip': functools.partial(AdaptiveClip, min_steps=2)}]
)
@pytest.mark.parametrize('n_accumulated', [1, 2])
def test_no_step_but_those_that_write_curves_waits_for_the_device(tmp_path, monkeypatch, options, n_accumulated):
    monkeypatch.setattr('xlabml.engine.optimization._is_asynchronous', lambda x: True)  # as on a device
    model, looked = make_model(**options), []
    callbacks = [Curves(), NonFinite(every_n_steps=LOG_STEPS), Progress()]
    trainer = make_trainer(
        tmp_path, 12, callbacks=callbacks, gradient_clip_val=1.0, accumulate_grad_batches=n_accumulated
    )
    loop = trainer.fit_loop.epoch_loop
    advance, advance_end = loop.advance, loop.on_advance_end

    def is_written():
        return (trainer.global_step + 1) % LOG_STEPS == 0

    def watched(run):
        def step(fetcher):
            if is_written() or trainer.global_step % LOG_STEPS == 0:
                return run(fetcher)
            looked.append(trainer.global_step)
            with NoSync():
                return run(fetcher)

        return step

    monkeypatch.setattr(loop, 'advance', watched(advance))
    monkeypatch.setattr(loop, 'on_advance_end', watched(advance_end))
    train(trainer, model, 12)
    assert trainer.global_step == 12 // n_accumulated
    assert len(looked) >= 6
    assert trainer.run.newest_row['train_loss'] > 0


def test_ranks_do_not_tell_each_other_of_signals_at_each_step(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError('a step talked to the other ranks')

    monkeypatch.setattr(torch.distributed, 'broadcast', refuse)
    monkeypatch.setattr(torch.distributed, 'barrier', refuse)
    Trainer(accelerator='cpu', logger=False).fit_loop.epoch_loop._broadcast_sigterm_tensor()


class Watch(L.Callback):
    """Whether the collector is on, and how much is set aside, after each step."""

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = [], fail_at

    def on_train_batch_end(self, trainer, *_):
        self.seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
        if trainer.global_step == self.fail_at:
            raise RuntimeError('on purpose')


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
def test_garbage_is_set_aside_after_the_first_steps_and_left_as_it_was_at_the_end(tmp_path):
    watch, before = Watch(), gc.get_freeze_count()
    train(make_trainer(tmp_path, 6, callbacks=[watch]), make_model(), 6)
    assert watch.seen == [(True, before > 0)] * 2 + [(False, True)] * 4
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
def test_the_collector_is_turned_on_again_where_a_run_fails(tmp_path):
    watch = Watch(fail_at=4)
    with pytest.raises(RuntimeError, match='on purpose'):
        train(make_trainer(tmp_path, 6, callbacks=[watch]), make_model(), 6)
    assert watch.seen[-1] == (False, True)
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
def test_pythons_own_rhythm_is_a_setting(tmp_path):
    watch = Watch()
    trainer = make_trainer(tmp_path, 5, callbacks=[watch], freeze_garbage=False)
    train(trainer, make_model(), 5)
    assert not any(isinstance(callback, Garbage) for callback in trainer.callbacks)
    assert all(is_on for is_on, _ in watch.seen)


@pytest.mark.filterwarnings('ignore:You defined a `validation_step`')
def test_garbage_is_collected_every_so_many_steps_and_at_validations(tmp_path, monkeypatch):
    """After the third step, at steps 5 and 10, at the validation that follows step 8, and not in between."""
    trainer = make_trainer(tmp_path, 10, freeze_garbage=False, callbacks=[Garbage(every_n_steps=5)])
    steps = []
    collect = gc.collect
    monkeypatch.setattr(gc, 'collect', lambda *_: steps.append(trainer.global_step) or collect())
    monkeypatch.setattr(trainer, 'is_validation_step', lambda step: step == 8)
    loaders = [torch.utils.data.DataLoader(list(batches(10)), batch_size=None) for _ in range(2)]
    trainer.fit(make_model(), *loaders)
    assert steps == [3, 5, 8, 10]


@pytest.mark.parametrize('accelerator', ['cpu', pytest.param('gpu', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('precision', ['32-true', 'bf16-mixed'])
@pytest.mark.parametrize(
    'optimizer', ['xlabml.training.Muon', pytest.param('xlabml.training.AdamW', marks=pytest.mark.slow)]
)
def test_between_rows_a_run_never_waits_for_its_gpu(accelerator, precision, optimizer, xlab, tiny, monkeypatch):
    """From the batch in the host's memory to the optimizer; on a CPU it is the test that is tried."""
    watched = []

    def watch(self, *_):
        step = self.trainer.global_step
        is_watched = 2 <= step < 5  # steps 3, 4 and 5: not the first ones, nor 6, whose row is read
        if self.device.type == 'cuda':
            torch.cuda.set_sync_debug_mode('error' if is_watched else 'default')
        watched.append(is_watched)

    monkeypatch.setattr(XLabModel, 'on_train_batch_end', watch)
    flags = [
        f'--trainer.accelerator={accelerator}',
        f'--trainer.precision={precision}',
        f'--model.optimizer={optimizer}',
    ]
    more = [
        '--trainer.max_steps=6',
        '--trainer.log_every_n_steps=6',
        '--model.clip=AdaptiveClip',
        '--trainer.devices=1',
    ]
    status, printed = xlab('fit', *tiny, *flags, *more)
    assert status == 0, printed
    assert watched == [False, True, True, True, False, False]
