"""Load the network of a checkpoint without its task, or its weights into a new network of any task.

The only place that knows how the weights of a task are named: those of its network are `network.…`, of which
`network.loss.…` belong to the loss and not to the trained network; all others are the task's own.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from xlabml import settings
from xlabml.checkpoints import Contents, Part
from xlabml.errors import CheckpointError, SettingsError
from xlabml.finite import require_finite
from xlabml.plain import Plain
from xlabml.untrusted.building import building, naming
from xlabml.untrusted.matching import match_arguments

_NETWORK = 'network.'
_LOSS = 'loss.'
_BLEND = 'blend.'
_OF_THE_LOSS = 'loss'
_MAX_NAMED = 4

_Head = TypeVar('_Head', bound=nn.Module)


def describe_head(head: type[nn.Module], arguments: Mapping[str, Plain]) -> Part:
    """How to build a head, from the arguments of a task that has the head's arguments among its own.

    Args:
        head: A class of heads/, or a user's; its `build`, if it has one, makes it from settings.
        arguments: The task's arguments, in plain values. The loss is left out: it is not part of the trained network.
    """
    taken = inspect.signature(_builder(head)).parameters
    known = {name: value for name, value in arguments.items() if name in taken and name != _OF_THE_LOSS}
    return Part(settings.path_of(head), known)


def network_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network among those of a task, by their names in the network; without those of the loss."""
    named = {name.removeprefix(_NETWORK): tensor for name, tensor in weights.items() if name.startswith(_NETWORK)}
    return {name: tensor for name, tensor in named.items() if not name.startswith(_LOSS)}


def load_network(contents: Contents, path: str | Path, kind: type[_Head]) -> _Head:
    """Build the network of a checkpoint, and load its weights.

    Args:
        contents: The contents of the checkpoint.
        path: Its file, for messages.
        kind: The class of heads that the caller can use: that of the network, or one that it has as a part (its
            attribute `offers` says which: the part's class, and the name of the attribute that it is).

    Returns:
        The network, in evaluation mode, without gradients, on the device of the checkpoint's tensors.

    Raises:
        ValueError: The checkpoint does not describe its network, or names a class that cannot be built; or the weights
            do not fit it, or are NaN or infinite.
    """
    with naming(path):
        contents = contents.merged()
    if contents.network is None:
        raise CheckpointError(f'{path} does not describe its network; load its task, {contents.task.class_path}')
    with building(path, contents.weights):
        head = settings.find_class(contents.network.class_path)
        part = getattr(head, 'offers', {}).get(kind)
        if part is None and not issubclass(head, kind):
            raise CheckpointError(f'{path} holds a {contents.network.class_path}, not a {kind.__name__}')
        build: Callable[..., nn.Module] = _builder(head)
        known = match_arguments(build, contents.network.arguments, 'model')
        network = build(**settings.build_arguments(build, known))
    weights = network_weights(contents.weights)
    prepare_load(network, weights)
    _check_shapes(network, weights, path)
    network.load_state_dict(weights)
    require_finite(dict(network.named_parameters()), path)
    network = network.eval().requires_grad_(False)
    found = network if part is None else getattr(network, part)
    assert isinstance(found, kind)
    return found


