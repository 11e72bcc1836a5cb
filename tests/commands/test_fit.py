import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import torch
import yaml
from curves import read_curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xlabml import checkpoints
from xlabml.callbacks import stopping
from xlabml.commands.parsing import parse
from xlabml.telemetry import records


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


def test_an_evaluation_is_the_same_for_any_batch_size(xlab, root):
    figures = set()
    for size in (32, 64, 128):
        status, printed = xlab('test', '--ckpt_path', 'last', f'--data.device_batch_tokens={size}')
        assert status == 0, printed
        figures.add(next(line for line in printed.splitlines() if line.startswith('test:')))
    assert len(figures) == 1, figures
    assert 'bits/byte' in figures.pop()


def test_packed_and_padded_rows_give_the_same_bits_per_byte(xlab, root):
    _, packed = xlab('test', '--ckpt_path', 'last')
    _, padded = xlab('test', '--ckpt_path', 'last', '--data.plan=Chunk')
    line = next(line for line in packed.splitlines() if line.startswith('test:'))
    assert line in padded


def test_predict_writes_a_line_a_document_that_sums_to_the_test_loss(xlab, root):
    _, printed = xlab('test', '--ckpt_path', 'last')
    status, said = xlab('predict', '--ckpt_path', 'last')
    assert status == 0, said
    rows = [json.loads(line) for line in (root / 'logs/version_0/predictions.jsonl').read_text().splitlines()]
    assert set(rows[0]) == {'id', 'tokens', 'nats', 'bits_per_byte'}
    assert len({row['id'] for row in rows}) == len(rows)
    loss = sum(row['nats'] for row in rows) / sum(row['tokens'] for row in rows)
    assert f'{loss:.4f} nats/token' in printed
    xlab('predict', '--ckpt_path', 'last')
    assert (root / 'logs/version_0/predictions-2.jsonl').exists()


