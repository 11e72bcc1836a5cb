"""Commands run by several processes, each told its rank as torchrun tells it; loopback is all the network there is."""

import functools
import hashlib
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import lightning.pytorch as L
from torch.distributed.tensor import DTensor

SECONDS = 240
"""A rank that takes longer is killed, and the test fails."""


class WeightHash(L.Callback):
    """Writes a hash of all weights into `weights-RANK.json`, with what this rank's part of them measures."""

    def on_train_end(self, trainer, pl_module):
        digest, n_own = hashlib.sha256(), 0
        for parameter in pl_module.parameters():
            n_own += (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            digest.update(whole.detach().numpy().tobytes())
        found = {'hash': digest.hexdigest(), 'own': n_own}
        Path(f'weights-{trainer.global_rank}.json').write_text(json.dumps(found))


HASHED = '--trainer.callbacks=[{class_path: ranks.WeightHash}]'


def run(world, folder, function, *arguments):
    """Run function(*arguments) in so many processes, in a folder: their exit statuses, and what each printed."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['xlabml.commands.fit', 'torch.distributed.fsdp'])
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    processes = [
        context.Process(target=_be_rank, args=(rank, world, port, folder, environment, function, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + SECONDS
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()
    printed = [(folder / f'printed-{rank}.txt').read_text() for rank in range(world)]
    return [process.exitcode for process in processes], printed


def xlab(world, folder, *arguments):
    """Run an `xlab` command line on so many ranks; None is one process that knows of no others."""
    return run(world, folder, functools.partial(_xlab, world), *arguments)


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def _xlab(world, *arguments):
    from xlabml.commands import fit

    return fit.main([str(argument) for argument in arguments])


def _be_rank(rank, world, port, folder, environment, function, arguments):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    output = os.open(f'printed-{rank}.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for channel in (1, 2):
        os.dup2(output, channel)
    if world > 1:
        os.environ.update(torchrun_environment(rank, world, port))
        from lightning.fabric.utilities import rank_zero  # read from the environment when it was first imported
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        rank_zero.rank_zero_only.rank = rank_zero_only.rank = rank
    status = function(*arguments)
    sys.stdout.flush()
    sys.exit(status)


def torchrun_environment(rank, world, port):
    """What torchrun sets for a process."""
    return {
        'RANK': str(rank),
        'LOCAL_RANK': str(rank),
        'GROUP_RANK': '0',
        'WORLD_SIZE': str(world),
        'LOCAL_WORLD_SIZE': str(world),
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
        'TORCHELASTIC_RUN_ID': 'test',
        'GLOO_SOCKET_IFNAME': 'lo',
    }
