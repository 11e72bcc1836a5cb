"""Two processes that train together are as good as one, and leave what one leaves."""

import json
import shutil
import time
from pathlib import Path

import pytest
import ranks
import torch
from curves import read_curve

from xlabml import checkpoints
from xlabml.commands import fit
from xlabml.data.prepared import tokenizer_file
from xlabml.datamodules import XLabDataModule

CONF = Path(__file__).parents[2] / 'conf/extra'
DDP = ['-c', CONF / 'ddp.yaml']
MORE = [
    '--model.optimizer=xlabml.training.AdamW',
    '--trainer.gradient_clip_val=1.0',
    '--checkpoint.save_last_k=2',
    ranks.HASHED,
]


@pytest.fixture(scope='module')
def runs(tiny, tmp_path_factory):
    """The folders of one run on one process and of the same on two, and what these printed."""
    folder = tmp_path_factory.mktemp('runs')
    assert ranks.xlab(1, folder / 'one', 'fit', *tiny, *MORE)[0] == [0]
    statuses, printed = ranks.xlab(2, folder / 'two', 'fit', *tiny, *MORE, *DDP)
    assert statuses == [0, 0], printed
    return folder / 'one', folder / 'two', printed


def find(run, step):
    return next((run / 'logs/version_0/checkpoints').glob(f'step={step:07d}*.ckpt'))


def assert_same_weights(a, b):
    for name, tensor in checkpoints.read(a)['state_dict'].items():
        torch.testing.assert_close(checkpoints.read(b)['state_dict'][name], tensor, rtol=1e-5, atol=1e-5)


def assert_same_curves(a, b, rel=1e-5):
    for name in ('train_loss', 'train_accuracy', 'val_loss', 'val_bits_per_byte', 'gradient_norm'):
        curve = read_curve(a / 'logs/version_0', name)
        assert curve
        assert read_curve(b / 'logs/version_0', name) == pytest.approx(curve, rel=rel), name


def test_two_ranks_train_the_model_that_one_trains(runs):
    one, two, _ = runs
    (alone,), (first, second) = ranks.report(one, 1), ranks.report(two, 2)
    assert first['weights'] == second['weights']
    assert first['n_own'] == alone['n_own']
    assert_same_weights(find(one, 12), find(two, 12))
    assert_same_curves(one, two)


def test_two_ranks_leave_one_folder_and_say_each_line_once(runs):
    _, two, (said, also_said) = runs
    assert [path.name for path in (two / 'logs').iterdir()] == ['version_0']
    assert {found['folder'] for found in ranks.report(two, 2)} == {'logs/version_0/checkpoints'}
    run = two / 'logs/version_0'
    assert len(list(run.glob('events.*'))) == len(list(run.glob('config*.yaml'))) == 1
    assert len(list(run.glob('checkpoints/*'))) == 2
    assert also_said == ''
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == len(set(lines))
    for start in ('precision ', 'network ', 'step 6, val:', 'step 12, val:', 'best checkpoint:', 'curves:'):
        assert sum(line.startswith(start) for line in lines) == 1, start


def test_two_ranks_evaluate_every_row_once(runs, tiny, tmp_path, monkeypatch):
    one, _, _ = runs
    monkeypatch.setenv('XLABML_CACHE', str(one.parent / 'cache'))
    assert len(XLabDataModule.load_from_checkpoint(find(one, 12)).texts.rows('test')) % 2 == 1
    given = [*tiny, f'--ckpt_path={find(one, 12)}', '--data.device_batch_tokens=64']
    found = {}
    for world, flags in ((1, []), (2, DDP)):
        folder = tmp_path / str(world)
        for command in ('test', 'predict'):
            statuses, (printed, *others) = ranks.xlab(world, folder, command, *given, *flags)
            assert statuses == [0] * world, printed
            assert not any(others)
            found[world, command] = next(line for line in printed.splitlines() if line.startswith(f'{command}'))
        path = found[world, 'predict'].removeprefix('predictions: ').partition(' (')[0]
        rows = (folder / path).read_text().splitlines()
        found[world, 'rows'] = {row['id']: row for row in map(json.loads, rows)}
        assert len(found[world, 'rows']) == len(rows) > 10
    assert found[2, 'test'] == found[1, 'test']
    assert found[2, 'rows'].keys() == found[1, 'rows'].keys()
    for name, row in found[1, 'rows'].items():
        assert found[2, 'rows'][name]['tokens'] == row['tokens']
        assert found[2, 'rows'][name]['nats'] == pytest.approx(row['nats'], rel=1e-5)


@pytest.mark.parametrize(('before', 'after'), [pytest.param(1, 2, marks=pytest.mark.slow), (2, 1)])
def test_a_run_goes_on_on_another_number_of_ranks(runs, tiny, before, after):
    folder = runs[0].parent / f'from-{before}-to-{after}'
    shutil.copytree(runs[before - 1] / 'logs', folder / 'logs')
    find(folder, 12).unlink()
    flags = DDP if after == 2 else []
    statuses, (said, *others) = ranks.xlab(after, folder, 'fit', *tiny, *MORE, *flags, '--ckpt_path=last')
    assert statuses == [0] * after, said
    assert not any(others)
    assert said.count('resuming from') == 1
    assert_same_weights(find(runs[0], 12), find(folder, 12))
    assert [path.name for path in (folder / 'logs').iterdir()] == ['version_0']
    assert_same_curves(runs[0], folder)


def test_what_is_typed_wrong_ends_all_ranks_with_status_2(tiny, tmp_path):
    statuses, printed = ranks.xlab(2, tmp_path / 'run', 'validate', *tiny, *DDP)
    assert statuses == [2, 2]
    assert printed[0].startswith('xlab: xlab validate needs a trained model')
    assert printed[1].startswith('xlab (rank 1): xlab validate needs a trained model')


def _prepare(*arguments):
    """prepare_data, with a tokenizer whose training is noted and takes a while."""
    train = tokenizer_file.train_tokenizer

    def train_slowly(*args, **options):
        with Path('trained.txt').open('a') as file:
            file.write('once\n')
        time.sleep(0.5)
        return train(*args, **options)

    tokenizer_file.train_tokenizer = train_slowly
    return fit.main(list(arguments))


def test_of_two_ranks_one_prepares_the_data_and_the_other_waits(tiny, tmp_path):
    flags = [flag for flag in tiny if not flag.startswith('--data.tokenizer_path')]
    statuses, printed = ranks.run(2, tmp_path / 'run', _prepare, 'prepare_data', *flags)
    assert statuses == [0, 0], printed
    assert (tmp_path / 'run/trained.txt').read_text() == 'once\n'
    assert ''.join(printed).count('tokenizing ') == 1
