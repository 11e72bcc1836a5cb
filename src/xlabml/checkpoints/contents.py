"""The contents and the keys of a checkpoint: no other file reads or writes them (schema.py checks their values).

In memory a checkpoint is the dictionary that Lightning writes and restores from. Some keys are Lightning's; ours stand
beside them. `Contents.of` reads the dictionary, and the functions below write the parts of it that are ours, each from
a hook of Lightning's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from xlabml.errors import CheckpointError
from xlabml.plain import Plain, PlainDict

from .merging import has_adapters, merge_weights, without_adapters

FORMAT = 'xlabml_format'
WEIGHTS = 'state_dict'
TRAINED_WEIGHTS = 'current_model_state'
TASK = 'hyper_parameters'
DATA = 'datamodule_hyper_parameters'
CLASS = '_class_path'  # as settings.py writes it
DATA_STATE = 'XLabDataModule'
TOKENIZER = 'tokenizer'
NETWORK = 'network'
FACTS = 'facts'
REMOVED = 'removed_settings'
GUARDS = 'guards'
SETTINGS = 'config'
RUN_FOLDER = 'run_folder'
RUN_ID = 'run_id'
BEST = 'best_checkpoint'
STEP = 'global_step'
EPOCH = 'epoch'
VERSION = 'pytorch-lightning_version'
CALLBACKS = 'callbacks'
OPTIMIZERS = 'optimizer_states'
SCHEDULES = 'lr_schedulers'
LOOPS = 'loops'
TASK_NAME = 'hparams_name'
DATA_NAME = 'datamodule_hparams_name'

EXPORTED = (VERSION, EPOCH, STEP, TASK, TASK_NAME, DATA, DATA_NAME, NETWORK, FACTS)
"""Plain values that an exported file has beside its tensors."""

Saved: TypeAlias = dict[str, Any]
"""What Lightning writes and restores from, or a part of it: plain values and tensors, whose kinds schema.py checks."""

_OURS = frozenset(
    {WEIGHTS, TASK, DATA, DATA_STATE, NETWORK, FACTS, REMOVED, GUARDS, SETTINGS, RUN_FOLDER, RUN_ID, BEST, FORMAT}
)


class Part(NamedTuple):
    """A class and its arguments.

    Args:
        class_path: Dotted path of the class.
        arguments: Plain values.
    """

    class_path: str
    arguments: PlainDict

    @classmethod
    def of(cls, arguments: Mapping[str, Plain]) -> 'Part':
        """The part of hyper-parameters, among which `settings.keep_arguments` keeps the class."""
        rest = dict(arguments)
        return cls(str(rest.pop(CLASS, '')), rest)

    def settings(self) -> PlainDict:
        """The part as settings have it."""
        return {'class_path': self.class_path, 'init_args': self.arguments}


class SavedRun(NamedTuple):
    """The run that wrote a checkpoint.

    Args:
        settings: The resolved settings; {} where it does not have them.
        folder: Where the run was; None: unknown.
        id: The run's number; None: the run had none.
        best: Name of the file that was the best then; None: there was none.
    """

    settings: PlainDict
    folder: str | None
    id: str | None
    best: str | None


class Contents(NamedTuple):
    """A checkpoint, part by part.

    Args:
        task: The task's class and arguments.
        network: The head's class and arguments, from which the network is built without the task; None: not known.
        facts: Plain values found in the data (classes and their order), or added by the task.
        data: The data module's arguments.
        weights: Tensors of the task, by name.
        tokenizer: Bytes of the tokenizer, as a uint8 tensor; None: the run had no tokenizer.
        place: Where training stands in the data, and a description of that data; {} in an exported file.
        guards: Counters of skipped steps, and the history of clipping.
        run: The run that wrote it.
        training: Lightning's own keys: counters, optimizers, schedules, callbacks.
        removed: Settings of the run that this version does not have, by their dotted names; {}: none.
    """

    task: Part
    network: Part | None
    facts: PlainDict
    data: PlainDict
    weights: dict[str, Tensor]
    tokenizer: Tensor | None
    place: Saved
    guards: Saved
    run: SavedRun
    training: Saved
    removed: PlainDict

    @classmethod
    def of_network(cls, network: Part, weights: Mapping[str, Tensor]) -> 'Contents':
        """A network and its weights, without a task, data or a tokenizer."""
        return cls.of({WEIGHTS: dict(weights)})._replace(network=network)

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> 'Contents':
        """The contents of a checkpoint in memory; missing parts are empty."""
        network = checkpoint.get(NETWORK)
        place = dict(checkpoint.get(DATA_STATE, {}))
        return cls(
            Part.of(checkpoint.get(TASK, {})),
            None if network is None else Part(network['class_path'], dict(network.get('init_args') or {})),
            dict(checkpoint.get(FACTS, {})),
            Part.of(checkpoint.get(DATA, {})).arguments,
            checkpoint.get(WEIGHTS, {}),
            place.pop(TOKENIZER, None),
            place,
            dict(checkpoint.get(GUARDS, {})),
            SavedRun(checkpoint.get(SETTINGS, {}), *(_text(checkpoint.get(key)) for key in (RUN_FOLDER, RUN_ID, BEST))),
            {key: value for key, value in checkpoint.items() if key not in _OURS},
            dict(checkpoint.get(REMOVED, {})),
        )

    def merged(self) -> 'Contents':
        """The same with adapters (LoRA) merged into the weights that they belong to, and none in the arguments.

        Raises:
            ValueError: A tensor of an adapter is missing, or does not fit.
        """
        if not has_adapters(self.weights):
            return self
        network = self.network
        return self._replace(
            task=self.task._replace(arguments=without_adapters(self.task.arguments)),
            network=None if network is None else network._replace(arguments=without_adapters(network.arguments)),
            weights=merge_weights(self.weights),
        )

    @property
    def step(self) -> int:
        """Optimizer steps made."""
        return self.training.get(STEP, 0)

    @property
    def is_export(self) -> bool:
        """Whether there is no optimizer state, so that training cannot resume."""
        return OPTIMIZERS not in self.training

    @property
    def trained_weights(self) -> dict[str, Tensor] | None:
        """The weights that training resumes with, where `weights` are an average of them; None: `weights` are."""
        return self.training.get(TRAINED_WEIGHTS)

    def callback_state(self, key: str) -> Saved:
        """The state of a callback, by its class name; {} where it had none."""
        return self.training.get(CALLBACKS, {}).get(key, {})

    @property
    def optimizers(self) -> list[Saved]:
        """The states of the optimizers; none in an exported file."""
        return self.training.get(OPTIMIZERS, [])

    def learning_rate(self) -> float:
        """The learning rate of the first parameter group at the last step."""
        return self.optimizers[0]['param_groups'][0]['lr']

    def require_tokenizer(self) -> Tensor:
        """The tokenizer, on the CPU.

        Raises:
            ValueError: The checkpoint has none.
        """
        if self.tokenizer is None:
            raise CheckpointError('the checkpoint holds no tokenizer; save it from a run with an XLabDataModule')
        return self.tokenizer.cpu()

    def tokenizer_bytes(self) -> bytes:
        """The tokenizer's model file, as it was when the run began.

        Raises:
            ValueError: The checkpoint has none.
        """
        return self.require_tokenizer().numpy().tobytes()


def _text(value: object) -> str | None:
    """A text that is not empty; None for anything else."""
    return value if isinstance(value, str) and value else None


def is_of_lightning(checkpoint: Mapping[str, Any]) -> bool:
    """Whether Lightning's own Trainer has saved a task of ours: without our format number, which our writer adds."""
    task = checkpoint.get(TASK)
    return VERSION in checkpoint and WEIGHTS in checkpoint and isinstance(task, Mapping) and CLASS in task


