"""The order of the data: a keyed permutation of range(n), worked out at an index, with no table.

A Feistel network permutes the numbers of the next power of two, and a number that falls outside range(n) is sent
through again until it falls inside (less than two rounds on average).
Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains, https://doi.org/10.1007/3-540-45760-7_9, methods
2 and 3; the mixing function is the finaliser of MurmurHash3.
"""

import hashlib
import struct

import numpy as np
from jaxtyping import Int64

_N_ROUNDS = 8


def mix(*words: int) -> int:
    """One number of 63 bits from several: what a step's randomness is drawn from."""
    digest = hashlib.blake2b(struct.pack(f'<{len(words)}q', *words), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def permute(index: Int64[np.ndarray, ' rows'], n: int, seed: int, epoch: int) -> Int64[np.ndarray, ' rows']:
    """Where the order (seed, epoch) of n things has each index: a bijection of range(n).

    Raises:
        ValueError: An index lies outside range(n).
    """
    if len(index) and not 0 <= index.min() <= index.max() < n:
        raise ValueError(f'indices from {index.min()} to {index.max()} are not all in range({n})')
    bits = max(2, (n - 1).bit_length())  # numbers of the next power of two, in two halves of bits
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    keys = [np.uint64(mix(seed, epoch, n, i)) for i in range(_N_ROUNDS)]

    def shuffle(value: np.ndarray) -> np.ndarray:
        low = value & low_mask
        high = value >> low_bits
        # Each round XORs one half with a function of the other, which can be undone: a bijection for any function.
        for i in range(0, _N_ROUNDS, 2):
            low ^= scramble(high + keys[i]) & low_mask
            high ^= scramble(low + keys[i + 1]) & high_mask
        return high << low_bits | low

    value = shuffle(index.astype(np.uint64))
    # Cycle walking: a number outside of range(n) is permuted again, which stays a bijection of range(n).
    while (outside := np.flatnonzero(value >= np.uint64(n))).size:
        value[outside] = shuffle(value[outside])
    return value.astype(np.int64)


def shuffled(places: Int64[np.ndarray, ' rows'], n: int, seed: int) -> Int64[np.ndarray, ' rows']:
    """What n things are at these places of an endless sequence: all of them, then all in another order, and so on."""
    epochs, index = np.divmod(places, n)
    found = np.empty_like(places)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        found[here] = permute(index[here], n, seed, epoch)
    return found


def scramble(value: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of the value (64-bit integers, wrapping)."""
    # Constants of MurmurHash3's fmix64.
    value = (value ^ value >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ value >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ value >> np.uint64(33)
