"""A masked language model through every command: conf/encoder.yaml with a tiny trunk."""

import json
from pathlib import Path

import pytest
import ranks
import torch
from curves import read_curve

from xlabml import checkpoints
from xlabml.models import MaskedLanguageModel

ENCODER = ['-c', Path(__file__).parents[2] / 'conf/encoder.yaml']
DDP = ['-c', Path(__file__).parents[2] / 'conf/extra/ddp.yaml']
NAMES = ('train_loss', 'train_accuracy', 'val_loss', 'val_accuracy', 'gradient_norm')
SAVED = ['--checkpoint.every_n_steps=1', '--checkpoint.save_last_k=100']


@pytest.fixture(scope='module')
def encoder(tiny):
    """The flags of a tiny encoder."""
    return [*ENCODER, *tiny]


@pytest.fixture
def run(xlab, encoder, tmp_path):
    """A run of 12 steps, and what it printed."""
    status, printed = xlab('fit', *encoder, *SAVED)
    assert status == 0, printed
    return tmp_path / 'logs/version_0', printed


def test_an_encoder_is_trained_evaluated_scored_described_and_exported(xlab, encoder, run, capfd):
    folder, printed = run
    assert 'nats/token, accuracy' in printed
    assert 'bits/byte' not in printed
    losses = list(read_curve(folder, 'train_loss').values())
    assert losses[-1] < losses[0]
    for command, word in (('validate', 'val: '), ('test', 'test: ')):
        status, printed = xlab(command, *encoder, '--ckpt_path=best')
        assert status == 0, printed
        assert word in printed
        assert 'masked tokens)' in printed
    status, printed = xlab('predict', *encoder, '--ckpt_path=last')
    assert status == 0, printed
    rows = [json.loads(line) for line in (folder / 'predictions.jsonl').read_text().splitlines()]
    assert {'id', 'masked_tokens', 'nats', 'loss'} == set(rows[0])
    assert sum(row['masked_tokens'] for row in rows) > 0

    from xlabml.commands import manage

    assert manage.main(['describe', str(folder)]) == 0
    assert 'MaskedLanguageModel' in capfd.readouterr().out
    assert manage.main(['export-checkpoint', str(checkpoints.find('best', Path())), '--output', 'e.safetensors']) == 0
    status, printed = xlab('test', *encoder, '--ckpt_path=e.safetensors')
    assert status == 0, printed
    model = MaskedLanguageModel.load_from_checkpoint('e.safetensors')
    ids = torch.arange(8, 16)[None]
    changed = torch.cat([ids[:, :-1], ids[:, -1:] + 1], dim=1)
    assert not torch.equal(model(ids)[:, 0], model(changed)[:, 0])  # the first token sees the last


def test_a_resumed_encoder_is_bit_for_bit_an_unbroken_one(xlab, encoder, run, tmp_path):
    whole, _ = run
    other = tmp_path / 'broken'
    xlab('fit', *encoder, *SAVED, f'--trainer.default_root_dir={other}')
    broken = other / 'logs/version_0'
    for path in (broken / 'checkpoints').glob('*.ckpt'):
        if int(path.name[5:12]) > 5:
            path.unlink()
    status, printed = xlab(
        'fit', *encoder, *SAVED, f'--trainer.default_root_dir={other}', '--ckpt_path=last', '--data.num_workers=1'
    )
    assert status == 0, printed
    for name in NAMES:
        assert read_curve(broken, name) == read_curve(whole, name), name


def test_the_newest_run_of_any_task_is_evaluated_where_nothing_says_which(xlab, tiny, run):
    status, printed = xlab('test', '--ckpt_path=best', '--trainer.accelerator=cpu')
    assert status == 0, printed
    assert 'masked tokens)' in printed
    status, printed = xlab('validate', '--ckpt_path=last', '--model=XLabModel')
    assert status == 2
    assert 'there is no checkpoint of xlabml.models.XLabModel in' in printed
    assert xlab('fit', *tiny, '--trainer.max_steps=1')[0] == 0
    for typed in ([], ENCODER):
        status, printed = xlab('validate', *typed, '--ckpt_path=last', '--trainer.accelerator=cpu')
        assert status == 0, printed
        assert ('masked tokens)' in printed) == (typed is ENCODER)


def test_two_ranks_and_micro_batches_train_the_encoder_that_one_process_trains(tiny, tmp_path):
    flags = [*ENCODER, *tiny, '--model.optimizer=xlabml.training.AdamW', ranks.HASHED]
    assert ranks.xlab(1, tmp_path / 'one', 'fit', *flags)[0] == [0]
    statuses, printed = ranks.xlab(2, tmp_path / 'two', 'fit', *flags, *DDP, '--data.device_batch_tokens=32')
    assert statuses == [0, 0], printed
    for name in NAMES:
        one, two = (read_curve(tmp_path / part / 'logs/version_0', name) for part in ('one', 'two'))
        assert two == pytest.approx(one, rel=1e-4), name


def test_smoke_tries_an_encoder(xlab, encoder):
    status, printed = xlab('fit', '--smoke', *encoder)
    assert status == 0, printed
    assert 'smoke: 4 steps' in printed
    assert 'sampled' not in printed


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--data.examples=MaskedTokens'], 'XLabModel predicts next tokens; set data.examples to NextTokens'),
        (['--model=MaskedLanguageModel', '--data.examples=MaskedTokens'], 'set model.trunk.causal to false'),
        (
            ['--model=MaskedLanguageModel', '--model.trunk.causal=false'],
            'MaskedLanguageModel predicts masked tokens; set data.examples to MaskedTokens',
        ),
        (['--model.trunk.causal=false'], 'XLabModel predicts a token from earlier tokens only; set'),
    ],
)
def test_a_task_and_a_format_that_do_not_go_together_are_refused(xlab, tiny, flags, message):
    status, printed = xlab('fit', *tiny, *flags)
    assert status == 2
    assert message in printed


def test_nothing_about_the_masked_task_stands_outside_its_own_files():
    source = Path(__file__).parents[2] / 'src/xlabml'
    homes = (source / 'models', source / 'data/rows')
    files = [path for path in source.rglob('*.py') if not any(home in path.parents for home in homes)]
    named = ('MaskedLanguageModel', 'MaskedTokens', 'masked_language_model', 'masked_tokens')
    assert not [path for path in files if any(name in path.read_text('utf-8') for name in named)]
