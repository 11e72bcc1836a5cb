"""Figures of a benchmark's own files: read once, embedded by the model at each evaluation, or by any callable.

Each text is embedded once; the texts are divided among the ranks, and the figures are of all of them.
"""

import hashlib
import itertools
import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from xlabml.batches import ANCHOR, Batch
from xlabml.data.groups import GROUP, TextGroups
from xlabml.data.groups.index import number_classes
from xlabml.data.groups.written import WrittenTexts
from xlabml.data.sources import Location, Source
from xlabml.data.sources.beir import read_corpus, read_qrels, read_queries
from xlabml.errors import DataError, SettingsError

from .evaluator import Evaluator, Gather, Monitor, TextScores
from .ranking import Metric, Relevance, make_relevance
from .retrieval import METRICS, check_cutoffs, mean_known, search_figures
from .vectors import Encode, Kind, Texts, VectorEvaluator


class Contents(NamedTuple):
    """The texts of a benchmark, each once.

    Args:
        texts: The texts.
        is_query: Which take the prompt `query`; the others take `document`, where the model has these.
        known: What the figures need beside vectors.
    """

    texts: list[str]
    is_query: Bool[np.ndarray, ' n']
    known: Any


class Benchmark(Evaluator):
    """The base of figures of a benchmark's own files; a subclass reads them, and makes figures of vectors.

    Args:
        path: The file or folder.
        name: What stands before the names of its figures; None: the name of the file or folder.
    """

    has_own_examples = True

    def __init__(self, path: str, name: str | None = None) -> None:
        self.path = path
        stem = Path(path).name.partition('.')[0] if name is None else name
        self.name = re.sub(r'\W+', '_', stem).strip('_')
        if not self.name:
            raise ValueError(f'{type(self).__name__} of {path} has the name {name!r}; give it letters or digits')
        self._contents: Contents | None = None
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._n_counted = 0

    @abstractmethod
    def read(self) -> Contents:
        """The texts of the files, and what else the figures need."""

    @abstractmethod
    def of_vectors(self, vectors: Float32[np.ndarray, 'n d'], known: Any) -> Mapping[str, float]:
        """The figures, by their names without that of the benchmark.

        Args:
            vectors: One for each text of `read`.
            known: What it returned beside them.
        """

    @abstractmethod
    def figure_names(self) -> list[str]:
        """The names of the figures, without that of the benchmark."""

    def evaluate(self, encode: Encode, encode_queries: Encode | None = None) -> dict[str, float]:
        """The figures of any model.

        Args:
            encode: Texts to vectors.
            encode_queries: The same for texts that take the prompt `query`; None: as the others.
        """
        texts, is_query, known = self.contents
        vectors: list[np.ndarray] = [np.zeros(0)] * len(texts)
        for chosen, call in ((~is_query, encode), (is_query, encode_queries or encode)):
            places = np.flatnonzero(chosen).tolist()
            for place, vector in zip(places, call([texts[i] for i in places]) if places else []):
                vectors[place] = vector
        return self._named(self.of_vectors(np.stack(vectors).astype(np.float32), known))

    @property
    def contents(self) -> Contents:
        """What the files hold; they are read once.

        Raises:
            SettingsError: There is no such file, or it lacks a column; the message names the evaluator.
            DataError: A record cannot be used.
        """
        if self._contents is None:
            with self._naming():
                if not Path(self.path).exists():  # nothing is fetched: a checkpoint may name any path
                    raise SettingsError('there is no such file or folder; check the path')
                found = self.read()
                if not found.texts:
                    raise DataError('there is nothing in it')
            self._contents = found
        return self._contents

    @contextmanager
    def _naming(self) -> Iterator[None]:
        where = f'the evaluator {type(self).__name__} of {self.path}'
        try:
            yield
        except DataError as error:
            raise DataError(f'{where}: {error}'.replace('data.examples.', '')) from error
        except (ValueError, FileNotFoundError) as error:
            raise SettingsError(f'{where}: {error}'.replace('data.examples.', '')) from error

    def names(self) -> list[str]:
        return [f'{self.name}_{figure}' for figure in self.figure_names()]

    def _named(self, figures: Mapping[str, float]) -> dict[str, float]:
        return {f'{self.name}_{name}': value for name, value in figures.items()}

    # Inside an evaluation

    def open(self) -> None:
        self.contents  # noqa: B018 - what cannot be read is refused here

    def examples(self, data: Any) -> WrittenTexts:
        task = data.trainer.lightning_module
        prompts = getattr(task, 'prompts', None)
        if prompts is None or not hasattr(task, 'embed'):
            raise SettingsError(
                f'{type(self).__name__} embeds texts, and {type(task).__name__} makes no vectors of texts; leave it '
                'out of model.evaluators'
            )
        texts, is_query, _ = self.contents
        before = [prompts.get('query' if asks else 'document', '') for asks in is_query.tolist()]
        return WrittenTexts(texts, before, data.tokenizer, data.max_len, data.hparams.get('device_batch_tokens'))

    def outputs_of(self, task: Any, batch: Batch) -> Float[Tensor, 's d']:
        """The vector of each segment: the texts have no objective."""
        vectors: Tensor = task.embed(batch)
        return vectors

    def start(self) -> None:
        self._parts = []

    def update(self, outputs: Float[Tensor, 's d'], batch: Batch) -> None:
        is_text = batch.example >= 0
        numbers = batch.documents[is_text].cpu().numpy()
        self._parts.append((numbers, outputs.detach()[is_text].to('cpu', torch.float32).numpy()))

    def result(self, gather: Gather) -> dict[str, float]:
        parts = [part for some in gather.everything(self._parts) for part in some if len(part[0])]
        self._parts = []
        texts, _, known = self.contents
        numbers = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64)
        self._n_counted = len(numbers)
        if len(numbers) < len(texts):  # cut short by trainer.limit_val_batches
            return dict.fromkeys(self.names(), math.nan)
        vectors = np.empty((len(texts), parts[0][1].shape[1]), np.float32)
        vectors[numbers] = np.concatenate([part[1] for part in parts])
        return self._named(self.of_vectors(vectors, known))

    @property
    def n_counted(self) -> int:
        return self._n_counted


