"""Numbers, classes with an order and several labels a text, through fit, test, predict and --classify."""

import json

import pytest
from pyarrow import parquet

from xlabml.commands import infer

KINDS = {
    'regression': ('number', ['number', 'truncated'], 'squared error'),
    'ordinal': ('label', ['label', 'probabilities', 'set', 'answered', 'truncated'], 'nats/example'),
    'multi-label': ('labels', ['labels', 'probabilities', 'truncated'], 'nats/example'),
}


@pytest.fixture(scope='module')
def flags(texts, corpus, tmp_path_factory):
    animals = ('cat', 'dog', 'horse', 'sea')
    records = [
        {
            'text': f'{i} {text}',
            'regression': len(text) / 50,
            'ordinal': 'short' if len(text) < 40 else 'long' if len(text) > 80 else 'middling',
            'multi-label': [animal for animal in animals if animal in text],
        }
        for i, text in enumerate(texts[:120])
    ]
    path = tmp_path_factory.mktemp('other') / 'texts.jsonl'
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return [
        '--model=Classifier',
        '--data.examples=LabelledTexts',
        f'--data.sources=[{{path: {path}}}]',
        f'--data.tokenizer_path={corpus}/tiny.model',
        '--data.n_vocab=320',
        '--data.n_processes=1',
        '--data.splits={train: 0.6, val: 0.2, test: 0.2}',
        '--data.max_len=32',
        '--data.batch_groups=8',
        '--model.trunk.causal=false',
        '--model.trunk.d_model=16',
        '--model.trunk.n_layers=1',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=2',
        '--trainer.log_every_n_steps=2',
        '--trainer.val_check_interval=2',
        '--curves.spectra_every_n_steps=0',
    ]


@pytest.mark.parametrize('task', KINDS)
def test_it_is_trained_tested_predicted_and_asked(xlab, flags, tmp_path, capfd, task):
    column, keys, unit = KINDS[task]
    own = [*flags, f'--model.task={task}', f'--data.examples.{column}={task}']
    own += ['--data.examples.classes=[short, middling, long]'] if task == 'ordinal' else []
    status, printed = xlab('fit', *own)
    assert status == 0, printed
    assert f' {unit}, ' in printed[printed.index('step 2, val: ') :].splitlines()[0]
    status, printed = xlab('test', *own, '--ckpt_path=last')
    assert (status, f' {unit} (' in printed) == (0, True), printed
    output = tmp_path / 'said.parquet'
    status, printed = xlab(
        'predict', *own, '--ckpt_path=last', '--data.predict_split=test', f'--predictions.output={output}'
    )
    assert status == 0, printed
    said = parquet.read_table(output).to_pylist()
    assert list(dict.fromkeys(name.partition('.')[0] for name in said[0])) == ['id', *keys]
    path = own[2].partition('path: ')[2].rstrip('}]')
    assert infer.main(['last', '--classify', '--file', path, '--output', 'again.jsonl']) == 0
    again = [json.loads(line) for line in (tmp_path / 'again.jsonl').read_text().splitlines()]
    for row in said:
        other = again[int(row['id'])]
        if task == 'regression':
            assert row['number'] == pytest.approx(other['number'], abs=2e-6)
            continue
        named = 'labels' if task == 'multi-label' else 'label'
        assert row[named] == other[named]
        for name, share in other['probabilities'].items():
            assert row[f'probabilities.{name}'] == pytest.approx(share, abs=2e-6)
    assert infer.main(['last', '--classify', 'the cat sees the sea']) == 0
    assert capfd.readouterr().out.strip()
