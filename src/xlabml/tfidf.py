"""A linear model over TF-IDF features of words and characters: the baseline of every classifier; needs numpy alone.

Features are those of scikit-learn's `TfidfVectorizer(sublinear_tf=True, min_df=2)`, of words and pairs of words, and of
2 to 5 characters inside of words (`analyzer='char_wb'`), each block of length 1 (Pedregosa et al. 2011, section 6.2.3
of its user guide). Here they are computed without it, so that a checkpoint can be used where it is not installed.

`TfidfModel` has outputs of texts. `TfidfPreference` has a score of each of two answers, and says which is better.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8

MAX_FEATURES = 50_000
"""Features of each block, those of the most texts."""
MIN_TEXTS = 2
"""Texts of the training split that a feature is in, at least."""
PREFERENCE = 'preference'
"""The task of which of two answers is better, or a tie; the others are those of SequenceClassifier."""
_WORD = re.compile(r'\b\w\w+\b')
_N_CHARACTERS = range(2, 6)
_AT_A_TIME = 2048


def words_of(text: str) -> list[str]:
    """The words of two or more letters of a text in lower case, and each pair of neighbours."""
    words = _WORD.findall(text.lower())
    return [*words, *(f'{one} {other}' for one, other in itertools.pairwise(words))]


def characters_of(word: str) -> list[str]:
    """The runs of 2 to 5 characters of a word, with a space before and behind it."""
    padded = f' {word} '
    return [padded[i : i + n] for n in _N_CHARACTERS for i in range(len(padded) - n + 1)]


class _Numbers(dict[str, int]):
    """The number of each feature of a block; `grows`: a new one gets the next number, else it is left out."""

    def __init__(self, names: Iterable[str] = (), grows: bool = False) -> None:
        super().__init__((name, i) for i, name in enumerate(names))
        self._grows = grows
        self._of_word: dict[str, Int64[np.ndarray, ' found']] = {}

    def words(self, text: str) -> Int64[np.ndarray, ' found']:
        """The words of a text, as often as they come."""
        return self._find(words_of(text))

    def characters(self, text: str) -> Int64[np.ndarray, ' found']:
        """The runs of characters of a text, as often as they come; those of a word are found once."""
        found = [np.zeros(0, np.int64)]
        for word in text.lower().split():
            if word not in self._of_word:
                self._of_word[word] = self._find(characters_of(word))
            found.append(self._of_word[word])
        return np.concatenate(found)

    def _find(self, names: Sequence[str]) -> Int64[np.ndarray, ' found']:
        if self._grows:
            return np.array([self.setdefault(name, len(self)) for name in names], np.int64)
        return np.array([self[name] for name in names if name in self], np.int64)


class SparseRows(NamedTuple):
    """A matrix whose rows have few entries, as scipy's CSR format has it.

    Args:
        starts: Where the entries of each row begin, and where the last ones end.
        columns: Of each entry, rising in a row.
        values: Of each entry.
        n_columns: Of the matrix.
    """

    starts: Int64[np.ndarray, ' rows+1']
    columns: Int64[np.ndarray, ' entries']
    values: Float64[np.ndarray, ' entries']
    n_columns: int

    def times(self, matrix: Float[np.ndarray, 'columns k']) -> Float64[np.ndarray, 'rows k']:
        """The product with a dense matrix, in float64."""
        product = np.zeros((len(self.starts) - 1, matrix.shape[1]))
        for row, (first, last) in enumerate(itertools.pairwise(self.starts.tolist())):
            product[row] = self.values[first:last] @ matrix[self.columns[first:last]]
        return product


class Tfidf(NamedTuple):
    """What is known of the features.

    Args:
        words: Words and pairs of words, in their order.
        characters: Runs of characters.
        idf: The inverse document frequency of each feature, those of words first.
    """

    words: tuple[str, ...]
    characters: tuple[str, ...]
    idf: Float64[np.ndarray, ' features']

    @classmethod
    def of(cls, texts: Sequence[str], max_features: int = MAX_FEATURES) -> 'Tfidf':
        """The features of some texts. Of at most `max_features` a block are taken those of the most texts.

        Source of the frequencies: ln((1 + n) / (1 + n with the feature)) + 1.
        """
        n_texts = len(texts)
        least = min(MIN_TEXTS, n_texts)
        blocks = []
        frequencies: list[float] = []
        for find in (_Numbers.words, _Numbers.characters):
            numbers = _Numbers(grows=True)
            found = [np.unique(find(numbers, text)) for text in texts]
            counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *found]), minlength=len(numbers))
            n_in = dict(zip(numbers, counts.tolist()))
            kept = sorted((name for name, n in n_in.items() if n >= least), key=lambda name: (-n_in[name], name))
            names = sorted(kept[:max_features])
            blocks.append(tuple(names))
            frequencies += [math.log((1 + n_texts) / (1 + n_in[name])) + 1 for name in names]
        return cls(blocks[0], blocks[1], np.array(frequencies, np.float64))

    def rows(self, texts: Sequence[Sequence[str]]) -> SparseRows:
        """The features of examples, those of the texts of one side by side.

        Args:
            texts: Of each example, as many of each.
        """
        n_features = len(self.idf)
        words = _Numbers(self.words)
        characters = _Numbers(self.characters)
        starts = [0]
        columns = []
        values = []
        n_texts = 1
        for fields in texts:
            n_texts = len(fields)
            n = 0
            for place, text in enumerate(fields):
                for before, numbers in ((0, words.words(text)), (len(words), characters.characters(text))):
                    found, weights = self._weigh(numbers + before)
                    columns.append(found + place * n_features)
                    values.append(weights)
                    n += len(found)
            starts.append(starts[-1] + n)
        return SparseRows(
            np.array(starts, np.int64),
            np.concatenate([np.zeros(0, np.int64), *columns]),
            np.concatenate([np.zeros(0), *values]),
            n_features * n_texts,
        )

    def _weigh(
        self, numbers: Int64[np.ndarray, ' found']
    ) -> tuple[Int64[np.ndarray, ' features'], Float64[np.ndarray, ' features']]:
        """The features of a text in one block, rising, and their weights, of length 1 together."""
        found, counts = np.unique(numbers, return_counts=True)
        weights = (1 + np.log(counts)) * self.idf[found]
        return found, weights / max(math.sqrt(np.square(weights).sum()), math.ulp(0.0))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, by name; texts are the bytes of lines."""
        return {'words': _as_bytes(self.words), 'characters': _as_bytes(self.characters), 'idf': self.idf}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> 'Tfidf':
        """What `arrays` returned.

        Raises:
            ValueError: The arrays do not fit each other.
        """
        found = cls(_as_lines(arrays['words']), _as_lines(arrays['characters']), arrays['idf'])
        n = len(found.words) + len(found.characters)
        if found.idf.shape != (n,):
            raise ValueError(
                f'the TF-IDF model has {n} features and {found.idf.shape} frequencies, which do not fit each other; '
                'copy the file again'
            )
        return found


