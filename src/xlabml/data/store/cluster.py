"""Tokenizing on more than one machine, under the executors of datatrove (extra `cluster`): Ray, or Slurm.

An executor runs a step once for each of a number of tasks; ours tokenizes every so-many-th part of a source into a
shared folder. What is there already is left alone, so that any run resumes where another was killed, with any number of
tasks, under either executor.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from xlabml import settings

from .shared_parts import SharedJob, bytes_of, describe_source
from .store_parts import Job

_POLL_SECONDS = 2.0
_JOB_NOTE = 'slurm_job'


@runtime_checkable
class Work(Protocol):
    """Other work than tokenizing that tasks share out, in parts."""

    @property
    def parts(self) -> Sequence[object]:
        """What is shared out."""

    @property
    def name(self) -> str:
        """What Slurm calls it."""

    def write(self, url: str) -> None:
        """Write down in the shared folder what tasks need to know."""

    def steps(self, url: str, n_threads: int) -> list[object]:
        """What a task runs: steps of datatrove.

        Args:
            url: The shared folder.
            n_threads: Cores of a task.
        """


class EncodeParts(PipelineStep):
    """The step that a task runs: it tokenizes its share of the parts of a shared job.

    Args:
        url: The shared job's folder.
        class_paths: The classes that the job may name, beside those of xlabml: the user typed them.
        n_threads: Threads that tokenize.
    """

    type = '✂️ - TOKENIZER'
    name = 'xlabml'

    def __init__(self, url: str, class_paths: Sequence[str], n_threads: int) -> None:
        super().__init__()
        self.url = url
        self.class_paths = list(class_paths)
        self.n_threads = n_threads

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> object:
        """Tokenize the parts number rank, rank + world_size …"""
        for path in self.class_paths:
            settings.trust_class(path)

        def advance(n_bytes: int) -> None:
            self.stat_update('text_bytes', value=n_bytes, unit='batch')

        with self.track_time('task'):
            n_parts = SharedJob(self.url).encode(rank, world_size, self.n_threads, advance)
        self.stat_update('parts', value=n_parts, unit='task')
        return data


class Cluster(ABC):
    """Tokenizes the parts of a job by tasks of an executor; the base of both engines.

    Args:
        shared_folder: A folder that all machines see, for the parts: a path, or a URL of fsspec (s3://, gs:// …).
        n_tasks: How many tasks share the parts out; None: one a part.
        n_workers: How many of them run at a time; None: all.
        n_cpus: Cores of a task, each a thread that tokenizes.
        memory_gb: Memory for each core, in GiB.
        max_hours: How long a task may take.
    """

    def __init__(
        self,
        shared_folder: str,
        n_tasks: int | None = None,
        n_workers: int | None = None,
        n_cpus: int = 1,
        memory_gb: int = 2,
        max_hours: int = 12,
    ) -> None:
        for name, value in (
            ('n_tasks', n_tasks),
            ('n_workers', n_workers),
            ('n_cpus', n_cpus),
            ('memory_gb', memory_gb),
            ('max_hours', max_hours),
        ):
            if value is not None and value < 1:
                raise ValueError(f'--{name} is {value}; it must be at least 1')
        self.shared_folder = shared_folder
        self.n_tasks = n_tasks
        self.n_workers = n_workers
        self.n_cpus = n_cpus
        self.memory_gb = memory_gb
        self.max_hours = max_hours

    def __call__(self, job: Job, tell: Callable[[int], None]) -> None:
        """Have every part of the job tokenized, and bring it here.

        Raises:
            ValueError: A part is broken, or the source cannot be written as plain values.
            ChildProcessError: A task was killed, or ran out of time.
        """
        wanted = job.missing()
        if not wanted:
            return
        shared = SharedJob.named(job, self.shared_folder)
        if set(wanted) - shared.there():
            with _telling(shared, job, tell):
                where = self.run(shared, job)
            missing = set(wanted) - shared.there()
            if missing and (errors := shared.errors()):
                raise ValueError(errors[0])
            if missing:
                raise ChildProcessError(
                    f'{len(missing)} of {len(job.parts)} parts of {job.source} were not tokenized: a task was killed '
                    f'or ran out of time (its log is in {where}); the same command resumes'
                )
        shared.gather(job, wanted)
        tell(bytes_of(job.parts, range(len(job.parts))))
        shared.remove_parts()

    @abstractmethod
    def run(self, shared: SharedJob, job: Job | Work) -> str:
        """Have the tasks run, wait for them, and say where their logs are."""

    @staticmethod
    def _begin(shared: SharedJob, job: Job | Work) -> None:
        """Write down what tasks need to know."""
        if isinstance(job, Job):
            shared.write(job)
        else:
            job.write(shared.url)

    def _steps(self, shared: SharedJob, job: Job | Work) -> list[object]:
        if not isinstance(job, Job):
            return job.steps(shared.url, self.n_cpus)
        paths = [path for path in settings.class_paths(describe_source(job.source)) if not path.startswith('xlabml.')]
        return [EncodeParts(shared.url, paths, self.n_cpus)]

    def _options(self, shared: SharedJob, job: Job | Work) -> dict[str, object]:
        n_parts = max(1, len(job.parts))
        return {
            'pipeline': self._steps(shared, job),
            'tasks': min(self.n_tasks or n_parts, n_parts),
            'workers': self.n_workers or -1,
            'cpus_per_task': self.n_cpus,
            'mem_per_cpu_gb': self.memory_gb,
            'logging_dir': f'{shared.url}/logs',
            'skip_completed': False,  # what is done is known by the parts
        }


class Ray(Cluster):
    """Tokenizes under Ray: on the cluster that RAY_ADDRESS names, or on one that is started here for the purpose."""

    def run(self, shared: SharedJob, job: Job | Work) -> str:
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # or it reports to its makers
        os.environ.setdefault('RAY_worker_niceness', '0')  # or all else that runs here goes first
        import ray

        self._begin(shared, job)
        is_mine = not ray.is_initialized()
        if is_mine:
            ray.init(log_to_driver=False, logging_level='warning')
        try:
            with _quiet():
                RayPipelineExecutor(**self._options(shared, job), time=self.max_hours * 3600).run()
        finally:
            if is_mine:
                ray.shutdown()
        return f'{shared.url}/logs/logs'


class Local(Cluster):
    """Runs tasks in processes of this machine, side by side."""

    def run(self, shared: SharedJob, job: Job | Work) -> str:
        self._begin(shared, job)
        with _quiet():
            LocalPipelineExecutor(**self._local_options(shared, job)).run()
        return f'{shared.url}/logs/logs'

    def _local_options(self, shared: SharedJob, job: Job | Work) -> dict[str, Any]:
        options = self._options(shared, job)
        return {name: options[name] for name in ('pipeline', 'tasks', 'workers', 'logging_dir', 'skip_completed')}


class Slurm(Cluster):
    """Tokenizes in an array of Slurm jobs, and waits for it; interrupted, the same command waits on.

    Args:
        partition: Where the jobs shall run.
        qos: Their quality of service; None: the partition's own.
        env_command: What a job runs first, to make xlabml importable; None: the virtual environment that runs us.
        sbatch_args: More of what sbatch takes, by name: {account: mine}.
    """

    def __init__(
        self,
        *args: Any,
        partition: str,
        qos: str | None = None,
        env_command: str | None = None,
        sbatch_args: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.partition = partition
        self.qos = qos
        self.sbatch_args = sbatch_args or {}
        activate = Path(sys.prefix, 'bin', 'activate')
        self.env_command = env_command or (f'source {activate}' if activate.exists() else '')

    def script(self, shared: SharedJob, job: Job | Work) -> str:
        """The script that sbatch would be given."""
        executor = self._executor(shared, job)
        return executor.get_launch_file_contents(
            executor.get_sbatch_args(min(executor.tasks, executor.max_array_size)),
            f'srun  -l -n 1 launch_pickled_pipeline {executor.logging_dir.resolve_paths("executor.pik")}',
        )

    def run(self, shared: SharedJob, job: Job | Work) -> str:
        executor = self._executor(shared, job)
        number = shared.read_note(_JOB_NOTE)
        if not (number.isascii() and number.isdecimal() and _is_queued(number)):
            for program in ('sbatch', 'squeue'):
                if shutil.which(program) is None:
                    raise ValueError(
                        f'there is no {program} here; run this on a machine that submits to Slurm, or look at the '
                        'script alone with --dry_run'
                    )
            self._begin(shared, job)
            with _quiet():
                executor.run()
            number = str(executor.job_id)
            shared.write_note(_JOB_NOTE, number)
        print(f'Slurm job {number}: {executor.tasks} tasks, logs in {executor.slurm_logs_folder}', file=sys.stderr)
        while _is_queued(number):
            time.sleep(_POLL_SECONDS)
        return executor.slurm_logs_folder

    def _executor(self, shared: SharedJob, job: Job | Work) -> '_SlurmArray':
        if 'SLURM_ARRAY_TASK_ID' in os.environ:
            raise ValueError('--engine slurm submits jobs and waits; run it outside of a Slurm array')
        logs = f'{shared.url}/slurm_logs' if shared.is_local else str(Path('slurm_logs', Path(shared.url).name))
        return _SlurmArray(
            **self._options(shared, job),
            time=f'{self.max_hours}:00:00',
            partition=self.partition,
            job_name='xlab_prepare_data' if isinstance(job, Job) else job.name,
            qos=self.qos,
            env_command=self.env_command,
            sbatch_args=self.sbatch_args,
            slurm_logs_folder=logs,
        )


class _SlurmArray(SlurmPipelineExecutor):
    def launch_merge_stats(self) -> None:
        """Submit no second job: the figures of the tasks lie beside their logs."""


def _is_queued(number: str) -> bool:
    """Whether Slurm knows the job as waiting or running."""
    answer = subprocess.run(['squeue', '-h', '-j', number, '-o', '%T'], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and bool(answer.stdout.strip())


@contextlib.contextmanager
def _telling(shared: SharedJob, job: Job, tell: Callable[[int], None]) -> Iterator[None]:
    """Tell now and then how much text the parts have that are there."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_POLL_SECONDS):
            tell(bytes_of(job.parts, shared.there()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep datatrove's log, which its tasks write into files, off this terminal."""
    logger.disable('datatrove')
    try:
        yield
    finally:
        logger.enable('datatrove')
