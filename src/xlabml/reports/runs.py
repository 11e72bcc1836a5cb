"""Read runs from their folders: settings, rows of training and evaluations, starts and ends."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from xlabml.telemetry import records
from xlabml.telemetry.records import Row
from xlabml.untrusted import yaml_text

_MOST_RUNS = 10
_MOST_UNIT = 40
"""Maximum length of a unit in characters, since files are shown to people."""
_EARLIER_UNITS = {'loss': 'nats/token', 'accuracy': '%', 'bits_per_byte': 'bits/byte'}
"""Units of runs whose start has none: they were language models."""


class Run(NamedTuple):
    """A run, up to its newest row.

    Args:
        name: Its name in a comparison.
        folder: Its folder.
        settings: The settings of its last start; {} where none were saved.
        training: Training rows in the order of steps, one per step.
        evaluations: Validations of `fit` in the order of steps, one per step.
        others: Evaluations by the commands validate and test, oldest first.
        events: Starts and ends.
        notes: Problems with the files.
        samples: Texts that the model generated at validations, in the order of steps.
        configuration: The settings of its last start, as the file that holds them.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    training: list[Row]
    evaluations: list[Row]
    others: list[Row]
    events: list[Row]
    notes: list[str]
    samples: list[Row]
    configuration: str

    @property
    def date(self) -> datetime | None:
        """When its newest line was written; None: it has none with a time."""
        times = [row['time'] for row in [*self.events, *self.training, *self.evaluations] if 'time' in row]
        return max(map(datetime.fromisoformat, times)).astimezone(UTC) if times else None

    @property
    def command_line(self) -> str:
        """What was typed for its newest start; empty where that is not known."""
        return self.start.get('command_line', '')

    @property
    def start(self) -> Row:
        """The event of the newest start; {} before the first."""
        return next((event for event in reversed(self.events) if event.get('event') == 'start'), {})

    @property
    def units(self) -> dict[str, str]:
        """The units of the figures, by name; those of language models where the run has none."""
        found = self.start.get('units')
        if not isinstance(found, dict):
            return dict(_EARLIER_UNITS)
        return {name: unit for name, unit in found.items() if isinstance(unit, str) and len(unit) <= _MOST_UNIT}

    @property
    def monitor(self) -> tuple[str, bool]:
        """The figure that ranks validations, and whether smaller is better."""
        found = self.start.get('monitor')
        if isinstance(found, list) and len(found) == 2 and isinstance(found[0], str):
            return found[0], found[1] != 'max'
        return 'val_loss', True


def find_folders(asked: Sequence[str], root: Path) -> list[Path]:
    """Find the folders of runs.

    Args:
        asked: Each is a run's folder, a folder of several (its newest ten), or `last`: the newest below root.

    Raises:
        FileNotFoundError: There is no run.
    """
    found: list[Path] = []
    for name in asked:
        path = root / 'logs' if name == 'last' else Path(name)
        if path.name == 'checkpoints' or path.is_file():
            path = path.parent
        if not path.is_dir():
            raise FileNotFoundError(f'there is no run {path}; give the folder of one, such as logs/version_0, or last')
        inner = [p for place in (path, path / 'logs') for p in place.glob('version_*') if p.name[8:].isdecimal()]
        runs = [path] if is_run(path) else sorted(filter(is_run, inner), key=lambda p: int(p.name[8:]))
        if not runs:
            raise FileNotFoundError(
                f'{path} holds no run: no {records.TRAINING}, no events for TensorBoard, and none in version_*; '
                'give the folder of a run that fit has begun'
            )
        found += runs[-1:] if name == 'last' else runs[-_MOST_RUNS:]
    return list(dict.fromkeys(found))


def is_run(folder: Path) -> bool:
    """Whether a folder has rows of `fit`, or of another evaluation."""
    names = (records.TRAINING, records.EVALUATION, records.EVENTS)
    return any((folder / name).exists() for name in names) or any(folder.glob('events.out.tfevents.*'))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in a list of folders, each named by the shortest distinct end of its path."""
    return [read_run(folder, name) for folder, name in zip(folders, short_names(folders))]


def read_run(folder: Path, name: str) -> Run:
    """A run, from its JSON lines, or from its events for TensorBoard where it has none (earlier versions)."""
    names = (records.TRAINING, records.EVALUATION, records.EVENTS, records.SAMPLES)
    files = [records.read(folder / file) for file in names]
    training, evaluations, events, samples = (file.rows for file in files)
    notes = []
    if n_broken := sum(file.n_broken for file in files):
        notes.append(f'{n_broken} line(s) are cut off or damaged, and are left out')
    if not (folder / records.TRAINING).exists() and any(folder.glob('events.out.tfevents.*')):
        from .tensorboard import read_events

        training, read = read_events(folder)
        evaluations = evaluations or read
        notes.append(f'without {records.TRAINING}: read from its events for TensorBoard')
    fit = [row for row in evaluations if row.get('command', 'fit') == 'fit']
    settings, configuration = _read_settings(folder)
    return Run(
        name,
        folder,
        settings,
        one_per_step(training),
        one_per_step(fit),
        [row for row in evaluations if row.get('command', 'fit') != 'fit' and isinstance(row.get('step'), int)],
        events,
        notes,
        [sample for sample in one_per_step(samples) if isinstance(sample.get('text'), str)],
        configuration,
    )


def one_per_step(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order of steps; the last of several at one step."""
    by_step = {row['step']: row for row in rows if isinstance(row.get('step'), int)}
    return [by_step[step] for step in sorted(by_step)]


def column(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """The steps and values of the rows with a number of this name."""
    pairs = [(row['step'], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def columns(runs: Sequence[Run], prefix: str) -> list[str]:
    """Names in training rows that begin with a prefix, in the order of their first appearance."""
    return list(dict.fromkeys(name for run in runs for row in run.training for name in row if name.startswith(prefix)))


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that are distinct."""
    parts = [folder.absolute().parts for folder in folders]
    n = 1
    while len({path[-n:] for path in parts}) < len(parts) and n < max(map(len, parts)):
        n += 1
    return ['/'.join(path[-n:]) for path in parts]


def _read_settings(folder: Path) -> tuple[dict[str, Any], str]:
    """The settings of the last start, and their file's text; {} and '' where there are none."""
    there = (path for path in folder.glob('config*.yaml') if path.is_file())
    files = sorted(there, key=lambda path: (len(path.name), path.name))  # config.yaml, config-2 …
    try:
        text = yaml_text.read(files[-1]) if files else ''
        found = yaml_text.load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}, ''
    return (found, text) if isinstance(found, dict) else ({}, '')
