"""Vectors of texts as a picture, and as files of TensorBoard's projector."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64

from xlabml.artifacts import replacing, write_text

from . import colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OTHERS = 'others'
_MOST_TEXT = 120


def principal_axes(vectors: Float[np.ndarray, 'n d'], k: int = 2) -> tuple[Float64[np.ndarray, 'n k'], float]:
    """Vectors on the k axes of their largest variance, and the share of the variance that these have.

    The sign of an axis is such that its largest coefficient is positive: the same vectors make the same map.
    Source: principal component analysis, Pearson 1901.
    """
    wide = vectors.astype(np.float64)
    centered = wide - wide.mean(axis=0)
    variance, axes = np.linalg.eigh(centered.T @ centered)  # rising
    axes = axes[:, ::-1][:, :k]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    total = variance.sum()
    return centered @ axes, float(variance[::-1][:k].sum() / total) if total > 0 else 0.0


def draw_map(points: Float[np.ndarray, 'n 2'], labels: Sequence[str] | None, title: str) -> 'Figure':
    """A dot a text, coloured by its label; the labels that have most dots get colours of their own."""
    from matplotlib.figure import Figure

    figure = Figure((8.0, 7.0), layout='constrained')
    panel = figure.subplots()
    common = [label for label, _ in Counter(labels or []).most_common(len(colours.RUNS) - 1)]
    named = np.array([label if label in common else OTHERS for label in labels or [OTHERS] * len(points)])
    for label in [OTHERS, *common]:
        dots = points[named == label]
        if not len(dots):
            continue
        colour = '#C8C8C8' if label == OTHERS and labels else colours.of_run(common.index(label) if labels else 0)
        panel.scatter(
            dots[:, 0], dots[:, 1], s=9, color=colour, alpha=0.7, linewidths=0, label=f'{label} ({len(dots)})'
        )
    if labels:
        panel.legend(frameon=False, fontsize='small')
    panel.set_xlabel('first axis')
    panel.set_ylabel('second axis')
    panel.set_title(title, fontsize='medium')
    return figure


def save_map(figure: 'Figure', path: Path) -> None:
    """Write a picture atomically."""
    with replacing(path) as beside:
        figure.savefig(beside, format='png', dpi=150)


def write_projector(
    folder: Path, vectors: Float[np.ndarray, 'n d'], texts: Sequence[str], labels: Sequence[str] | None
) -> None:
    """Write what TensorBoard's projector reads: `tensorboard --logdir FOLDER`, tab PROJECTOR."""
    rows = ('\t'.join(f'{value:.6g}' for value in vector) for vector in vectors)
    write_text(folder / 'vectors.tsv', '\n'.join(rows) + '\n')
    shown = [' '.join(text.split())[:_MOST_TEXT] for text in texts]
    if labels is None:
        lines = shown  # of a single column, which has no head
    else:
        lines = ['label\ttext', *(f'{" ".join(label.split())}\t{text}' for label, text in zip(labels, shown))]
    write_text(folder / 'texts.tsv', '\n'.join(lines) + '\n')
    config = 'embeddings {\n  tensor_name: "texts"\n  tensor_path: "vectors.tsv"\n  metadata_path: "texts.tsv"\n}\n'
    write_text(folder / 'projector_config.pbtxt', config)
