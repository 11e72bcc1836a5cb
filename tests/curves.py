"""Read what a run wrote for TensorBoard."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xlabml.telemetry.tags import tag_of


def read_curve(folder, name):
    """A figure's curve as {step: value}; more than one value a step is an error, superseded ones apart."""
    events = EventAccumulator(str(folder), purge_orphaned_data=True)
    events.Reload()
    points = events.Scalars(tag_of(name))
    assert len({point.step for point in points}) == len(points), f'{name} has several values at one step'
    return {point.step: point.value for point in points}
