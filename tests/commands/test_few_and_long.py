"""Few texts and long ones through the commands: windows are predicted alike everywhere, a warm-up is begun with."""

import json
from pathlib import Path

import pytest

from xlabml import checkpoints
from xlabml.pipelines import TextClassifier

CONF = Path(__file__).parents[2] / 'conf'


@pytest.fixture
def flags(tmp_path, texts):
    path = tmp_path / 'reviews.jsonl'
    records = [{'review': f'{i}. {text}', 'stars': text.split()[1]} for i, text in enumerate(texts)]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return [
        f'--data.sources=[{{path: {path}}}]',
        '--data.examples.label=stars',
        '--data.splits={train: 0.7, val: 0.15, test: 0.15}',
        '--data.batch_groups=8',
        '--data.max_len=16',
        '--data.n_vocab=340',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=2',
        '--trainer.log_every_n_steps=1',
        '--trainer.val_check_interval=2',
    ]


@pytest.mark.slow
def test_windows_are_predicted_as_they_were_evaluated(flags, xlab, tmp_path, texts):
    small = ['--model.trunk.d_model=16', '--model.trunk.n_layers=1', '--model.trunk.n_heads=2']
    windows = ['--data.examples.max_windows=9', '--data.examples.window_overlap=3', '--model.windows=vote']
    review = ['-c', CONF / 'classify.yaml', '--data.examples.text=review']
    status, printed = xlab('fit', *review, *flags, *small, *windows)
    assert status == 0, printed
    assert 'model.max_windows 9, found in the data' in printed
    status, printed = xlab(
        'predict', *review, *flags, *small, *windows, '--ckpt_path=last', '--data.predict_split=test'
    )
    assert status == 0, printed
    (written,) = tmp_path.rglob('predictions*.jsonl')
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    classifier = TextClassifier.load(checkpoints.find_newest(tmp_path / 'logs/version_0/checkpoints'))
    assert classifier.framing.max_windows == 9
    reviews = [json.loads(line)['review'] for line in (tmp_path / 'reviews.jsonl').read_text().splitlines()]
    names = [int(row['id']) for row in rows]
    said = classifier.predict([reviews[name] for name in names])
    assert not any(row['truncated'] for row in rows)
    assert max(len(classifier.tokenizer.encode(reviews[name])) for name in names) > 30  # several windows
    for row, one in zip(rows, said):
        assert one.probabilities == pytest.approx(row['probabilities'], abs=2e-6)


@pytest.mark.slow
def test_a_warm_up_on_a_few_texts_is_what_a_classifier_of_them_begins_with(flags, xlab):
    small = ['--model.trunk.d_model=16', '--model.trunk.n_layers=1', '--model.trunk.n_heads=2']
    roles = '--data.examples.roles={text: review}'
    status, printed = xlab('fit', '-c', CONF / 'fewshot.yaml', roles, *flags, *small)
    assert status == 0, printed
    few = ['--data.examples.text=review', '--data.examples.per_class=8', '--init_from=last']
    status, printed = xlab('fit', '-c', CONF / 'classify.yaml', *few, *flags)
    assert status == 0, printed
    assert 'new: head.output.weight' in printed
    assert 'model.class_counts [8.0, 8.0, 8.0, 8.0]' in printed
