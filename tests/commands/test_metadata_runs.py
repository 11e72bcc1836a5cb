"""Texts with metadata through the commands: a run that is evaluated with and without it, and its table."""

import json

import pytest


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
        '--model.evaluators=[xlabml.evaluation.MetadataBits]',
        '--model.trunk.d_model=16',
        '--model.trunk.n_layers=1',
        '--model.trunk.n_heads=2',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.callbacks=[{class_path: xlabml.callbacks.MetadataTable}]',
    ]


def test_a_run_is_evaluated_with_and_without_metadata_and_its_test_ends_with_a_table(xlab, flags, tmp_path):
    status, printed = xlab('fit', *flags, '--trainer.max_steps=4', '--trainer.val_check_interval=2')
    assert status == 0, printed
    logged = [json.loads(line) for line in (tmp_path / 'logs/version_0/eval.jsonl').read_text().splitlines()]
    found = [line for line in logged if 'val_metadata_saved/title' in json.dumps(line)]
    assert len(found) == 2
    status, printed = xlab('test', *flags, '--ckpt_path=last')
    assert status == 0, printed
    table = (tmp_path / 'logs/version_0/metadata.txt').read_text()
    assert table in printed
    names = [line.split()[0] for line in table.splitlines()]
    assert names == ['metadata', 'without', 'all', 'title', 'topic', 'together', 'shuffled']
