"""Texts with metadata through the commands: a run that is evaluated with and without it, and its table."""

import json
from pathlib import Path

import pytest
import ranks

from xlabml.commands import infer
from xlabml.reports import facts
from xlabml.reports.runs import read_runs


@pytest.fixture(scope='module')
def flags(tmp_path_factory, texts, corpus):
    """The flags of a tiny run on texts with a title and a topic."""
    folder = tmp_path_factory.mktemp('metadata')
    records = [{'text': text, 'title': text[:9], 'topic': f't{i % 3}'} for i, text in enumerate(texts)]
    (folder / 'known.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records), 'utf-8')
    return [
        '--data.examples=Conditioned',
        '--data.examples.types=[{class_path: Title}, {class_path: Topic}]',
        f'--data.sources=[{{path: {folder}/known.jsonl}}]',
        f'--data.tokenizer_path={corpus}/tiny.model',
        '--data.n_vocab=320',
        '--data.splits={train: 0.8, val: 0.1, test: 0.1}',
        '--data.max_len=64',
        '--data.batch_tokens=256',
        '--model.evaluators=[{class_path: xlabml.evaluation.MetadataBits, init_args: {sets: [[title, topic]]}}, '
        '{class_path: xlabml.evaluation.MetadataPosterior, init_args: {key: topic, val_documents: 20}}]',
        '--model.trunk.d_model=16',
        '--model.trunk.n_layers=1',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.callbacks=[{class_path: xlabml.callbacks.MetadataTable}]',
    ]


def test_a_run_is_evaluated_with_and_without_metadata_and_its_test_ends_with_a_table(
    xlab, flags, texts, tmp_path, capfd
):
    status, printed = xlab('fit', *flags, '--trainer.max_steps=4', '--trainer.val_check_interval=4')
    assert status == 0, printed
    logged = [json.loads(line) for line in (tmp_path / 'logs/version_0/eval.jsonl').read_text().splitlines()]
    found = [line for line in logged if 'val_metadata_saved/title' in line]
    assert len(found) == 1
    assert 'metadata_saved' not in printed  # of a table, too much for a line
    assert any(
        line.startswith('  val: title+topic')
        for line in facts.text(read_runs([tmp_path / 'logs/version_0'])).splitlines()
    )
    assert 0 <= found[0]['val_metadata_accuracy/topic'] <= 1
    status, printed = xlab('test', *flags, '--ckpt_path=last')
    assert status == 0, printed
    table = (tmp_path / 'logs/version_0/metadata.txt').read_text()
    assert table in printed
    names = [line.split()[0] for line in table.splitlines()]
    assert names == ['metadata', 'without', 'all', 'title', 'topic', 'title+topic', 'together', 'shuffled']

    # The checkpoint ranks the values of a type, for a text and for a file.
    assert infer.main(['last', texts[0], '--rank-meta', 'topic', '-d', 'cpu']) == 0
    said = dict(line.split() for line in capfd.readouterr().out.splitlines())
    assert sorted(said) == ['t0', 't1', 't2']
    assert sum(map(float, said.values())) == pytest.approx(1, abs=2e-3)
    (tmp_path / 'two.txt').write_text(f'{texts[0]}\n{texts[1]}\n', 'utf-8')
    assert infer.main(['last', '--rank-meta=topic', '--file', 'two.txt', '--json', '-d', 'cpu']) == 0
    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert {name: f'{prob:.3f}' for name, prob in first.items()} == said
    assert list(second.values()) == sorted(second.values(), reverse=True)
    for arguments, why in (
        (['--rank-meta', 'url', 'x'], "values of 'url' to rank; it has those of title, topic"),
        (['--rank-meta', 'title', 'x'], "values of 'title' were not calibrated"),
        (['--rank-meta', 'topic'], 'give a text or --file'),
        (['--rank-meta', 'topic', '--file', 'none.txt'], 'none.txt is no file'),
    ):
        assert infer.main(['last', *arguments]) != 0
        assert why in capfd.readouterr().err


@pytest.mark.slow
def test_two_ranks_find_the_figures_that_one_finds(flags, tmp_path):
    conf = Path(__file__).parents[2] / 'conf/extra/ddp.yaml'
    short = ['--trainer.max_steps=2', '--trainer.val_check_interval=2']
    assert ranks.xlab(1, tmp_path / 'one', 'fit', *flags, *short)[0] == [0]
    statuses, printed = ranks.xlab(2, tmp_path / 'two', 'fit', *flags, *short, '-c', conf)
    assert statuses == [0, 0], printed
    rows = [
        json.loads((tmp_path / name / 'logs/version_0/eval.jsonl').read_text().splitlines()[-1])
        for name in ('one', 'two')
    ]
    found = [{name: value for name, value in row.items() if 'metadata' in name} for row in rows]
    assert len(found[0]) > 20
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-5)
