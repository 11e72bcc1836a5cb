"""Checkpoints and exports that an earlier version wrote: they open, evaluate and resume as they did there."""

import json

import earlier_runs
import pytest
import torch
from earlier_runs import FILES, FOLDER, PROMPT, RUNS

from xlabml import checkpoints
from xlabml.commands import fit
from xlabml.datamodules import XLabDataModule
from xlabml.generation import TextGenerator
from xlabml.models import XLabModel

EXPECTED = json.loads((FOLDER / 'expected.json').read_text())
pytestmark = pytest.mark.filterwarnings(
    'ignore:model.metrics. WithinNats will be removed:FutureWarning'
)  # skip.ckpt names it


@pytest.fixture(autouse=True)
def _texts_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    earlier_runs.put_texts()


@pytest.mark.parametrize('file', FILES)
def test_the_model_has_the_same_logits(file):
    model = XLabModel.load_from_checkpoint(FOLDER / file).eval()
    expected = torch.tensor(EXPECTED['logits'][file])
    torch.testing.assert_close(earlier_runs.logits(model), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('file', FILES)
def test_the_data_module_has_its_tokenizer(file):
    data = XLabDataModule.load_from_checkpoint(FOLDER / file)
    assert data.tokenizer_path.read_bytes() == checkpoints.load(FOLDER / file).tokenizer_bytes()
    assert data.tokenizer.decode(data.tokenizer.encode('the cat sees the sea')) == 'the cat sees the sea'
    assert len(data.tokenizer) == 304


@pytest.mark.parametrize('file', FILES)
def test_a_prompt_has_the_same_continuation(file):
    generator = TextGenerator.load(FOLDER / file, 'cpu')
    assert generator.generate(PROMPT, 8, greedy=True) == EXPECTED['texts'][file]


@pytest.mark.filterwarnings('ignore:Be aware that when using .ckpt_path., callbacks')  # the mean is in the weights
@pytest.mark.parametrize('name', RUNS)
def test_it_evaluates_as_it_did(name, tmp_path):
    assert fit.main(['test', *earlier_runs.flags(name), f'--ckpt_path={FOLDER}/{name}.ckpt']) == 0
    (row,) = map(json.loads, next(tmp_path.glob('logs/*/eval.jsonl')).read_text().splitlines())
    assert row['test_loss'] == pytest.approx(EXPECTED['tests'][name], abs=1e-5)


@pytest.mark.parametrize('name', RUNS)
def test_it_resumes_on_the_same_documents_to_the_same_losses(name, tmp_path):
    typed = [*earlier_runs.flags(name), earlier_runs.callbacks(name), f'--ckpt_path={FOLDER}/{name}.ckpt']
    assert fit.main(['fit', *typed]) == 0
    resumed = earlier_runs.read_resumed(tmp_path, 0)
    expected = EXPECTED['resumed'][name]
    assert resumed['batches'] == expected['batches']
    for kind in ('steps', 'validations'):
        assert len(resumed[kind]) == len(expected[kind]) > 0
        for row, row_expected in zip(resumed[kind], expected[kind]):
            assert row == pytest.approx(row_expected, abs=1e-4)
