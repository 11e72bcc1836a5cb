"""The vectors of a corpus, or of a stretch of its rows, in a file whose writing can be resumed after a kill."""

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xlabml.artifacts.hashes import hash_file
from xlabml.errors import DataError
from xlabml.pipelines import Calibration, TextEmbedder
from xlabml.pipelines.embedder import find_embedder
from xlabml.pipelines.quantization import VectorType, quantize
from xlabml.pipelines.vector_files import Stamp, VectorFile

from .corpus import Corpus, Scan

_SAMPLE = 1024


class Job(NamedTuple):
    """What vectors are made of.

    Args:
        embedder: Makes them.
        ckpt: The file that it is from.
        corpus: Its texts.
        scan: What the corpus is now.
        prompt: Name of the prompt before each text; None: none.
        options: What was typed.
    """

    embedder: TextEmbedder
    ckpt: Path
    corpus: Corpus
    scan: Scan
    prompt: str | None
    options: argparse.Namespace

    @classmethod
    def open(cls, options: argparse.Namespace, corpus: Corpus) -> 'Job':
        """Load the checkpoint, then look through the corpus."""
        path = find_embedder(options.ckpt)
        embedder = TextEmbedder.load(path, options.device)
        usual = 'document' if 'document' in embedder.model.prompts else None
        prompt = options.document_prompt or usual
        embedder.plan(prompt, options.dim, batch_tokens=options.batch_tokens)  # refuses before the corpus is read
        return cls(embedder, path, corpus, corpus.scan(), prompt, options)


def write_vectors(
    job: Job,
    output: Path,
    kind: VectorType,
    normalize: bool | None,
    hashed: str,
    rows: tuple[int, int] | None = None,
    calibration: Calibration | None = None,
) -> str:
    """Write the vectors of a corpus to a file, resuming one that was begun.

    Args:
        job: What they are of.
        output: The file.
        kind: What they are in.
        normalize: Whether they are brought to length 1; None: as the model was trained.
        hashed: What messages call the hash of the corpus.
        rows: The first and the one behind the last, of a corpus that is not written whole; None: all.
        calibration: For int8; None: of a sample of the corpus, kept beside the file.

    Returns:
        What was written, in a line.

    Raises:
        FileExistsError: The file is there.
        DataError: The corpus, the checkpoint or an option is not what the file was begun with, or the corpus changes
            meanwhile.
    """
    embedder, _, corpus, scan, prompt, options = job
    first, end = rows or (0, scan.n_texts)
    plan = embedder.plan(prompt, options.dim, normalize, options.batch_tokens)
    with open_vectors(job, output, kind, normalize, hashed, rows) as file:
        resumed = file.n_done
        if kind == 'int8' and calibration is None:
            calibration = calibrate(job, output, normalize, is_new=not resumed)
        n_cut = file.counts.get('texts cut', 0)
        # Of all texts one more than wanted is read, to see that there is none.
        rest = islice(corpus.texts(), first + resumed, None if rows is None else end)
        for vectors in embedder.stream(rest, plan, options.processes or 1, None, end - first - resumed):
            file.counts['texts cut'] = n_cut + embedder.cut.n_cut
            if file.n_done + len(vectors) > end - first:
                raise DataError(f'{corpus.name} became longer while it was read; delete what was begun, and start anew')
            file.append(quantize(vectors, kind, calibration))
        if rows is None:
            require_same(job)
        file.finish()
    return describe_written(job, output, kind, file.counts.get('texts cut', 0), resumed)


def open_vectors(
    job: Job,
    output: Path,
    kind: VectorType,
    normalize: bool | None,
    hashed: str,
    rows: tuple[int, int] | None = None,
) -> VectorFile:
    """The file of a corpus's vectors, new or begun; arguments and errors as of `write_vectors`."""
    embedder, ckpt, _, scan, prompt, options = job
    d = embedder.d_vector(embedder.plan(prompt, options.dim, normalize, options.batch_tokens))
    stamp: Stamp = {
        hashed: scan.sha256,
        'texts': scan.n_texts,
        '--column': options.column,
        f'sha256 of {ckpt.name}': hash_file(ckpt),
        '--document-prompt': prompt,
        '--dim': options.dim,
        '--dtype': kind,
        **({} if rows is None else {'rows': f'{rows[0]} to {rows[1]}'}),
    }
    columns, dtype = _stored_as(d, kind)
    first, end = rows or (0, scan.n_texts)
    return VectorFile(output, (end - first, columns), dtype, stamp)


def require_same(job: Job) -> None:
    """Refuse a corpus that is not what it was when work began.

    Raises:
        DataError: Its hash is another one.
    """
    if job.corpus.sha256() != job.scan.sha256:
        raise DataError(f'{job.corpus.name} changed while it was read; delete what was begun, and start anew')


def describe_written(job: Job, output: Path, kind: VectorType, n_cut: int, resumed: int) -> str:
    """What was written, in a line; how many texts were cut goes to standard error."""
    n = job.scan.n_texts
    if n_cut:
        print(f'{n_cut:,} of {n:,} texts were cut at {job.embedder.model.max_len} tokens', file=sys.stderr)
    again = f', {resumed:,} of them by an earlier process' if resumed else ''
    d = job.options.dim or job.embedder.model.d_vector
    return f'{output}: {n:,} vectors of {d} as {kind}{again}'


def _stored_as(d: int, kind: VectorType) -> tuple[int, str]:
    """Columns and numpy's type of vectors of d channels."""
    stored: dict[VectorType, tuple[int, str]] = {
        'float32': (d, '<f4'),
        'float16': (d, '<f2'),
        'int8': (d, '|i1'),
        'binary': ((d + 7) // 8, '|u1'),
    }
    return stored[kind]


def calibrate(job: Job, output: Path, normalize: bool | None, is_new: bool) -> Calibration:
    """Of texts that are spread evenly over the corpus; kept beside the vectors."""
    path = output.with_name(f'{output.name}.calibration.npy')
    if is_new:
        plan = job.embedder.plan(job.prompt, job.options.dim, normalize, job.options.batch_tokens)
        n_texts = job.scan.n_texts
        n = min(_SAMPLE, n_texts)
        sample = job.corpus.pick([i * n_texts // n for i in range(n)])
        parts = list(job.embedder.stream((sample[row] for row in sorted(sample)), plan))
        Calibration.fit(np.concatenate(parts)).save(path)
    return Calibration.load(path)
