"""The table that a test of an embedder ends with: baselines, its vectors, and both fused, with intervals."""

import functools
import warnings
from collections.abc import Mapping, Sequence

import lightning.pytorch as L
import numpy as np
from jaxtyping import Float32

from xlabml.batches import ANCHOR
from xlabml.blank import is_blank
from xlabml.bm25 import BM25_TERMS, KNOWN_QUERIES, NAMES, VECTOR_WEIGHT, Fusion, Terms, read_fusion
from xlabml.data.groups import Groups
from xlabml.engine import Callback, Run, Task
from xlabml.errors import SettingsError
from xlabml.evaluation import (
    NO_SKLEARN,
    Retrieval,
    Scores,
    SearchRow,
    Texts,
    bm25_scores,
    find_nearness,
    fit_fusion,
    format_table,
    has_sklearn,
    less_nearness,
    make_search,
    search_table,
)
from xlabml.evaluation.ranking import Metric
from xlabml.evaluation.vectors import normalized
from xlabml.heads import TextVectors
from xlabml.pipelines import TextEmbedder
from xlabml.pipelines.embedder import CutWarning
from xlabml.pipelines.reranking import require_one_vector

_OWN = 'vectors'


class SearchTable(Callback):
    """Print, and write to `search.txt` in the run's folder, what a test's search reaches beside baselines over whole
    texts: BM25 of words and of their parts and, with scikit-learn (extra `baselines`), TF-IDF of characters and latent
    semantic analysis.

    The vectors and the k's are those of the evaluator `Retrieval` of the task; intervals are 95 % bootstrap intervals,
    gains over BM25 of words are paired over the queries. The baselines read what the model's limits cut as well.

    At every validation of a fit, the terms of BM25 and the share of the vectors beside it that find the most there are
    kept in the checkpoints saved behind it: the test's table and `xlab-infer --search --hybrid` fuse both by them.

    Args:
        metrics: Which figures, at each of the evaluator's k's.
        beside: Checkpoints of other embedders, by the names that they have in the table: they embed the same texts
            (anchors after their prompt `query`, others after `document`, where they have these), and what this model
            exceeds each of them by is printed with its interval.
        seed: Of the intervals.
        vector_weight: The share of the vectors' scores where both are fused, 0..1; None: that of the checkpoint, or
            equal parts where it has none.
        bm25_terms: What BM25 counts where both are fused: words, or parts of words (3 and 4 characters); None: as the
            checkpoint has it, or words where it has none.
        known_queries: How many queries of the training split are kept in the checkpoint beside these two, drawn at
            random: where both are fused, half the mean of the 10 highest scores of a text for them is taken off its
            scores, so that a text that is near to queries of all kinds comes behind those that are near to one.
            0: none.

    Raises:
        ValueError: A checkpoint beside it has the name of the tested model, vector_weight is no ratio, or known_queries
            below 0.
    """

    def __init__(
        self,
        metrics: Sequence[Metric] = ('recall',),
        beside: dict[str, str] | None = None,
        seed: int = 0,
        vector_weight: float | None = None,
        bm25_terms: Terms | None = None,
        known_queries: int = 0,
    ) -> None:
        if known_queries < 0:
            raise ValueError(f'known_queries of the callback SearchTable is {known_queries}; give 0 or more')
        if vector_weight is not None and not 0 <= vector_weight <= 1:
            raise ValueError(f'vector_weight of the callback SearchTable is {vector_weight}; give a ratio from 0 to 1')
        self.metrics = tuple(metrics)
        self.beside = dict(beside or {})
        if _OWN in self.beside:
            raise ValueError(
                f'the callback SearchTable has a checkpoint named {_OWN!r} in beside, which is the name of the tested '
                'model; choose another'
            )
        self.seed = seed
        self.vector_weight = vector_weight
        self.bm25_terms = bm25_terms
        self.known_queries = known_queries
        self._others: dict[str, TextEmbedder] = {}
        self._drawn: list[str] | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        retrieval = self._retrieval(pl_module)
        groups = self._groups(trainer, 'val')
        if trainer.sanity_checking or retrieval is None or retrieval.scores is not None or retrieval.last is None:
            return
        if isinstance(groups, Groups):  # on all ranks, whose texts are the same: each saves what it has found
            known = self._draw(trainer)
            vectors = _embed_own(pl_module, groups, known) if known else None
            chosen = choose_fusion(retrieval.last, groups.texts_by_hash(), known, vectors)
            facts = Task.of(pl_module).facts
            facts |= {VECTOR_WEIGHT: chosen.vector_weight, BM25_TERMS: chosen.terms}
            if known:
                facts[KNOWN_QUERIES] = known
            else:
                facts.pop(KNOWN_QUERIES, None)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        retrieval = self._retrieval(pl_module)
        if retrieval is None:
            raise ValueError(
                'the callback SearchTable reads the vectors of the evaluator Retrieval, and the model has none; add '
                'xlabml.evaluation.Retrieval to model.evaluators, or leave the callback out'
            )
        if retrieval.scores is not None:
            raise ValueError(
                'the callback SearchTable compares one vector a text, and model.pooling makes several (TokenVectors); '
                'leave the callback out: the evaluator Retrieval has the figures'
            )
        if not isinstance(self._groups(trainer, 'test'), Groups):
            raise ValueError(
                'the callback SearchTable needs groups of texts of one data set; choose such a format in '
                'data.examples, or leave the callback out'
            )
        if trainer.is_global_zero:
            self._others = {name: TextEmbedder.load(path) for name, path in self.beside.items()}
            for name, other in self._others.items():
                require_one_vector(other, f'{self.beside[name]}, in beside of the callback SearchTable,')

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        retrieval = self._retrieval(pl_module)
        groups = self._groups(trainer, 'test')
        if not trainer.is_global_zero or retrieval is None or retrieval.last is None or not isinstance(groups, Groups):
            return
        words = groups.texts_by_hash()
        fusion = read_fusion(Task.of(pl_module).facts)
        if self.vector_weight is not None or self.bm25_terms is not None:
            fusion = (fusion or Fusion()).override(self.vector_weight, self.bm25_terms)
        asked = () if fusion is None else fusion.known_queries
        known = _embed_own(pl_module, groups, asked) if asked else None
        table = describe_search(
            retrieval.last, words, retrieval.at, self.metrics, self.seed, self._others, fusion, known
        )
        folder = Run.of(trainer).output_folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'search.txt').write_text(table, 'utf-8')
        print(table, end='')

    def _draw(self, trainer: L.Trainer) -> list[str]:
        """Queries of the training split, each once; the same at every validation."""
        train = self._groups(trainer, 'train') if self.known_queries and self._drawn is None else None
        if isinstance(train, Groups):
            n = min(self.known_queries, len(train.documents))
            some = np.random.default_rng(self.seed).choice(train.documents, n, replace=False)
            texts = {group[ANCHOR] for group in train.texts_of(np.sort(some))}
            self._drawn = sorted(text for text in texts if not is_blank(text))
        return self._drawn or []

    @staticmethod
    def _retrieval(module: L.LightningModule) -> Retrieval | None:
        found = [evaluator for evaluator in Task.of(module).evaluators if isinstance(evaluator, Retrieval)]
        return found[0] if found else None

    @staticmethod
    def _groups(trainer: L.Trainer, stage: str) -> object:
        texts = getattr(Run.of(trainer).data, 'texts', None)
        return None if texts is None else texts.open_examples(stage, stage)


