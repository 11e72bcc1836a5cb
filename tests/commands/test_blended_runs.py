"""A classifier that is mixed with a linear model: trained, resumed, tested, scored and asked."""

import json
from functools import partial

import pytest
import ranks
from curves import read_curve

from xlabml import checkpoints
from xlabml.errors import NotSupportedError
from xlabml.evaluation.class_results import ClassResults
from xlabml.evaluation.class_table import example_losses
from xlabml.models import classifier as task
from xlabml.pipelines import RewardModel, TextClassifier
from xlabml.transformer import Transformer


@pytest.fixture
def flags(tmp_path, corpus, texts):
    path = tmp_path / 'reviews.jsonl'
    records = [{'id': f'r{i}', 'text': f'{i}. {text}', 'stars': text.split()[1]} for i, text in enumerate(texts)]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return [
        '--model=Classifier',
        '--model.blend=tfidf',
        '--data.examples=LabelledTexts',
        '--data.examples.label=stars',
        f'--data.sources=[{{path: {path}}}]',
        f'--data.tokenizer_path={corpus}/tiny.model',
        '--data.n_vocab=320',
        '--data.splits={train: 0.5, val: 0.25, test: 0.25}',
        '--data.max_len=32',
        '--data.batch_groups=8',
        '--model.trunk.d_model=16',
        '--model.trunk.n_layers=1',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=4',
        '--trainer.val_check_interval=2',
        '--checkpoint.every_n_steps=2',
    ]


def test_without_scikit_learn_it_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(task, 'has_sklearn', lambda: False)
    trunk = partial(Transformer, d_model=8, n_layers=1, n_heads=2)
    model = task.Classifier(20, 8, ['a', 'b'], trunk=trunk, blend='tfidf')
    with pytest.raises(NotSupportedError, match=r"pip install 'xlabml\[baselines\]'"):
        model.check_training(10)
    task.Classifier(20, 8, ['a', 'b'], trunk=trunk).check_training(10)


@pytest.mark.slow
def test_a_mixture_is_trained_resumed_tested_scored_and_asked(xlab, flags, tmp_path, monkeypatch):
    pytest.importorskip('sklearn')
    status, printed = xlab('fit', *flags, '--trainer.max_steps=2')
    assert status == 0, printed
    status, printed = xlab('fit', *flags, '--ckpt_path=last')
    assert status == 0, printed
    assert 'network alone' in printed
    # What uses it needs no scikit-learn and no training texts.
    monkeypatch.setattr(task, 'has_sklearn', lambda: False)
    status, printed = xlab('validate', *flags, '--ckpt_path=last')
    assert status == 0, printed
    status, printed = xlab('test', *flags, '--ckpt_path=last')
    assert status == 0, printed
    results = ClassResults.read(tmp_path / 'logs/version_0/test-examples.parquet')
    assert list(results.systems)[:3] == ['classifier', 'network alone', 'TF-IDF alone']
    losses = {
        name: float(example_losses(outputs, results.labels, results.task).mean())
        for name, outputs in results.systems.items()
    }
    assert losses['classifier'] < losses['network alone'] - 0.2  # the label is a word of the text
    status, printed = xlab('predict', *flags, '--ckpt_path=last', '--predictions.id=text')
    assert status == 0, printed
    rows = [json.loads(line) for line in (tmp_path / 'logs/version_0/predictions.jsonl').read_text().splitlines()]
    path = checkpoints.find('last', tmp_path)
    export = checkpoints.export(path, str(tmp_path / 'small.safetensors'))
    for file in (path, export.path):
        classifier = TextClassifier.load(file)
        found = classifier.predict([row['id'] for row in rows])
        for row, one in zip(rows, found):
            assert one.probabilities == pytest.approx(row['probabilities'], abs=2e-6)


@pytest.mark.slow
def test_preferences_are_mixed_with_a_linear_model_of_answers(xlab, flags, texts, tmp_path):
    pytest.importorskip('sklearn')
    path = tmp_path / 'preferences.jsonl'
    records = [
        {'prompt': f'{i}.', 'response_a': one, 'response_b': other, 'winner': 'a' if one < other else 'b'}
        for i, (one, other) in enumerate(zip(texts, reversed(texts)))
    ]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    left_out = ('--data.examples', '--data.sources')
    flags = [flag for flag in flags if not flag.startswith(left_out)]
    flags += ['--data.examples=Preferences', '--data.examples.label=winner', '--data.examples.together=false']
    flags += [f'--data.sources=[{{path: {path}}}]']
    status, printed = xlab('fit', *flags)
    assert status == 0, printed
    status, printed = xlab('test', *flags, '--ckpt_path=last')
    assert status == 0, printed
    assert 'TF-IDF alone' in printed
    results = ClassResults.read(tmp_path / 'logs/version_0/test-examples.parquet')
    status, printed = xlab('predict', *flags, '--ckpt_path=last', '--predictions.id=prompt')
    assert status == 0, printed
    rows = [json.loads(line) for line in (tmp_path / 'logs/version_0/predictions.jsonl').read_text().splitlines()]
    assert len(rows) == len(results.labels)
    path = checkpoints.find('last', tmp_path)
    export = checkpoints.export(path, str(tmp_path / 'small.safetensors'))
    asked = [records[int(row['id'].rstrip('.'))] for row in rows]
    fields = [tuple(record[name] for name in ('prompt', 'response_a', 'response_b')) for record in asked]
    for file in (path, export.path):
        classifier = TextClassifier.load(file)
        assert classifier.model.blend.weights[1] > 0
        exchanged = classifier.predict([(prompt, b, a) for prompt, a, b in fields])
        for row, one, other in zip(rows, classifier.predict(fields), exchanged):
            assert one.probabilities == pytest.approx(row['probabilities'], abs=2e-6)
            mirrored = dict(zip(('b', 'tie', 'a'), (other.probabilities[name] for name in ('a', 'tie', 'b'))))
            assert one.probabilities == mirrored
    prompt, *answers = fields[0]
    u, v = RewardModel.load(path).score(prompt, answers)
    said = classifier.predict([fields[0]])[0].probabilities
    assert (u > v) == (said['a'] > said['b'])


@pytest.mark.slow
def test_two_ranks_mix_as_one_process_does(flags, tmp_path):
    pytest.importorskip('sklearn')
    flags = [*flags, '--model.optimizer=xlabml.training.AdamW', '--model.head.dropout=0', '--seed_everything=1']
    assert ranks.xlab(1, tmp_path / 'one', 'fit', *flags)[0] == [0]
    several = ['--trainer.devices=2', '--trainer.strategy=ddp', '--data.device_batch_tokens=32']
    statuses, printed = ranks.xlab(2, tmp_path / 'two', 'fit', *flags, *several)
    assert statuses == [0, 0], printed
    for name in ('train_loss', 'val_loss', 'val_accuracy', 'val_ece'):
        one, two = (read_curve(tmp_path / part / 'logs/version_0', name) for part in ('one', 'two'))
        assert two == pytest.approx(one, rel=1e-3), name
    assert ['network alone' in one for one in printed] == [True, False]
