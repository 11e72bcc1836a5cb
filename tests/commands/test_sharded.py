"""FSDP2 on two processes: the same training, each with its part, and checkpoints that know nothing of it."""

import shutil
from pathlib import Path

import pytest
import ranks
import torch
from curves import read_curve

from xlabml import checkpoints

SHARDED = ['-c', Path(__file__).parents[2] / 'conf/extra/fsdp.yaml']
MORE = [
    *('--model.optimizer=xlabml.training.AdamW', '--model.tied=true', '--trainer.gradient_clip_val=0.5'),
    *('--checkpoint.save_last_k=2', ranks.HASHED),
]
MUON = [
    *('--model.optimizer=xlabml.training.Muon', '--model.optimizer.split=true', '--model.optimizer.ns_dtype=float32'),
    *('--model.tied=false', '--model.head_bias=true', '--model.trunk.bias=true', '--model.trunk.d_ff=33'),
    '--data.device_batch_tokens=32',
]


def fit(world, folder, *arguments):
    statuses, (said, *others) = ranks.xlab(world, folder, 'fit', *arguments)
    assert statuses == [0] * world, (said, *others)
    return said


def find(run, step):
    return next((run / 'logs/version_0/checkpoints').glob(f'step={step:07d}*.ckpt'))


def assert_same(there, here, tolerance=1e-5):
    """Two runs have the same weights, state of the optimizer (each in its own form) and curves."""
    a, b = (checkpoints.read(find(run, 12)) for run in (there, here))
    assert a['state_dict'].keys() == b['state_dict'].keys()
    for name, tensor in a['state_dict'].items():
        torch.testing.assert_close(b['state_dict'][name], tensor, rtol=tolerance, atol=tolerance, msg=name)
    (a,), (b,) = a['optimizer_states'], b['optimizer_states']
    assert a['param_groups'] == b['param_groups']
    assert a['state'].keys() == b['state'].keys()
    for number, values in a['state'].items():
        assert values.keys() == b['state'][number].keys()
        for name, value in values.items():
            torch.testing.assert_close(b['state'][number][name], value, rtol=1e-3, atol=tolerance, msg=name)
    for name in ('train_loss', 'val_loss', 'gradient_norm'):
        curve = read_curve(there / 'logs/version_0', name)
        assert read_curve(here / 'logs/version_0', name) == pytest.approx(curve, rel=max(1e-5, tolerance)), name


@pytest.fixture(scope='module')
def runs(tiny, tmp_path_factory):
    """The folders of one run on one process, and of the same cut over two."""
    folder = tmp_path_factory.mktemp('runs')
    fit(1, folder / 'one', *tiny, *MORE)
    fit(2, folder / 'two', *tiny, *MORE, *SHARDED)
    return folder / 'one', folder / 'two'


def test_a_sharded_run_is_the_run_on_one_process(runs):
    one, two = runs
    first, second = ranks.report(two, 2)
    assert first['weights'] == second['weights']
    assert first['n_own'] == second['n_own'] == first['n_all'] / 2
    assert_same(one, two)


@pytest.mark.parametrize(('before', 'after'), [pytest.param(1, 2, marks=pytest.mark.slow), (2, 1), (2, 4)])
def test_a_sharded_run_goes_on_on_another_number_of_ranks(runs, tiny, before, after):
    folder = runs[0].parent / f'from-{before}-to-{after}'
    shutil.copytree(runs[before - 1] / 'logs', folder / 'logs')
    find(folder, 12).unlink()
    said = fit(after, folder, *tiny, *MORE, *(SHARDED if after > 1 else []), '--ckpt_path=last')
    assert 'resuming from' in said
    assert_same(runs[0], folder)


def test_a_sharded_model_evaluates_and_is_exported(runs, tiny, tmp_path):
    path = find(runs[1], 12)
    exported = checkpoints.export(path, tmp_path / 'model.safetensors').path
    found = []
    for world, ckpt, flags in ((1, path, []), (2, exported, SHARDED)):
        for command in ('test', 'predict'):
            where = tmp_path / f'{command}-{world}'
            statuses, (said, *_) = ranks.xlab(world, where, command, *tiny, f'--ckpt_path={ckpt}', *flags)
            assert statuses == [0] * world, said
            found.append(next(line for line in said.splitlines() if line.startswith(command)))
    assert found[0] == found[2]
    assert found[1].partition(' (')[2] == found[3].partition(' (')[2] != ''


def test_a_number_of_devices_that_was_not_started_is_refused(tiny, tmp_path):
    statuses, printed = ranks.xlab(2, tmp_path / 'run', 'fit', *tiny, *SHARDED, '--trainer.devices=1')
    assert statuses == [2, 2]
    assert all('does not match the world size (2)' in said for said in printed)


@pytest.mark.slow
def test_muon_with_accumulation_and_uneven_shards(tiny, tmp_path):
    fit(1, tmp_path / 'one', *tiny, *MORE, *MUON)
    fit(2, tmp_path / 'two', *tiny, *MORE, *MUON, *SHARDED)
    assert_same(tmp_path / 'one', tmp_path / 'two', 1e-4)


@pytest.mark.slow
def test_mixed_precision_computes_the_blocks_as_autocast_does(tiny, tmp_path):
    half = [*tiny, *MORE, '--trainer.precision=bf16-mixed']
    fit(2, tmp_path / 'ddp', *half, '--trainer.strategy=ddp')
    fit(2, tmp_path / 'sharded', *half, *SHARDED)
    for name in ('train_loss', 'val_loss'):
        curves = [read_curve(tmp_path / run / 'logs/version_0', name) for run in ('ddp', 'sharded')]
        assert curves[0] == pytest.approx(curves[1], rel=2e-3), name
