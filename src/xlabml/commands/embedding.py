"""`xlab-infer CKPT --embed FILE` and `--search CORPUS QUERY`: texts of files become vectors, and are found by them."""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xlabml import artifacts, paths
from xlabml.artifacts.hashes import hash_file, short_hash
from xlabml.errors import DataError
from xlabml.pipelines import Calibration, TextEmbedder, find_nearest
from xlabml.pipelines.embedder import find_embedder
from xlabml.pipelines.quantization import VectorType, quantize
from xlabml.pipelines.reranking import is_of_tokens, rerank
from xlabml.pipelines.vector_files import Stamp, VectorFile

from .corpus import Corpus, Scan
from .errors import UsageError, typed_paths, usage_errors
from .output import visible

if TYPE_CHECKING:
    from xlabml.data.store.cluster import Cluster
    from xlabml.pipelines.approximate import ApproximateIndex

_SAMPLE = 1024
_BLOCK = 65_536
_MOST_SHOWN = 300


class Found(NamedTuple):
    """A text that was found.

    Args:
        row: Its number in the corpus, from 0.
        score: How near it is to the query; more is nearer.
        text: It.
    """

    row: int
    score: float
    text: str


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


def embed(options: argparse.Namespace) -> None:
    """Write the vectors of a corpus, or go on where a killed process stopped, and say what was written."""
    output = Path(options.output)
    with typed_paths():
        if output.exists():
            raise FileExistsError(f'{output} is there already; delete it, or choose another --output')
        cluster = open_cluster(options)
        job = Job.open(options, Corpus(options.embed, options.column))
        hashed = f'sha256 of {job.corpus.name}'
        if cluster is None:
            print(write_vectors(job, output, options.dtype, None, hashed))
            return
        from .embedding_shards import write_by_tasks

        print(write_by_tasks(job, output, options.dtype, hashed, cluster))


def open_cluster(options: argparse.Namespace) -> 'Cluster | None':
    """What runs the tasks of --engine; None: this process embeds.

    Raises:
        UsageError: A package is missing, or a number is out of range.
    """
    if options.engine is None:
        return None
    folder = options.shared_folder or str(Path(options.output).absolute().with_name(f'.{Path(options.output).name}.d'))
    if '://' in folder:
        raise UsageError(f'--shared-folder is {folder}; give a path that all machines see')
    try:
        from xlabml.data.store import cluster

        if options.engine == 'ray':
            import ray  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f'--engine {options.engine} needs the packages of the extra cluster ({error}): '
            "pip install 'xlabml[cluster]'"
        ) from error
    with usage_errors():
        if options.engine == 'slurm':
            return cluster.Slurm(folder, options.tasks, partition=options.partition)
        return (cluster.Ray if options.engine == 'ray' else cluster.Local)(folder, options.tasks)


def search(options: argparse.Namespace) -> None:
    """Print the texts of a corpus that are nearest to a query."""
    for hit in find_texts(options):
        print(f'{hit.score:.4f}  {hit.row}  {_in_a_line(hit.text)}')


def find_texts(options: argparse.Namespace) -> list[Found]:
    """The texts of a corpus that are nearest to a query, the nearest first."""
    if options.approximate:
        from xlabml.pipelines.approximate import require_library

        require_library()
    with typed_paths():
        job = Job.open(options, Corpus(options.search, options.column))
        reranker = None if options.rerank is None else TextEmbedder.load(options.rerank, options.device)
    embedder = job.embedder
    if is_of_tokens(embedder):
        raise UsageError(
            f'{job.ckpt} makes several vectors of a text, which order the first texts of a search: give it as '
            '--rerank, and an encoder of one vector as CKPT'
        )
    n_found = options.results if reranker is None else max(options.results, options.candidates)
    prompt = 'query' if 'query' in embedder.model.prompts else None
    query = embedder.encode(options.query, prompt, options.dim, normalize=True)[None]
    cached = _cached(job)
    vectors = np.load(cached, mmap_mode='r', allow_pickle=False)
    if options.hybrid:
        from xlabml.bm25 import BM25, fuse

        dense = np.concatenate([query @ vectors[i : i + _BLOCK].T for i in range(0, len(vectors), _BLOCK)], axis=1)
        scores = fuse([dense, BM25(job.corpus.texts()).scores([options.query])])[0]
        rows = np.argsort(-scores, kind='stable')[:n_found]
        best = scores[rows]
    else:
        hits = (
            _approximate(cached, vectors).search(query, n_found)
            if options.approximate
            else find_nearest(query, vectors, n_found)
        )
        rows = hits.rows[0]
        best = hits.scores[0]
    texts = job.corpus.pick(rows.tolist())
    if reranker is not None:
        best = rerank(reranker, options.query, [texts[row] for row in rows.tolist()])
        order = np.argsort(-best, kind='stable')[: options.results]
        rows = rows[order]
        best = best[order]
    return [Found(int(row), float(score), texts[int(row)]) for row, score in zip(rows, best)]


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


def _cached(job: Job) -> Path:
    """The file of a corpus's vectors at length 1, by the content of the corpus and the checkpoint."""
    known = [job.scan.sha256, job.options.column, hash_file(job.ckpt), job.prompt, job.options.dim]
    path = paths.vectors() / f'{short_hash(known)}.npy'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(write_vectors(job, path, 'float32', True, 'sha256 of the corpus'), file=sys.stderr)
    return path


def _approximate(cached: Path, vectors: np.ndarray) -> 'ApproximateIndex':
    """The index of cached vectors; says how much of the exact search it finds. Both are kept beside the vectors."""
    from xlabml.pipelines.approximate import ApproximateIndex

    path = cached.with_suffix('.faiss')
    if path.exists():
        index = ApproximateIndex.load(path)
    else:
        index = ApproximateIndex.build(vectors)
        index.save(path)
    recall = _known_recall(path)
    if recall is None:
        recall = index.recall(vectors)
        artifacts.write_text(_measured(path), json.dumps({'recall': recall, 'of': hash_file(path)}) + '\n')
    print(f'approximate search: {recall:.1%} of the ten nearest by exact search', file=sys.stderr)
    return index


def _measured(index: Path) -> Path:
    """The file of what was measured of an index."""
    return index.with_name(f'{index.name}.json')


def _known_recall(index: Path) -> float | None:
    """What was measured of an index before; None: nothing, or it was of another."""
    try:
        known = json.loads(_measured(index).read_bytes())
        return float(known['recall']) if known['of'] == hash_file(index) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _in_a_line(text: str) -> str:
    line = ' '.join(text.split())
    shown = line if len(line) <= _MOST_SHOWN else f'{line[:_MOST_SHOWN]}…'
    return visible(shown, sys.stdout.encoding or 'utf-8')
