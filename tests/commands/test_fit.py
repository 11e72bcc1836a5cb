import json
import math

import fsspec
import pytest
import torch
import yaml
from curves import read_curve

from xlabml import checkpoints


def test_a_run_leaves_settings_curves_checkpoints_and_says_where(xlab, tiny, tmp_path):
    status, printed = xlab('fit', *tiny)
    assert status == 0, printed
    run = tmp_path / 'logs' / 'version_0'
    assert 'best checkpoint: ' in printed
    assert 'tensorboard --logdir' in printed
    assert yaml.safe_load((run / 'config.yaml').read_text())['data']['max_len'] == 32
    for name in ('train_loss', 'train_accuracy', 'train_bits_per_byte', 'gradient_norm', 'tokens_per_second'):
        assert list(read_curve(run, name)) == list(range(1, 13)), name
    for name in ('val_loss', 'val_accuracy', 'val_bits_per_byte'):
        assert list(read_curve(run, name)) == [6, 12], name
    losses = read_curve(run, 'val_loss')
    assert losses[12] < losses[6] < math.log(320) + 0.5


def test_an_evaluation_is_the_same_for_any_batch_size(xlab, tiny):
    xlab('fit', *tiny)
    figures = set()
    for size in (32, 64, 128):
        status, printed = xlab('test', '--ckpt_path', 'last', f'--data.device_batch_tokens={size}')
        assert status == 0, printed
        figures.add(next(line for line in printed.splitlines() if line.startswith('test:')))
    assert len(figures) == 1, figures
    assert 'bits/byte' in figures.pop()


def test_packed_and_padded_rows_give_the_same_bits_per_byte(xlab, tiny):
    xlab('fit', *tiny)
    _, packed = xlab('test', '--ckpt_path', 'last')
    _, padded = xlab('test', '--ckpt_path', 'last', '--data.plan=Chunk')
    line = next(line for line in packed.splitlines() if line.startswith('test:'))
    assert line in padded


def test_predict_writes_a_line_a_document_that_sums_to_the_test_loss(xlab, tiny, tmp_path):
    xlab('fit', *tiny)
    _, printed = xlab('test', '--ckpt_path', 'last')
    status, said = xlab('predict', '--ckpt_path', 'last')
    assert status == 0, said
    rows = [json.loads(line) for line in (tmp_path / 'logs/version_0/predictions.jsonl').read_text().splitlines()]
    assert set(rows[0]) == {'id', 'tokens', 'nats', 'bits_per_byte'}
    assert len({row['id'] for row in rows}) == len(rows)
    loss = sum(row['nats'] for row in rows) / sum(row['tokens'] for row in rows)
    assert f'{loss:.4f} nats/token' in printed
    xlab('predict', '--ckpt_path', 'last')
    assert (tmp_path / 'logs/version_0/predictions-2.jsonl').exists()


def test_flags_beat_files_wherever_they_stand(xlab, tmp_path):
    (tmp_path / 'a.yaml').write_text('data: {max_len: 64, batch_tokens: 640}\ntrainer: {max_steps: 7}\n')
    (tmp_path / 'b.yaml').write_text('data: {max_len: 128}\n')
    _, printed = xlab('fit', '--trainer.max_steps=9', '-c', 'a.yaml', '-c', 'b.yaml', '--print_config')
    config = yaml.safe_load(printed)
    assert (config['data']['max_len'], config['data']['batch_tokens']) == (128, 640)
    assert config['trainer']['max_steps'] == 9
    assert config['trainer']['gradient_clip_val'] == 1.0  # the package's default of a setting that is not ours


def test_a_callbacks_list_drops_neither_checkpoints_nor_curves(xlab, tiny, tmp_path):
    (tmp_path / 'stop.yaml').write_text(
        'trainer:\n  callbacks:\n    - class_path: lightning.pytorch.callbacks.EarlyStopping\n'
        '      init_args: {monitor: val_loss, mode: min, patience: 1, min_delta: 100.0}\n'
    )
    status, printed = xlab('fit', *tiny, '-c', 'stop.yaml', '--trainer.max_steps=60')
    assert status == 0, printed
    run = tmp_path / 'logs' / 'version_0'
    assert list(read_curve(run, 'val_loss')) == [6, 12]  # the second one is not 100 nats better
    assert list((run / 'checkpoints').glob('step=0000012*'))
    status, printed = xlab('fit', *tiny, '-c', 'stop.yaml', '--trainer.max_steps=60', '--ckpt_path=last')
    assert status == 0
    assert 'has finished' in printed


