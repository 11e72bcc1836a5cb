"""Runs, as they lie in their folders: settings, rows of training and evaluations, starts and ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from xlabml.telemetry import records
from xlabml.untrusted import yaml_text

_MOST_RUNS = 10
_MOST_UNIT = 40
"""Characters of a unit: what stands in a file is shown to people."""
_EARLIER_UNITS = {'loss': 'nats/token', 'accuracy': '%', 'bits_per_byte': 'bits/byte'}
"""Units of runs whose start does not say any: they were language models."""


class Run(NamedTuple):
    """A run, as far as it has come.

    Args:
        name: What it is called beside others.
        folder: Where it lies.
        settings: Those that it was started with last; {} where none were saved.
        training: A row each so many steps, in their order, one a step.
        evaluations: What `fit` validated, in the order of the steps, one a step.
        others: Evaluations by the commands validate and test, oldest first.
        events: Starts and ends.
        notes: What was wrong with the files.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    training: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    others: list[dict[str, Any]]
    events: list[dict[str, Any]]
    notes: list[str]

    @property
    def start(self) -> dict[str, Any]:
        """What the newest start says of itself; {} before the first."""
        return next((event for event in reversed(self.events) if event.get('event') == 'start'), {})

    @property
    def units(self) -> dict[str, str]:
        """The units of the figures, by name; runs that do not say are language models."""
        found = self.start.get('units')
        if not isinstance(found, dict):
            return dict(_EARLIER_UNITS)
        return {name: unit for name, unit in found.items() if isinstance(unit, str) and len(unit) <= _MOST_UNIT}

    @property
    def monitor(self) -> tuple[str, bool]:
        """The figure that the best validation is known by, and whether smaller is better."""
        found = self.start.get('monitor')
        if isinstance(found, list) and len(found) == 2 and isinstance(found[0], str):
            return found[0], found[1] != 'max'
        return 'val_loss', True


def find_folders(asked: Sequence[str], root: Path) -> list[Path]:
    """The folders of the runs that were asked for.

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
    """Whether `fit` has written rows, or another evaluation, into a folder."""
    names = (records.TRAINING, records.EVALUATION, records.EVENTS)
    return any((folder / name).exists() for name in names) or any(folder.glob('events.out.tfevents.*'))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in some folders, each named by as much of its path as tells it from the others."""
    return [read_run(folder, name) for folder, name in zip(folders, short_names(folders))]


def read_run(folder: Path, name: str) -> Run:
    """A run, from its JSON lines; one that is older than these from its events for TensorBoard."""
    files = [records.read(folder / file) for file in (records.TRAINING, records.EVALUATION, records.EVENTS)]
    training, evaluations, events = (file.rows for file in files)
    notes = []
    if n_broken := sum(file.n_broken for file in files):
        notes.append(f'{n_broken} line(s) were cut off or damaged, and are left out')
    if not (folder / records.TRAINING).exists() and any(folder.glob('events.out.tfevents.*')):
        from .tensorboard import read_events

        training, read = read_events(folder)
        evaluations = evaluations or read
        notes.append(f'without {records.TRAINING}: read from its events for TensorBoard')
    fit = [row for row in evaluations if row.get('command', 'fit') == 'fit']
    return Run(
        name,
        folder,
        _read_settings(folder),
        one_a_step(training),
        one_a_step(fit),
        [row for row in evaluations if row.get('command', 'fit') != 'fit' and isinstance(row.get('step'), int)],
        events,
        notes,
    )


def one_a_step(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by step; of several at one step the last."""
    by_step = {row['step']: row for row in rows if isinstance(row.get('step'), int)}
    return [by_step[step] for step in sorted(by_step)]


def column(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The steps and values of the rows that have a number of this name."""
    pairs = [(row['step'], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def columns(runs: Sequence[Run], prefix: str) -> list[str]:
    """What rows of training have whose names begin with this, in the order of their first appearance."""
    return list(dict.fromkeys(name for run in runs for row in run.training for name in row if name.startswith(prefix)))


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of some paths, as long as it takes to tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    n = 1
    while len({path[-n:] for path in parts}) < len(parts) and n < max(map(len, parts)):
        n += 1
    return ['/'.join(path[-n:]) for path in parts]


def _read_settings(folder: Path) -> dict[str, Any]:
    there = (path for path in folder.glob('config*.yaml') if path.is_file())
    files = sorted(there, key=lambda path: (len(path.name), path.name))  # config.yaml, config-2 …
    try:
        found = yaml_text.load(yaml_text.read(files[-1])) if files else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
