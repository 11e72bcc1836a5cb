"""Building from a file: limited by the size of its weights, with errors that name it."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from xlabml import settings
from xlabml.errors import CheckpointError, XLabError

REMEDY = 'copy the file again, or choose another'

_FACTOR = 8
"""Settings that were typed over a checkpoint's may make a model that does not fit it: that is said in detail later."""

_SPARE_ELEMENTS = 1 << 24
_SPARE_PARAMETERS = 1000
_RAW = (
    *(TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
    *(RuntimeError, MemoryError, UnicodeError, ImportError, NameError),
)
"""Errors of code that met values which it does not expect."""


@contextlib.contextmanager
def naming(path: str | Path, what: str = 'cannot be used', remedy: str = '') -> Iterator[None]:
    """Let errors name the file that caused them.

    Args:
        path: The file.
        what: The problem, for errors that do not name one.
        remedy: What to do, for errors that do not say so; empty: they do.

    Raises:
        ValueError: In place of every error that the file has caused.
    """
    try:
        yield
    except ValueError as error:
        if str(path) in str(error) or len(error.args) != 1:
            raise
        kind = type(error) if isinstance(error, XLabError) else CheckpointError
        more = f'; {remedy}' if remedy and ';' not in str(error) else ''
        raise kind(f'{error} (with {path}{more})') from error
    except Exception as error:
        # Lightning's own error, for settings of its Trainer, is known by its name: inference never loads it.
        if not isinstance(error, _RAW) and type(error).__name__ != 'MisconfigurationException':
            raise
        detail = str(error).strip().partition('\n')[0][:200]
        raise CheckpointError(
            f'{path} {what}: {type(error).__name__}{f": {detail}" if detail else ""}; {REMEDY}'
        ) from error


@contextlib.contextmanager
def building(path: str | Path, state_dict: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse to build anything far larger than a file's weights: anyone can write a large size into settings.

    Args:
        path: The file.
        state_dict: Its weights.

    Raises:
        ValueError: What is built is larger, or cannot be.
    """
    n_elements = sum(math.prod(tensor.shape) for tensor in state_dict.values())
    limit = _Limit(path, _FACTOR * n_elements + _SPARE_ELEMENTS, _FACTOR * len(state_dict) + _SPARE_PARAMETERS)
    hook = register_module_parameter_registration_hook(limit.count)
    try:
        with naming(path, 'has settings that nothing can be built from', REMEDY), limit:
            yield
    finally:
        hook.remove()


def try_out(path: str | Path, values: object, run: Callable[[], object]) -> None:
    """Run a model once where a file's settings name classes of torch's: some take no tensor, or make another shape.

    Args:
        path: The file.
        values: Its settings.
        run: Calls the model.

    Raises:
        ValueError: It cannot be run.
    """
    if any(name.startswith('torch.nn.') for name in settings.class_paths(values)):
        with naming(path, 'has parts that do not go together'), torch.no_grad():
            run()


class _Limit(TorchDispatchMode):
    """Refuses to create more than n numbers in tensors, or more than n parameters."""

    def __init__(self, path: str | Path, n_elements: int, n_parameters: int) -> None:
        super().__init__()
        self._path = path
        self._n_elements = n_elements
        self._n_parameters = n_parameters

    def count(self, module: object, name: str, parameter: object) -> None:
        self._n_parameters -= 1
        if self._n_parameters < 0:
            self._refuse()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self._n_elements -= _size(args)
        if func is torch.ops.aten.clone.default:  # torch's own classes copy their layers, which registers none
            assert isinstance(args[0], Tensor)
            self._n_elements -= args[0].numel()
            self.count(None, '', None)
        if self._n_elements < 0:
            self._refuse()
        return func(*args, **(kwargs or {}))

    def _refuse(self) -> None:
        raise CheckpointError(
            f'{self._path} has settings of a model that is far larger than the weights in it; they are not those that '
            f'it was trained with: {REMEDY}'
        )


def _size(args: Sequence[object]) -> int:
    """How many numbers an operation creates that takes no tensor: those of a shape, or of a range."""
    if any(
        isinstance(arg, Tensor) or (isinstance(arg, list | tuple) and any(isinstance(one, Tensor) for one in arg))
        for arg in args
    ):
        return 0
    shapes = [arg for arg in args if isinstance(arg, list | tuple)]
    shape = shapes[0] if shapes else args
    sizes: list[int] = [n for n in shape if isinstance(n, int)]
    return math.prod(map(abs, sizes)) if shape else 0
