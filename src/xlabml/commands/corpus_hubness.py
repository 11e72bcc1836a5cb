"""How near the texts of a searched corpus are to known queries, found once: kept beside the vectors."""

import warnings
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32

from xlabml import artifacts
from xlabml.artifacts.hashes import short_hash
from xlabml.bm25 import BM25, N_NEAREST, Fusion, hubness
from xlabml.pipelines.embedder import CutWarning

from .vector_writing import Job

_FOUND = 1
"""Of another number, it is found in another way."""
_BLOCK_SCORES = 16_777_216
"""Scores that are held at once, 64 MB of float32."""


class Hubness(NamedTuple):
    """What is taken off the scores of each text.

    Args:
        vectors: Off those of its vector.
        words: Off those of BM25.
    """

    vectors: Float32[np.ndarray, ' n']
    words: Float32[np.ndarray, ' n']


def find_hubness(
    job: Job, cached: Path, vectors: Float32[np.ndarray, 'n d'], words: BM25, fusion: Fusion, prompt: str | None
) -> Hubness:
    """The hubness of the texts of a corpus by the known queries of a fusion; a file that cannot be read is made anew.

    Args:
        job: Names the corpus.
        cached: The file of its vectors.
        vectors: They, at length 1.
        words: BM25 of it, by the terms of the fusion.
        fusion: Has the queries.
        prompt: Name of the prompt before a query; None: none.
    """
    path = cached.with_name(
        f'{short_hash([cached.name, fusion.terms, list(fusion.known_queries), _FOUND])}.hubness.npz'
    )
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            known = Hubness(arrays['vectors'], arrays['words'])
        if len(known.vectors) == len(known.words) == len(vectors):
            return known
    except (FileNotFoundError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    queries = list(fusion.known_queries)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', CutWarning)  # their beginnings are enough
        asked = job.embedder.encode(queries, prompt, job.options.dim, normalize=True)
    n_texts = max(1, _BLOCK_SCORES // (len(queries) + N_NEAREST))
    dense = [hubness([asked @ vectors[i : i + n_texts].T]) for i in range(0, len(vectors), n_texts)]
    n_queries = max(1, _BLOCK_SCORES // max(1, len(vectors)))
    lexical = hubness(words.scores(queries[i : i + n_queries]) for i in range(0, len(queries), n_queries))
    found = Hubness(np.concatenate(dense), lexical)
    with artifacts.replacing(path) as beside, beside.open('wb') as output:
        np.savez(output, vectors=found.vectors, words=found.words)
    return found
