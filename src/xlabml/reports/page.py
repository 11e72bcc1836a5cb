"""Write a report: text, pictures, and a self-contained HTML page of both."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xlabml import artifacts

from . import facts
from .html import page
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKER = 'describe.json'
_PICTURES = ('loss', 'learning_rate', 'speed', 'step_time', 'shares', 'spectra')


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write `report.txt`, a PNG for each picture and `index.html`; an earlier report of the same runs is replaced.

    Args:
        folder: Created if it does not exist.

    Returns:
        The files, the page last.

    Raises:
        ValueError: The folder has a file of the same name that is not of an earlier report of these runs; or matplotlib
            is not installed.
    """
    try:
        from . import pictures, plots
    except ImportError as error:
        raise ValueError("plots need matplotlib, which is not installed: pip install 'xlabml[plots]'") from error
    names = sorted(str(run.folder.absolute()) for run in runs)
    earlier = _earlier(folder, names)
    contents = {f'{name}.png': _png(figure) for name, figure in plots.draw_all(runs).items()}
    made = page(runs, pictures.draw_pictures(runs))
    contents |= {'report.txt': facts.text(runs).encode(), 'index.html': made.encode()}
    foreign = [name for name in (*contents, _MARKER) if (folder / name).exists() and name not in earlier]
    if foreign:
        raise ValueError(f'{folder / foreign[0]} exists, and is not of an earlier report; choose another --output')
    folder.mkdir(parents=True, exist_ok=True)
    marker = json.dumps({'runs': names, 'files': list(contents)}, indent=1).encode()
    for name, data in {_MARKER: marker, **contents}.items():
        artifacts.sweep(folder, name)  # partial files of a killed process
        artifacts.write_bytes(folder / name, data)
    for name in earlier - {*contents, _MARKER}:
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in contents]


def _png(figure: 'Figure') -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()


def _earlier(folder: Path, names: list[str]) -> set[str]:
    """The files of an earlier report of the same runs: plain files that its marker lists and that a report can have."""
    if not (folder / _MARKER).is_file():
        return set()
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(marker, dict) or marker.get('runs') != names or not isinstance(marker.get('files'), list):
        return set()
    ours = {'report.txt', 'index.html', *(f'{name}.png' for name in _PICTURES)}
    files = {name for name in marker['files'] if isinstance(name, str)} & ours
    return {_MARKER, *(name for name in files if (folder / name).is_file() and not (folder / name).is_symlink())}
