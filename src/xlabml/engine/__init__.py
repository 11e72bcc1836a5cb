"""The only room that uses Lightning's internals: trainer, loops, checkpoint files, strategies, the base of tasks."""

from .callback import Callback, own_callbacks
from .checkpoint_io import CheckpointIO
from .deepspeed import DeepSpeed
from .launching import wait_for_children
from .loops import ValidationCut, is_done, set_length, set_max_steps, step_is_over, watch_fetches, will_validate
from .precision import auto_precision
from .run import End, Run
from .sharded import Sharded, shard
from .strategy_choice import check_strategy
from .task import N_READ, DocumentParts, HasTargets, Task
from .trainer import DEFAULT_STEPS, Trainer

__all__ = [
    'DEFAULT_STEPS',
    'N_READ',
    'Callback',
    'CheckpointIO',
    'DeepSpeed',
    'DocumentParts',
    'End',
    'HasTargets',
    'Run',
    'Sharded',
    'Task',
    'Trainer',
    'ValidationCut',
    'auto_precision',
    'check_strategy',
    'is_done',
    'own_callbacks',
    'set_length',
    'set_max_steps',
    'shard',
    'step_is_over',
    'wait_for_children',
    'watch_fetches',
    'will_validate',
]
