"""What every evaluator of embedders reads: the vectors of a split's texts, brought together from all ranks."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from xlabml.batches import ANCHOR, IGNORED, POSITIVE, Batch, PairTargets
from xlabml.errors import SettingsError

from .evaluator import Evaluator, Gather, TextScores

Encode: TypeAlias = Callable[[Sequence[str]], Float32[np.ndarray, 'n d']]
"""Texts -> their vectors, in order: any model can be scored."""

Kind: TypeAlias = Literal['cosine', 'dot', 'euclidean']
"""How two vectors are compared; Euclidean: minus the distance, so that more is nearer."""


@runtime_checkable
class VectorOutputs(Protocol):
    """What the evaluators of vectors read of the outputs of a task."""

    @property
    def vectors(self) -> Float[Tensor, 's d']:
        """The pooled vector of each segment of the batch, padding included."""


class Texts(NamedTuple):
    """Texts of groups, with their vectors, in the order of the groups' documents.

    Args:
        vectors: Their vectors, not normalized.
        example: The number of each text's group.
        role: Its role: batches.ANCHOR, POSITIVE, NEGATIVE or more.
        text_hash: Equal texts have equal hashes.
        score: Of each text against its anchor; None: there are none.
        label: The class of each group; None: there are none.
        document: The number of each text's document.
    """

    vectors: Float32[np.ndarray, 's d']
    example: Int64[np.ndarray, ' s']
    role: Int64[np.ndarray, ' s']
    text_hash: Int64[np.ndarray, ' s']
    score: Float32[np.ndarray, ' s'] | None = None
    label: Int64[np.ndarray, ' e'] | None = None
    document: Int64[np.ndarray, ' s'] | None = None

    def in_order(self) -> 'Texts':
        """The groups in the order of their documents, for figures in which batches and ranks change no digit."""
        if self.document is None:
            return self
        n_groups = int(self.example.max(initial=-1)) + 1
        first = np.full(n_groups, np.iinfo(np.int64).max)
        np.minimum.at(first, self.example, self.document)
        groups = np.argsort(first, kind='stable')
        number = np.empty(n_groups, np.int64)
        number[groups] = np.arange(n_groups)
        texts = np.argsort(number[self.example], kind='stable')
        return Texts(
            vectors=self.vectors[texts],
            example=number[self.example[texts]],
            role=self.role[texts],
            text_hash=self.text_hash[texts],
            score=None if self.score is None else self.score[texts],
            label=None if self.label is None else self.label[groups],
            document=self.document[texts],
        )

    def pairs(self) -> tuple[Int64[np.ndarray, ' p'], Int64[np.ndarray, ' p']]:
        """The anchor and the positive of each group that has both; of several positives the first."""
        anchor = self.first_of(ANCHOR)
        positive = self.first_of(POSITIVE)
        both = (anchor >= 0) & (positive >= 0)
        return anchor[both], positive[both]

    def classed(self) -> 'Texts':
        """The texts of groups that have a class; a group without one has the label batches.IGNORED."""
        if self.label is None or (self.label != IGNORED).all():
            return self
        groups = np.flatnonzero(self.label != IGNORED)
        number = np.full(len(self.label), -1, np.int64)
        number[groups] = np.arange(len(groups))
        texts = number[self.example] >= 0
        return Texts(
            vectors=self.vectors[texts],
            example=number[self.example[texts]],
            role=self.role[texts],
            text_hash=self.text_hash[texts],
            score=None if self.score is None else self.score[texts],
            label=self.label[groups],
            document=None if self.document is None else self.document[texts],
        )

    def first_of(self, role: int) -> Int64[np.ndarray, ' e']:
        """The first text of a role in each group; -1: it has none."""
        n_groups = int(self.example.max(initial=-1)) + 1
        found = np.full(n_groups, -1, np.int64)
        texts = np.flatnonzero(self.role == role)[::-1]
        found[self.example[texts]] = texts
        return found


class VectorEvaluator(Evaluator):
    """The base of evaluators of a split's vectors: figures that are no sums, of all texts of all ranks.

    A subclass says by `figures` what it makes of them.

    Attributes:
        shown: Histograms of the last evaluation, by name, for the curves.
        scores: How texts of several vectors are compared; None: texts are one vector each.
        takes_scores: Whether it compares texts of several vectors.
        of_pairs: Whether its figures are of anchors and positives, not of single texts.
    """

    takes_scores: ClassVar[bool] = False
    of_pairs: ClassVar[bool] = False
    scores: TextScores | None = None

    def __init__(self) -> None:
        self._parts: list[Texts] = []
        self._n_groups = 0
        self._n_counted = 0
        self.shown: dict[str, np.ndarray] = {}

    @abstractmethod
    def figures(self, texts: Texts) -> Mapping[str, float]:
        """The figures, by the names of `names`.

        Args:
            texts: At least one.
        """

    def check(self, texts: Texts) -> None:  # most can use any texts
        """Refuse texts that lack what the figures are made from.

        Raises:
            ValueError: They have no scores, no labels or no negatives.
        """

    def compare_by(self, scores: TextScores) -> None:
        """Compare texts that are several vectors each.

        Raises:
            SettingsError: It compares single vectors only.
        """
        if not self.takes_scores:
            raise SettingsError(
                f'the evaluator {type(self).__name__} compares one vector a text, but model.pooling makes several '
                '(TokenVectors); leave it out of model.evaluators: Retrieval, Reranking and BeirSearch compare these'
            )
        if getattr(self, 'similarity', 'cosine') != 'cosine':
            raise SettingsError(
                f'similarity of {type(self).__name__} would have no effect: texts of several vectors (TokenVectors) '
                'are compared by the cosines of these'
            )
        self.scores = scores

    def count(self, texts: Texts) -> int:
        """How much was counted: groups, if nothing else."""
        return int(texts.example.max(initial=-1)) + 1

    @property
    def n_counted(self) -> int:
        return self._n_counted

    def start(self) -> None:
        self._parts = []
        self._n_groups = 0

    def reads(self, batch: Batch) -> bool:
        return isinstance(batch.targets, PairTargets)

    def update(self, outputs: VectorOutputs, batch: Batch) -> None:
        targets = batch.targets
        assert isinstance(targets, PairTargets), 'an embedder trains on PairTargets'
        is_text = batch.example >= 0

        def take(values: Tensor | None, dtype: torch.dtype) -> np.ndarray | None:
            return None if values is None else values.detach()[is_text].to('cpu', dtype).numpy()

        example = take(batch.example, torch.int64)
        assert example is not None
        n_groups = int(example.max(initial=-1)) + 1
        self._parts.append(
            Texts(
                vectors=_known(take(outputs.vectors, torch.float32)),
                example=example + self._n_groups,
                role=_known(take(batch.role, torch.int64)),
                text_hash=_known(take(targets.text_hash, torch.int64)),
                score=take(targets.score, torch.float32),
                label=None if targets.label is None else targets.label[:n_groups].cpu().numpy(),
                document=take(batch.documents, torch.int64),
            )
        )
        self._n_groups += n_groups

    def result(self, gather: Gather) -> dict[str, float]:
        parts: list[Texts] = []
        first = 0
        for n_groups, some in gather.everything((self._n_groups, self._parts)):
            parts += [part._replace(example=part.example + first) for part in some]
            first += n_groups
        parts = [part for part in parts if len(part.example)]
        self._parts = []
        if not parts:
            self._n_counted = 0
            return dict.fromkeys(self.names() or [], math.nan)
        texts = _join(parts).in_order()
        self._n_counted = self.count(texts)
        return dict(self.figures(texts))


def sample_group(n_roles: int, has_scores: bool, has_labels: bool) -> Texts:
    """A group with a text of each role, for `VectorEvaluator.check`: what is known of texts before there are any."""
    texts = np.arange(n_roles)
    return Texts(
        vectors=np.zeros((n_roles, 1), np.float32),
        example=np.zeros(n_roles, np.int64),
        role=texts,
        text_hash=texts,
        score=np.zeros(n_roles, np.float32) if has_scores else None,
        label=np.zeros(1, np.int64) if has_labels else None,
    )


def require_labels(evaluator: Evaluator, texts: Texts) -> None:
    """Raise ValueError where no group has a class."""
    if texts.label is None:
        raise ValueError(f'{type(evaluator).__name__} needs labels; name their column in data.examples.label')


def _join(parts: Sequence[Texts]) -> Texts:
    """All texts, one part after the other."""

    def of(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    return Texts(
        vectors=_known(of('vectors')),
        example=_known(of('example')),
        role=_known(of('role')),
        text_hash=_known(of('text_hash')),
        score=of('score'),
        label=of('label'),
        document=of('document'),
    )


def _known(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return values


def normalized(vectors: Float[np.ndarray, 'n d']) -> Float32[np.ndarray, 'n d']:
    """Vectors at length 1; a zero vector stays zero."""
    vectors = np.asarray(vectors, np.float32)
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest != 0)
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.divide(scaled, length, out=np.zeros_like(vectors), where=length != 0)


def compare(
    a: Float[np.ndarray, 'i d'], b: Float[np.ndarray, 'j d'], kind: Kind = 'cosine', scores: TextScores | None = None
) -> Float[np.ndarray, 'i j']:
    """How near each a is to each b.

    Args:
        scores: Compares texts of several vectors, whatever `kind` says; None: texts are one vector each.
    """
    if scores is not None:
        return scores(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    if kind == 'cosine':
        return normalized(a) @ normalized(b).T
    product = a @ b.T
    if kind == 'dot':
        return product
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2 * product
    return -np.sqrt(np.maximum(squares, 0))


def compare_pairs(
    a: Float[np.ndarray, 'i d'], b: Float[np.ndarray, 'i d'], kind: Kind = 'cosine'
) -> Float[np.ndarray, ' i']:
    """How near each a is to the b in its place, in float64."""
    if kind == 'cosine':
        a = normalized(a)
        b = normalized(b)
    a = a.astype(np.float64)
    b = b.astype(np.float64)
    return -np.linalg.norm(a - b, axis=1) if kind == 'euclidean' else (a * b).sum(axis=1)
