"""`--embed` beyond one machine: a corpus in shards, which tasks of an executor share out, to the same bytes.

A shard is a stretch of rows. Any task, anywhere, makes the vectors of a shard into a shared folder, by the function
that one machine uses for all rows; then the shards are laid one after the other. What is there already is left alone,
so that any run resumes where another was killed, with any number of tasks and under any executor.
"""

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xlabml import artifacts
from xlabml.artifacts.hashes import hash_file, short_hash
from xlabml.data.store.shared_parts import SharedJob
from xlabml.errors import DataError
from xlabml.pipelines.embedder import CHUNK
from xlabml.pipelines.quantization import VectorType

from .shard_making import PLAN, shard
from .vector_writing import Job, calibrate, describe_written, open_vectors, require_same

if TYPE_CHECKING:
    from xlabml.data.store.cluster import Cluster

SHARD_ROWS = 16 * CHUNK
"""Rows of a shard: whole chunks, so that texts go together as on one machine, and vectors have the same bytes."""


class Shards:
    """The vectors of a corpus, in shards: the work of an executor.

    Args:
        job: What they are made of.
        kind: What they are in.
    """

    name = 'xlab_embed'

    def __init__(self, job: Job, kind: VectorType) -> None:
        self.job = job
        self.kind = kind
        self.parts = range(math.ceil(job.scan.n_texts / SHARD_ROWS))

    def steps(self, url: str, n_threads: int) -> list[object]:
        from .embedding_step import EmbedShards

        return [EmbedShards(url, n_threads)]

    def folder(self, shared_folder: str) -> Path:
        """Where they go in a shared folder: named by what they are of, so that those of others are never taken up."""
        plan = {name: value for name, value in self.plan().items() if name not in ('ckpt', 'corpus')}
        return Path(shared_folder).expanduser().absolute() / f'xlab-embed-{short_hash(plan)}'

    def write(self, url: str) -> None:
        folder = Path(url)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / PLAN
        if self.kind == 'int8':
            calibrate(self.job, folder / 'vectors.npy', None, is_new=not path.exists())
        artifacts.write_text(path, json.dumps(self.plan(), indent=1) + '\n')
        shutil.rmtree(folder / 'errors', ignore_errors=True)

    def plan(self) -> dict[str, Any]:
        """Plain values that a task on another machine works from."""
        job = self.job
        options = job.options
        return {
            'ckpt': str(job.ckpt.absolute()),
            'sha256 of the checkpoint': hash_file(job.ckpt),
            'corpus': str(Path(options.embed).absolute()),
            'sha256 of the corpus': job.scan.sha256,
            'texts': job.scan.n_texts,
            'rows of a shard': SHARD_ROWS,
            '--document-prompt': job.prompt,
            '--dtype': self.kind,
            '--column': options.column,
            '--dim': options.dim,
            '--batch-tokens': options.batch_tokens,
            '--device': options.device,
            '--import': list(options.modules),
        }


def write_by_tasks(job: Job, output: Path, kind: VectorType, hashed: str, cluster: 'Cluster') -> str:
    """Have tasks make the vectors of a corpus, and lay them into one file; arguments and errors as of `write_vectors`.

    Args:
        cluster: Runs the tasks.

    Raises:
        ChildProcessError: A task was killed, or ran out of time.
    """
    shards = Shards(job, kind)
    folder = shards.folder(cluster.shared_folder)
    shared = SharedJob(str(folder))
    if not all(shard(folder, i).exists() for i in shards.parts):
        where = cluster.run(shared, shards)
        missing = [i for i in shards.parts if not shard(folder, i).exists()]
        if missing and (errors := shared.errors()):
            raise DataError(errors[0])
        if missing:
            raise ChildProcessError(
                f'{len(missing)} of {len(shards.parts)} shards were not made: a task was killed or ran out of time '
                f'(its log is in {where}); the same command resumes'
            )
    require_same(job)
    with open_vectors(job, output, kind, None, hashed) as file:
        n_rows = 0
        for i in shards.parts:
            rows = np.load(shard(folder, i), mmap_mode='r', allow_pickle=False)
            about = json.loads(shard(folder, i).with_suffix('.npy.json').read_bytes())
            if n_rows >= file.n_done:  # a killed process may have laid some of them
                file.append(rows)
                file.counts['texts cut'] = file.counts.get('texts cut', 0) + int(about.get('texts cut', 0))
            n_rows += len(rows)
        file.finish()
    if kind == 'int8':
        shutil.copy(folder / 'vectors.npy.calibration.npy', output.with_name(f'{output.name}.calibration.npy'))
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # it holds something else
        folder.parent.rmdir()
    return describe_written(job, output, kind, file.counts.get('texts cut', 0), 0)
