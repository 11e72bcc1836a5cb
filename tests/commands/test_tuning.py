"""Adapters and frozen layers through the commands: begun with a trained run, resumed, exported, used."""

import contextlib
import json
from pathlib import Path

import pytest
import torch

from xlabml import checkpoints
from xlabml.checkpoints.merging import has_adapters, merge_weights
from xlabml.commands import fit, manage
from xlabml.models import Classifier
from xlabml.pipelines import TextClassifier, TextGenerator

CONF = Path(__file__).parents[2] / 'conf'
LORA = ['-c', CONF / 'extra/lora.yaml']
SAVED = ['--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']


@pytest.fixture(scope='module')
def reviews(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp('tuning') / 'reviews.jsonl'
    records = [{'review': f'{i}. {text}', 'stars': text.split()[1]} for i, text in enumerate(texts)]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


@pytest.fixture(scope='module')
def flags(reviews):
    """The flags of a classifier, whose trunk and tokenizer come from another run."""
    return [
        '--model=Classifier',
        '--data.examples=LabelledTexts',
        '--data.examples.text=review',
        '--data.examples.label=stars',
        f'--data.sources=[{{path: {reviews}}}]',
        '--data.splits={train: 0.7, val: 0.15, test: 0.15}',
        '--data.batch_groups=8',
        '--model.trunk.causal=false',
        '--trainer.accelerator=cpu',
        '--trainer.precision=32-true',
        '--trainer.max_steps=6',
        '--trainer.log_every_n_steps=1',
        '--trainer.val_check_interval=3',
    ]


@pytest.fixture(scope='module')
def adapted(trained, flags, tmp_path_factory):
    """The folder of a classifier's run with adapters, on the trunk of a language model."""
    folder = tmp_path_factory.mktemp('adapted')
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv('XLABML_CACHE', str(tmp_path_factory.mktemp('cache')))
        first = ['fit', *flags[:1], *LORA, *flags[1:], *SAVED, f'--init_from={trained}/logs/version_0']
        assert fit.main([str(flag) for flag in first]) == 0
    return folder / 'logs/version_0'


def weights_of(path):
    return checkpoints.load(path).weights


def test_adapters_alone_move_the_trunk(adapted, trained):
    first = weights_of(checkpoints.find_best(checkpoints.find_newest(trained / 'logs/version_0/checkpoints')))
    last = weights_of(checkpoints.find_newest(adapted / 'checkpoints'))
    base = {name: tensor for name, tensor in last.items() if name.startswith('network.trunk.') and 'lora' not in name}
    assert base
    assert all(torch.equal(tensor, first[name]) for name, tensor in base.items())
    assert all(tensor.any() for name, tensor in last.items() if name.endswith('lora_b'))


def resume(xlab, run, n, folder):
    """The weights at the end of a run that is resumed from its n-th checkpoint, those of the unbroken one, and both."""
    path = checkpoints.by_step(run / 'checkpoints')[n]
    status, printed = xlab('fit', f'--ckpt_path={path}', f'--trainer.default_root_dir={folder}')
    assert status == 0, printed
    newest = checkpoints.find_newest(next(folder.glob('logs/*/checkpoints')))
    assert newest != path
    return weights_of(newest), weights_of(run / 'checkpoints' / newest.name), newest


def unequal(some, others):
    assert set(some) == set(others)
    return [name for name, tensor in some.items() if not torch.equal(tensor, others[name])]


def test_a_run_with_adapters_resumes_bit_for_bit(adapted, xlab, tmp_path):
    found, whole, newest = resume(xlab, adapted, 1, tmp_path / 'resumed')
    assert unequal(found, whole) == []
    assert has_adapters(whole)
    assert len(checkpoints.load(newest).optimizers[0]['state']) == 2 * 8 + 2  # of adapters and head alone


def test_an_export_has_them_merged_and_classifies_alike(adapted, texts, tmp_path, capsys):
    path = checkpoints.find_newest(adapted / 'checkpoints')
    output = tmp_path / 'merged.safetensors'
    assert manage.main(['export-checkpoint', str(path), '--output', str(output)]) == 0
    contents = checkpoints.load(output)
    assert not has_adapters(contents.weights)
    assert 'adapters' not in json.dumps([contents.task.arguments, contents.network.arguments])
    some = texts[:5]
    found = TextClassifier.load(output).predict(some)
    assert found == TextClassifier.load(path).predict(some)
    # The task has its adapters beside the weights: the same to rounding.
    task = Classifier.load_from_checkpoint(path).eval()
    tokenizer = TextClassifier.load(output).tokenizer
    ids = [[tokenizer.special_ids['sos'], *tokenizer.encode(text), tokenizer.special_ids['eos']][:32] for text in some]
    for text, prediction in zip(ids, found):
        probs = task.network.probabilities(task(torch.tensor([text])))[0]
        if len(text) < 32:
            assert list(prediction.probabilities.values()) == pytest.approx(probs.tolist(), abs=1e-6)
    merged = merge_weights(weights_of(path))
    assert all(torch.equal(contents.weights[name], tensor) for name, tensor in merged.items())


def test_a_run_begun_with_adapted_weights_has_them_merged_and_thaws_as_an_unbroken_one(adapted, flags, xlab, tmp_path):
    steps = ['--model.freeze=gradual:2', '--trainer.max_steps=4']
    status, printed = xlab('fit', *flags, *steps, *SAVED, f'--init_from={adapted}')
    assert status == 0, printed
    assert 'unused' not in printed
    first = merge_weights(weights_of(checkpoints.find_best(checkpoints.find_newest(adapted / 'checkpoints'))))
    run = tmp_path / 'logs/version_0'
    found, whole, _ = resume(xlab, run, 0, tmp_path / 'resumed')
    assert unequal(found, whole) == []
    name = 'network.trunk.blocks.{}.attention.projection.weight'
    assert torch.equal(whole[name.format(0)], first[name.format(0)])
    assert not torch.equal(whole[name.format(1)], first[name.format(1)])


def test_a_language_model_learns_by_adapters(trained, tiny, xlab):
    flags = [flag for flag in tiny if not flag.startswith(('--model', '--data.tokenizer_path', '--data.n_vocab'))]
    status, printed = xlab('fit', *LORA, *flags, f'--init_from={trained}/logs/version_0', '--trainer.max_steps=2')
    assert status == 0, printed
    newest = checkpoints.find_newest(Path('logs/version_0/checkpoints'))
    assert has_adapters(weights_of(newest))
    assert TextGenerator.load(newest).generate('the cat', n_tokens=3)
