"""Runs on a pretrained encoder of transformers: begun from its folder, resumed without it, exported, used."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from encoders import write_encoder

from xlabml import checkpoints
from xlabml.pipelines import TextClassifier

pytest.importorskip('transformers', reason='needs the extra hf')
CONF = Path(__file__).parents[2] / 'conf'


@pytest.fixture
def flags(tmp_path, texts):
    path = tmp_path / 'reviews.jsonl'
    records = [{'review': f'{i}. {text}', 'stars': text.split()[1]} for i, text in enumerate(texts)]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return [
        *('-c', CONF / 'classify.yaml', '-c', CONF / 'extra/finetune.yaml'),
        '--data.examples.text=review',
        '--data.examples.label=stars',
        f'--data.sources=[{{path: {path}}}]',
        '--data.splits={train: 0.7, val: 0.15, test: 0.15}',
        '--data.batch_groups=8',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=4',
        '--trainer.log_every_n_steps=1',
        '--trainer.val_check_interval=2',
        '--checkpoint.every_n_steps=1',
        '--checkpoint.save_last_k=100',
    ]


def test_a_run_on_an_encoder_resumes_bit_for_bit_without_its_folder(flags, xlab, tmp_path, texts):
    folder = tmp_path / 'electra'
    write_encoder(folder, 'electra')
    status, printed = xlab('fit', *flags, f'--init_from={folder}')
    assert status == 0, printed
    assert 'unused' not in printed
    assert 'new: head' in printed
    shutil.rmtree(folder)
    run = tmp_path / 'logs/version_0/checkpoints'
    status, printed = xlab(
        'fit', f'--ckpt_path={checkpoints.by_step(run)[0]}', f'--trainer.default_root_dir={tmp_path / "resumed"}'
    )
    assert status == 0, printed
    newest = checkpoints.find_newest(tmp_path / 'resumed/logs/version_0/checkpoints')
    found = checkpoints.load(newest).weights
    whole = checkpoints.load(run / newest.name).weights
    assert set(found) == set(whole)
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, found[name])] == []
    first = checkpoints.load(checkpoints.by_step(run)[0]).weights
    assert any(not torch.equal(first[name], tensor) for name, tensor in whole.items() if 'trunk' in name)
    classifier = TextClassifier.load(newest)
    one, two = classifier.predict([texts[0], texts[1]])
    assert classifier.predict([texts[1]])[0].probabilities == pytest.approx(two.probabilities, abs=1e-6)
    assert sum(one.probabilities.values()) == pytest.approx(1)


def test_a_folder_that_lacks_a_file_is_refused_before_anything_is_done(flags, xlab, tmp_path):
    folder = tmp_path / 'bert'
    write_encoder(folder)
    (folder / 'model.safetensors').unlink()
    status, printed = xlab('fit', *flags, f'--init_from={folder}')
    assert status == 2
    assert f'there is no {folder}/model.safetensors' in printed
    assert not (tmp_path / 'logs').exists()
