"""The message of a resumed run whose schedule changes its length, and so its learning rate."""

from xlabml.checkpoints import Contents
from xlabml.datamodules import XLabDataModule
from xlabml.engine import DEFAULT_STEPS
from xlabml.models import Task
from xlabml.plain import below
from xlabml.training import parameter_groups


def describe_new_horizon(model: Task, data: XLabDataModule, length: int, checkpoint: Contents) -> str:
    """The old and the new length of the schedule, and the change of the learning rate; '' where it does not change.

    Args:
        model: The task of this run, before it is trained.
        data: Its data.
        length: Its steps; -1 where their number is not known.
        checkpoint: The checkpoint that it resumes from.
    """
    new = model.find_horizon(length, data)
    old = _saved_horizon(data, checkpoint)
    if old is None or new is None or new == old:
        return ''
    step = checkpoint.step
    group = model.optimizer(parameter_groups(model)).param_groups[0]
    name = group.get('name', 'the first group')
    before = checkpoint.learning_rate()
    after = group['lr'] * model.schedule(new)(step)
    if abs(after - before) <= 1e-6 * before:
        return ''
    return (
        f'the schedule is {new:,} steps long, it was {old:,}: the learning rate of {name} '
        f'{"rises" if after > before else "falls"} from {before:.4g} to {after:.4g}'
    )


def _saved_horizon(data: XLabDataModule, checkpoint: Contents) -> int | None:
    """The length of the schedule of the checkpoint's run, by its settings; None where they do not say."""
    if isinstance(n_tokens := checkpoint.task.arguments.get('horizon_tokens'), int):
        return data.steps_of_tokens(n_tokens)
    saved = below(checkpoint.run.settings, 'trainer')
    max_steps, max_epochs, max_time = (saved.get(name) for name in ('max_steps', 'max_epochs', 'max_time'))
    if not isinstance(max_steps, int):
        return None
    if max_steps < 0 and max_epochs is None and max_time is None:
        return DEFAULT_STEPS
    length = data.run_steps(max_steps, max_epochs if isinstance(max_epochs, int) else None)
    return length if length >= 0 else None
