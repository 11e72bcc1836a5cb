"""Baselines of a search that read letters and words alone: BM25 always, two more where scikit-learn is installed."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from xlabml.bm25 import BM25, NAMES, SPLITTERS, Terms, split_words

from .vectors import normalized

Scores: TypeAlias = Callable[[slice], Float[np.ndarray, 'i n']]
"""The scores of all documents for the queries of a slice."""

N_LSA = 256
"""Dimensions of the latent semantic analysis; fewer where there are not more documents and words."""

NO_SKLEARN = 'character TF-IDF and LSA are left out, since scikit-learn is not installed (extra `baselines`)'


def lexical_systems(queries: Sequence[str], documents: Sequence[str], seed: int = 0) -> dict[str, Scores]:
    """BM25 of words and of their parts, TF-IDF of character n-grams, and latent semantic analysis, by the names that a
    table shows.

    Each learns its weights (how rare a word is, which words go together) from the documents that are searched, and from
    nothing else. Without scikit-learn there is BM25 alone.

    Args:
        queries: Their texts.
        documents: The texts that are searched.
        seed: Of the random projection that the decomposition begins with.
    """
    systems = {NAMES[terms]: scores for terms, scores in bm25_scores(queries, documents).items()}
    if has_sklearn():
        systems['character TF-IDF'] = character_scores(queries, documents)
        n_words = len({word for text in documents for word in split_words(text)})
        n_dims = min(N_LSA, len(documents) - 1, n_words - 1)
        if n_dims > 0:
            systems[f'LSA-{n_dims}'] = semantic_scores(queries, documents, n_dims, seed)
    return systems


def bm25_scores(queries: Sequence[str], documents: Sequence[str]) -> dict[Terms, Scores]:
    """BM25 of words, and of parts of words."""
    return {terms: _scores(BM25(documents, words=split), queries) for terms, split in SPLITTERS.items()}


def _scores(bm25: BM25, queries: Sequence[str]) -> Scores:
    return lambda some: bm25.scores(queries[some])


def has_sklearn() -> bool:
    """Whether scikit-learn is installed."""
    return find_spec('sklearn') is not None


def character_scores(queries: Sequence[str], documents: Sequence[str]) -> Scores:
    """The cosine of TF-IDF vectors over the n-grams of 2 to 5 characters inside words, counts by their logarithm."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    weigh = TfidfVectorizer(analyzer='char_wb', ngram_range=(2, 5), sublinear_tf=True, dtype=np.float32)
    return _products(*_weighed(weigh, queries, documents))


def semantic_scores(queries: Sequence[str], documents: Sequence[str], n_dims: int, seed: int = 0) -> Scores:
    """The cosine of TF-IDF vectors over words, projected to the first singular vectors of the documents' matrix.

    Source: Deerwester et al. 1990, https://doi.org/10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9.

    Args:
        queries: Their texts.
        documents: The texts that are searched.
        n_dims: How many singular vectors; fewer than there are documents or words.
        seed: Of the randomized decomposition.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    weigh = TfidfVectorizer(
        tokenizer=split_words, token_pattern=None, lowercase=False, sublinear_tf=True, dtype=np.float32
    )
    of_queries, of_documents = _weighed(weigh, queries, documents)
    svd = TruncatedSVD(n_dims, random_state=seed).fit(of_documents)
    found = normalized(svd.transform(of_documents))
    asked = normalized(svd.transform(of_queries))
    return lambda some: asked[some] @ found.T


def _weighed(weigh: Any, queries: Sequence[str], documents: Sequence[str]) -> tuple[Any, Any]:
    """Sparse matrices of the queries and of the documents, rows at length 1."""
    of_documents = weigh.fit_transform(documents)
    return weigh.transform(queries), of_documents


def _products(queries: Any, documents: Any) -> Scores:
    """The products of the rows of two sparse matrices."""
    return lambda some: (queries[some] @ documents.T).toarray()
