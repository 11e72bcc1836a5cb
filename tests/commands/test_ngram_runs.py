"""`xlab-manage ngram`, and `--ngram` of test, predict and infer, as they are typed."""

import json

import pytest

from xlabml.commands import fit, infer, manage


def test_texts_are_counted_then_tested_predicted_and_continued(root, corpus, tiny, capsys):
    texts = str(corpus / 'texts.jsonl')
    assert manage.main(['ngram', 'last', texts, '--output', 'grams', '--test', '0.1', '--order', '3']) == 0
    said = capsys.readouterr()
    assert 'gate fitted on' in said.err
    assert 'n-grams of 2 to 3 tokens' in said.out
    assert "--data.splits '{train: 0.85, val: 0.05, test: 0.1, predict: 0}'" in said.out
    line = ['--ckpt_path=last', '--ngram=grams', f'--data.sources=[{{path: {texts}}}]']
    line += ['--data.splits={train: 0.85, val: 0.05, test: 0.1, predict: 0}']
    assert fit.main(['test', *line]) == 0
    table = capsys.readouterr().out
    assert 'mixed by the gate' in table
    bits = {row[:24].strip(): float(row[24:33]) for row in table.splitlines() if row.startswith(('model', 'Kneser'))}
    assert bits['Kneser-Ney'] < bits['model']
    assert list((root / 'logs').glob('version_*/ngram.txt'))
    assert fit.main(['predict', *line, '--predictions.output=p.jsonl']) == 0
    rows = [json.loads(row) for row in (root / 'p.jsonl').read_text().splitlines()]
    total = sum(row['bits_per_byte_kneser_ney'] for row in rows) / len(rows)
    assert total == pytest.approx(bits['Kneser-Ney'], rel=0.2)
    assert {'bits_per_byte', 'bits_per_byte_constant', 'bits_per_byte_gated'} < set(rows[0])
    capsys.readouterr()
    assert infer.main(['last', 'the cat', '--ngram', 'grams', '--ngram', 'grams', '-g', '-l', '4', '-d', 'cpu']) == 0
    assert capsys.readouterr().out.startswith('the cat ')


@pytest.mark.parametrize(
    ('main', 'arguments', 'message'),
    [
        (manage.main, ['ngram', 'last'], 'the following arguments are required: --output'),
        (manage.main, ['ngram', 'last', '--output', 'x', '--order', '9'], 'out of range; give 2 to 8'),
        (manage.main, ['ngram', 'last', '--output', 'x', '--test', '0.1'], '--test would have no effect'),
        (manage.main, ['ngram', 'last', '--output', '.'], '--output . is there already'),
        (manage.main, ['ngram', 'last', 'none.txt', '--output', 'x'], 'there are no texts at none.txt'),
        (infer.main, ['last', 'the', '--ngram', 'none'], 'none: there is no such folder; make one: xlab-manage ngram'),
        (infer.main, ['last', 'the', '--ngram', 'logs'], 'logs: it holds no n-grams'),
        (infer.main, ['last', '--embed', 'x', '--ngram', 'logs'], '--ngram would have no effect'),
    ],
)
def test_what_is_typed_wrong_is_said(root, capsys, main, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
