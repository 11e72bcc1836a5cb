"""What a task of `--embed --engine` does: its share of a corpus's shards of vectors, from a plan in a shared folder."""

import argparse
import json
import math
from pathlib import Path

import torch

from xlabml import settings
from xlabml.artifacts.hashes import hash_file
from xlabml.errors import DataError
from xlabml.pipelines import Calibration, TextEmbedder
from xlabml.pipelines.quantization import VectorType

from .corpus import Corpus, Scan
from .vector_writing import Job, write_vectors

PLAN = 'job.json'
"""The file of plain values that tasks work from."""

_HASHED = 'sha256 of the corpus'


def make_shards(folder: Path, rank: int, world_size: int, n_threads: int) -> int:
    """Make the shards number rank, rank + world_size … of a shared folder, but those that are there.

    Args:
        n_threads: Threads of a task.

    Returns:
        How many it were.

    Raises:
        DataError: This machine sees another corpus, or another checkpoint.
    """
    plan = json.loads((folder / PLAN).read_bytes())
    for module in plan['--import']:
        settings.trust(module)
    torch.set_num_threads(n_threads)
    ckpt = Path(plan['ckpt'])
    options = argparse.Namespace(
        column=plan['--column'], dim=plan['--dim'], batch_tokens=plan['--batch-tokens'], processes=None
    )
    corpus = Corpus(plan['corpus'], options.column)
    scan = Scan(plan['texts'], plan['sha256 of the corpus'])
    for path, wanted, found in (
        (ckpt, plan['sha256 of the checkpoint'], hash_file(ckpt)),
        (plan['corpus'], scan.sha256, corpus.sha256()),
    ):
        if wanted != found:
            raise DataError(
                f'{path} is not the same here as where the command was given; let all machines see the same files '
                'under the same path'
            )
    job = Job(TextEmbedder.load(ckpt, plan['--device']), ckpt, corpus, scan, plan['--document-prompt'], options)
    kind: VectorType = plan['--dtype']
    calibration = Calibration.load(folder / 'vectors.npy.calibration.npy') if kind == 'int8' else None
    n_rows = plan['rows of a shard']
    n_made = 0
    for i in range(rank, math.ceil(scan.n_texts / n_rows), world_size):
        if not shard(folder, i).exists():
            rows = i * n_rows, min((i + 1) * n_rows, scan.n_texts)
            write_vectors(job, shard(folder, i), kind, None, _HASHED, rows, calibration)
            n_made += 1
    return n_made


def shard(folder: Path, index: int) -> Path:
    """The file of a shard."""
    return folder / f'{index:06d}.npy'
