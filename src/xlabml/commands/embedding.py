"""`xlab-infer CKPT --embed FILE` and `--search CORPUS QUERY`: texts of files become vectors, and are found by them."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xlabml import artifacts, paths
from xlabml.artifacts.hashes import hash_file, short_hash
from xlabml.bm25 import Fusion, fuse_with_words
from xlabml.pipelines import TextEmbedder, find_nearest
from xlabml.pipelines.reranking import is_of_tokens, rerank

from .corpus import Corpus
from .corpus_hubness import find_hubness
from .corpus_terms import count_terms
from .cut_texts import CutTexts
from .errors import UsageError, typed_paths, usage_errors
from .output import visible
from .vector_writing import Job, write_vectors

if TYPE_CHECKING:
    from xlabml.data.store.cluster import Cluster
    from xlabml.pipelines.approximate import ApproximateIndex

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
    cut = CutTexts()
    with cut.counting('the query', embedder):
        query = embedder.encode(options.query, prompt, options.dim, normalize=True)[None]
    cut.report()
    cached = _cached(job)
    vectors = np.load(cached, mmap_mode='r', allow_pickle=False)
    if options.hybrid:
        dense = np.concatenate([query @ vectors[i : i + _BLOCK].T for i in range(0, len(vectors), _BLOCK)], axis=1)
        fusion = _fusion(options, embedder)
        counted = count_terms(job, fusion.terms)
        words = counted.scores([options.query])
        if fusion.known_queries:
            near = find_hubness(job, cached, vectors, counted, fusion, prompt)
            dense = dense - near.vectors
            words = words - near.words
        scores = fuse_with_words(dense, words, fusion.vector_weight)[0]
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
        cut = CutTexts()
        best = rerank(
            reranker, options.query, [texts[row] for row in rows.tolist()], partial(cut.counting, embedder=reranker)
        )
        cut.report()
        order = np.argsort(-best, kind='stable')[: options.results]
        rows = rows[order]
        best = best[order]
    return [Found(int(row), float(score), texts[int(row)]) for row, score in zip(rows, best)]


def _fusion(options: argparse.Namespace, embedder: TextEmbedder) -> Fusion:
    """Of the vectors and BM25: what was typed, else what the checkpoint has, else words in equal parts."""
    fusion = (embedder.fusion or Fusion()).override(options.vector_weight, options.bm25_terms)
    if embedder.fusion is not None and None in (options.vector_weight, options.bm25_terms):
        print(fusion, file=sys.stderr)
    return fusion


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
