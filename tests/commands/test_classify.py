"""A classifier through every command: labelled texts with a tiny trunk."""

import csv
import json

import pytest
import ranks
from curves import read_curve
from pyarrow import parquet

from xlabml import checkpoints
from xlabml.artifacts.tables import flatten
from xlabml.commands import infer
from xlabml.errors import RequestError, SettingsError
from xlabml.evaluation.class_results import ClassResults
from xlabml.models import Classifier
from xlabml.pipelines import TextClassifier

NAMES = ('train_loss', 'train_accuracy', 'val_loss', 'val_accuracy', 'val_auroc', 'val_ece', 'gradient_norm')
SAVED = ['--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']


@pytest.fixture(scope='module')
def reviews(tmp_path_factory, texts):
    """The texts with the animal of their first words as a label."""
    path = tmp_path_factory.mktemp('reviews') / 'reviews.jsonl'
    records = [{'review': f'{i}. {text}', 'stars': text.split()[1]} for i, text in enumerate(texts)]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


@pytest.fixture(scope='module')
def flags(reviews, corpus):
    """The flags of a tiny classifier."""
    return [
        '--model=Classifier',
        '--data.examples=LabelledTexts',
        '--data.examples.text=review',
        '--data.examples.label=stars',
        f'--data.sources=[{{path: {reviews}}}]',
        f'--data.tokenizer_path={corpus}/tiny.model',
        '--data.n_vocab=320',
        '--data.splits={train: 0.7, val: 0.15, test: 0.15}',
        '--data.max_len=32',
        '--data.batch_groups=8',
        '--model.trunk.causal=false',
        '--model.trunk.d_model=16',
        '--model.trunk.n_layers=2',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=12',
        '--trainer.log_every_n_steps=1',
        '--trainer.val_check_interval=6',
    ]


@pytest.fixture
def run(xlab, flags, tmp_path):
    """A run of 12 steps, and what it printed."""
    status, printed = xlab('fit', *flags, *SAVED)
    assert status == 0, printed
    return tmp_path / 'logs/version_0', printed


def test_a_classifier_is_trained_evaluated_scored_and_asked(xlab, flags, run, capfd, trained):
    folder, printed = run
    language_model = checkpoints.find('last', trained)
    assert 'model.classes ["cat", "dog", "horse", "sea"], found in the data' in printed
    assert 'model.class_counts [' in printed
    losses = list(read_curve(folder, 'train_loss').values())
    assert min(losses) < losses[0]
    assert len(read_curve(folder, 'val_uncalibrated_loss')) == 2
    table = printed[printed.index('\nval: ') :].splitlines()
    assert [line.split('  ')[0] for line in table[3:7]] == ['classifier', 'majority', 'length', 'untrained head']
    for command, word in (('validate', 'val: '), ('test', 'test: ')):
        status, printed = xlab(command, *flags, '--ckpt_path=best')
        assert status == 0, printed
        assert word in printed
        assert 'examples)' in printed
    assert 'class  precision  recall' in printed
    assert 'loss above the first' in printed
    results = ClassResults.read(folder / 'test-examples.parquet')
    assert results.classes == ('cat', 'dog', 'horse', 'sea')
    assert results.own.shape == (len(results.ids), 4)
    output = folder / 'said.parquet'
    status, printed = xlab(
        'predict', *flags, '--ckpt_path=last', f'--predictions.output={output}', '--predictions.id=review'
    )
    assert status == 0, printed
    said = parquet.read_table(output).to_pylist()
    of_classes = [f'probabilities.{name}' for name in ('cat', 'dog', 'horse', 'sea')]
    assert list(said[0]) == ['id', 'label', *of_classes, 'set', 'answered', 'truncated']
    assert sum(said[0][name] for name in of_classes) == pytest.approx(1, abs=1e-5)

    classifier = TextClassifier.load('last')
    assert classifier.classes == ('cat', 'dog', 'horse', 'sea')
    alone = classifier.predict('the cat sees the sea')
    both = classifier.predict(['a dog eats my horse. ' * 9, 'the cat sees the sea'])
    assert both[1].probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert sum(alone.probabilities.values()) == pytest.approx(1)
    assert alone.labels[0] in alone.in_set
    assert both[0].n_cut > 0 == alone.n_cut
    with pytest.raises(RequestError, match='text 1 is'):
        classifier.predict(['a', '\n'])
    with pytest.raises(SettingsError, match='which has no classes'):
        TextClassifier.load(language_model)
    path = checkpoints.find('last', folder.parents[1])
    calibration = classifier.model.calibration
    assert calibration.n_fitted > 0
    assert infer.main([str(path), '--classify', 'the cat sees the sea']) == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[0].split('\t')[0] in classifier.classes

    # A file of texts is labelled as the data was, by the names of the training data's columns.
    reviews = folder / 'few.csv'
    with reviews.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerows([['review', 'stars'], *([row['id'], ''] for row in said), [' ', 'cat']])
    labelled = folder / 'labelled.jsonl'
    assert infer.main([str(path), '--classify', str(reviews)]) == 0
    printed = capfd.readouterr()
    assert len(printed.out.splitlines()) == len(said)
    assert f'left out 1 rows with an empty text ({len(said)})' in printed.err
    call = [str(path), '--classify', '--file', str(reviews), '--id', 'review', '--output', str(labelled)]
    assert infer.main(call) == 0
    again = [flatten(json.loads(line)) for line in labelled.read_text().splitlines()]
    assert [(row['id'], row['set'], row['truncated']) for row in again] == [
        (row['id'], row['set'], row['truncated']) for row in said
    ]
    for name in of_classes:
        assert [row[name] for row in again] == pytest.approx([row[name] for row in said], abs=2e-6)
    for changed, message in (
        (call, 'is there already'),
        ([*call[:-1], str(folder / 'x.xls')], '--output is'),
        ([*call[:2], '--file', str(folder / 'none.csv')], 'is no file'),
        ([*call[:4], '--columns', 'a,b'], 'names 2 columns, but this classifier reads 1 texts'),
        ([*call[:4], '--columns', 'text'], "no column 'text'"),
        ([*call[:2], 'a', 'b'], 'what was typed has 2 texts'),
    ):
        assert infer.main(changed) == 2, message
        assert message in ' '.join(capfd.readouterr().err.split())