def test_a_test_file_in_the_training_data_is_refused_with_its_rows(xlab, tiny, tmp_path, texts):
    (tmp_path / 'test.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in ['new', *texts[:5]]))
    status, printed = xlab('fit', *tiny, f'--data.held_out=[{{path: {tmp_path}/test.jsonl}}]')
    assert status == 1, printed
    assert 'documents of the train split are in' in printed
    assert 'row 1 (there 0)' in printed
    (tmp_path / 'test.jsonl').write_text('{"text": "new"}')
    status, printed = xlab('fit', *tiny, f'--data.held_out=[{{path: {tmp_path}/test.jsonl}}]', '--trainer.max_steps=1')
    assert status == 0, printed


def test_the_last_source_is_looked_at_before_the_first_is_tokenized(xlab, tiny, tmp_path, corpus):
    (tmp_path / 'bad.jsonl').write_text('{"body": "no text"}')
    sources = f'[{{path: {corpus}/texts.jsonl}}, {{path: {tmp_path}/bad.jsonl}}]'
    status, printed = xlab('fit', *tiny, f'--data.sources={sources}')
    assert status == 2
    assert "bad.jsonl, has no column 'text'; its columns are body" in printed
    assert 'tokenizing' not in printed


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


def test_a_callback_may_be_a_bare_name_where_it_needs_no_argument(xlab, tiny, tmp_path):
    callbacks = parse(['fit', *tiny, '--trainer.callbacks=[LearningRateMonitor]']).values.trainer.callbacks
    assert [one.class_path for one in callbacks] == ['lightning.pytorch.callbacks.LearningRateMonitor']
    status, printed = xlab('fit', *tiny, '--trainer.callbacks=[EarlyStopping]')
    assert status == 2
    assert 'the following arguments are required: monitor' in printed
    assert not (tmp_path / 'logs').exists()


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


@pytest.mark.parametrize('folder', [pytest.param('kept', marks=pytest.mark.slow), 'memory://bucket/kept'])
def test_a_folder_with_checkpoints_of_another_run_is_refused_and_the_newest_goes_on_in_it(xlab, tiny, folder):
    run = [*tiny, f'--checkpoint.folder={folder}', '--checkpoint.save_last_k=2']
    assert xlab('fit', *run)[0] == 0
    files, root = fsspec.core.url_to_fs(folder)
    kept = sorted(files.ls(root, detail=False))
    older = f'{folder}/{kept[0].rpartition("/")[2]}'
    for typed in (['--seed_everything=1'], [f'--ckpt_path={older}']):
        status, printed = xlab('fit', *run, *typed)
        assert status == 2, printed
        assert f'checkpoint.folder {folder} holds checkpoints of another run' in printed
        assert not Path('logs/version_1').exists()
    assert sorted(files.ls(root, detail=False)) == kept
    status, printed = xlab('fit', *run, '--ckpt_path=last', '--trainer.max_steps=14')
    assert status == 0, printed
    assert any('step=0000014' in path for path in files.ls(root, detail=False))


def test_a_checkpoint_holds_plain_values_only(xlab, root):
    path = checkpoints.find('last', root)
    content = torch.load(path, weights_only=True)
    assert content['hyper_parameters']['_class_path'] == 'xlabml.models.XLabModel'
    assert 'loops' not in content


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (
            ['fit', '--model.trunk.d_modle=3'],
            2,
            'there is no setting model.trunk.d_modle; did you mean model.trunk.d_model?',
        ),
        (['fit', '--trainer.max_step=3'], 2, 'unrecognized arguments'),
        (['fit', '--trainer.max_steps=0'], 2, 'trainer.max_steps is 0'),
        (['fit', '--model.n_vocab=5'], 2, 'model.n_vocab follows from data.n_vocab'),
        (['fit', '--data.n_vocab=-4'], 2, 'data.n_vocab is -4'),
        (['fit', '--data.batch_tokens=1000'], 2, 'no multiple of data.max_len'),
        (['fit', '--data.splits={train: 0.9, val: 0.9}'], 2, 'splits'),
        (['fit', '--data.predict_split=tset'], 2, "data.predict_split is 'tset'"),
        (['fit', '--checkpoint.save_last_k=0'], 2, 'checkpoint.save_last_k is 0'),
        (['fit', '--data.sources=[{path: nowhere/at/all.jsonl}]'], 2, 'nowhere/at/all.jsonl'),
        (['fit', '-c', 'nowhere.yaml'], 2, 'nowhere.yaml'),
        (['fit', '--ckpt_path=nowhere.ckpt'], 2, 'nowhere.ckpt'),
        (['fit', '-c'], 2, 'needs a file'),
        (['-c', 'a.yaml'], 2, 'goes with a command'),
        (
            ['fit', '--model={class_path: XLabModel, init_args: {max_len: 5}}'],
            2,
            'model.max_len in --model follows from',
        ),
        (['fit', '--seed_everything=-5'], 2, 'seed_everything is -5'),
        (['fit', '--data.seed=4'], 2, 'data.seed follows from seed_everything'),
        (['fit', '--model.optimizer.adamw_lr=-1'], 2, 'model.optimizer: adamw_lr is -1.0'),
        (['fit', '--model.schedule.end_ratio=7'], 2, 'model.schedule: end_ratio is 7'),
        (['fit', '--samples.top_p=7'], 2, 'top_p'),
        (['fit', '--trainer.gradient_clip_val=-1'], 2, 'trainer.gradient_clip_val is -1'),
        (['fit', '--trainer.devices=0'], 2, 'devices'),
        (['fit', '--trainer.limit_train_batches=5'], 2, 'trainer.limit_train_batches is 5'),
        (['fit', '--trainer.enable_checkpointing=false'], 2, 'checkpoint.monitor'),
        (
            ['fit', '--checkpoint.monitor=val_los'],
            2,
            "'val_los', but validation reports val_accuracy, val_bits_per_byte",
        ),
        (['fit', '--data.splits={train: 0, val: 0.9, test: 0.1}'], 2, "the split 'train' has none"),
        (['compute_stats', '--split=nope'], 2, 'the splits are train'),
        (['test'], 2, '--ckpt_path'),
        (['test', '--ckpt_path=last'], 2, 'there is no checkpoint'),
        (['fit', '--trainer.accumulate_grad_batches=2'], 2, 'accumulation follows from'),
        (['nonsense'], 2, "there is no command 'nonsense'"),
        (['--import=no_such_module', 'fit'], 2, 'cannot import'),
        (['fit', '--data.max_len=100000', '--data.batch_tokens=100000'], 2, 'do not fill one row of data.max_len'),
        (['fit', '--data.n_vocab=400'], 2, 'has 320 tokens, but data.n_vocab is 400'),
        (['fit', '--data.device_batch_tokens=96'], 2, 'cannot be dealt to'),
    ],
)
def test_refuses_with_one_message(xlab, tiny, arguments, status, message):
    given = tiny if arguments[0] == 'fit' else []
    got, printed = xlab(*arguments[:1], *given, *arguments[1:])
    assert got == status, printed
    assert message in printed
    assert 'Traceback' not in printed
    assert len(printed.strip().splitlines()) < 8
    assert not Path('logs/version_0').exists()


@pytest.mark.parametrize(
    'files',
    [['-c', 'a.yaml'], ['-ca.yaml'], ['-c=a.yaml'], ['--config', 'a.yaml'], ['--config=a.yaml']],
)
@pytest.mark.parametrize('is_before', [True, False])
def test_a_file_is_read_however_it_is_named(xlab, tmp_path, files, is_before):
    (tmp_path / 'a.yaml').write_text('data: {max_len: 64, batch_tokens: 640}')
    words = [*files, 'fit'] if is_before else ['fit', *files]
    _, printed = xlab(*words, '--data.batch_tokens=128', '--print_config')
    config = yaml.safe_load(printed)['data']
    assert (config['max_len'], config['batch_tokens']) == (64, 128)


