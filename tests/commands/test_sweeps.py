"""Several folds and seeds in one command."""

import json

import pytest
import torch

from xlabml.commands import sweeps
from xlabml.commands.errors import UsageError
from xlabml.commands.parsing import parse
from xlabml.commands.sweeps import Done, Member, describe, list_members, read_flags
from xlabml.evaluation.class_results import ClassResults


def test_flags_are_read_from_anywhere_and_the_rest_is_left():
    words = ['fit', '--folds', '5', '-c', 'x.yaml', '--seeds=1,2', '--data.fold_name=x']
    assert read_flags(words) == (5, [1, 2], ['fit', '-c', 'x.yaml', '--data.fold_name=x'])
    assert read_flags(['fit', '--seeds', '[7, 8]']) == (None, [7, 8], ['fit'])
    for words, message in (
        (['--folds', '1'], "--folds is '1'; give a number from 2"),
        (['--folds'], "--folds is ''"),
        (['--seeds', '1,x'], "--seeds has 'x'"),
        (['--seeds=3,3'], 'has a number twice'),
        (['--seeds=99999999999999'], '--seeds has'),
    ):
        with pytest.raises(UsageError, match=message):
            read_flags(['fit', *words])


def test_each_run_has_a_folder_of_its_own():
    assert [member.name for member in list_members(None, [1, 2])] == ['seed_1', 'seed_2']
    assert [member.name for member in list_members(2, [1])] == ['fold_0', 'fold_1']
    assert list_members(2, [1, 2])[2] == Member('seed_2/fold_0', 0, 2)


def make_done(seed, fold, shift):
    generator = torch.Generator().manual_seed(fold)
    outputs = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    labels = (outputs[:, 1] > outputs[:, 0]).long()
    keys = tuple(f'{fold}-{i:02}' for i in range(50))
    systems = {'classifier': outputs * shift, 'majority': torch.zeros(50, 2, dtype=torch.float64)}
    results = ClassResults('single-label', ('x', 'y'), keys, keys, labels, None, systems)
    figures = {'loss': float(fold + seed), 'loss_low': 0.0, 'accuracy': 0.5}
    return Done(Member(f'seed_{seed}/fold_{fold}', fold, seed), figures, results)


def test_the_table_has_each_run_their_mean_and_the_pooled_examples():
    done = [make_done(seed, fold, 1.0 + seed) for seed in (0, 1) for fold in (0, 1)]
    lines = describe(done)
    assert lines[0] == '4 runs, test split'
    assert lines[1].split() == ['loss', 'accuracy']
    assert lines[2].split() == ['seed_0/fold_0', '0.0000', '0.5000']
    assert lines[6].split() == ['mean', '1.0000', '0.5000']
    assert lines[7].split() == ['deviation', '0.8165', '0.0000']
    assert lines[8] == 'seed 0: 100 examples, each tested once'
    assert lines[10].startswith('classifier ')
    assert lines[-2].startswith('macro F1 1.000, calibration error')
    assert lines[-1].startswith('mean of 2 seeds: loss 0.')
    assert lines[-1].endswith('accuracy 100.0% [100.0%, 100.0%]')
    assert max(map(len, lines)) <= 80
    others = [one._replace(results=None) for one in done]
    assert describe(others) == lines[:8]
    assert describe(done[:1])[4].startswith('seed 0: 50 examples')


@pytest.fixture
def flags(tmp_path, corpus, texts):
    path = tmp_path / 'reviews.jsonl'
    records = [{'text': f'{i}. {text}', 'stars': text.split()[1]} for i, text in enumerate(texts[:80])]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return [
        '--model=Classifier',
        '--data.examples=LabelledTexts',
        '--data.examples.label=stars',
        f'--data.sources=[{{path: {path}}}]',
        f'--data.tokenizer_path={corpus}/tiny.model',
        '--data.n_vocab=320',
        '--data.max_len=32',
        '--data.stratify=stars',
        '--data.splits={train: 0.7, val: 0.3, test: 0.0}',
        '--model.trunk.d_model=8',
        '--model.trunk.n_layers=1',
        '--model.trunk.n_heads=1',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=2',
        '--trainer.val_check_interval=2',
    ]


def test_what_does_not_go_with_several_runs_is_refused(flags):
    settings = parse(['fit', *flags])
    sweeps._check(settings, set(), 5, [])
    for asked, changed, message in (
        ('--ckpt_path', {}, '--ckpt_path does not go with several runs'),
        ('--seed_everything', {}, 'leave --seed_everything out'),
        ('', {'trainer.devices': 2}, 'train on one device each'),
        ('', {'data.fold': [0, 5]}, 'leave data.fold out'),
    ):
        with pytest.raises(UsageError, match=message):
            sweeps._check(settings.changed(changed), {asked}, 5, [1])
    for words, message in ((['fit', '--smoke'], 'tries one run'), (['test'], 'go with fit')):
        with pytest.raises(UsageError, match=message):
            sweeps.sweep([*words, '--folds=5', *flags])


@pytest.mark.slow
def test_folds_are_trained_tested_pooled_and_not_trained_twice(xlab, flags, tmp_path):
    status, printed = xlab('fit', *flags, '--folds', '2')
    assert status == 0, printed
    assert 'seed 42: 80 examples, each tested once' in printed
    assert (tmp_path / 'fold_1/logs/version_0/test-examples.parquet').is_file()
    status, printed = xlab('fit', *flags, '--folds', '2')
    assert status == 0, printed
    assert printed.count('has finished its 2 steps') == 2
    assert 'seed 42: 80 examples, each tested once' in printed
