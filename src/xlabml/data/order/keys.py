"""Keys of what an example draws: a function of (seed, pass, place), free of rank, micro-batch and worker.

A key is 64 random bits: the finaliser of MurmurHash3 over a counter that advances by the golden ratio.
Source: Steele et al. 2014, Fast splittable pseudorandom number generators, https://doi.org/10.1145/2660193.2660195.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from .permutation import mix, scramble

EVALUATION = -1
"""The pass whose keys belong to evaluation: those of a row are the same in every evaluation."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, made odd


def example_keys(seed: int, pass_index: int, places: Int64[np.ndarray, ' e']) -> UInt64[np.ndarray, ' e']:
    """The key of each example.

    Args:
        seed: The seed of the run.
        pass_index: The pass; EVALUATION: the places are numbers of examples.
        places: Where the examples come in the order of the pass.
    """
    return scramble(places.astype(np.uint64) * _GOLDEN + np.uint64(mix(seed, pass_index)))


def slot_keys(keys: UInt64[np.ndarray, ' pieces'], lengths: Int64[np.ndarray, ' pieces']) -> UInt64[np.ndarray, ' n']:
    """A key for each slot of pieces that lie back to back.

    Args:
        keys: Of each piece: its slot j draws from keys + j, so that a slot's key follows from its place in the row.
        lengths: Slots of each piece.
    """
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)  # n: slots before the piece of each slot
    offsets = np.arange(len(before)) - before
    return scramble((np.repeat(keys, lengths) + offsets.astype(np.uint64)) * _GOLDEN)


def uniform(keys: UInt64[np.ndarray, ' n']) -> Float64[np.ndarray, ' n']:
    """A number in [0, 1) from the upper 53 bits of each key."""
    return (keys >> np.uint64(11)) * 2.0**-53
