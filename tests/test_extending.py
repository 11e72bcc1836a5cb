"""Does what docs/extending.md says, as it stands."""

import json
import os
import re
import shlex
from pathlib import Path

import processes
import pytest

PAGE = Path(__file__).parents[1] / 'docs' / 'extending.md'
SMALL = [
    '--data.n_vocab=320',
    '--data.max_len=32',
    '--data.batch_tokens=64',
    '--data.splits={train: 0.8, val: 0.1, test: 0.1}',
    '--model.trunk.d_model=16',
    '--model.trunk.n_layers=1',
    '--model.trunk.n_heads=2',
    '--trainer.max_steps=2',
    '--trainer.accelerator=cpu',
]
MODULES = {'xlab': 'fit', 'xlab-infer': 'infer', 'xlab-manage': 'manage'}


@pytest.fixture
def page(tmp_path):
    blocks = dict(re.findall(r'```(\w+)\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL))
    (tmp_path / 'mypkg.py').write_text(blocks['python'], encoding='utf-8')
    (tmp_path / 'mine.yaml').write_text(blocks['yaml'], encoding='utf-8')
    haiku = [{'lines': f'old pond number {i} / a frog jumps in / splash {i * i}'} for i in range(80)]
    (tmp_path / 'haiku.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in haiku), encoding='utf-8')
    return [shlex.split(line) for line in blocks['shell'].strip().splitlines()]


def _run(words, folder):
    return processes.run(
        f'xlabml.commands.{MODULES[words[0]]}',
        *words[1:],
        *(SMALL if words[1] == 'fit' else []),
        folder=folder,
        environment={**os.environ, 'PYTHONPATH': str(folder)},
    )


def test_the_page_does_what_it_says(page, tmp_path):
    for words in page:
        done = _run(words, tmp_path)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        if words[1] == 'test':
            assert 'surprise' in done.stdout
        if words[0] == 'xlab-infer':
            assert done.stdout.startswith('old pond')
    assert (tmp_path / 'haiku.safetensors').exists()


def test_a_checkpoint_never_decides_what_runs(page, tmp_path):
    _run(page[0], tmp_path)
    for words in page[1:3]:
        done = _run([word for word in words if word not in ('--import', 'mypkg')], tmp_path)
        assert done.returncode == 1
        assert '--import mypkg' in done.stderr
        assert 'Traceback' not in done.stderr
