"""Write a report: text, plots, and a self-contained HTML page of both."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from xlabml import artifacts

from . import colours, facts
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKER = 'describe.json'
_CAPTIONS = {
    'loss': 'Loss and bits per byte. The line is the median of the training rows in a window of 3 % of them, the band '
    'their 10–90 % quantiles.',
    'learning_rate': 'Learning rate of each parameter group; norm of the gradient before clipping.',
    'speed': "Useful tokens per second; model FLOPs as a share of the device's peak (MFU); memory.",
    'step_time': 'Time of the parts of the timed steps (the last step of each row).',
    'shares': 'Share of each source in the training tokens.',
    'spectra': 'Singular values of the weights, averaged over the layers.',
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }
th { font-weight: 600; white-space: nowrap; } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 2rem 0; } img { max-width: 100%; background: white; } figcaption { opacity: .75; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
"""


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write `report.txt`, a PNG for each plot and `index.html`; an earlier report of the same runs is replaced.

    Args:
        folder: Created if it does not exist.

    Returns:
        The files, the page last.

    Raises:
        ValueError: The folder has a file of the same name that is not of an earlier report of these runs; or matplotlib
            is not installed.
    """
    try:
        from . import plots
    except ImportError as error:
        raise ValueError("plots need matplotlib, which is not installed: pip install 'xlabml[plots]'") from error
    names = sorted(str(run.folder.absolute()) for run in runs)
    earlier = _earlier(folder, names)
    pngs = {name: _png(figure) for name, figure in plots.draw_all(runs).items()}
    contents = {f'{name}.png': data for name, data in pngs.items()}
    contents |= {'report.txt': facts.text(runs).encode(), 'index.html': page(runs, pngs).encode()}
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


def page(runs: Sequence[Run], pngs: Mapping[str, bytes]) -> str:
    """Facts and plots as one HTML page; text is escaped, images are embedded."""
    said = [facts.facts(run) for run in runs]
    labels = list(dict.fromkeys(label for one in said for label in one))
    heads = ''.join(
        f'<th><span class="swatch" style="background:{colours.of_run(i)}"></span>{escape(run.name)}</th>'
        for i, run in enumerate(runs)
    )
    rows = ''.join(_row(label, [one.get(label, '–') for one in said]) for label in labels)
    figures = ''.join(_picture(name, data) for name, data in pngs.items())
    title = escape(', '.join(run.name for run in runs))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f'<body><h1>{title}</h1>\n<table><tr><th></th>{heads}</tr>\n{rows}</table>\n{figures}</body></html>\n'
    )


def _row(label: str, values: Sequence[str]) -> str:
    cells = ''.join(f'<td>{escape(value)}</td>' for value in values)
    return f'<tr><th>{escape(label)}</th>{cells}</tr>\n'


def _picture(name: str, data: bytes) -> str:
    source = f'data:image/png;base64,{base64.b64encode(data).decode()}'
    image = f'<img alt="{name.replace("_", " ")}" src="{source}">'
    return f'<figure>{image}<figcaption>{escape(_CAPTIONS[name])}</figcaption></figure>\n'


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
    ours = {'report.txt', 'index.html', *(f'{name}.png' for name in _CAPTIONS)}
    files = {name for name in marker['files'] if isinstance(name, str)} & ours
    return {_MARKER, *(name for name in files if (folder / name).is_file() and not (folder / name).is_symlink())}
