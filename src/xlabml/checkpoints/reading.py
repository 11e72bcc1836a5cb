"""A path -> a checkpoint: training checkpoints and exported files, read without running code."""

import contextlib
import errno
import json
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from xlabml import bounds
from xlabml.artifacts import checksums
from xlabml.errors import CheckpointError, DamagedError
from xlabml.moved import why_removed
from xlabml.untrusted.archive import check_archive

from . import migrations, schema
from .contents import DATA_STATE, FORMAT, WEIGHTS, Contents, Saved, is_of_lightning, without_loops
from .contents import TOKENIZER as TOKENIZER_KEY

TOKENIZER = f'{DATA_STATE}.{TOKENIZER_KEY}'
"""Name of the tokenizer's tensor in an exported file."""

METADATA = 'xlabml'  # safetensors shuffles several entries, and the file's hash with them, so there is one
_REMEDY = 'give a .ckpt file that fit has written, or a file that export-checkpoint has'


def read(path: str | Path, map_location: str | torch.device | None = 'cpu') -> Saved:
    """Open a training checkpoint or an exported file, as Lightning restores from it; its content tells which it is.

    Args:
        path: The file.
        map_location: The device that the tensors come to; None: the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, cut short, no checkpoint of ours, or one of a later version.
    """
    return _read(Path(path), map_location or 'cpu')


def load(path: str | Path, map_location: str | torch.device | None = 'cpu') -> Contents:
    """Open a training checkpoint or an exported file, part by part; arguments and errors as of `read`."""
    return Contents.of(read(path, map_location))


def look(path: Path) -> Contents:
    """The settings and the counters of a file, whose weights are mapped and not compared with their checksum.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As of `read`.
    """
    return Contents.of(_read(path, 'cpu', mmap=True))


def require_whole(contents: Contents, path: str | Path, training: bool) -> None:
    """Refuse a checkpoint that lacks values which a trainer is restored from.

    Args:
        contents: Of the file.
        path: Where it lies.
        training: Whether a run resumes; else it is evaluated.

    Raises:
        ValueError: Names what is missing, or a setting that a run would need to resume and this version does not have.
    """
    if training and contents.removed:
        raise CheckpointError(
            f'{path} was trained with settings that this version lacks: {why_removed(contents.removed)}. Resume it '
            f'with the version that wrote it, or start a new run from its weights with --init_from {path}'
        )
    try:
        schema.check_complete(contents, training)
    except ValueError as error:
        raise CheckpointError(f'{path} is no whole checkpoint: {error}; {_REMEDY}') from error


def _read(path: Path, map_location: str | torch.device, mmap: bool = False) -> Saved:
    """Read all of a file, compared with its checksum; or, mapped, its settings alone, compared with the archive's."""
    with require_file(path).open('rb') as file:
        head = file.read(9)
    size = path.stat().st_size
    if not head:
        raise DamagedError(f'{path} is empty; copy it again, or choose another checkpoint')
    if head.startswith(b'PK\x03\x04'):
        if not _is_archive(path):
            raise DamagedError(
                f'{path} is cut short, or damaged ({size} bytes); copy it again, or choose another checkpoint'
            )
        with contextlib.nullcontext(True) if mmap else checksums.compared(path) as has_checksum:
            found = _read_zip(path, map_location, mmap)
    elif head[8:] == b'{':
        has_checksum = checksums.compare(path)
        found = _read_safetensors(path, map_location)
    else:
        raise CheckpointError(f'{path} is no checkpoint; {_REMEDY}')
    checkpoint = _migrate(found, path)
    if not has_checksum and isinstance(found, dict) and is_of_lightning(found) and FORMAT not in found:
        checksums.note_old(path, "was saved by Lightning's own Trainer, which writes no checksum")
    elif not has_checksum:
        checksums.note_old(path)
    return checkpoint


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # what it finds at the end makes no sense
        return False


def _read_zip(path: Path, map_location: str | torch.device, mmap: bool) -> object:
    why = 'cannot be read'
    try:
        try:
            check_archive(path)
        except ValueError as error:
            why = f'cannot be read, for {error}'
            raise
        return torch.load(path, map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # a foreign file can fail in any way
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that one is a place that no file has
            raise
        if isinstance(error, pickle.UnpicklingError):
            why = 'holds objects that only running code could open'
        raise CheckpointError(f'{path} is no checkpoint of xlabml: it {why}; {_REMEDY}') from error


def _read_safetensors(path: Path, map_location: str | torch.device) -> object:
    try:
        with safe_open(path, 'pt', str(map_location)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if METADATA in metadata else {}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(
            f'{path} is cut short or damaged ({error}); copy it again, or choose another checkpoint'
        ) from error
    if METADATA not in metadata:
        return None
    try:
        values = json.loads(metadata[METADATA])
        if isinstance(values, dict):
            values.pop(checksums.EXPORT_KEY, None)
        schema.check_export(values)
    except (ValueError, RecursionError) as error:
        why = 'its settings are nested too deep' if isinstance(error, RecursionError) else error
        raise CheckpointError(f'{path} is no exported file of xlabml: {why}; {_REMEDY}') from error
    tokenizer = tensors.pop(TOKENIZER, None)
    own = {} if tokenizer is None else {DATA_STATE: {TOKENIZER_KEY: tokenizer.cpu()}}
    return {**values, WEIGHTS: tensors, **own}


def _migrate(found: object, path: Path) -> Saved:
    checkpoint: Saved = found if isinstance(found, dict) else {}
    number = checkpoint.get(FORMAT)
    if number is None and is_of_lightning(checkpoint):
        checkpoint = without_loops(checkpoint)
        number = migrations.FIRST  # every step leaves what is of today as it is
    if not isinstance(number, int) or isinstance(number, bool):
        raise CheckpointError(
            f'{path} is no checkpoint of xlabml: it has no format number, and is not of a task of xlabml that '
            f"Lightning's own Trainer has saved; {_REMEDY}"
        )
    if number > migrations.FORMAT:
        raise CheckpointError(
            f'{path} has format {bounds.shown(number)}, and this version of xlabml reads formats '
            f'up to {migrations.FORMAT}; update xlabml'
        )
    if number < 0 or any(old not in migrations.MIGRATIONS for old in range(number, migrations.FORMAT)):
        raise CheckpointError(
            f'{path} has format {bounds.shown(number)}, which this version of xlabml does not know; {_REMEDY}'
        )
    while number < migrations.FORMAT:
        checkpoint = migrations.MIGRATIONS[number](checkpoint)
        number += 1
    try:
        schema.check(checkpoint)
    except ValueError as error:
        raise CheckpointError(f'{path} is no whole checkpoint: {error}; {_REMEDY}') from error
    return {**checkpoint, FORMAT: number}


def require_file(path: Path) -> Path:
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; give a checkpoint in it')
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}; check the path, or say 'last' for the newest run's")
    if not path.is_file():
        raise CheckpointError(f'{path} is no file but a pipe or a device; {_REMEDY}')
    return path
