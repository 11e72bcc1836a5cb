"""What something beside a language model saves it: bits of the same documents, paired, with intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float64, Int
from torch import Tensor

from .bootstrap import Interval, statistic_interval


class Saving(NamedTuple):
    """The bits of some documents, in one of several ways.

    Args:
        name: Which way.
        bits_per_byte: Of the documents.
        saved: The share of the bits of the first way that it saves, with its interval over the documents.
    """

    name: str
    bits_per_byte: float
    saved: Interval


def compare(
    nats: Float64[Tensor, 'w d'], n_bytes: Float64[Tensor, ' d'], names: Sequence[str], n_draws: int, seed: int
) -> list[Saving]:
    """What each way saves the first one.

    Args:
        nats: Of each document, in each way.
        n_bytes: Its bytes.
        names: Of the ways.
        n_draws: Drawings of the bootstrap intervals, over documents.
        seed: Of the intervals.
    """
    bits = nats / math.log(2)
    total = float(n_bytes.sum())
    found = []
    for i, name in enumerate(names):

        def saved(drawn: Int[Tensor, ' e'], i: int = i) -> float:
            plain = bits[0, drawn].sum()
            return float((plain - bits[i, drawn].sum()) / plain)

        interval = statistic_interval(saved, bits.size(1), n_draws if i else 1, seed=seed)
        found.append(Saving(name, float(bits[i].sum()) / total, interval))
    return found


def saving_figures(prefix: str, savings: Sequence[Saving]) -> dict[str, float]:
    """The figures of a table, the first way without a saving: `prefix_bits_per_byte/name`, `prefix_saved/name` …"""
    found: dict[str, float] = {}
    for i, one in enumerate(savings):
        found[f'{prefix}_bits_per_byte/{one.name}'] = one.bits_per_byte
        if i:
            found[f'{prefix}_saved/{one.name}'] = one.saved.value
            found[f'{prefix}_saved_low/{one.name}'] = one.saved.low
            found[f'{prefix}_saved_high/{one.name}'] = one.saved.high
    return found