def test_print_config_round_trips(xlab, tiny, tmp_path):
    _, printed = xlab('fit', *tiny, '--print_config')
    (tmp_path / 'printed.yaml').write_text(printed)
    _, again = xlab('fit', '-c', 'printed.yaml', '--print_config')
    assert again == printed


def test_a_target_counts_once_where_windows_overlap(xlab, root):
    asked = ['predict', '--ckpt_path=last', '--data.predict_split=train']
    counts = set()
    for plan in ('Pack', '{class_path: Chunk, init_args: {stride_tokens: 8}}'):
        status, printed = xlab(*asked, f'--data.plan={plan}')
        assert status == 0, printed
        counts.add(re.search(r'\((.*)\)', printed)[1])
    assert len(counts) == 1, counts


def test_several_sources_name_their_documents(xlab, tiny, tmp_path, texts):
    for name in ('a', 'b'):
        (tmp_path / f'{name}.jsonl').write_text(
            ''.join(json.dumps({'text': f'{name} {text}'}) + '\n' for text in texts)
        )
    status, printed = xlab('fit', *tiny, '--data.sources=[{path: a.jsonl}, {path: b.jsonl}]')
    assert status == 0, printed
    assert xlab('predict', '--ckpt_path=last')[0] == 0
    rows = [json.loads(line)['id'] for line in (tmp_path / 'logs/version_0/predictions.jsonl').read_text().splitlines()]
    assert {row.partition(':')[0] for row in rows} == {'a.jsonl', 'b.jsonl'}


def test_the_order_never_repeats_where_only_a_clock_ends_the_run(xlab, tiny, tmp_path, monkeypatch):
    seconds = itertools.count()  # a step takes a second, however long it takes
    monkeypatch.setattr(stopping, 'time', SimpleNamespace(monotonic=lambda: float(next(seconds))))
    arguments = [argument for argument in tiny if 'max_steps' not in argument and 'val_check' not in argument]
    constant = [
        '--model.schedule=WarmupConstant',
        '--model.schedule.warmup_steps=0',
        '--trainer.val_check_interval=1000',
    ]
    status, printed = xlab('fit', *arguments, *constant, '--trainer.max_time=00:00:01:00')
    assert status == 124, printed
    assert 'trainer.max_time is over at step' in printed
    timed = read_curve(tmp_path / 'logs/version_0', 'train_loss')
    steps = max(timed)
    assert steps == 60  # more than one pass over the rows
    xlab('fit', *arguments, *constant, f'--trainer.max_steps={steps}', '--trainer.default_root_dir=counted')
    assert read_curve(tmp_path / 'counted/logs/version_0', 'train_loss') == timed


def test_other_loggers_take_the_same_curves(xlab, tiny, tmp_path):
    logger = '{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: csv}}'
    status, printed = xlab('fit', *tiny, f'--trainer.logger={logger}')
    assert status == 0, printed
    assert 'tensorboard' not in printed
    assert (tmp_path / 'logs/version_0/checkpoints').is_dir()
    table = next(tmp_path.glob('csv/**/metrics.csv')).read_text()
    assert 'train_bits_per_byte' in table
    assert 'val_loss' in table


def test_without_a_logger_and_a_bar_a_run_still_saves(xlab, tiny, tmp_path):
    status, printed = xlab('fit', *tiny, '--trainer.logger=false', '--trainer.enable_progress_bar=false')
    assert status == 0, printed
    assert 'step 6' not in printed
    assert xlab('predict', '--ckpt_path=last', '--trainer.logger=false')[0] == 0
    assert (tmp_path / 'logs/version_0/predictions.jsonl').exists()


def test_the_terminal_shows_our_lines_and_nobody_elses(xlab, tiny):
    _, printed = xlab('fit', *tiny)
    for noise in ('GPU available', 'LOCAL_RANK', 'Tip', 'litlogger', 'Warning', 'deprecated', 'Trainer.fit'):
        assert noise not in printed
    assert 'parameters' in printed  # the summary
    assert 'step 6, val: ' in printed
    assert 'bits/byte' in printed


def test_text_is_sampled_at_each_validation(xlab, tiny, tmp_path):
    xlab('fit', *tiny, '--samples.prompt=the cat')
    events = EventAccumulator(str(tmp_path / 'logs/version_0'))
    events.Reload()
    samples = events.Tensors('sample/text_summary')
    assert [sample.step for sample in samples] == [6, 12]
    assert samples[0].tensor_proto.string_val[0].startswith(b'the cat')
    written = records.read(tmp_path / 'logs/version_0' / records.SAMPLES).rows
    assert [row['step'] for row in written] == [6, 12]
    assert all(row['text'].startswith('the cat') for row in written)
