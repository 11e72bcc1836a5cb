"""Preferences through the commands: a small file of P's layout, trained, tested, and rows without winners scored."""

import csv
import json
import random

import pytest
import ranks
import torch
from curves import read_curve

from xlabml import checkpoints
from xlabml.errors import SettingsError
from xlabml.models import Classifier
from xlabml.pipelines import RewardModel, TextClassifier

WINNERS = {'a': 'winner_model_a', 'b': 'winner_model_b', 'tie': 'winner_tie'}
OUTCOMES = list(WINNERS.values())
COLUMNS = ('prompt', 'response_a', 'response_b')


@pytest.fixture(scope='module')
def layout(tmp_path_factory, texts):
    """A folder with train.csv and test.csv: JSON lists of turns, three columns of 0 and 1; no winners in the second."""
    folder = tmp_path_factory.mktemp('preferences')
    draw = random.Random(0)
    rows = []
    for i in range(60):
        turns = [[f'{i}. {texts[i % len(texts)]}' for _ in range(1 + i % 2)] for _ in range(3)]
        turns[1] = [draw.choice(texts) for _ in turns[0]]
        turns[2] = turns[1] if i % 9 == 4 else [draw.choice(texts) for _ in turns[0]]
        rows.append({'id': i, **dict(zip(('prompt', 'response_a', 'response_b'), map(json.dumps, turns)))})
    for name, some in (('train.csv', rows[:48]), ('test.csv', rows[48:])):
        with (folder / name).open('w', newline='') as file:
            is_train = name == 'train.csv'
            writer = csv.DictWriter(file, [*rows[0], *(OUTCOMES if is_train else [])])
            writer.writeheader()
            for i, row in enumerate(some):
                won = {outcome: int(i % 3 == n) for n, outcome in enumerate(OUTCOMES)} if is_train else {}
                writer.writerow({**row, **won})
    return folder


def flags_of(layout, corpus, **changed):
    sources = f'[{{path: {layout}/train.csv}}, {{path: {layout}/test.csv, only: predict}}]'
    winners = '{a: winner_model_a, b: winner_model_b, tie: winner_tie}'
    return [
        '--model=Classifier',
        '--data.examples=Preferences',
        '--data.examples.turns=true',
        f'--data.examples.winners={winners}',
        f'--data.sources={sources}',
        '--data.group=prompt',
        f'--data.tokenizer_path={corpus}/tiny.model',
        '--data.n_vocab=320',
        '--data.splits={train: 0.6, val: 0.2, test: 0.2}',
        '--data.max_len=64',
        '--data.batch_groups=8',
        '--model.trunk.causal=false',
        '--model.trunk.d_model=16',
        '--model.trunk.n_layers=1',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=4',
        '--trainer.val_check_interval=4',
        *(f'--{name}={value}' for name, value in changed.items()),
    ]


