"""How long texts are, as a histogram: in letters for a terminal, and as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

_BAR_WIDTH = 40
_BINS_PER_OCTAVE = 6


def count_lengths(lengths: Int64[np.ndarray, ' n']) -> list[tuple[int, int, int]]:
    """How many lengths lie from one power of two to below the next: (first, last, count), without empty ends.

    Args:
        lengths: Each at least 1.
    """
    counts = np.bincount(np.frexp(lengths)[1] - 1)
    used = np.flatnonzero(counts)
    return [(1 << i, (2 << i) - 1, int(counts[i])) for i in range(used[0], used[-1] + 1)] if len(used) else []


def format_histogram(counts: Sequence[tuple[int, int, int]]) -> list[str]:
    """A line for each stretch of lengths, with a bar; the longest is as wide as it gets."""
    most = max((count for _, _, count in counts), default=1)
    width = max((len(f'{last:,}') for _, last, _ in counts), default=1)
    return [
        f'{first:>{width},} to {last:>{width},} {"#" * -(-count * _BAR_WIDTH // most):{_BAR_WIDTH}} {count:,}'
        for first, last, count in counts
    ]


def check_picture(path: Path) -> None:
    """Raise an error, before any work, if a picture cannot be written there: nothing is overwritten."""
    if path.suffix.lower() not in ('.png', '.svg', '.pdf'):
        raise ValueError(f'{path} is no picture that can be written; let its name end in .png, .svg or .pdf')
    if path.exists():
        raise FileExistsError(f'{path} exists and is not overwritten; name another file')
    if not path.parent.is_dir():
        raise ValueError(f'there is no folder {path.parent} to write {path.name} to; make it first')
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'a picture needs the package matplotlib ({error}): pip install "xlabml[plots]", or leave it out'
        ) from error


def plot_histogram(lengths: Int64[np.ndarray, ' n'], row_length: int, title: str, path: Path) -> None:
    """Draw how many texts have how many tokens, and which share of all tokens lies in texts up to each length.

    Args:
        lengths: Tokens of each text, at least 1.
        row_length: Where a row ends, marked.
        title: What stands above.
        path: The file; nothing may be there.
    """
    check_picture(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, PercentFormatter

    low = np.log2(int(lengths.min()))
    high = np.log2(int(lengths.max()) + 1)
    edges = np.unique(np.ceil(2 ** np.linspace(low, high, int(np.ceil((high - low) * _BINS_PER_OCTAVE)) + 1)))
    ordered = np.sort(lengths)
    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes = figure.subplots()
    axes.hist(lengths, bins=edges.tolist(), color='tab:blue', alpha=0.8)
    axes.set(xscale='log', xlabel='tokens of a text', ylabel='texts', title=title, xlim=(edges[0], edges[-1]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.axvline(row_length, color='tab:red', linestyle='--', label=f'length of a row, {row_length:,}')
    share = axes.twinx()
    share.plot(ordered, np.cumsum(ordered) / ordered.sum(), color='tab:orange', label='share of the tokens')
    share.set(ylim=(0, 1), ylabel='tokens in texts up to this length')
    share.yaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc='outside lower center', ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
