"""The base class of tasks that fine-tune a trunk: frozen parts, and learning rates by layer."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from xlabml.engine import Task
from xlabml.errors import SettingsError
from xlabml.training import decay_rates, parameter_groups, split_by_depth
from xlabml.transformer import LowRankLinear, Trunk

_WAYS = 'none, all, bottom:n as in bottom:{}, gradual:n as in gradual:100, or gradual:a,b,c as in gradual:100,200'


class Freezing:
    """Which layers of a trunk are frozen at a step. Layer 0 is the embeddings; the blocks follow from the lowest on.

    Args:
        trunk: Of the network.
        freeze: As in Classifier.

    Raises:
        SettingsError: The trunk has nothing of the kind to freeze.
    """

    def __init__(self, trunk: Trunk, freeze: str) -> None:
        self.layers = [nn.ModuleList(trunk.list_embeddings()), *trunk.list_blocks()]
        n_blocks = len(self.layers) - 1
        kind, _, numbers = freeze.partition(':')
        self.always: list[nn.Module] = []  # frozen at every step
        self.ends: list[int] = []  # of gradual: the step from which on the i-th layer from the top is trained
        if freeze == 'none':
            return
        if freeze == 'all':
            if any(isinstance(part, LowRankLinear) for part in trunk.modules()):
                raise SettingsError(
                    'model.freeze is all, which holds the adapters too; leave it out: with model.trunk.adapters the '
                    'weights of the trunk are frozen as they are'
                )
            self.always = [trunk]
            return
        if kind == 'bottom' and numbers.isdecimal():
            n = int(numbers)
            if n > n_blocks:
                raise SettingsError(
                    f'model.freeze is {freeze!r}, but the trunk has {n_blocks} blocks; give at most that many'
                )
            self.always = self.layers[: n + 1]
            return
        steps = numbers.split(',')
        if kind != 'gradual' or not all(step.isdecimal() and int(step) for step in steps):
            raise SettingsError(f'model.freeze is {freeze!r}; give {_WAYS.format(n_blocks // 2)}')
        ends = [int(step) for step in steps]
        if len(ends) == 1:
            ends = [ends[0] * (i + 1) for i in range(n_blocks + 1)]
        if sorted(ends) != ends or len(ends) > n_blocks + 1:
            raise SettingsError(
                f'model.freeze is {freeze!r}; give steps in their order, at most {n_blocks + 1}: of each block from '
                'the top, and of the embeddings'
            )
        self.ends = ends

    def at(self, step: int) -> Sequence[nn.Module]:
        """The frozen modules after a number of optimizer steps."""
        if not self.ends:
            return self.always
        n_trained = sum(end <= step for end in self.ends)
        return self.layers[: len(self.layers) - n_trained]


class TrunkTask(Task):
    """A task with a trunk; its constructor calls `tune_trunk` once the network is there.

    Frozen parts are in evaluation mode while a run trains, have no gradient, and stay as they are to the last bit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.freezing: Freezing | None = None
        self.frozen: Sequence[nn.Module] = ()
        self.layer_decay = 1.0
        self._holds_frozen = False

    def tune_trunk(self, trunk: Trunk, freeze: str, layer_decay: float) -> None:
        """Freeze parts of the trunk, and set the rates of its layers.

        Args:
            trunk: Of the network.
            freeze: As in Classifier.
            layer_decay: As in Classifier.

        Raises:
            SettingsError: There is nothing of the kind to freeze, or the factor is out of range.
        """
        if not 0 < layer_decay <= 1:
            raise SettingsError(f'model.layer_decay is {layer_decay}; give a factor above 0, at most 1')
        self.layer_decay = layer_decay
        self.freezing = Freezing(trunk, freeze)
        self.frozen = tuple(self.freezing.always)
        for part in self.frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> 'TrunkTask':
        """Once a run trains, frozen parts are never in training mode: no dropout changes their output."""
        super().train(mode)
        for part in self.frozen if self._holds_frozen else ():
            part.eval()
        return self

    def on_train_start(self) -> None:
        """Hold what is frozen; not before, since Lightning warns of a module that starts in evaluation mode."""
        self._holds_frozen = True
        self.train()

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Thaw the layers whose step has come: which are frozen follows from the step alone, also after a resume."""
        freezing = self.freezing
        if freezing is None or not freezing.ends:
            return
        frozen = tuple(freezing.at(self.trainer.global_step))
        if len(frozen) != len(self.frozen):
            self.frozen = frozen
            self.train()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Drop gradients of layers that are frozen for now: DDP computes those of all weights that it began with."""
        for part in self.frozen:
            for parameter in part.parameters():
                parameter.grad = None
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def build_optimizer(self) -> Optimizer:
        """The optimizer, with the learning rate of each block and of the embeddings.

        Raises:
            SettingsError: Nothing is left to train.
        """
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise SettingsError(
                f'{type(self).__name__} has nothing to train but its trunk, which model.freeze holds; set model.freeze '
                'to none or to bottom:n'
            )
        if self.layer_decay == 1 or self.freezing is None:
            return super().build_optimizer()
        built = self.optimizer(split_by_depth(parameter_groups(self), self.freezing.layers))
        decay_rates(built, self.layer_decay)
        return built
