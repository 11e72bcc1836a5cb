"""Runs as processes of their own, which can be killed."""

import multiprocessing
import os
import random
import runpy
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

DEADLINE_SECONDS = 600

context = multiprocessing.get_context('forkserver')
"""A process that has imported everything, from which others are forked: a command that starts from nothing takes
seconds before its first line."""
_PRELOADED = ['cli', 'setting_help', 'smoke', 'infer', 'manage']
context.set_forkserver_preload([*(f'xlabml.commands.{name}' for name in _PRELOADED), 'ranks', 'torch.distributed.fsdp'])


class Command:
    """A command in a process, with what `subprocess.Popen` offers of it.

    Args:
        main: What is run: the path of a file of Python, or the name of a module with `main`.
        arguments: Of its command line.
        folder: Where it runs.
        printed: The files that its output and its errors are appended to; one file for both where they are equal. Files
            because a pipe would wait for its workers.
        environment: Replaces that of the test.
    """

    def __init__(self, main, arguments, folder, printed, environment=None):
        self._process = context.Process(
            target=_be_command, args=(str(main), arguments, folder, printed, environment or dict(os.environ))
        )
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=DEADLINE_SECONDS):
        self._process.join(timeout)
        assert self._process.exitcode is not None, 'it has not ended'
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)


class Done(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run(main, *arguments, folder, environment=None, timeout=DEADLINE_SECONDS):
    """A command from its start to its end: its status and what it printed."""
    with tempfile.TemporaryDirectory() as place:
        printed = [Path(place, name) for name in ('out', 'err')]
        command = Command(main, list(map(str, arguments)), folder, list(map(str, printed)), environment)
        try:
            command.wait(timeout)
        finally:
            command.kill()
        return Done(command.returncode, *(path.read_text() for path in printed))


def _be_command(main, arguments, folder, printed, environment):
    os.environ.clear()
    os.environ.update(environment)
    for path in reversed(environment.get('PYTHONPATH', '').split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)
    for channel, path in enumerate(printed, 1):
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, channel)
        os.close(output)
    os.chdir(folder)
    sys.argv = [main, *arguments]
    sys.stdout.reconfigure(write_through=True)
    if os.path.exists(main):
        runpy.run_path(main, run_name='__main__')
    else:
        sys.exit(__import__(main, fromlist=['main']).main())


def start(folder, *arguments):
    """`xlab fit` in a folder; what it prints goes into the file `printed` there."""
    folder.mkdir(parents=True, exist_ok=True)
    printed = str(folder / 'printed')
    return Command('xlabml.commands.fit', ['fit', *map(str, arguments)], folder, [printed, printed])


def finish(process, folder):
    """Wait for its end, which has to be a good one."""
    assert process.wait(timeout=DEADLINE_SECONDS) == 0, (folder / 'printed').read_text()


def newest_step(folder):
    """The step of the newest checkpoint of a folder's first run; 0 where there is none."""
    return max((int(path.name[5:12]) for path in folder.glob('logs/version_0/checkpoints/step=*.ckpt')), default=0)


def wait_for_step(process, folder, step):
    """Until a checkpoint of this step or a later one is there."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while newest_step(folder) < step:
        assert process.poll() is None, (folder / 'printed').read_text()
        assert time.monotonic() < deadline
        time.sleep(0.003)


def kill_again_and_again(folder, arguments, n_kills, last_step, draw: random.Random):
    """Start a run, kill it at a random moment, let it go on with other workers, and so on; then let it finish.

    Most moments lie somewhere in or after a random step, every fifth in the start.

    Returns:
        The step of the newest checkpoint at each kill.
    """
    steps = sorted(draw.sample(range(1, last_step), n_kills))
    killed_at = []
    for number, step in enumerate(steps):
        process = start(folder, *arguments, '--ckpt_path=last', f'--data.num_workers={number % 3}')
        if number % 5 == 4:
            time.sleep(draw.uniform(0, 0.6))
        else:
            wait_for_step(process, folder, max(step, newest_step(folder) + 1))
            time.sleep(draw.uniform(0, 0.1))
        assert process.poll() is None, (folder / 'printed').read_text()
        process.kill()
        process.wait()
        killed_at.append(newest_step(folder))
    finish(start(folder, *arguments, '--ckpt_path=last', f'--data.num_workers={n_kills % 3}'), folder)
    return killed_at