class TfidfModel(NamedTuple):
    """A linear model of TF-IDF features.

    Args:
        tfidf: The features.
        coefficients: Of each class, and each feature of each text of an example.
        intercepts: Of each class.
    """

    tfidf: Tfidf
    coefficients: Float32[np.ndarray, 'k features']
    intercepts: Float32[np.ndarray, ' k']

    @property
    def n_outputs(self) -> int:
        """Logits of an example."""
        return len(self.intercepts)

    def logits(self, texts: Sequence[Sequence[str]]) -> Float64[np.ndarray, 'e k']:
        """The logits of each example, whose softmax (with several labels an example: sigmoid) are its probabilities; of
        a regression, the predicted number in one column.

        Args:
            texts: Of each example, as many as in training.
        """
        found = [np.zeros((0, len(self.intercepts)))]
        weights = np.ascontiguousarray(self.coefficients.T)
        for some in _parts(texts):
            found.append(self.tfidf.rows(some).times(weights) + self.intercepts)
        return np.concatenate(found)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, by name."""
        return {**self.tfidf.arrays(), 'coefficients': self.coefficients, 'intercepts': self.intercepts}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> 'TfidfModel':
        """What `arrays` returned.

        Raises:
            ValueError: The arrays do not fit each other.
        """
        tfidf = Tfidf.of_arrays(arrays)
        n = len(tfidf.idf)
        coefficients = arrays['coefficients']
        n_classes = len(arrays['intercepts'])
        if coefficients.shape[0] != n_classes or coefficients.shape[1] % max(1, n):
            raise ValueError(
                f'the TF-IDF model has {n} features and {coefficients.shape} coefficients of {n_classes} classes, '
                'which do not fit each other; copy the file again'
            )
        return cls(tfidf, coefficients, arrays['intercepts'])


class TfidfPreference(NamedTuple):
    """Which of two answers is better, or a tie, by a score of each answer that is linear in its TF-IDF features.

    The logits of a, tie and b are (u − v) / 2, log ν and (v − u) / 2, where u and v are the scores of A and B. What
    both answers share, their prompt above all, cancels out of u − v, so only answers have features. A score is the
    correctly rounded sum of its terms, which depends on no order: exchanged answers have exchanged logits to the last
    bit.
    Source: Davidson 1970, https://doi.org/10.1080/01621459.1970.10481082, eq. 2.2, with a score u for log π.

    Args:
        tfidf: The features.
        weights: Of each feature.
        log_tie_ratio: log ν.
    """

    tfidf: Tfidf
    weights: Float32[np.ndarray, ' features']
    log_tie_ratio: Float32[np.ndarray, ' 1']

    @property
    def n_outputs(self) -> int:
        """Logits of an example."""
        return 3

    def scores(self, texts: Sequence[str]) -> Float64[np.ndarray, ' e']:
        """The score of each answer, whatever the other is."""
        found: dict[str, float] = {}
        weights = self.weights.astype(np.float64)
        for some in _parts([(text,) for text in dict.fromkeys(texts)]):
            rows = self.tfidf.rows(some)
            terms = (rows.values * weights[rows.columns]).tolist()
            ends = itertools.pairwise(rows.starts.tolist())
            found |= {text: math.fsum(terms[first:last]) for (text,), (first, last) in zip(some, ends)}
        return np.array([found[text] for text in texts], np.float64)

    def logits(self, texts: Sequence[Sequence[str]]) -> Float64[np.ndarray, 'e 3']:
        """The logits of a, tie and b of each example.

        Args:
            texts: Of each example, A and B last.
        """
        half = (self.scores([fields[-2] for fields in texts]) - self.scores([fields[-1] for fields in texts])) / 2
        return np.stack([half, np.full(len(half), float(self.log_tie_ratio[0])), -half], axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, by name."""
        return {**self.tfidf.arrays(), 'weights_of_answers': self.weights, _LOG_TIE_RATIO: self.log_tie_ratio}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> 'TfidfPreference':
        """What `arrays` returned.

        Raises:
            ValueError: The arrays do not fit each other.
        """
        tfidf = Tfidf.of_arrays(arrays)
        weights = arrays['weights_of_answers']
        ratio = arrays[_LOG_TIE_RATIO]
        if weights.shape != tfidf.idf.shape or ratio.shape != (1,):
            raise ValueError(
                f'the TF-IDF model has {len(tfidf.idf)} features, {weights.shape} weights and {ratio.shape} tie '
                'ratios, which do not fit each other; copy the file again'
            )
        return cls(tfidf, weights, ratio)


_LOG_TIE_RATIO = 'log_tie_ratio'

LinearModel: TypeAlias = TfidfModel | TfidfPreference


def model_of_arrays(arrays: Mapping[str, np.ndarray]) -> LinearModel:
    """The model whose `arrays` these are.

    Raises:
        ValueError: They do not fit each other.
    """
    return (TfidfPreference if _LOG_TIE_RATIO in arrays else TfidfModel).of_arrays(arrays)


def _parts(texts: Sequence[Sequence[str]]) -> Iterator[Sequence[Sequence[str]]]:
    for start in range(0, len(texts), _AT_A_TIME):
        yield texts[start : start + _AT_A_TIME]


def _as_bytes(names: Sequence[str]) -> UInt8[np.ndarray, ' bytes']:
    # No feature has a line break: words have none, and characters are split at white space.
    return np.frombuffer('\n'.join(names).encode('utf-8', 'surrogatepass'), np.uint8).copy()


def _as_lines(data: UInt8[np.ndarray, ' bytes']) -> tuple[str, ...]:
    return tuple(data.tobytes().decode('utf-8', 'surrogatepass').split('\n')) if len(data) else ()
