"""BM25 of a corpus that is searched, counted once: its table is kept beside the vectors."""

import unicodedata
from pathlib import Path

from xlabml import artifacts, paths
from xlabml.artifacts.hashes import short_hash
from xlabml.bm25 import BM25, SPLITTERS, Terms

from .vector_writing import Job, require_same

_COUNTED = 1
"""Of another number, terms are split or counted in another way."""


def count_terms(job: Job, terms: Terms) -> BM25:
    """BM25 of the texts of a corpus; a table that cannot be read is counted anew.

    Args:
        job: Names the corpus.
        terms: What BM25 counts.

    Raises:
        DataError: The corpus changes meanwhile.
    """
    path = _path(job, terms)
    try:
        with path.open('rb') as file:
            known = BM25.load(file, SPLITTERS[terms])
        if known.n_documents == job.scan.n_texts:
            return known
    except (FileNotFoundError, ValueError):
        pass
    found = BM25(job.corpus.texts(), words=SPLITTERS[terms])
    require_same(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.replacing(path) as beside, beside.open('wb') as file:
        found.save(file)
    return found


def _path(job: Job, terms: Terms) -> Path:
    """Its file, by the content of the corpus; what a letter is follows from the version of Unicode."""
    known = [job.scan.sha256, job.options.column, terms, unicodedata.unidata_version, _COUNTED]
    return paths.vectors() / f'{short_hash(known)}.bm25.npz'
