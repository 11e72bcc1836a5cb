"""Preferences through the commands: a small file of P's layout, trained, tested, and rows without winners scored."""

import csv
import json
import random

import pytest

OUTCOMES = ['winner_model_a', 'winner_model_b', 'winner_tie']


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
    status, printed = xlab('predict', *flags, '--ckpt_path=last', '--data.predict_split=predict')
    assert status == 0, printed
    rows = [json.loads(line) for line in (tmp_path / 'logs/version_0/predictions.jsonl').read_text().splitlines()]
    assert len(rows) == 12
    assert sum(rows[0]['probabilities'].values()) == pytest.approx(1, abs=1e-5)


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
