"""Vectors in fewer bytes: half precision, 8-bit integers between calibrated bounds, one bit a channel. numpy alone."""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float32, Int8, Shaped, UInt8

from xlabml import artifacts
from xlabml.errors import DataError, RequestError

VectorType = Literal['float32', 'float16', 'int8', 'binary']

_FEWEST = 100
"""Vectors that a calibration is made of: the bounds of fewer are those of a few texts, not of the corpus."""

_LEVELS = 255


class Calibration(NamedTuple):
    """What the channels of a corpus's vectors range over, found once and kept with the vectors.

    Args:
        low: The least value of each channel; int8 begins there.
        high: The largest.
        middle: The median; binary has a 1 above it.
    """

    low: Float32[np.ndarray, ' d']
    high: Float32[np.ndarray, ' d']
    middle: Float32[np.ndarray, ' d']

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, 'n d']) -> 'Calibration':
        """Find the ranges of some vectors of a corpus.

        Raises:
            RequestError: They are fewer than 100.
        """
        if len(vectors) < _FEWEST:
            raise RequestError(
                f'a calibration of {len(vectors)} vectors says little about others; make it of {_FEWEST} or more, '
                'those of a sample of the corpus'
            )
        wide = vectors.astype(np.float32)
        return cls(wide.min(axis=0), wide.max(axis=0), np.median(wide, axis=0).astype(np.float32))

    def save(self, path: str | Path) -> None:
        """Write it as three rows of an .npy file, atomically."""
        with artifacts.replacing(Path(path)) as beside, beside.open('wb') as file:
            np.save(file, np.stack(self))

    @classmethod
    def load(cls, path: str | Path) -> 'Calibration':
        """Read what `save` wrote.

        Raises:
            DataError: The file holds something else.
        """
        try:
            rows = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise DataError(f'{path} is no calibration ({error}); make it again') from error
        if rows.ndim != 2 or len(rows) != 3 or rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise DataError(f'{path} is no calibration: it holds {rows.dtype} {rows.shape}; make it again')
        return cls(*rows)

    def to_int8(self, vectors: Float[np.ndarray, 'n d']) -> Int8[np.ndarray, 'n d']:
        """Each channel on 256 levels; what is beyond the bounds is put onto them."""
        self._check(vectors.shape[1])
        level = np.rint((vectors.astype(np.float32) - self.low) / self._step)
        return (np.clip(level, 0, _LEVELS) - 128).astype(np.int8)

    def from_int8(self, vectors: Int8[np.ndarray, 'n d']) -> Float32[np.ndarray, 'n d']:
        """The values that the levels stand for, to half a level."""
        self._check(vectors.shape[1])
        return (vectors.astype(np.float32) + 128) * self._step + self.low

    @property
    def _step(self) -> Float32[np.ndarray, ' d']:
        """The width of a level; 1 where a channel is constant."""
        width = (self.high - self.low) / np.float32(_LEVELS)
        return np.where(width > 0, width, np.float32(1))

    def _check(self, d: int) -> None:
        if d != len(self.low):
            raise RequestError(f'the calibration is of vectors of {len(self.low)}, but these have {d}; use their own')


def to_binary(
    vectors: Float[np.ndarray, 'n d'], calibration: Calibration | None = None
) -> UInt8[np.ndarray, 'n bytes']:
    """A bit a channel, eight in a byte: 1 where it is above the median, or above 0 without a calibration."""
    middle = np.float32(0) if calibration is None else calibration.middle
    return np.packbits(vectors > middle, axis=1)


def from_binary(vectors: UInt8[np.ndarray, 'n bytes'], d: int) -> Float32[np.ndarray, 'n d']:
    """1 and -1 in place of the bits."""
    return np.unpackbits(vectors, axis=1, count=d).astype(np.float32) * 2 - 1


def quantize(
    vectors: Float32[np.ndarray, 'n d'], kind: VectorType, calibration: Calibration | None = None
) -> Shaped[np.ndarray, 'n _']:
    """Vectors as a type of vectors.

    Raises:
        RequestError: There is no such type, int8 is wanted without a calibration, or one is given that is not used.
    """
    if kind not in get_args(VectorType):
        raise RequestError(f'dtype is {kind!r}; choose one of {", ".join(get_args(VectorType))}')
    if calibration is not None and kind in ('float32', 'float16'):
        raise RequestError(f'a calibration is given, but dtype is {kind}; it is for int8 and binary')
    if kind == 'int8':
        if calibration is None:
            raise RequestError('int8 vectors need a calibration: Calibration.fit(vectors of a sample of the corpus)')
        return calibration.to_int8(vectors)
    if kind == 'binary':
        return to_binary(vectors, calibration)
    return vectors.astype(kind)
