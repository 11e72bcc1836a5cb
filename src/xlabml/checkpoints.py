"""A path <-> plain values: training checkpoints and exported files, read without running code, written all or nothing.

A checkpoint is a dict of plain values and tensors. `state_dict` holds the weights, `hyper_parameters` the settings of
the task (its class under `_class_path`), `datamodule_hyper_parameters` those of the data, `XLabDataModule` the
tokenizer's bytes as a uint8 tensor; the rest is what training needs to go on. An exported file holds the first four in
safetensors, and opens wherever a training checkpoint does. This file knows no class of ours.
"""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import re
import shlex
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xlabml import artifacts, bounds, checksums
from xlabml.finite import find_nonfinite
from xlabml.untrusted import schema
from xlabml.untrusted.archive import check_archive

FORMAT = 2
"""The format that this version writes."""


def _rename_network(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A task's network was its attribute `model`; so were averaged weights, and the trained ones beside them."""
    renamed = dict(checkpoint)
    for key in ('state_dict', 'current_model_state'):
        weights = checkpoint.get(key)
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            continue  # refused by what checks a migrated checkpoint
        if not any(name.startswith('network.') for name in weights):
            renamed[key] = {re.sub(r'\Amodel\.', 'network.', name): weight for name, weight in weights.items()}
    return renamed


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _rename_network}
"""What turns a checkpoint of a format into one of the next."""

_TOKENIZER = 'XLabDataModule.tokenizer'  # the tensor's name in an exported file
_METADATA = 'xlabml'  # safetensors shuffles several entries, and the file's hash with them, so there is one
_WRITTEN = re.compile(r'step=(\d{1,18})(-[\w.+-]+=[\w.+-]+)?\.ckpt')
_EXPORTED_VALUES = (
    'pytorch-lightning_version',
    'epoch',
    'global_step',
    'hyper_parameters',
    'hparams_name',
    'datamodule_hyper_parameters',
    'datamodule_hparams_name',
)


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


def dump(checkpoint: dict[str, Any], file: Any) -> None:
    """Write a checkpoint into an open file, as `write` does, with its checksum; only the file's `write` is called."""
    archive = checksums.SealedArchive(file)
    torch.save({**checkpoint, **_header()}, archive)  # type: ignore[arg-type]
    archive.seal()


def read(path: str | Path, map_location: str | torch.device | None = 'cpu') -> dict[str, Any]:
    """Open a training checkpoint or an exported file; its content, not its name, tells which it is.

    Args:
        path: The file.
        map_location: The device that the tensors come to; None: the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, cut short, no checkpoint of ours, or one of a later version.
    """
    return _read(Path(path), map_location or 'cpu')


def require_whole(checkpoint: dict[str, Any], path: str | Path, training: bool) -> None:
    """Refuse a checkpoint that lacks what a trainer is restored from.

    Args:
        checkpoint: As `read` returns it.
        path: Where it lies.
        training: Whether a run resumes; else it is evaluated.

    Raises:
        ValueError: Names what is missing.
    """
    try:
        schema.check_complete(checkpoint, training)
    except ValueError as error:
        raise ValueError(f'{path} is no whole checkpoint: {error}; {_REMEDY}') from error


