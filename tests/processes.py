"""Runs as processes of their own, which can be killed."""

import os
import random
import subprocess
import sys
import time

_COMMAND = 'import sys; from xlabml.commands.fit import main; sys.exit(main())'
DEADLINE_SECONDS = 600


def start(folder, *arguments):
    """`xlab fit` in a folder; what it prints goes into the file `printed` there: a pipe would wait for its workers."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'printed').open('ab') as printed:
        return subprocess.Popen(
            [sys.executable, '-c', _COMMAND, 'fit', *arguments],
            cwd=folder,
            env={**os.environ, 'PYTHONUNBUFFERED': '1'},
            stdout=printed,
            stderr=subprocess.STDOUT,
        )


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

    Most moments lie somewhere in or after a random step, every fifth in the start, imports included.

    Returns:
        The step of the newest checkpoint at each kill.
    """
    steps = sorted(draw.sample(range(1, last_step), n_kills))
    killed_at = []
    for number, step in enumerate(steps):
        process = start(folder, *arguments, '--ckpt_path=last', f'--data.num_workers={number % 3}')
        if number % 5 == 4:
            time.sleep(draw.uniform(0, 6))
        else:
            wait_for_step(process, folder, max(step, newest_step(folder) + 1))
            time.sleep(draw.uniform(0, 0.1))
        assert process.poll() is None, (folder / 'printed').read_text()
        process.kill()
        process.wait()
        killed_at.append(newest_step(folder))
    finish(start(folder, *arguments, '--ckpt_path=last', f'--data.num_workers={n_kills % 3}'), folder)
    return killed_at
