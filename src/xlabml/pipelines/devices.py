"""The device that a name stands for."""

import torch

from xlabml.errors import NotSupportedError


def find_device(name: str) -> torch.device:
    """The device of a name; for `auto` a GPU if there is one.

    Raises:
        ValueError: The machine has no such device.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise NotSupportedError(
            f'device {name!r} cannot be used here: {str(error).splitlines()[0]}; try cpu'
        ) from error
