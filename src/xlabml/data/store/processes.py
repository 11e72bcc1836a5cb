"""The parts of a store, tokenized in the processes of one machine."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from .store_parts import Job

_POLL_SECONDS = 0.2
_OBJECTS = 100_000
"""More that are made than freed before a worker collects garbage."""


class Processes:
    """Tokenizes the parts of a job here, side by side.

    Args:
        n_processes: How many at a time; None: one a core.
    """

    def __init__(self, n_processes: int | None = None) -> None:
        cores = os.sched_getaffinity(0) if sys.platform == 'linux' else range(os.cpu_count() or 1)
        self.n_processes = n_processes or len(cores)

    def __call__(self, job: Job, tell: Callable[[int], None]) -> None:
        """Have every part of the job tokenized.

        Raises:
            ValueError: A part is broken.
            ChildProcessError: A process was killed.
        """
        if self.n_processes > 1 and len(job.missing()) > 1:
            _encode_in_processes(job, self.n_processes, tell)
        else:
            _encode_here(job, self.n_processes, tell)


def _encode_here(job: Job, n_threads: int, tell: Callable[[int], None]) -> None:
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        tell(done)

    for index in range(len(job.parts)):
        job.encode(index, advance, n_threads)


def _encode_in_processes(job: Job, n_processes: int, tell: Callable[[int], None]) -> None:
    n_workers = min(n_processes, len(job.parts))
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else None)
    done = context.Value('q', 0)
    stop = context.Event()
    start = (job, max(1, n_processes // n_workers), done, stop, os.getpid())
    with ProcessPoolExecutor(n_workers, context, _start_worker, start) as pool:
        futures = [pool.submit(_encode_in_worker, index) for index in range(len(job.parts))]
        try:
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
                tell(done.value)
                for future in finished:
                    future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f'a process that was tokenizing {job.source} was killed (for want of memory, perhaps); the same '
                'command resumes from the last whole part, with a smaller data.n_processes if need be'
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


class _Stopped(Exception):  # noqa: N818
    """Another part failed, or the user had enough."""


_worker: tuple[Job, int, Any, Any]


def _start_worker(job: Job, n_threads: int, done: object, stop: object, parent: int) -> None:
    global _worker
    _worker = job, n_threads, done, stop
    # The garbage collector would traverse all that the parent has loaded, and so copy the pages shared with it.
    gc.freeze()
    # A batch of texts makes and frees thousands of objects in no cycle: to look for cycles took 4 % of the time.
    gc.set_threshold(_OBJECTS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and says so
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone: an orphan would keep its lock, and its files."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _encode_in_worker(index: int) -> None:
    job, n_threads, done, stop = _worker

    def advance(n_bytes: int) -> None:
        if stop.is_set():
            raise _Stopped
        with done.get_lock():
            done.value += n_bytes

    job.encode(index, advance, n_threads)