def choose_fusion(
    texts: Texts,
    words: Mapping[int, str],
    known: Sequence[str] = (),
    of_known: Float32[np.ndarray, 'k d'] | None = None,
) -> Fusion:
    """The fusion with BM25 that finds the most among some texts; the first arguments as of `describe_search`.

    Args:
        known: The known queries of the fusion.
        of_known: Their vectors.
    """
    queries, documents, relevance = make_search(texts)
    asked = [words[one] for one in texts.text_hash[queries].tolist()]
    read = [words[one] for one in texts.text_hash[documents].tolist()]
    found = normalized(texts.vectors[documents])
    vectors = normalized(texts.vectors[queries])

    def cosines(some: slice) -> Float32[np.ndarray, 'i n']:
        return vectors[some] @ found.T

    dense: Scores = cosines
    lexical = bm25_scores(asked, read)
    if of_known is not None:
        nearest = normalized(of_known)
        dense = less_nearness(dense, find_nearness(lambda some: nearest[some] @ found.T, len(known), len(read)))
        by_words = _near_by_words(tuple(known), tuple(read))
        lexical = {terms: less_nearness(scores, by_words[terms]) for terms, scores in lexical.items()}
    return fit_fusion(dense, lexical, relevance, len(documents))._replace(known_queries=tuple(known))


