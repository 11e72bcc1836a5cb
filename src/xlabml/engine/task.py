"""The base class of tasks: a network with a loss; training, evaluation, saving and loading are the same for all."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import lightning.pytorch as L
import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from xlabml import checkpoints, settings
from xlabml.batches import Batch, check_batch, layout_lengths
from xlabml.checkpoints import Contents, Part, put_task
from xlabml.errors import SettingsError
from xlabml.evaluation import Evaluator, Monitor, Sums, precise
from xlabml.figures import describe_figures
from xlabml.finite import describe_nonfinite, find_nonfinite
from xlabml.plain import Plain, below
from xlabml.untrusted.building import building, naming
from xlabml.untrusted.matching import match_part

from .gather import RankGather
from .loops import set_steps_done
from .optimization import Optimized
from .sharded import shard

N_READ = 'n_read'
"""The training sum of the tokens that were read, of a task that counts other things."""

_Task = TypeVar('_Task', bound='Task')


@runtime_checkable
class HasTargets(Protocol):
    """A format of examples, as a task checks it: data.Format."""

    targets: ClassVar[type]


class DocumentParts(NamedTuple):
    """Predictions for the documents of a batch, one entry per segment.

    Args:
        documents: Number of the document in the data; -1: padding, which is left out.
        values: Numbers by name, which are summed over the parts of a document.
    """

    documents: Int[Tensor, ' s']
    values: Mapping[str, Tensor]


class Task(Optimized, ABC):
    """A network with its training and evaluation.

    A subclass calls `super().__init__()` first in its constructor, sets `network`, `optimizer` and `schedule`, and
    implements `loss`. Seeding, loss scaling, guards, sums and the evaluation loops are the base class's.

    Attributes:
        network: The module to train. It is called once per micro-batch, so that wrappers (compiled code, DDP, FSDP2)
            see one call.
        formats: The kinds of targets that it trains on; (): any.
        monitor: The figure that `checkpoint.monitor: auto` stands for.
        counted: The unit of its counts, for people: tokens, pairs, examples.
        units: The unit of each figure, for people; `%` shows a ratio as a percentage.
        generates: Whether its network generates text from a prompt, token by token.
        has_one_shape: Whether all batches of a run have one shape, which a compiled network needs.
        from_data: Names of arguments that are facts of the data where they are null: the format of the data fills them
            in before the task is built.
        facts: Further plain values that checkpoints hold, by name; a task can add to them.
        shown_metric: The figure of the newest validation that the progress bar shows.
        checkpoint_step: Optimizer steps of the loaded checkpoint; 0 where none was loaded.
        n_evaluated: The count of the last evaluation.
    """

    network: nn.Module
    formats: ClassVar[tuple[type, ...]] = ()
    monitor: ClassVar[Monitor] = Monitor('val_loss', 'min')
    counted: ClassVar[str] = 'tokens'
    units: Mapping[str, str] = {}
    generates: ClassVar[bool] = False
    has_one_shape: ClassVar[bool] = False
    shown_metric: ClassVar[str] = 'val_loss'
    from_data: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.checkpoint_step = 0
        self.n_evaluated = 0
        self.facts: dict[str, Plain] = {}
        self.evaluators: list[Evaluator] = []
        self._train_names: list[str] = []
        self._train_sums: Tensor | None = None  # since the last row of the curves
        self._step_sums: Tensor | None = None  # of the current step, its objective last
        self._of_loader: list[list[Evaluator]] = []
        self._why_unsaveable = settings.keep_arguments(self)

    @staticmethod
    def of(module: L.LightningModule) -> 'Task':
        """The module, checked to be a task.

        Raises:
            TypeError: It is not a task.
        """
        if not isinstance(module, Task):
            raise TypeError(f'{type(module).__name__} is no xlabml.engine.Task, which this callback requires')
        return module

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__('network' if name == 'model' else name, value)

    @property
    def model(self) -> nn.Module:
        """An earlier name of `network`, for users' tasks."""
        return self.network

    @property
    def counts_tokens(self) -> bool:
        """Whether its counts are of tokens, as those of a language model; else the tokens that it reads are counted
        beside them, padding aside."""
        return self.counted.endswith('tokens')

    # To override

    @abstractmethod
    def loss(self, batch: Batch) -> Sums:
        """The sums of a batch: objective, count, and named sums for the curves."""

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Training figures of a row of the curves, from sums over its steps: `objective`, `count` and named ones."""
        return {'loss': sums['objective'] / (sums['count'] or math.nan)}

    def outputs(self, batch: Batch) -> object:
        """The input of the evaluators for a batch; by default the sums of its loss."""
        return self.loss(batch)

    def predictions(self, batch: Batch) -> DocumentParts:
        """The predictions of `predict` for the documents of a batch.

        Raises:
            SettingsError: This task has no predictions for documents.
        """
        raise SettingsError(f'{type(self).__name__} scores no documents; xlab predict is for tasks that do')

    def merge(self, totals: Mapping[str, float]) -> dict[str, object]:
        """The prediction of a document, from its values summed over its parts."""
        return dict(totals)

    @classmethod
    def check_format(cls, examples: HasTargets) -> None:
        """Raise SettingsError where this task cannot train on the examples of a format; called before work starts.

        Args:
            examples: The format of the data, the setting `data.examples`; its `targets` is a kind of targets.
        """
        parts = getattr(examples, 'parts', ())
        for part in parts:
            cls.check_format(part)
        if not parts and cls.formats and examples.targets not in cls.formats:
            kinds = ' or '.join(kind.__name__ for kind in cls.formats)
            raise SettingsError(
                f'data.examples is {type(examples).__name__}, which yields {examples.targets.__name__}, but '
                f'{cls.__name__} trains on {kinds}; choose another format in data.examples, or another model'
            )

    def check_batch(self, batch: Batch) -> None:
        """Raise ValueError where this task cannot use a batch, which is still in the host's memory."""

    def open_files(self) -> None:
        """Open what training and evaluation read beside the data, such as another model; called before work starts.

        Raises:
            SettingsError: A file is not there or cannot be used, or two evaluators have one name.
        """
        known: set[str] = set()
        for evaluator in self.evaluators:
            evaluator.open()
            names = evaluator.names() or []
            if evaluator.has_own_examples and not known.isdisjoint(names):
                raise SettingsError(
                    f'model.evaluators has two that report {next(name for name in names if name in known)}; give one '
                    'of them another name'
                )
            known.update(names)

    def try_network(self) -> None:
        """Run the network once on the smallest input, to check that its parts fit; optional."""

    def describe(self, figures: Mapping[str, float], width: int | None = None) -> str:
        """One line of figures, those with a unit first, without those of tables; width as in describe_figures."""
        return describe_figures(figures, self.units, width)

    def progress(self, row: Mapping[str, float]) -> str:
        """A short text for the progress bar, from the newest training row."""
        return f'loss {row["train_loss"]:.3f}' if 'train_loss' in row else ''

    def figure_names(self) -> list[str] | None:
        """Names of the figures of an evaluation, without `val_` and `test_`; None: unknown before the first one."""
        names = [evaluator.names() for evaluator in self.evaluators]
        return None if not names or None in names else [name for some in names for name in some or ()]

    def setup(self, stage: str) -> None:
        """Refuse data whose examples this task cannot train on."""
        examples = getattr(getattr(self.trainer, 'datamodule', None), 'examples', None)
        if examples is not None:
            self.check_format(examples)

    # A step

    def _on_before_batch_transfer(self, batch: object, dataloader_idx: int = 0) -> object:
        """Check a batch while it is in the host's memory.

        Not the hook without the underscore: Lightning warns where a data module has it as well.
        """
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        if isinstance(batch, Batch):
            check_batch(batch)
            self.check_batch(batch)
        elif type(self).training_step is Task.training_step:
            raise ValueError(
                f'a batch is a {type(batch).__name__}, but {type(self).__name__} trains on xlabml.batches.Batch; make '
                'one of rows of token ids with xlabml.batches.batch_of_rows, as the collate_fn of a DataLoader'
            )
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """This micro-batch's share of the step's loss, scaled so that the shares sum to the mean."""
        torch.manual_seed(batch.seed)
        self.step_is_empty = not batch.n_counted
        sums = self.loss(batch)
        row = torch.cat([sums.stack(), sums.objective.detach().to(precise(sums.objective.device)).view(1)])
        if not self.counts_tokens:
            row = torch.cat([row, layout_lengths(batch.ids, batch.layout).sum().to(row).view(1)])
        self._train_names = sums.names
        self._step_sums = row if self._step_sums is None else self._step_sums + row
        # Lightning divides by the accumulation, DDP by the number of ranks; both are undone, to divide by n_counted.
        n_shares = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return self.spoil_unless_finite(sums.objective * (n_shares / (batch.n_counted or 1)))

    @staticmethod
    def spoil_unless_finite(loss: Float[Tensor, '']) -> Float[Tensor, '']:
        """Make all gradients NaN where the loss is not finite, so that every rank finds it in its gradient."""
        return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)

    def count_step(self, is_skipped: Bool[Tensor, '']) -> None:
        """Add the step's sums to the next training row; skipped steps are left out of the curves."""
        row = self._step_sums
        self._step_sums = None
        if row is not None:
            is_counted = row.isfinite().all() & ~is_skipped.to(row.device)
            counted = torch.where(is_counted, row, 0.0)
            self._train_sums = counted if self._train_sums is None else self._train_sums + counted

    @property
    def train_sums(self) -> dict[str, float]:
        """Training sums since the last call of `take_train_sums`, on this rank; {} before the first step."""
        return {} if self._train_sums is None else dict(zip(self._sum_names, self._train_sums.tolist()))

    @property
    def _sum_names(self) -> list[str]:
        return [*(self._train_names or ['count']), 'objective', *([] if self.counts_tokens else [N_READ])]

    def take_train_sums(self) -> dict[str, float]:
        """Training sums since the last call, over all ranks: the named ones, `count` and `objective`; and N_READ of a
        task that counts other things than tokens."""
        empty = torch.zeros(len(self._sum_names), dtype=precise(self.device), device=self.device)
        sums = self._train_sums
        self._train_sums = None
        return dict(zip(self._sum_names, RankGather(self.trainer).total(empty if sums is None else sums).tolist()))

    # Evaluation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._update(batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._update(batch, dataloader_idx)

    def on_validation_epoch_start(self) -> None:
        self._start()

    def on_test_epoch_start(self) -> None:
        self._start()

    def on_validation_epoch_end(self) -> None:
        self._finish('val')

    def on_test_epoch_end(self) -> None:
        self._finish('test')

    def predict_step(self, batch: Batch, batch_idx: int) -> DocumentParts:
        return self.predictions(batch)

    def _start(self) -> None:
        """Assign evaluators to loaders: the first loader has the examples of the split, each other one those of an
        evaluator with its own examples, in their order."""
        on_split = [evaluator for evaluator in self.evaluators if not evaluator.has_own_examples]
        self._of_loader = [on_split, *([evaluator] for evaluator in self.evaluators if evaluator.has_own_examples)]
        for evaluator in self.evaluators:
            evaluator.start()

    def _update(self, batch: Batch, dataloader_idx: int) -> None:
        if dataloader_idx:
            [evaluator] = self._of_loader[dataloader_idx]
            evaluator.update(evaluator.outputs_of(self, batch), batch)
            return
        outputs = self.outputs(batch)
        for evaluator in self._of_loader[0]:
            if evaluator.reads(batch):
                evaluator.update(outputs, batch)

    def _finish(self, stage: str) -> None:
        gather = RankGather(self.trainer)
        figures: dict[str, float] = {}
        for evaluator in self.evaluators:
            figures |= evaluator.result(gather)
            if stage == 'val':
                self.facts |= evaluator.facts
        self.n_evaluated = next((evaluator.n_counted for evaluator in self.evaluators if evaluator.n_counted), 0)
        # Not logged here: the callback of the curves writes them, at their step.
        self.log_dict({f'{stage}_{name}': value for name, value in figures.items()}, logger=False, sync_dist=True)

    # Several devices

    def configure_model(self) -> None:
        """Shard the network over the ranks, where the strategy is `xlabml.engine.Sharded`."""
        if self.device_mesh is None:
            return
        dtype = torch.bfloat16 if self.trainer.precision == 'bf16-mixed' else None
        for part in self.children():
            if any(True for _ in part.parameters()):
                shard(part, self.device_mesh['data_parallel'], dtype)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Save the task's parts of a checkpoint; the step stands for the progress of Lightning's loops.

        Raises:
            ValueError: This task was built from parts that no checkpoint can hold.
        """
        if self._why_unsaveable:
            raise ValueError(f'this {type(self).__name__} cannot be saved: {self._why_unsaveable}')
        guards: dict[str, object] = {'skipped': self.skipped.tolist()}
        if self.clip is not None:
            guards['clip'] = self.clip.state_dict()
        put_task(checkpoint, self.describe_network(), guards, self.facts)

    def describe_network(self) -> Part | None:
        """How to build the network without the task, kept in checkpoints; None: only the task can build it."""
        return None

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Set Lightning's counters to the checkpoint's step, as a new epoch over the remaining rows.

        The state of the loops is not saved, so that a run can resume with another accumulation or number of devices.

        Raises:
            ValueError: The weights do not fit this model (the message names the settings that differ), or it has
                another optimizer.
        """
        contents = Contents.of(checkpoint)
        self.check_weights(contents)
        self.checkpoint_step = contents.step
        self.facts = {**contents.facts, **self.facts}
        if self._trainer is not None and self.trainer.state.fn == 'fit':
            self._check_optimizer(contents)
            self.skipped = torch.tensor(contents.guards.get('skipped', [0, 0]))
            if self.clip is not None and 'clip' in contents.guards:
                self.clip.load_state_dict(contents.guards['clip'])
            set_steps_done(self.trainer, self.checkpoint_step)

    def _check_optimizer(self, checkpoint: Contents) -> None:
        saved = below(checkpoint.task.arguments, 'optimizer').get('class_path')
        now = below(self.hparams, 'optimizer').get('class_path')
        if saved != now:
            raise SettingsError(
                f'model.optimizer is {now}, but the checkpoint was trained by {saved}, whose state it cannot use; '
                f'resume with {saved}, or start a new run'
            )

    def check_weights(self, checkpoint: Contents) -> None:
        """Raise ValueError, naming the settings that differ, if a checkpoint's weights do not fit."""
        own = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        saved = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
        names = {**own, **saved}
        unfit = [name for name in names if own.get(name) != saved.get(name)]
        if unfit:
            changed = differences(checkpoint.task.settings(), Part.of(self.hparams).settings(), 'model')
            raise SettingsError(
                f'the checkpoint does not fit the model: {unfit[0]} has shape {saved.get(unfit[0], "none")} there and '
                f'{own.get(unfit[0], "none")} here ({len(unfit)} of {len(names)} weights differ). Settings that '
                f'differ: {"; ".join(changed) or "none that was saved"}. Leave them as they were, or start a new run'
            )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls: type[_Task],
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = 'cpu',
        **overrides: object,
    ) -> _Task:
        """Build the task of a training checkpoint or an exported file, and load its weights.

        Args:
            checkpoint_path: A file of either kind.
            map_location: The device to load it to.
            overrides: Constructor arguments to use instead of the saved ones.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no checkpoint of ours, or one of another task.
        """
        checkpoint = checkpoints.read(checkpoint_path, map_location)
        contents = Contents.of(checkpoint)
        with building(checkpoint_path, contents.weights):
            path, values = match_part(contents.task.settings(), Task, 'model')
            found = settings.find_class(path)
            if not issubclass(found, cls):
                raise ValueError(f'{checkpoint_path} holds a {found.__name__}, not a {cls.__name__}')
            model = found(**{**settings.build_arguments(found, values), **overrides})
        with naming(checkpoint_path):
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(contents.weights)
        if found_nonfinite := find_nonfinite(dict(model.named_parameters())):
            rank_zero_warn(f'{checkpoint_path} has weights that are not finite: {describe_nonfinite(found_nonfinite)}')
        return model.to(map_location)


def differences(saved: object, now: object, name: str) -> list[str]:
    """The differences of two sets of settings, for people: `model.trunk.d_model was 16, is 32`."""
    if isinstance(saved, dict) and isinstance(now, dict):
        found = []
        for key in {**saved, **now}:
            path = name if key == 'init_args' else f'{name}.{key}'
            found += differences(saved.get(key), now.get(key), path)
        return found
    return [] if saved == now else [f'{name} was {saved}, is {now}']