@pytest.mark.parametrize('together', ['true', 'false'])
def test_preferences_are_trained_tested_and_scored(xlab, layout, corpus, tmp_path, together):
    flags = flags_of(layout, corpus, **{'data.examples.together': together})
    status, printed = xlab('fit', *flags)
    assert status == 0, printed
    assert 'model.classes ["a", "tie", "b"], found in the data' in printed
    assert f'model.preference "{"together" if together == "true" else "apart"}", found in the data' in printed
    status, printed = xlab('test', *flags, '--ckpt_path=last')
    assert status == 0, printed
    assert 'swap_error' in printed
    form = {outcome: f'probabilities.{name}' for name, outcome in WINNERS.items()}
    submission = ['--predictions.output=said.csv', '--predictions.id=id', f'--predictions.columns={json.dumps(form)}']
    asked = submission if together == 'true' else []
    status, printed = xlab('predict', *flags, '--ckpt_path=last', '--data.predict_split=predict', *asked)
    assert status == 0, printed
    if asked:
        with (tmp_path / 'said.csv').open(newline='') as file:
            said = list(csv.DictReader(file))
        assert list(said[0]) == ['id', *WINNERS.values()]
        assert [row['id'] for row in said] == [str(i) for i in range(48, 60)]
        rows = [{name: float(row[outcome]) for name, outcome in WINNERS.items()} for row in said]
    else:
        lines = (tmp_path / 'logs/version_0/predictions.jsonl').read_text().splitlines()
        rows = [json.loads(line)['probabilities'] for line in lines]
    assert len(rows) == 12

    # The pipeline reads the same texts alike; exchanged answers are mirrored.
    path = checkpoints.find('last', tmp_path)
    classifier = TextClassifier.load(path)
    with (layout / 'test.csv').open(newline='') as file:
        texts = [tuple(json.loads(row[name]) for name in COLUMNS) for row in csv.DictReader(file)]
    found = classifier.predict(texts)
    exchanged = classifier.predict([(prompt, b, a) for prompt, a, b in texts])
    for row, one, other in zip(rows, found, exchanged):
        assert one.probabilities == pytest.approx(row, abs=2e-6)
        mirrored = dict(zip(('b', 'tie', 'a'), (other.probabilities[name] for name in ('a', 'tie', 'b'))))
        assert one.probabilities == mirrored
    if together == 'true':
        with pytest.raises(SettingsError, match='no score of an answer alone'):
            RewardModel.load(path)
        return
    rewards = RewardModel.load(path)
    prompt, *answers = texts[0]
    u, v = rewards.score(prompt, answers)
    assert rewards.score(prompt, [answers[1]]) == pytest.approx([v], abs=1e-6)
    with torch.no_grad():
        logits = rewards.model.ties(torch.tensor([u - v]))
        probs = rewards.model.probabilities(logits.log_softmax(-1))[0].tolist()
    assert probs == pytest.approx([rows[0][name] for name in ('a', 'tie', 'b')], abs=1e-5)


CURVES = ('train_loss', 'train_accuracy', 'val_loss', 'val_accuracy', 'gradient_norm')
EIGHT = {
    'trainer.max_steps': 8,
    'trainer.log_every_n_steps': 1,
    'model.optimizer': 'xlabml.training.AdamW',
    'model.head.dropout': 0,
    'data.n_processes': 1,
}


@pytest.mark.slow
@pytest.mark.parametrize('together', ['true', 'false'])
def test_two_ranks_and_chunks_train_the_preferences_that_one_process_trains(layout, corpus, tmp_path, together):
    flags = flags_of(layout, corpus, **EIGHT, **{'data.examples.together': together})
    assert ranks.xlab(1, tmp_path / 'one', 'fit', *flags)[0] == [0]
    several = ['--trainer.devices=2', '--trainer.strategy=ddp', '--data.device_batch_tokens=128']
    statuses, printed = ranks.xlab(2, tmp_path / 'two', 'fit', *flags, *several)
    assert statuses == [0, 0], printed
    for name in CURVES:
        one, two = (read_curve(tmp_path / part / 'logs/version_0', name) for part in ('one', 'two'))
        assert two == pytest.approx(one, rel=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize('together', ['true', 'false'])
def test_preferences_that_get_sigterm_resume_bit_for_bit(xlab, layout, corpus, tmp_path, interrupted, together):
    flags = flags_of(layout, corpus, **EIGHT, **{'data.examples.together': together})
    assert xlab('fit', *flags, '--trainer.default_root_dir=whole')[0] == 0
    with interrupted('training_step', 5, Classifier):
        assert xlab('fit', *flags)[0] == 143
    status, printed = xlab('fit', *flags, '--ckpt_path=last')
    assert status == 0, printed
    assert 'resuming from' in printed
    for name in CURVES:
        broken, whole = (read_curve(root / 'logs/version_0', name) for root in (tmp_path, tmp_path / 'whole'))
        assert broken == whole, name


def test_what_is_cut_is_shown_and_a_broken_row_is_named(xlab, layout, corpus, tmp_path):
    flags = [flag for flag in flags_of(layout, corpus) if not flag.startswith(('--model', '--trainer'))]
    status, printed = xlab('validate_data', *flags, '--render=1')
    assert status == 0, printed
    assert 'answers: 0 are empty' in printed
    assert 'turns dropped' in printed
    broken = tmp_path / 'broken.csv'
    broken.write_text((layout / 'train.csv').read_text().replace('"[""7. ', '"[7. ', 1))
    sources = f'--data.sources=[{{path: {broken}}}]'
    status, printed = xlab('validate_data', *[f for f in flags if '--data.sources' not in f], sources)
    assert status == 1, printed
    assert 'row 7' in printed
    assert 'holds no JSON list of turns' in printed
