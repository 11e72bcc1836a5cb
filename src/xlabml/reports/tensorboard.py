"""Read the rows of a run that wrote events for TensorBoard only."""

from datetime import UTC, datetime
from pathlib import Path

from xlabml.telemetry.records import Row
from xlabml.telemetry.tags import name_of


def read_events(folder: Path) -> tuple[list[Row], list[Row]]:
    """Rows of training and of evaluations, as in the JSON lines.

    Raises:
        ValueError: tensorboard is not installed, or the events hold no numbers.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ValueError(f'{folder} has events for TensorBoard only; pip install tensorboard to read them') from error

    events = EventAccumulator(str(folder), size_guidance={'scalars': 0}, purge_orphaned_data=True)
    events.Reload()
    rows: dict[bool, dict[int, Row]] = {True: {}, False: {}}
    for name in events.Tags()['scalars']:
        if name in ('hp_metric', 'epoch'):
            continue
        figure = name_of(name)
        for point in events.Scalars(name):
            row = rows[figure.startswith(('val_', 'test_'))].setdefault(point.step, {'step': point.step})
            row.setdefault('time', datetime.fromtimestamp(point.wall_time, UTC).isoformat())
            row[figure] = point.value
    training, evaluations = ([of[step] for step in sorted(of)] for of in (rows[False], rows[True]))
    if not training and not evaluations:
        raise ValueError(f'{folder} holds no curves: its events have no numbers')
    return training, [
        {'command': 'fit' if any(name.startswith('val_') for name in row) else 'test', **row} for row in evaluations
    ]