def without_loops(checkpoint: Mapping[str, Any]) -> Saved:
    """A checkpoint without the progress of Lightning's loops, for which the step stands."""
    return {name: value for name, value in checkpoint.items() if name != LOOPS}


def imported(
    task: Part, network: Part, data: Part, weights: Mapping[str, Tensor], tokenizer: bytes, version: str
) -> dict[str, Any]:
    """A checkpoint in memory of a network that no run of ours has trained; it has what an exported file has.

    Args:
        task: The task that such networks are of.
        network: The head's class and arguments.
        data: The data module, with the arguments that the network settles.
        weights: Tensors of the task, by name.
        tokenizer: Its bytes.
        version: Of Lightning, which it is read by.
    """
    return {
        VERSION: version,
        EPOCH: 0,
        STEP: 0,
        TASK: {**task.arguments, CLASS: task.class_path},
        DATA: {**data.arguments, CLASS: data.class_path},
        NETWORK: network.settings(),
        WEIGHTS: dict(weights),
        DATA_STATE: pack_data(tokenizer, {}),
    }


# Writing, from Lightning's hooks.


def put_task(checkpoint: Saved, network: Part | None, guards: Mapping[str, object], facts: Mapping[str, Plain]) -> None:
    """Add the values that a task saves beside its weights and arguments; Lightning's loop progress is left out.

    Args:
        checkpoint: To be saved.
        network: How the network is built without the task; None: it cannot be.
        guards: Counters of skipped steps, and the history of clipping.
        facts: Plain values that no argument holds.
    """
    checkpoint.pop(LOOPS, None)
    checkpoint[GUARDS] = dict(guards)
    if facts:
        checkpoint[FACTS] = dict(facts)
    if network is not None:
        checkpoint[NETWORK] = network.settings()


def put_run(checkpoint: Saved, settings: PlainDict, folder: str, run_id: str) -> None:
    """Add the settings, the folder and the number of the run that saves."""
    checkpoint.update({SETTINGS: settings, RUN_FOLDER: folder, RUN_ID: run_id})


def put_best(checkpoint: Saved, name: str | None) -> None:
    """Add the name of the best file so far; None: there is none."""
    checkpoint[BEST] = name


def put_callback(checkpoint: Saved, key: str, **values: object) -> None:
    """Set values in the state of a callback, by its class name."""
    checkpoint[CALLBACKS][key] = {**checkpoint[CALLBACKS].get(key, {}), **values}


def pack_data(tokenizer: bytes, place: Mapping[str, object]) -> Saved:
    """The state of the data module, as Lightning saves it."""
    return {TOKENIZER: torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8), **place}


def unpack_data(state: Mapping[str, object]) -> tuple[bytes, Saved]:
    """The tokenizer's bytes, and the place, from the state of a data module."""
    place = dict(state)
    tokenizer = place.pop(TOKENIZER)
    assert isinstance(tokenizer, Tensor)
    return tokenizer.numpy().tobytes(), place