def test_max_epochs_become_steps(xlab, tiny, tmp_path):
    arguments = [argument for argument in tiny if 'max_steps' not in argument]
    status, printed = xlab('fit', *arguments, '--trainer.max_epochs=2', '--trainer.val_check_interval=0.5')
    assert status == 0, printed
    steps = list(read_curve(tmp_path / 'logs/version_0', 'train_loss'))
    assert list(read_curve(tmp_path / 'logs/version_0', 'val_loss')) == [steps[-1] // 2, steps[-1]]
    status, printed = xlab('fit', *arguments, '--trainer.max_epochs=2', '--ckpt_path=last')
    assert 'has finished' in printed


def test_checkpoints_keep_the_best_and_the_newest(xlab, tiny, tmp_path):
    xlab('fit', *tiny, '--trainer.val_check_interval=2', '--checkpoint.save_top_k=2', '--checkpoint.save_last_k=2')
    kept = sorted((tmp_path / 'logs/version_0/checkpoints').glob('*.ckpt'))
    losses = read_curve(tmp_path / 'logs/version_0', 'val_loss')
    best = sorted(losses, key=losses.__getitem__)[:2]
    assert sorted({*best, 10, 12}) == [int(path.name[5:12]) for path in kept]


def test_checkpoints_go_to_remote_folders_too(xlab, tiny):
    status, printed = xlab('fit', *tiny, '--checkpoint.folder=memory://bucket/run', '--trainer.val_check_interval=2')
    assert status == 0, printed
    kept = fsspec.filesystem('memory').ls('/bucket/run', detail=False)
    assert 1 <= len(kept) <= 2
    assert any('step=0000012' in path for path in kept)


def test_a_checkpoint_holds_plain_values_only(xlab, tiny, tmp_path):
    xlab('fit', *tiny)
    path = checkpoints.find('last', tmp_path)
    content = torch.load(path, weights_only=True)
    assert content['hyper_parameters']['_class_path'] == 'xlabml.models.XLabModel'
    assert 'loops' not in content


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['fit', '--model.trunk.d_modle=3'], 2, "'d_modle' is not accepted"),
        (['fit', '--trainer.max_step=3'], 2, 'unrecognized arguments'),
        (['fit', '--trainer.max_steps=0'], 2, 'trainer.max_steps is 0'),
        (['fit', '--model.n_vocab=5'], 2, 'model.n_vocab follows from data.n_vocab'),
        (['fit', '--data.n_vocab=-4'], 2, 'data.n_vocab is -4'),
        (['fit', '--data.batch_tokens=1000'], 2, 'no multiple of data.max_len'),
        (['fit', '--data.splits={train: 0.9, val: 0.9}'], 2, 'splits'),
        (['fit', '--data.predict_split=tset'], 2, "data.predict_split is 'tset'"),
        (['fit', '--checkpoint.save_last_k=0'], 2, 'checkpoint.save_last_k is 0'),
        (['fit', '--data.sources=[{path: nowhere/at/all.jsonl}]'], 1, 'nowhere/at/all.jsonl'),
        (['fit', '-c', 'nowhere.yaml'], 2, 'nowhere.yaml'),
        (['fit', '--ckpt_path=nowhere.ckpt'], 1, 'nowhere.ckpt'),
        (['test'], 2, '--ckpt_path'),
        (['test', '--ckpt_path=last'], 1, 'there is no checkpoint'),
        (['fit', '--trainer.accumulate_grad_batches=2'], 1, 'accumulation follows from'),
        (['nonsense'], 2, 'invalid choice'),
        (['--import=no_such_module', 'fit'], 2, 'cannot import'),
        (['fit', '--data.n_vocab=400'], 1, 'has 320 tokens, but data.n_vocab is 400'),
        (['fit', '--data.device_batch_tokens=96'], 1, 'cannot be dealt to'),
    ],
)
def test_refuses_with_one_message(xlab, tiny, arguments, status, message):
    given = tiny if arguments[0] == 'fit' else []
    got, printed = xlab(*arguments[:1], *given, *arguments[1:])
    assert got == status, printed
    assert message in printed
    assert 'Traceback' not in printed
    assert len(printed.strip().splitlines()) < 8
