"""The files of a folder for or of another library: plain values and tensors."""

import json
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xlabml.errors import CheckpointError

Json: TypeAlias = bool | int | float | str | list['Json'] | dict[str, 'Json'] | None

WEIGHTS = 'model.safetensors'
_MAX_JSON = 1 << 23
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_json(path: Path) -> Json:
    """A small JSON file.

    Raises:
        FileNotFoundError: It is not there.
        CheckpointError: It is no JSON, or larger than any.
    """
    if not path.is_file():
        raise FileNotFoundError(f'there is no {path}; give a folder as transformers or sentence-transformers saves it')
    if path.stat().st_size > _MAX_JSON:
        raise CheckpointError(f'{path} has {path.stat().st_size:,} bytes; no such file has more than {_MAX_JSON:,}')
    try:
        value: Json = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} is no JSON ({str(error)[:200]}); copy the folder again') from error
    return value


def read_object(path: Path) -> dict[str, Json]:
    """A small JSON file of values by name; errors as of `read_json`, or it is something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f'{path} holds no values by name; copy the folder again')
    return value


def write_json(path: Path, value: Json) -> None:
    """Write plain values; the folder of the file is made where it is not there."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + '\n', 'utf-8')


def whole(values: dict[str, Json], name: str, path: Path) -> int:
    """A whole number from 1, of a name.

    Raises:
        CheckpointError: There is none.
    """
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 24:
        shown = 'missing' if name not in values else f'{value!r:.60}'
        raise CheckpointError(f'{name} in {path} is {shown}; it must be a whole number from 1')
    return value


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, in float32 (float64 where they are).

    Raises:
        FileNotFoundError: There are none as safetensors.
        CheckpointError: They cannot be read.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = [file.name for file in sorted(folder.glob('*.bin'))]
        shards = [file.name for file in sorted(folder.glob('*.safetensors*'))]
        there = pickles or shards
        raise FileNotFoundError(
            f'there is no {path}'
            + (f' ({", ".join(there[:3])} is)' if there else '')
            + '; save the weights as one file of safetensors: pickles are not opened, for they can run code, and '
            'several files are not put together'
        )
    try:
        with safe_open(path, 'pt', 'cpu') as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f'{path} is cut short or damaged ({error}); copy it again') from error
    return {
        name: tensor.float() if tensor.dtype in _FLOATS and tensor.dtype != torch.float64 else tensor
        for name, tensor in found.items()
    }
