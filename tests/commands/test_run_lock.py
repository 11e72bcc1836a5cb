"""One process trains a run at a time; whatever ended the one before is no obstacle."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from processes import start, wait_for_step

from xlabml.commands import run_lock
from xlabml.commands.run_lock import RunInUse, only_one
from xlabml.telemetry import records

HELD = """
import os, sys, time
from pathlib import Path
from xlabml.commands.run_lock import only_one
with only_one(Path(sys.argv[1])):
    worker = os.fork()
    if not worker:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_the_second_is_refused_by_name_and_nothing_stays(tmp_path):
    with only_one(tmp_path):
        with pytest.raises(RunInUse) as refused, only_one(tmp_path):
            pass
        said = str(refused.value)
        assert said.startswith(f'{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}, since 20')
        assert 'the same command resumes the run' in said
    assert not list(tmp_path.iterdir())
    with only_one(tmp_path):
        pass


def test_a_killed_process_is_no_obstacle_though_a_worker_of_it_lives_on(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', HELD, tmp_path], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    try:
        with pytest.raises(RunInUse, match=f'process {process.pid} on '), only_one(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(worker, 0)  # it is there
        with only_one(tmp_path):
            assert json.loads((tmp_path / 'running.json').read_text())['pid'] == os.getpid()
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize(
    'left', [b'', b'{', b'[]', b'null', b'\xff', b'{"pid": 1}', b'{"host": {"a": 1}, "boot": "HERE"}'], ids=repr
)
def test_whatever_a_holder_left_is_no_obstacle(tmp_path, left):
    here = run_lock._describe_self()['boot'].encode()
    (tmp_path / 'running.json').write_bytes(left.replace(b'HERE', here))
    (tmp_path / 'run.lock').write_text('')
    begin = time.monotonic()
    if left == b'{"pid": 1}':  # of nobody knows where: watched
        (tmp_path / 'running.json').write_text(json.dumps({'pid': 1, 'host': socket.gethostname(), 'boot': 'before'}))
    with only_one(tmp_path):
        assert json.loads((tmp_path / 'running.json').read_text())['pid'] == os.getpid()
    assert time.monotonic() - begin < run_lock._WATCH_SECONDS / 2


def test_a_process_of_another_machine_is_watched(tmp_path, monkeypatch, capfd):
    """Where the file system keeps locks to one machine: one that shows no sign of life is gone."""
    monkeypatch.setattr(run_lock, '_WATCH_SECONDS', 1.0)
    holder, stop = tmp_path / 'running.json', threading.Event()
    holder.write_text(json.dumps({'pid': 77, 'host': 'elsewhere', 'boot': 'other', 'since': 'noon'}))
    monkeypatch.setattr(run_lock, '_BEAT_SECONDS', 0.05)
    beating = threading.Thread(target=run_lock._beat, args=(holder, stop))
    beating.start()
    try:
        refused = pytest.raises(RunInUse, match='in use by process 77 on elsewhere, since noon')
        with refused as found, only_one(tmp_path):
            pass
    finally:
        stop.set()
        beating.join()
    assert f'delete {tmp_path}/run.lock and {holder}' in str(found.value)
    assert holder.exists()
    with only_one(tmp_path):
        assert json.loads(holder.read_text())['host'] == socket.gethostname()
    assert 'was trained on elsewhere: waiting' in capfd.readouterr().err


def test_a_lock_that_its_holder_removes_meanwhile_is_none(tmp_path):
    """Who had opened the file before its holder removed it does not believe that he has it."""
    n_inside, most = 0, []

    def hold():
        nonlocal n_inside
        for _ in range(40):
            try:
                with only_one(tmp_path):
                    n_inside += 1
                    most.append(n_inside)
                    time.sleep(0.0005)
                    n_inside -= 1
            except RunInUse:
                pass

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) > 4
    assert max(most) == 1


def test_a_folder_that_takes_no_lock_is_no_obstacle(tmp_path, capfd):
    (tmp_path / 'run.lock').mkdir()
    with only_one(tmp_path):
        pass
    assert 'is not locked' in capfd.readouterr().err


def test_two_that_resume_one_run_and_one_of_them_killed(xlab, tiny, tmp_path):
    arguments = [*tiny, '--trainer.val_check_interval=100000', '--checkpoint.every_n_steps=100', '--ckpt_path=last']
    process = start(tmp_path, *arguments, '--trainer.max_steps=100000')
    try:
        wait_for_step(process, tmp_path, 100)
        status, printed = xlab('fit', *arguments, '--trainer.max_steps=100000')
        assert status == 1, printed
        assert f'logs/version_0 is in use by process {process.pid} on {socket.gethostname()}, since 20' in printed
        assert 'Traceback' not in printed
    finally:
        process.kill()
        process.wait()
    n_steps = records.read(tmp_path / 'logs/version_0' / records.TRAINING).rows[-1]['step'] + 2
    status, printed = xlab('fit', *arguments, f'--trainer.max_steps={n_steps}')
    assert status == 0, printed
    assert [row['step'] for row in records.read(tmp_path / 'logs/version_0' / records.TRAINING).rows] == list(
        range(1, n_steps + 1)
    )
    left = [path.name for path in (tmp_path / 'logs/version_0').rglob('*')]
    assert not [name for name in left if name.endswith(('.part', '.partial', '.lock')) or name == 'running.json']


def test_two_new_runs_do_not_share_a_folder_for_checkpoints(xlab, tiny, tmp_path):
    (tmp_path / 'kept').mkdir()
    with only_one(tmp_path / 'kept'):
        status, printed = xlab('fit', *tiny, '--checkpoint.folder=kept')
    assert status == 1, printed
    assert 'kept is in use by process' in printed
    assert not (tmp_path / 'logs').exists()
