"""The discounts of modified Kneser-Ney smoothing, from counts of counts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Integer

N_COUNTED = 4
"""Counts of counts that discounts follow from: how many n-grams have a count of 1, 2, 3 and 4."""

_DEGENERATE = (0.5, 1.0, 1.5)
"""Where a corpus is too small or too regular for the formulas; those of KenLM (`--discount_fallback`)."""


def find_discounts(counts_of_counts: Sequence[int]) -> Float64[np.ndarray, ' 4']:
    """What is taken off a count of 0, 1, 2, and of 3 or more.

    Source: Chen & Goodman 1999, https://doi.org/10.1006/csla.1999.0128, eq. 26.

    Args:
        counts_of_counts: How many n-grams of an order have a count of 1, 2, 3 and 4. Where one is 0, or a discount is
            not above 0 or larger than its count, constants stand in for all three.
    """
    n1, n2, n3, n4 = counts_of_counts
    found = _DEGENERATE
    if n1 and n2 and n3 and n4:
        share = n1 / (n1 + 2 * n2)
        made = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
        if all(0 < discount <= count for count, discount in enumerate(made, 1)):
            found = made
    return np.array([0.0, *found])


def discounted(counts: Integer[np.ndarray, ' n'], discounts: Float64[np.ndarray, ' 4']) -> Float64[np.ndarray, ' n']:
    """Counts less their discounts; 0 of a count of 0."""
    return counts - discounts[np.minimum(counts, 3)]