def write(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Save a checkpoint, or leave the path as it was.

    Raises:
        OSError: It cannot be written, for example because the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path) as part:
        with part.open('wb') as file:
            dump(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        _rename(part, path)


def is_export(checkpoint: dict[str, Any]) -> bool:
    """Whether it holds no optimizer, so that training cannot go on from it."""
    return 'optimizer_states' not in checkpoint


def export(path: str | Path, output: str | Path | None = None) -> Export:
    """Write weights, settings and tokenizer, and nothing else, as safetensors.

    Args:
        path: The checkpoint.
        output: The file to write; None: beside the checkpoint, its name followed by the start of the hash.

    Raises:
        FileNotFoundError: There is no such checkpoint, or no folder to write to.
        FileExistsError: The output is there already.
        ValueError: The checkpoint cannot be read, or its settings are not plain.
        OSError: The output cannot be written.
    """
    path = Path(path)
    target = None if output is None else Path(output)
    if target is not None:
        _refuse_existing(target)
        if not target.parent.is_dir():
            raise FileNotFoundError(f'there is no folder {target.parent} to write {target.name} to; make it first')
    checkpoint = read(path)
    values = {name: checkpoint[name] for name in _EXPORTED_VALUES if name in checkpoint}
    try:
        checksum = {checksums.EXPORT_KEY: checksums.EXPORT_VALUE}
        metadata = {_METADATA: json.dumps({**_header(), **checksum, **values}, sort_keys=True)}
    except TypeError as error:
        raise ValueError(f'the settings in {path} are not plain values ({error}); save the run again') from error
    artifacts.sweep((target or path).parent, (target or path).name)
    try:
        tensors = {**_apart(checkpoint['state_dict']), _TOKENIZER: _tokenizer_tensor(checkpoint)}
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    with _part(target or path) as part:
        save_file(tensors, part, metadata)
        checksums.seal_export(part)
        with part.open('rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
            os.fsync(file.fileno())
        target = target or path.with_name(f'{path.stem}-{digest[:8]}.safetensors')
        _refuse_existing(target)
        _rename(part, target)
    return Export(target, digest, target.stat().st_size, find_nonfinite(tensors))


def find(ckpt: str, root: Path, class_path: str | None = None, typed: str = '{}') -> Path:
    """Turn what a user typed into the path of a checkpoint.

    Args:
        ckpt: A path, or `last`: the newest file of the newest run (the highest `version_N`) that has one, or `best`:
            the best of that run.
        root: The folder that holds `logs`.
        class_path: Look only at runs of this task.
        typed: How another path is typed in its place, `--ckpt_path {}` for example.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A checkpoint that must be looked into cannot be read; another one of its run is named.
    """
    if ckpt not in ('last', 'best'):
        return _require_file(Path(ckpt))
    runs = [run for run in root.glob('logs/version_*') if run.name.removeprefix('version_').isdecimal()]
    for run in sorted(runs, key=lambda run: int(run.name.removeprefix('version_')), reverse=True):
        if not any(run.glob('checkpoints/*.ckpt')):
            continue
        newest = find_newest(run / 'checkpoints')
        try:
            with naming_another(ckpt, newest, typed):
                if class_path is None or _class_path(newest) == class_path:
                    return newest if ckpt == 'last' else find_best(newest)
        except FileNotFoundError:
            if newest.exists():
                raise
            return find(ckpt, root, class_path, typed)  # the run trains on, and has just deleted it for a newer one
    kind = '' if class_path is None else f' of {class_path}'
    raise FileNotFoundError(
        f'there is no checkpoint{kind} in {root.absolute()}/logs/version_*/checkpoints; '
        'train a model with fit, or give the path of a checkpoint'
    )


def _class_path(path: Path) -> str | None:
    return _read(path, 'cpu', mmap=True)['hyper_parameters'].get('_class_path')


def find_newest(folder: Path) -> Path:
    """The checkpoint in a folder that was written at the latest step.

    Raises:
        FileNotFoundError: There is none.
    """
    files = by_step(folder)
    if not files:
        raise FileNotFoundError(f'there is no checkpoint in {folder.absolute()}')
    return files[-1]


def by_step(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of the steps that they were written at.

    A copy has a new time, so the name says the step, or what is inside where somebody gave the file another name. Of
    two of one step the one that was validated is later; what cannot be read comes first.
    """
    return sorted((file for file in folder.glob('*.ckpt') if file.is_file()), key=_place)


def _place(file: Path) -> tuple[int, bool, bool, float, str]:
    step, seconds = written_step(file.name), 0.0
    has_own_name = step is not None
    with contextlib.suppress(ValueError, OSError):  # no checkpoint, or deleted by now
        seconds = file.stat().st_mtime
        step = _read(file, 'cpu', mmap=True).get('global_step') if step is None else step
    return step if isinstance(step, int) else -1, has_own_name, '-' in file.name, seconds, file.name


def written_step(name: str) -> int | None:
    """The step of a file that `fit` has written, from its bare name; None: no such name."""
    found = _WRITTEN.fullmatch(name)
    return None if found is None else int(found[1])


def find_best(newest: Path) -> Path:
    """The best checkpoint of the run that a newest one is of.

    Raises:
        FileNotFoundError: It has none, or it is gone.
    """
    return _require_file(newest.with_name(best_name(newest)))


def best_name(path: Path) -> str:
    """The name of the file that was the best of its run when a checkpoint was written.

    Raises:
        FileNotFoundError: There was none.
    """
    name = _read(path, 'cpu', mmap=True).get('best_checkpoint')
    if not isinstance(name, str) or written_step(name) is None:
        raise FileNotFoundError(
            f'{path} knows of no best checkpoint: none had been validated by then, or checkpoint.monitor was null; '
            "say 'last' for the newest one"
        )
    return name


@contextlib.contextmanager
def naming_another(asked: str, path: Path, typed: str = '{}') -> Iterator[None]:
    """While this lasts, what is wrong with a checkpoint that `last` or `best` stood for names another one of its run.

    Args:
        asked: What the user typed; nothing is added where it is a path.
        path: What it stood for.
        typed: How another path is typed in its place.
    """
    try:
        yield
    except ValueError as error:
        if asked not in ('last', 'best') or not str(error).startswith(str(path)):
            raise
        other = _find_another(path)
        if other is None:
            note = f"('{asked}' stands for it, and {path.parent} has no other that opens)"
        else:
            note = f"('{asked}' stands for it). The one before it: {typed.format(shlex.quote(str(other)))}"
        error.args = (f'{error} {note}',)
        raise


def _find_another(path: Path) -> Path | None:
    """The checkpoint before one, else the newest of those after it, that opens."""
    there = by_step(path.parent)
    at = there.index(path) if path in there else len(there)
    for other in [*reversed(there[:at]), *reversed(there[at + 1 :])]:
        with contextlib.suppress(ValueError, OSError):
            _read(other, 'cpu', mmap=True)
            return other
    return None


def tokenizer_bytes(checkpoint: dict[str, Any]) -> bytes:
    """The tokenizer's model file, as it was when the run began.

    Raises:
        ValueError: The checkpoint has none.
    """
    return _tokenizer_tensor(checkpoint).numpy().tobytes()


def unpack_tokenizer(data: bytes, cache: Path) -> Path:
    """Put a tokenizer's model file into the cache, under its hash.

    Raises:
        OSError: It cannot be written.
    """
    path = cache / 'tokenizers' / f'{hashlib.sha256(data).hexdigest()}.model'
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.sweep(path.parent)
        with _part(path) as part:
            part.write_bytes(data)
            _rename(part, path)
    return path


def cache_folder() -> Path:
    """Where tokenizers, token stores and compiled code are kept: XLABML_CACHE, or a folder of the user's."""
    return Path(os.environ.get('XLABML_CACHE') or '~/.cache/xlabml').expanduser()


def _read(path: Path, map_location: str | torch.device, mmap: bool = False) -> dict[str, Any]:
    """Read all of a file, compared with its checksum; or, mapped, its settings alone, compared with the archive's."""
    with _require_file(path).open('rb') as file:
        head = file.read(9)
    size = path.stat().st_size
    if not head:
        raise ValueError(f'{path} is empty; copy it again, or choose another checkpoint')
    if head.startswith(b'PK\x03\x04'):
        if not _is_archive(path):
            raise ValueError(
                f'{path} is cut short, or damaged ({size} bytes); copy it again, or choose another checkpoint'
            )
        with contextlib.nullcontext(True) if mmap else checksums.compared(path) as has_checksum:
            checkpoint = _read_zip(path, map_location, mmap)
    elif head[8:] == b'{':
        has_checksum = checksums.compare(path)
        checkpoint = _read_safetensors(path, map_location)
    else:
        raise ValueError(f'{path} is no checkpoint; {_REMEDY}')
    checkpoint = _migrate(checkpoint, path)
    if not has_checksum:
        checksums.note_old(path)
    return checkpoint


_REMEDY = 'give a .ckpt file that fit has written, or a file that export-checkpoint has'


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # what it finds at the end makes no sense
        return False


def _read_zip(path: Path, map_location: str | torch.device, mmap: bool) -> Any:
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
        raise ValueError(f'{path} is no checkpoint of xlabml: it {why}; {_REMEDY}') from error


def _read_safetensors(path: Path, map_location: str | torch.device) -> Any:
    try:
        with safe_open(path, 'pt', str(map_location)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if _METADATA in metadata else {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f'{path} is cut short or damaged ({error}); copy it again, or choose another checkpoint'
        ) from error
    if _METADATA not in metadata:
        return None
    try:
        values = json.loads(metadata[_METADATA])
        if isinstance(values, dict):
            values.pop(checksums.EXPORT_KEY, None)
        schema.check_export(values)
    except (ValueError, RecursionError) as error:
        why = 'its settings are nested too deep' if isinstance(error, RecursionError) else error
        raise ValueError(f'{path} is no exported file of xlabml: {why}; {_REMEDY}') from error
    tokenizer = tensors.pop(_TOKENIZER, None)
    own = {} if tokenizer is None else {'XLabDataModule': {'tokenizer': tokenizer.cpu()}}
    return {**values, 'state_dict': tensors, **own}


def _migrate(checkpoint: Any, path: Path) -> dict[str, Any]:
    number = checkpoint.get('xlabml_format') if isinstance(checkpoint, dict) else None
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f'{path} is no checkpoint of xlabml: it has no format number; {_REMEDY}')
    if number > FORMAT:
        raise ValueError(
            f'{path} has format {bounds.shown(number)}, and this version of xlabml reads formats up to {FORMAT}; '
            'update xlabml'
        )
    if number < 0 or any(old not in MIGRATIONS for old in range(number, FORMAT)):
        raise ValueError(
            f'{path} has format {bounds.shown(number)}, which this version of xlabml does not know; {_REMEDY}'
        )
    while number < FORMAT:
        checkpoint = MIGRATIONS[number](checkpoint)
        number += 1
    try:
        schema.check(checkpoint)
    except ValueError as error:
        raise ValueError(f'{path} is no whole checkpoint: {error}; {_REMEDY}') from error
    return {**checkpoint, 'xlabml_format': number}


def _tokenizer_tensor(checkpoint: dict[str, Any]) -> Tensor:
    tensor = checkpoint.get('XLabDataModule', {}).get('tokenizer')
    if tensor is None:
        raise ValueError('the checkpoint holds no tokenizer; save it from a run with an XLabDataModule')
    return tensor.cpu()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none sharing its memory with another, as safetensors asks."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if address in seen else tensor.contiguous()
        seen.add(address)
    return apart


def _require_file(path: Path) -> Path:
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; give a checkpoint in it')
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}; check the path, or say 'last' for the newest run's")
    if not path.is_file():
        raise ValueError(f'{path} is no file but a pipe or a device; {_REMEDY}')
    return path


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f'{path} is there already; delete it, or choose another --output')


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    """A name beside a path to write to before renaming; whatever happens, it does not stay."""
    try:
        with artifacts.part(path) as part:
            yield part
    except FileExistsError:  # ours: nothing is overwritten
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch hides what the system said in the context of an error of its own.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise OSError(
            f'cannot write into {path.parent.absolute()}: {getattr(cause, "strerror", None) or cause}; '
            'see that the disk has room and the folder is yours'
        ) from error


def _rename(part: Path, path: Path) -> None:
    """Give a whole file its name, and see that the name is on the disk too."""
    os.replace(part, path)
    if os.name == 'posix':
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _header() -> dict[str, Any]:
    return {'xlabml_format': FORMAT}
