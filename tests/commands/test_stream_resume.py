"""A run on a streamed corpus, from the command line: killed inside a window, it goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from curves import read_curve
from served import served

from xlabml import checkpoints

CURVES = ('train_loss', 'val_loss', 'gradient_norm')


@pytest.fixture
def server(tmp_path, texts):
    folder = tmp_path / 'served'
    folder.mkdir()
    for i in range(5):
        some = [{'text': text} for text in texts[60 * i : 60 * i + 60]]
        (folder / f'{i}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in some), encoding='utf-8')
    with served(folder) as server:
        yield server


@pytest.fixture
def streamed(tiny, server):
    return [
        *tiny[1:],
        f'--data.sources=[{{class_path: RemoteFiles, init_args: {{path: "{server.url}/*.jsonl"}}}}]',
        '--data.stream={cache_gb: 0.001, window_shards: 2}',
        '--data.n_processes=1',
        '--trainer.max_steps=40',
        '--trainer.val_check_interval=20',
        '--model.trunk.dropout=0.2',
        '--checkpoint.every_n_steps=1',
        '--checkpoint.save_last_k=100',
    ]


def compare(folder, whole):
    for name in CURVES:
        assert read_curve(folder / 'logs/version_0', name) == read_curve(whole / 'logs/version_0', name), name
    places = [checkpoints.read(checkpoints.find('last', path))['XLabDataModule'] for path in (folder, whole)]
    assert {(place['step'], place['pass'], place['row']) for place in places} == {
        (40, places[0]['pass'], places[0]['row'])
    }
    assert places[0]['pass'] > 0


def test_a_streamed_run_that_is_cut_off_goes_on_bit_for_bit(xlab, streamed, tmp_path):
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    status, printed = xlab('fit', *streamed, f'--trainer.default_root_dir={whole}')
    assert status == 0, printed
    assert 'streaming 5 shards' in printed
    xlab('fit', *streamed, f'--trainer.default_root_dir={broken}')
    for path in (broken / 'logs/version_0/checkpoints').glob('*.ckpt'):
        if int(path.name[5:12]) > 23:
            path.unlink()
    resume = ['--ckpt_path=last', '--data.num_workers=1', f'--trainer.default_root_dir={broken}']
    status, printed = xlab('fit', *streamed, *resume)
    assert status == 0, printed
    compare(broken, whole)


@pytest.mark.slow
def test_a_streamed_run_that_is_killed_goes_on_bit_for_bit(xlab, streamed, server, tmp_path):
    folder, whole = tmp_path / 'killed', tmp_path / 'whole'
    folder.mkdir()
    command = [sys.executable, '-c', 'import sys; from xlabml.commands.fit import main; sys.exit(main())', 'fit']
    for n in (3, 17, 29, None):
        workers = f'--data.num_workers={0 if n is None else n % 3}'
        process = subprocess.Popen(
            [*command, *streamed, '--ckpt_path=last', workers, f'--trainer.default_root_dir={folder}'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            start_new_session=True,
        )
        until = time.monotonic() + 240
        while n is not None and not list(folder.glob(f'logs/version_0/checkpoints/step={n:07d}*')):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.01)
        if n is not None:
            os.killpg(process.pid, signal.SIGKILL)
        printed = process.communicate(timeout=240)[0]
        assert n is not None or process.returncode == 0, printed
    status, printed = xlab('fit', *streamed, f'--trainer.default_root_dir={whole}')
    assert status == 0, printed
    compare(folder, whole)


def test_a_shard_that_is_gone_ends_the_run_by_name(xlab, streamed, server, tmp_path):
    arguments = [*streamed, '--data.stream={cache_gb: 0.001, window_shards: 1}']
    status, printed = xlab('prepare_data', *arguments[:-1])
    assert status == 0, printed
    for path in (tmp_path / 'served').glob('[1-4].jsonl'):
        path.write_text('')  # listed, but without a row
    status, printed = xlab('fit', *arguments)
    assert status == 1
    assert '1.jsonl is empty; fetch it again, or leave it out' in printed or 'is not there any more' in printed
