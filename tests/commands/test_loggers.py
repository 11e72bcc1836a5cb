"""Loggers that are named in one word, and the folder of a run as a checkpoint."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from xlabml import checkpoints
from xlabml.commands.loggers import make_loggers
from xlabml.errors import SettingsError

SHOW = '--samples.show=true'


def test_a_csv_file_is_in_the_folder_of_the_run_and_a_resumed_run_writes_another_one(tmp_path):
    for step, name, values in ((None, 'csv', [1.0, 2.0]), (12, 'csv_from_step_12', [3.0])):
        (logger,) = make_loggers(['csv', 'csv'], tmp_path, step)
        for value in values:
            logger.log_metrics({'loss': value}, step=int(value))
        logger.finalize('success')
        with (tmp_path / name / 'metrics.csv').open() as file:
            assert [float(row['loss']) for row in csv.DictReader(file)] == values


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_a_package_that_is_missing_is_named_with_its_extra(name, tmp_path):
    if importlib.util.find_spec(name):
        pytest.skip(f'{name} is installed')
    with pytest.raises(SettingsError, match=rf"trainer\.logger {name} needs .*pip install 'xlabml\[{name}\]'"):
        make_loggers(['tensorboard', name], tmp_path, None)


def test_mlflow_writes_into_the_folder_of_the_run(tmp_path):
    pytest.importorskip('mlflow')
    folder = tmp_path / 'logs/version_0'
    folder.mkdir(parents=True)
    (logger,) = make_loggers(['mlflow'], folder, None)
    logger.log_metrics({'loss': 1.0}, step=1)
    assert (folder / 'mlflow.db').stat().st_size


def test_wandb_writes_into_the_folder_of_the_run_and_a_resumed_run_is_the_same(tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    folder = tmp_path / 'logs/version_0'
    folder.mkdir(parents=True)
    ids = []
    for step in (None, 12):
        (logger,) = make_loggers(['wandb'], folder, step)
        logger.log_metrics({'loss': 1.0}, step=1)
        ids.append(logger.experiment.id)
        logger.experiment.finish()
    assert ids[0] == ids[1]
    assert list((folder / 'wandb').glob('offline-run-*'))


def test_the_folder_of_a_run_stands_for_its_best_and_to_fit_for_its_newest_checkpoint(root, xlab, tiny):
    run = Path('logs/version_0').absolute()
    names = sorted(path.name for path in (run / 'checkpoints').glob('*.ckpt'))
    best = checkpoints.find('best', root)
    assert checkpoints.find(str(run), root) == checkpoints.find(str(run / 'checkpoints'), root) == best
    assert checkpoints.find(str(run), root, of_a_run='newest').name == names[-1]
    status, printed = xlab('fit', '--ckpt_path', run)
    assert status == 0
    assert 'has finished its 12 steps' in printed
    status, printed = xlab(
        'fit', '--ckpt_path', run, '--trainer.max_steps=14', '--trainer.logger=[csv, tensorboard]', SHOW
    )
    assert status == 0, printed
    assert 'step 14, val: ' in printed
    assert 'step 14, sample: ' in printed
    assert 'resuming from' in printed
    assert json.loads((run / 'log.jsonl').read_text().splitlines()[-1])['step'] == 14
    assert list(run.glob('csv_from_step_13/metrics.csv'))


def test_a_folder_that_is_of_no_run_is_refused(tmp_path):
    with pytest.raises((ValueError, OSError), match='nothing'):
        checkpoints.find(str(tmp_path / 'nothing'), tmp_path)
