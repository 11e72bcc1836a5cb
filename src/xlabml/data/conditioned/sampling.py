"""Which metadata of a document an example has: drawn anew in every pass, from the document's key alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, UInt64

from xlabml.data.order import mix, scramble, uniform
from xlabml.errors import SettingsError

_USED = 0xA24BAED4963EE407  # separates whether a document has any metadata from which types it has
_COUNT = 0x9FB21C651E98DF25  # and how many
_TYPE = 0x56E8FEB86659FD93  # and each type
_ORDER = 0x4A9B0665B2C1A1F3  # and in which order types are taken


class Sampling(ABC):
    """The base of all ways to choose types, the setting `data.examples.sampling`."""

    @abstractmethod
    def check(self, keys: Sequence[str]) -> None:
        """Raise SettingsError where it names a type that is not among these."""

    def of_shares(self, shares: Callable[[], Float64[np.ndarray, ' k']], keys: Sequence[str]) -> 'Sampling':
        """The same for data, by how many documents have each type.

        Args:
            shares: Counts them, 0..1.
            keys: The names of the types.
        """
        return self

    @abstractmethod
    def draw(
        self, draws: UInt64[np.ndarray, ' d'], present: Bool[np.ndarray, 'd k'], keys: Sequence[str]
    ) -> Bool[np.ndarray, 'd k']:
        """Which of the types that are present are kept.

        Args:
            draws: A key for each document.
            present: Whether it has each type.
            keys: The names of the types.
        """


class Independent(Sampling):
    """Each type is kept by itself.

    Args:
        ratio: The share of the documents with metadata in which a type that is present is kept.
        ratios: The same for single types, by name.
    """

    def __init__(self, ratio: float = 1.0, ratios: dict[str, float] | None = None) -> None:
        for name, value in {'ratio': ratio, **{f'ratios.{key}': one for key, one in (ratios or {}).items()}}.items():
            if not 0 <= value <= 1:
                raise SettingsError(f'data.examples.sampling.{name} is {value}; give a share from 0 to 1')
        self.ratio = ratio
        self.ratios = ratios

    def check(self, keys: Sequence[str]) -> None:
        _check_names(self.ratios, keys, 'ratios')

    def draw(
        self, draws: UInt64[np.ndarray, ' d'], present: Bool[np.ndarray, 'd k'], keys: Sequence[str]
    ) -> Bool[np.ndarray, 'd k']:
        ratios = np.array([(self.ratios or {}).get(key, self.ratio) for key in keys])
        return present & (_uniform_each(draws, _TYPE, len(keys)) < ratios)


class SomeOfPresent(Sampling):
    """Of the types that a document has a number from 1 to all of them is kept, each number as often.

    Types are drawn one after the other without replacement, by weight.
    Source of drawing by the smallest exponential: Efraimidis & Spirakis 2006, https://doi.org/10.1016/j.ipl.2005.11.003.

    Args:
        weights: By name; what is missing has the weight 1.
        overall: The share of the documents in which a type that is present can be drawn at all, by name; what is
            missing can in all.
        inverse_frequency: Whether a weight is divided by the share of the documents of training that have the type, so
            that rare types are kept as often as others; shares are counted over at most 16,384 documents.
    """

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        overall: dict[str, float] | None = None,
        inverse_frequency: bool = False,
    ) -> None:
        for key, weight in (weights or {}).items():
            if not weight > 0:
                raise SettingsError(f'data.examples.sampling.weights.{key} is {weight}; give a number above 0')
        for key, ratio in (overall or {}).items():
            if not 0 <= ratio <= 1:
                raise SettingsError(f'data.examples.sampling.overall.{key} is {ratio}; give a share from 0 to 1')
        self.weights = weights
        self.overall = overall
        self.inverse_frequency = inverse_frequency

    def of_shares(self, shares: Callable[[], Float64[np.ndarray, ' k']], keys: Sequence[str]) -> 'SomeOfPresent':
        if not self.inverse_frequency:
            return self
        given = self.weights or {}
        weights = {key: given.get(key, 1.0) / share for key, share in zip(keys, shares().tolist()) if share}
        return SomeOfPresent({**given, **weights}, self.overall)

    def check(self, keys: Sequence[str]) -> None:
        _check_names(self.weights, keys, 'weights')
        _check_names(self.overall, keys, 'overall')

    def draw(
        self, draws: UInt64[np.ndarray, ' d'], present: Bool[np.ndarray, 'd k'], keys: Sequence[str]
    ) -> Bool[np.ndarray, 'd k']:
        overall = np.array([(self.overall or {}).get(key, 1.0) for key in keys])
        there = present & (_uniform_each(draws, _TYPE, len(keys)) < overall)
        n_kept = 1 + (uniform(scramble(draws ^ np.uint64(_COUNT))) * there.sum(1)).astype(np.int64)
        weights = np.array([(self.weights or {}).get(key, 1.0) for key in keys])
        waits = -np.log1p(-_uniform_each(draws, _ORDER, len(keys))) / weights
        rank = np.where(there, waits, np.inf).argsort(1, kind='stable').argsort(1, kind='stable')
        return there & (rank < n_kept[:, None])


def document_draws(hashes: UInt64[np.ndarray, ' d'], seed: int, pass_index: int) -> UInt64[np.ndarray, ' d']:
    """The key of what each document draws in a pass: free of its number, its row and whoever reads it.

    Args:
        hashes: Of the documents' contents: words that do not decide the split.
        seed: The seed of the data.
        pass_index: The pass.
    """
    return scramble(hashes ^ np.uint64(mix(seed, pass_index)))


def uses_metadata(draws: UInt64[np.ndarray, ' d'], keep_ratio: float) -> Bool[np.ndarray, ' d']:
    """Whether each document has any metadata in this pass."""
    return uniform(scramble(draws ^ np.uint64(_USED))) < keep_ratio


def _uniform_each(draws: UInt64[np.ndarray, ' d'], salt: int, n: int) -> Float64[np.ndarray, 'd n']:
    """n numbers in [0, 1) for each key."""
    salts = np.array([mix(salt, number) for number in range(n)], np.uint64)
    return uniform(scramble((draws[:, None] ^ salts).ravel())).reshape(len(draws), n)


def _check_names(given: Mapping[str, float] | None, keys: Sequence[str], name: str) -> None:
    unknown = [key for key in given or {} if key not in keys]
    if unknown:
        raise SettingsError(
            f'data.examples.sampling.{name} names {unknown[0]!r}, which is none of data.examples.types '
            f'({", ".join(keys)}); name one of these'
        )