def prepare_load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Let the parts of a network whose sizes only a file knows (with a method `prepare_load`) take them from it, before
    shapes are compared.

    Args:
        network: What the weights are of, or its task.
        weights: By their names in it.
    """
    for prefix, module in network.named_modules():
        prepare = getattr(module, 'prepare_load', None)
        if prepare is not None:
            start = f'{prefix}.' if prefix else ''
            prepare({name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)})


class Initialized(NamedTuple):
    """Which weights of a new network were loaded from a file.

    Args:
        loaded: Names of the weights loaded.
        new: Names of the weights that the file does not have.
        unused: Names of the file's weights that the network does not have.
        has_its_tokens: Whether the tokenizer is the file's; else the weights with a row per token are new.
        has_its_outputs: Whether outputs mean what those of the file's network do, all or some; else their weights are
            new.
    """

    loaded: list[str]
    new: list[str]
    unused: list[str]
    has_its_tokens: bool
    has_its_outputs: bool = True

    def describe(self) -> str:
        """One line, for people."""
        parts = [f'{len(self.loaded)} of {len(self.loaded) + len(self.new)} tensors loaded']
        parts += [f'{what}: {_names(names)}' for what, names in (('new', self.new), ('unused', self.unused)) if names]
        other = '' if self.has_its_tokens else '; the tokenizer is another one, so weights with a row per token are new'
        if not self.has_its_outputs:
            other += '; the classes or the head are others, so the weights of the head are new'
        return '; '.join(parts) + other


def initialize(network: nn.Module, contents: Contents, path: str | Path, has_its_tokens: bool) -> Initialized:
    """Load the weights of a checkpoint into a new network, by name; weights without a match stay as they are.

    Args:
        network: A network before training. The weights of its loss, and those of a mixture with a linear model, which
            is fitted to the training split of a run, stay as they are.
        contents: The contents of a checkpoint of any task.
        path: Its file, for messages.
        has_its_tokens: Whether both have the same tokenizer.

    Raises:
        SettingsError: A weight has another shape in the file, or no name matches.
        CheckpointError: A weight is NaN or infinite.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith((_LOSS, _BLEND))}
    saved = network_weights(contents.weights)
    of_tokens: frozenset[str] = frozenset() if has_its_tokens else getattr(network, 'of_vocabulary', frozenset())
    outputs = [name for name in own if name.startswith(getattr(network, 'of_outputs', ()))]
    kept = _kept_outputs(network, contents, outputs) if any(name in saved for name in outputs) else outputs
    left_out = of_tokens | (set(outputs) - set(kept))
    found = {name: saved[name] for name in own if name in saved and name not in left_out}
    if not found:
        raise SettingsError(f'{path} has no weights of this network, whose first is {next(iter(own), "none")}')
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise SettingsError(
                f'the weights in {path} do not fit the network: {name} has shape {tuple(tensor.shape)} there and '
                f'{tuple(own[name].shape)} here; leave model.trunk, data.max_len and data.n_vocab unset, which takes '
                'them from the file'
            )
    require_finite(found, path)
    network.load_state_dict({**network.state_dict(), **found})
    new = [name for name in own if name not in found]
    unused = [name for name in contents.weights if name.removeprefix(_NETWORK) not in found]
    return Initialized(list(found), new, unused, has_its_tokens, bool(kept) or not outputs)


def _kept_outputs(network: nn.Module, contents: Contents, names: Sequence[str]) -> Sequence[str]:
    """The weights of outputs, by their names in the network, that mean the same in a file: none where it has other
    classes, or one of another shape."""
    saved = network_weights(contents.weights)
    own = network.state_dict()
    means_the_same: Callable[[Part | None], bool] = getattr(network, 'has_outputs_of', lambda _: True)
    shared: Callable[[Part | None], tuple[str, ...]] = getattr(network, 'shared_outputs', lambda _: ())
    of_network = contents.network
    kept = names if means_the_same(of_network) else [name for name in names if name.startswith(shared(of_network))]
    return kept if all(name in saved and saved[name].shape == own[name].shape for name in kept) else []


def _names(names: list[str]) -> str:
    """The first few of a list of names."""
    return ', '.join(names[:_MAX_NAMED]) + (f' and {len(names) - _MAX_NAMED} more' if len(names) > _MAX_NAMED else '')


def _builder(head: type[_Head]) -> Callable[..., _Head]:
    """The factory of a head from settings: its method `build`, or the class."""
    return getattr(head, 'build', head)


def _check_shapes(network: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    names = {**own, **saved}
    unfit = [name for name in names if own.get(name) != saved.get(name)]
    if unfit:
        name = unfit[0]
        raise CheckpointError(
            f'the weights in {path} do not fit its settings: {name} has shape {saved.get(name, "none")} in the file, '
            f'and {own.get(name, "none")} by its settings ({len(unfit)} of {len(names)} weights differ); copy the file '
            'again, or choose another'
        )
