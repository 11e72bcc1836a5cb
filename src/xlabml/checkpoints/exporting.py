"""Exported files: weights, settings and tokenizer, and nothing else, as safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from xlabml import artifacts
from xlabml.artifacts import checksums
from xlabml.artifacts.hashes import hash_file
from xlabml.artifacts.tensors import write_tensors
from xlabml.errors import CheckpointError
from xlabml.finite import find_nonfinite

from .contents import CLASS, EXPORTED, NETWORK, TASK, Contents
from .reading import METADATA, TOKENIZER, read
from .writing import header, part_of


class Export(NamedTuple):
    """An exported file.

    Args:
        path: Where it lies.
        sha256: Hash of the whole file, in hex.
        n_bytes: Its size.
        nonfinite: How many values of each weight are NaN or infinite, where any are.
    """

    path: Path
    sha256: str
    n_bytes: int
    nonfinite: dict[str, int]


def export(path: str | Path, output: str | Path | None = None, replace: bool = False) -> Export:
    """Write weights, settings and tokenizer, and nothing else, as safetensors.

    Args:
        path: The checkpoint.
        output: The file to write; None: beside the checkpoint, its name followed by the start of the hash.
        replace: Whether a file that is there is replaced, atomically; else it is refused.

    Raises:
        FileNotFoundError: There is no such checkpoint, or no folder to write to.
        FileExistsError: The output is there already.
        ValueError: The checkpoint cannot be read, or its settings are not plain.
        OSError: The output cannot be written.
    """
    path = Path(path)
    target = None if output is None else Path(output)
    if target is not None:
        check_target(target, replace)
    return write_export(read(path), path, target, replace)


def check_target(path: Path, replace: bool = False) -> None:
    """Refuse a place where an exported file cannot be written.

    Raises:
        FileNotFoundError: There is no folder to write to.
        FileExistsError: It is there already, and not to be replaced.
    """
    _refuse_existing(path, replace)
    if not path.parent.is_dir():
        raise FileNotFoundError(f'there is no folder {path.parent} to write {path.name} to; make it first')


def write_export(checkpoint: Mapping[str, Any], path: Path, target: Path | None, replace: bool = False) -> Export:
    """Write the exported file of a checkpoint in memory; arguments and errors as of `export`.

    Args:
        checkpoint: As `read` returns it, or `imported`.
        path: Where it is from, for messages and the name.
        target: The file to write; None: beside the path.
        replace: Whether a file that is there is replaced.
    """
    saved = Contents.of(checkpoint)
    contents = saved.merged()
    values = {name: checkpoint[name] for name in EXPORTED if name in checkpoint}
    if contents is not saved:
        values[TASK] = {**contents.task.arguments, CLASS: contents.task.class_path}
        if contents.network is not None:
            values[NETWORK] = contents.network.settings()
    try:
        checksum = {checksums.EXPORT_KEY: checksums.EXPORT_VALUE}
        metadata = {METADATA: json.dumps({**header(), **checksum, **values}, sort_keys=True)}
    except TypeError as error:
        raise CheckpointError(f'the settings in {path} are not plain values ({error}); save the run again') from error
    artifacts.sweep((target or path).parent, (target or path).name)
    try:
        tensors = {**_apart(contents.weights), TOKENIZER: contents.require_tokenizer()}
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}') from error
    with part_of(target or path) as part:
        write_tensors(part, tensors, metadata)
        checksums.seal_export(part)
        digest = hash_file(part)
        target = target or path.with_name(f'{path.stem}-{digest[:8]}.safetensors')
        _refuse_existing(target, replace)
        artifacts.put(part, target, sync=True)
    return Export(target, digest, target.stat().st_size, find_nonfinite(tensors))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none sharing its memory with another, as safetensors asks."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if address in seen else tensor.contiguous()
        seen.add(address)
    return apart


def _refuse_existing(path: Path, replace: bool) -> None:
    if not replace and path.exists():
        raise FileExistsError(f'{path} is there already; delete it, or choose another --output')