def test_a_resumed_classifier_is_bit_for_bit_an_unbroken_one(xlab, flags, run, tmp_path):
    whole, _ = run
    other = tmp_path / 'broken'
    xlab('fit', *flags, *SAVED, f'--trainer.default_root_dir={other}')
    broken = other / 'logs/version_0'
    for path in (broken / 'checkpoints').glob('*.ckpt'):
        if int(path.name[5:12]) > 5:
            path.unlink()
    status, printed = xlab(
        'fit', *flags, *SAVED, f'--trainer.default_root_dir={other}', '--ckpt_path=last', '--data.num_workers=1'
    )
    assert status == 0, printed
    for name in NAMES:
        assert read_curve(broken, name) == read_curve(whole, name), name


@pytest.mark.slow
def test_a_classifier_that_gets_sigterm_resumes_bit_for_bit(xlab, flags, run, tmp_path, interrupted):
    whole, _ = run
    other = f'--trainer.default_root_dir={tmp_path}/broken'
    with interrupted('training_step', 7, Classifier):
        assert xlab('fit', *flags, *SAVED, other)[0] == 143
    status, printed = xlab('fit', *flags, *SAVED, other, '--ckpt_path=last')
    assert status == 0, printed
    assert 'resuming from' in printed
    for name in NAMES:
        assert read_curve(tmp_path / 'broken/logs/version_0', name) == read_curve(whole, name), name


@pytest.mark.slow
def test_two_ranks_and_chunks_train_the_classifier_that_one_process_trains(flags, tmp_path):
    flags = [*flags, '--model.optimizer=xlabml.training.AdamW', '--model.head.dropout=0', '--seed_everything=1']
    assert ranks.xlab(1, tmp_path / 'one', 'fit', *flags)[0] == [0]
    several = ['--trainer.devices=2', '--trainer.strategy=ddp', '--data.device_batch_tokens=32']
    statuses, printed = ranks.xlab(2, tmp_path / 'two', 'fit', *flags, *several)
    assert statuses == [0, 0], printed
    for name in NAMES:
        one, two = (read_curve(tmp_path / part / 'logs/version_0', name) for part in ('one', 'two'))
        assert two == pytest.approx(one, rel=1e-3), name


@pytest.mark.slow
def test_smoke_tries_a_classifier(xlab, flags):
    status, printed = xlab('fit', '--smoke', *flags)
    assert status == 0, printed
    assert 'smoke: 4 steps' in printed


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (['--data.examples=NextTokens'], 'Classifier trains on ClassTargets'),
        (['--model.task=regression'], 'model.task is regression'),
        (
            ['--model.classes=[cat, dog]', '--data.examples.classes=[cat, dog]'],
            'has a label that is none of the 2 classes',
        ),
        (['--model.calibration=isotonic'], "model.calibration is 'isotonic'"),
        (['--model.freeze=bottom:9'], 'the trunk has 2 blocks'),
    ],
)
def test_what_does_not_go_together_is_refused(xlab, flags, changed, message):
    if changed[0] == '--data.examples=NextTokens':
        flags = [flag for flag in flags if 'data.examples' not in flag and 'batch_groups' not in flag]
    status, printed = xlab('fit', *flags, *changed)
    assert status == 2, printed
    assert message in printed