@functools.lru_cache(maxsize=1)
def _near_by_words(known: tuple[str, ...], read: tuple[str, ...]) -> dict[Terms, Float32[np.ndarray, ' n']]:
    """The nearness of texts to known queries by BM25, which every validation finds the same."""
    return {terms: find_nearness(scores, len(known), len(read)) for terms, scores in bm25_scores(known, read).items()}


def describe_search(
    texts: Texts,
    words: Mapping[int, str],
    at: Sequence[int],
    metrics: Sequence[Metric],
    seed: int = 0,
    others: Mapping[str, TextEmbedder] | None = None,
    fusion: Fusion | None = None,
    of_known: Float32[np.ndarray, 'k d'] | None = None,
) -> str:
    """The table of a search, for people.

    Args:
        texts: Groups, with their vectors.
        words: The whole texts by their hashes.
        at: The k's of the figures.
        metrics: Which figures.
        seed: Of the intervals.
        others: Other models that embed the same texts, by name.
        fusion: Of the vectors and BM25; None: words, in equal parts. Of other models it is what their checkpoints have.
        of_known: The vectors of the known queries of the fusion; None: it has none.
    """
    queries, documents, relevance = make_search(texts)
    asked = [words[one] for one in texts.text_hash[queries].tolist()]
    found = [words[one] for one in texts.text_hash[documents].tolist()]
    vectors = {_OWN: (texts.vectors[queries], texts.vectors[documents])}
    known_vectors = {} if of_known is None else {_OWN: of_known}
    for name, other in (others or {}).items():
        vectors[name] = (_embed(other, asked, 'query'), _embed(other, found, 'document'))
        if other.fusion is not None and other.fusion.known_queries:
            known_vectors[name] = _embed(other, list(other.fusion.known_queries), 'query')
    known = {_OWN: fusion} | {name: other.fusion for name, other in (others or {}).items()}
    fusions = {name: one for name, one in known.items() if one is not None}
    table = search_table(asked, found, relevance, vectors, at, metrics, seed, fusions, known_vectors)
    rows = {row.name: row for row in table}
    lines = [f'{len(queries)} queries, {len(documents)} documents', format_table(list(rows.values()))]
    for name, one in fusions.items():
        words_alone = NAMES[one.terms]
        fused = f'{name} + {words_alone}'
        shares = f'{one.vector_weight:.2f} and {1 - one.vector_weight:.2f} of their z-scores'
        lines.append(f'{fused}: {shares}{one.described_queries}')
        if one.terms != 'words':  # what it exceeds BM25 of words by stands in the table
            lines.append(f'{fused} over {words_alone}: {_gain(rows[fused], rows[words_alone], seed)}')
    lines += [f'{_OWN} over {name}: {_gain(rows[_OWN], rows[name], seed)}' for name in others or {}]
    lines += [] if has_sklearn() else [NO_SKLEARN]
    return '\n'.join(lines) + '\n'


def _embed(embedder: TextEmbedder, texts: list[str], prompt: str) -> Float32[np.ndarray, 'n d']:
    """The vectors of texts behind a prompt, where the model has one of that name."""
    return embedder.encode(texts, prompt=prompt if prompt in embedder.model.prompts else None)


def _embed_own(module: L.LightningModule, groups: Groups, texts: Sequence[str]) -> Float32[np.ndarray, 'n d']:
    """The vectors of texts by the network of a task, as queries."""
    network = Task.of(module).network
    network = getattr(network, 'text_encoder', network)  # of a network that does more
    if not isinstance(network, TextVectors):
        raise SettingsError(
            'known_queries of the callback SearchTable needs a network that makes vectors of texts, and model is '
            f'{type(module).__name__}; leave it out'
        )
    is_training = network.training
    network.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', CutWarning)  # their beginnings are enough
            return _embed(TextEmbedder(network, groups.tokenizer), list(texts), 'query')
    finally:
        network.train(is_training)


def _gain(ours: SearchRow, theirs: SearchRow, seed: int) -> str:
    gains = ours.over(theirs, seed)
    return ', '.join(f'{name} {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]' for name, gain in gains.items())
