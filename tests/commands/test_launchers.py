"""The ways to start several processes that the README names, as they are typed; no network beyond loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks

from xlabml.engine.launching import started_by_torchrun

XLAB = str(Path(__file__).parents[2] / 'xlab.py')
FIT = ['fit', '--trainer.strategy=ddp', ranks.HASHED]


def start(folder, command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'GLOO_SOCKET_IFNAME': 'lo', **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(*processes):
    """What processes print, once all have ended well; whatever happens, none is left."""
    try:
        printed = [process.communicate(timeout=ranks.SECONDS) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.communicate()
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return ''.join(out for out, _ in printed)


def torchrun(folder, arguments):
    where = ['--master_addr=127.0.0.1', f'--master_port={ranks.free_port()}']
    return [start(folder, ['-m', 'torch.distributed.run', '--nproc_per_node=2', *where, XLAB, *arguments])]


def lightning(folder, arguments):
    two = ['--trainer.devices=2']
    return [start(folder, [XLAB, *arguments, *two], MASTER_ADDR='127.0.0.1', MASTER_PORT=str(ranks.free_port()))]


def srun(folder, arguments):
    """What `srun --ntasks-per-node=2` gives each task."""
    job = {
        'SLURM_JOB_ID': '1234',
        'SLURM_JOB_NAME': 'xlab',
        'SLURM_NTASKS': '2',
        'SLURM_NTASKS_PER_NODE': '2',
        'SLURM_NNODES': '1',
        'SLURM_NODEID': '0',
        'SLURM_NODELIST': '127.0.0.1',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(ranks.free_port()),
    }
    return [
        start(folder, [XLAB, *arguments, '--trainer.devices=2'], **job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
        for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize('launch', [torchrun, lightning, srun])
def test_two_processes_find_each_other_and_leave_one_run(tiny, tmp_path, launch):
    said = finish(*launch(tmp_path, [*FIT, *tiny]))
    assert [path.name for path in (tmp_path / 'logs').iterdir()] == ['version_0']
    first, second = ranks.report(tmp_path, 2)
    assert first == second
    for start in ('precision ', 'step 12, val:', 'best checkpoint:', 'curves:'):
        assert sum(line.startswith(start) for line in said.splitlines()) == 1, start


@pytest.mark.parametrize(
    ('given', 'found'),
    [
        (('auto', 1), {'devices': 2, 'num_nodes': 3}),
        ((1, 1), {'num_nodes': 3}),
        (('auto', 2), {'devices': 2}),
    ],
)
def test_devices_and_machines_follow_torchrun_where_they_are_left_open(monkeypatch, given, found):
    assert started_by_torchrun(*given) == {}
    for name, value in {'TORCHELASTIC_RUN_ID': 'x', 'WORLD_SIZE': '6', 'LOCAL_WORLD_SIZE': '2'}.items():
        monkeypatch.setenv(name, value)
    assert started_by_torchrun(*given) == found
