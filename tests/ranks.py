"""Commands run by several processes, each told its rank as torchrun tells it; loopback is all the network there is."""

import hashlib
import json
import os
import socket
import sys
import time
from pathlib import Path

import lightning.pytorch as L
from processes import context
from torch.distributed.tensor import DTensor

from xlabml.callbacks import Checkpoints
from xlabml.commands import fit

SECONDS = 240
"""A rank that takes longer is killed, and the test fails."""


class WeightHash(L.Callback):
    """Writes what a rank has at the end of training into `rank-N.json`."""

    def on_train_end(self, trainer, pl_module):
        digest, n_own, n_all = hashlib.sha256(), 0, 0
        for parameter in pl_module.parameters():
            is_cut = isinstance(parameter, DTensor)
            whole = (parameter.full_tensor() if is_cut else parameter).detach()
            n_own += (parameter.to_local() if is_cut else parameter).numel()
            n_all += whole.numel()
            digest.update(whole.numpy().tobytes())
        saver = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))
        found = {'weights': digest.hexdigest(), 'n_own': n_own, 'n_all': n_all, 'folder': saver.folder}
        Path(f'rank-{trainer.global_rank}.json').write_text(json.dumps(found))


HASHED = '--trainer.callbacks=[{class_path: ranks.WeightHash}]'


def run(world, folder, function, *arguments):
    """Run function(*arguments) in so many processes, in a folder: their exit statuses, and what each printed."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {**os.environ, 'XLABML_CACHE': str(folder.parent / 'cache')}
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
    """Run an `xlab` command line on so many ranks: the exit statuses, and what each printed.

    The others look into the folder only after rank 0 has made its own in there: the order that is hardest to get right.
    """
    return run(world, folder, _xlab, *map(str, arguments))


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def report(folder, world):
    """What each rank had at the end of training."""
    return [json.loads((folder / f'rank-{rank}.json').read_text()) for rank in range(world)]


def _xlab(*arguments):
    while os.environ.get('RANK', '0') != '0' and arguments[0] == 'fit' and not list(Path().glob('logs/version_*')):
        time.sleep(0.01)
    return fit.main(list(arguments))


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