class GroupFile(Benchmark):
    """Figures of a file of groups: pairs with scores or labels, triplets, labelled texts, queries with candidates,
    translations.

    For example similarity, `path: sts.tsv, roles: {a: s1, b: s2}, score: gold, score_range: [0, 5]` with the evaluator
    Similarity. Of candidates to rerank, roles are anchor, positive and negatives.

    Args:
        path: A jsonl, json, csv, tsv, parquet or arrow file, or a folder of them.
        evaluator: Makes the figures of the vectors: Similarity, PairClassification, TripletAccuracy, Clustering,
            LinearProbe, Neighbours, Retrieval, Reranking, Bitext.
        roles: For each role, its column or columns, as in TextGroups.
        label: The column of a class.
        score: The column of a number that says how alike a and b are.
        score_range: The least and the largest score; they become 0 and 1.
        name: What stands before the names of its figures; None: the name of the file.
    """

    def __init__(
        self,
        path: str,
        evaluator: VectorEvaluator,
        roles: dict[str, str | list[str]],
        label: str | None = None,
        score: str | None = None,
        score_range: list[float] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(path, name)
        self.evaluator = evaluator
        self.roles = roles
        self.label = label
        self.score = score
        self.score_range = score_range
        with self._naming():
            self.groups = TextGroups(roles, label, score, score_range=score_range, n_positives=None)

    @property
    def primary(self) -> Monitor | None:
        found = self.evaluator.primary
        return found and Monitor(f'val_{self.name}_{found.name.removeprefix("val_")}', found.mode)

    def figure_names(self) -> list[str]:
        return self.evaluator.names() or []

    def compare_by(self, scores: TextScores) -> None:
        self.evaluator.compare_by(scores)

    def read(self) -> Contents:
        texts, groups = read_groups(self.groups.source(Location(self.path)))
        if self.evaluator.of_pairs and 'text' in self.groups.roles:
            name = type(self.evaluator).__name__
            raise SettingsError(f'{name} needs a second text; name its column in roles: positive, or b')
        self.evaluator.check(groups)
        if groups.label is not None and len(np.unique(groups.label)) < 2:
            raise DataError('all records have one label; check the column')
        # Of a pair, a single text or two translations neither side asks.
        asks = (groups.role == ANCHOR) & ('anchor' in self.groups.roles)
        keys = list(zip(texts, asks.tolist()))
        places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        place = np.array([places[key] for key in keys], np.int64)
        return Contents([text for text, _ in places], np.array([asks for _, asks in places]), (groups, place))

    def of_vectors(self, vectors: Float32[np.ndarray, 'n d'], known: Any) -> Mapping[str, float]:
        groups, place = known
        return self.evaluator.figures(groups._replace(vectors=vectors[place]))


class BeirSearch(Benchmark):
    """Recall, MRR, nDCG and others of a search in BEIR's layout: each query among all documents of the corpus.

    Relevance may have grades, which nDCG counts. A query without a relevant document is left out.
    Source: Thakur et al. 2021, https://arxiv.org/abs/2104.08663.

    Args:
        path: A folder with corpus, queries and qrels, as BeirFolder reads it.
        split: The name of the file in `qrels/`.
        at: The k's.
        metrics: Which figures; their names are `NAME_recall_at_10` …
        similarity: How vectors are compared.
        name: What stands before the names of its figures; None: the name of the folder.
    """

    def __init__(
        self,
        path: str,
        split: str = 'test',
        at: Sequence[int] = (1, 10),
        metrics: Sequence[Metric] = METRICS,
        similarity: Kind = 'cosine',
        name: str | None = None,
    ) -> None:
        super().__init__(path, name)
        check_cutoffs(at, metrics)
        self.split = split
        self.at = tuple(at)
        self.metrics = tuple(metrics)
        self.similarity: Kind = similarity
        self.scores: TextScores | None = None

    @property
    def primary(self) -> Monitor:
        return Monitor(f'val_{self.name}_{self.metrics[-1]}_at_{max(self.at)}', 'max')

    def figure_names(self) -> list[str]:
        return [f'{metric}_at_{k}' for k in self.at for metric in self.metrics]

    def compare_by(self, scores: TextScores) -> None:
        self.scores = scores

    def read(self) -> Contents:
        judged = read_qrels(self.path, self.split)
        graded = {query: {name: gain for name, gain in some.items() if gain > 0} for query, some in judged.items()}
        queries = {name: text for name, text in read_queries(self.path).items() if graded.get(name)}
        if not queries:
            raise DataError(f'no query of qrels/{self.split} has a relevant document')
        documents = dict(read_corpus(self.path))
        number = {name: i for i, name in enumerate(documents)}
        missing = [name for query in queries for name in graded[query] if name not in number]
        if missing:
            raise DataError(f'document {missing[0]!r} of qrels/{self.split} is not in the corpus; fetch it again')
        relevance = make_relevance([{number[name]: gain for name, gain in graded[query].items()} for query in queries])
        is_query = np.arange(len(queries) + len(documents)) < len(queries)
        return Contents([*queries.values(), *documents.values()], is_query, relevance)

    def of_vectors(self, vectors: Float32[np.ndarray, 'n d'], known: Relevance) -> Mapping[str, float]:
        queries = vectors[: known.n_queries]
        documents = vectors[known.n_queries :]
        found = search_figures(queries, documents, known, self.at, self.metrics, self.similarity, self.scores)
        return {name: mean_known(values) for name, values in found.items()}


def read_groups(source: Source) -> tuple[list[str], Texts]:
    """The texts of records with roles, in their order, and what is known of them; vectors are zero wide.

    Args:
        source: Of `TextGroups.source`.

    Raises:
        DataError: A record has no text where one belongs.
    """
    texts: list[str] = []
    example: list[int] = []
    role: list[int] = []
    scores: list[float] = []
    labels: list[str | int] = []
    for number, document in enumerate(source.documents([GROUP])):
        group = document.columns[GROUP]
        text = document.text
        if not isinstance(text, str) or not isinstance(group, dict):
            raise DataError(f'row {document.row} has no text in a column of a role; mend the record')
        assert isinstance(document.cuts, list)
        cuts = [0, *document.cuts, len(text)]
        found = [text[begin:end] for begin, end in itertools.pairwise(cuts)]
        texts += found
        role += group['roles']
        example += [number] * len(found)
        scores += group.get('scores', [])
        labels += [group['label']] if 'label' in group else []
    numbers = {name: i for i, name in enumerate(number_classes(set(labels)))}
    groups = Texts(
        vectors=np.zeros((len(texts), 0), np.float32),
        example=np.array(example, np.int64),
        role=np.array(role, np.int64),
        text_hash=np.array([_hash(text) for text in texts], np.int64),
        score=np.array(scores, np.float32) if scores else None,
        label=np.array([numbers[str(label)] for label in labels], np.int64) if labels else None,
    )
    return texts, groups


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()[:8], 'big', signed=True)
