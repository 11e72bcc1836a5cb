"""Pictures of a classifier: whether its confidence can be trusted, and which classes it takes for which."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from . import colours

_MOST_NAMED = 40
_MOST_NUMBERED = 20
_MOST_LETTERS = 18


def draw_reliability(
    n_examples: Float[np.ndarray, ' bins'],
    confidence: Float[np.ndarray, ' bins'],
    accuracy: Float[np.ndarray, ' bins'],
    ece: tuple[float, float],
    title: str,
) -> Figure:
    """Accuracy against confidence, bin by bin, with its 95 % interval; below, how many examples a bin has.

    Args:
        n_examples: Of each bin.
        confidence: The mean in each.
        accuracy: The mean of what is correct in each.
        ece: The calibration error, and that of a perfectly calibrated classifier with these confidences.
        title: What was evaluated.
    """
    figure = Figure(figsize=(5.2, 6.0), dpi=110, layout='constrained')
    panel, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    there = n_examples > 0
    n = n_examples[there]
    height = accuracy[there]
    low, high = _wilson(height, n)
    panel.plot([0, 1], [0, 1], color='#777777', linewidth=1, linestyle='--', label='perfectly calibrated')
    errors = np.stack([height - low, high - height]).clip(min=0)
    panel.errorbar(
        confidence[there], height, errors, fmt='o', color=colours.of_run(0), markersize=5, capsize=3, label='this model'
    )
    panel.set_ylabel('accuracy (95 % interval)')
    panel.set_ylim(-0.02, 1.02)
    panel.set_title(f'{title}: calibration error {ece[0]:.3f} (of a perfect one {ece[1]:.3f})', fontsize=10)
    panel.legend(loc='upper left', frameon=False)
    n_bins = len(n_examples)
    below.bar((np.arange(n_bins) + 0.5) / n_bins, n_examples, 0.9 / n_bins, color=colours.of_run(0), alpha=0.5)
    below.set_yscale('symlog', linthresh=1)
    below.set(xlabel='confidence', ylabel='examples', xlim=(-0.02, 1.02))
    for axes in (panel, below):
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def draw_confusion(confusion: Int[np.ndarray, 'k k'], classes: Sequence[str], title: str) -> Figure:
    """Which class was predicted for the examples of each: shares of a row, and counts where there is room for them.

    Args:
        confusion: Rows are labels, columns predictions.
        classes: Their names.
        title: What was evaluated.
    """
    k = len(classes)
    size = min(14.0, 2.5 + 0.45 * k)
    figure = Figure(figsize=(size + 0.8, size), dpi=110, layout='constrained')
    panel = figure.subplots()
    shares = confusion / confusion.sum(1, keepdims=True).clip(min=1)
    image = panel.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, ax=panel, format=PercentFormatter(1.0), shrink=0.8, label='of the examples of a class')
    if k <= _MOST_NAMED:
        names = [name if len(name) <= _MOST_LETTERS else f'{name[: _MOST_LETTERS - 1]}…' for name in classes]
        panel.set_xticks(range(k), names, rotation=90)
        panel.set_yticks(range(k), names)
    for i, j in np.ndindex(k, k) if k <= _MOST_NUMBERED else ():
        if confusion[i, j]:
            colour = 'white' if shares[i, j] > 0.55 else 'black'
            panel.text(j, i, f'{confusion[i, j]:,}', ha='center', va='center', color=colour, fontsize=8)
    panel.set(xlabel='predicted', ylabel='label')
    panel.set_title(f'{title}: {int(confusion.trace()):,} of {int(confusion.sum()):,} right', fontsize=10)
    return figure


def _wilson(ratio: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of ratios of n examples. Source: Wilson 1927, https://doi.org/10.2307/2276774."""
    z = 1.96
    middle = (ratio + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(ratio * (1 - ratio) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return middle - half, middle + half
