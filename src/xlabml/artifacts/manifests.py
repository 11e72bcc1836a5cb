"""The manifest of a folder in the cache, which describes its arrays: written atomically, and read as untrusted.

Nothing is opened, mapped or touched by what a manifest says: which files there are, which numbers they hold and how
many of them is known here, and a manifest that says anything else is refused.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np
from jaxtyping import Int64
from numpy.typing import DTypeLike

from xlabml.errors import DataError
from xlabml.plain import Plain

from .files import write_text
from .hashes import hash_file

MANIFEST = 'manifest.json'
_MAX_BYTES = 1 << 28  # of a manifest: more than a source of a million files needs
_MAX_NUMBER = 1 << 62
_CHUNK_VALUES = 1 << 20
_FILE = {'bytes': int, 'modified': int, 'sha256': str}


class Written(TypedDict):
    """What a manifest says of a file."""

    dtype: str
    bytes: int
    modified: int
    sha256: str


Manifest: TypeAlias = dict[str, Any]
"""Values by their keys, once `read_manifest` has held them against the forms of their `Kind`, which no type names."""


class Kind(NamedTuple):
    """The form of a manifest.

    Args:
        format: The only one that is read.
        dtypes: The arrays, and those that the numbers of each may be of.
        values: The form of every other value that is read, by its key.
        sizes: How many numbers each array must have, from values and arrays that are of the right form; it may leave
            some out.
        optional: Arrays that may be missing.
    """

    format: int
    dtypes: Mapping[str, tuple[DTypeLike, ...]]
    values: Mapping[str, object]
    sizes: Callable[[Manifest], dict[str, int]] = lambda manifest: {}
    optional: frozenset[str] = frozenset()


def find_misfit(value: object, form: object, name: str = '') -> str | None:
    """Where a plain value is not of a form, for people; None where it is.

    A form is `object` (anything), `int` (0 to 2⁶²), `str` (that UTF-8 can write), `dict` or `list` (any), `[form]` (a
    list of any number), `(form, …)` (a list of exactly these), `{'key': form}` (these keys, others are let be),
    `{frozenset: form}` (keys out of these), or a frozenset of all that it may be.
    """
    if isinstance(form, type | frozenset):
        return None if _is_one(value, form) else f'{name or "it"} is {_show(value)}'
    pairs: Iterator[tuple[object, object, str]]
    if isinstance(form, list | tuple):
        if not isinstance(value, list) or (isinstance(form, tuple) and len(value) != len(form)):
            return f'{name} is {_show(value)}'
        forms = form if isinstance(form, tuple) else form * len(value)
        pairs = ((item, one, f'{name}[{i}]') for i, (item, one) in enumerate(zip(value, forms)))
    else:
        if not isinstance(value, dict):
            return f'{name or "it"} is {_show(value)}'
        assert isinstance(form, Mapping)
        allowed = next(iter(form), None)
        if isinstance(allowed, frozenset):
            if unknown := [key for key in value if key not in allowed]:
                return f'{name} has {_show(unknown[0])}'
            form = dict.fromkeys(value, form[allowed])
        missing = [key for key in form if key not in value]
        if missing:
            return f'{name or "it"} has no {_show(missing[0])}'
        pairs = ((value[key], one, f'{name}.{key}' if name else key) for key, one in form.items())
    return next((misfit for item, one, where in pairs if (misfit := find_misfit(item, one, where))), None)


def write_manifest(folder: Path, manifest: Mapping[str, object]) -> None:
    """Write a folder's manifest atomically."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + '\n')


def read_manifest(folder: Path, kind: Kind, identity: Plain = None) -> Manifest:
    """The manifest of a folder, once its files have the sizes and times that it says.

    Where only a time differs (the folder was copied), the content is compared once, and the time set right.

    Args:
        kind: Its form.
        identity: Plain values that its `identity` must equal; None: any.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder is of another format, or not as it was written; the message names the file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f'{folder} holds nothing that xlabml has prepared: there is no {MANIFEST}')
    manifest = read_json(path, remedy(folder))
    found = manifest.get('format') if isinstance(manifest, dict) else None
    if type(found) is int and found != kind.format:
        raise DataError(f'{folder} has format {found}, this xlabml reads {kind.format}; {remedy(folder)}')
    misfit = _find_misfit(manifest, kind, identity)
    if misfit is not None:
        raise DataError(f'{path} was changed by hand or is broken: {misfit}; {remedy(folder)}')
    for name, written in manifest['files'].items():
        file = folder / f'{name}.bin'
        if not file.is_file():
            raise DataError(f'{file} is gone; {remedy(folder)}')
        stat = file.stat()
        if stat.st_size != written['bytes']:
            raise DataError(
                f'{file} has {stat.st_size} bytes, but {MANIFEST} says {written["bytes"]}; {remedy(folder)}'
            )
        if stat.st_mtime_ns != written['modified']:
            check_content(folder, name, written)
            with contextlib.suppress(OSError):  # a read-only copy is compared each time
                os.utime(file, ns=(stat.st_atime_ns, written['modified']))
    return manifest


def read_json(path: Path, what_to_do: str) -> Any:
    """Plain values from a file.

    Raises:
        ValueError: It is no JSON, or too large to be what we wrote.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f'it has {path.stat().st_size} bytes')
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f'{path} was changed by hand or is broken ({error}); {what_to_do}') from None


def check_content(folder: Path, name: str, written: Written) -> None:
    """Raise ValueError if a file's content is not what its manifest says."""
    if hash_file(folder / f'{name}.bin') != written['sha256']:
        raise DataError(f'{folder / name}.bin is not what {MANIFEST} says (its content changed); {remedy(folder)}')


def check_files(folder: Path, manifest: Manifest) -> None:
    """Read all files of a folder; raise ValueError if the content of one is not what its manifest says."""
    for name, written in manifest['files'].items():
        check_content(folder, name, written)


def check_ends(
    ends: Int64[np.ndarray, ' ends'], total: int, folder: Path, name: str, in_full: bool, begins: bool = True
) -> None:
    """Raise ValueError unless offsets begin and end where they must, and, in full, fall nowhere.

    Args:
        ends: The offsets, mapped.
        total: What the last of them is; where there is none, 0 is.
        folder: Theirs, for the message.
        name: Theirs.
        in_full: Whether to read all of them.
        begins: Whether the first of them is 0, not where the first thing ends.
    """
    is_right = not total
    if len(ends):
        is_right = int(ends[-1]) == total and (int(ends[0]) == 0 if begins else int(ends[0]) >= 0)
    if in_full:
        steps = range(0, len(ends), _CHUNK_VALUES)
        is_right = is_right and all((np.diff(ends[at : at + _CHUNK_VALUES + 1]) >= 0).all() for at in steps)
    if not is_right:
        raise wrong_values(folder, name, f'no offsets of {total:,} values')


def check_range(values: np.ndarray, low: int, high: int, folder: Path, name: str) -> None:
    """Raise ValueError unless all values of an array lie in low..high."""
    for at in range(0, len(values), _CHUNK_VALUES):
        some = values[at : at + _CHUNK_VALUES]
        if int(some.min()) < low or int(some.max()) > high:
            raise wrong_values(folder, name, f'not all in {low:,} to {high:,}')


def wrong_values(folder: Path, name: str, what: str) -> DataError:
    """An array does not hold what it should."""
    return DataError(f'{folder / name}.bin is not as xlabml writes it: its values are {what}; {remedy(folder)}')


def map_array(folder: Path, name: str, manifest: Manifest) -> np.ndarray:
    """A file of a folder whose manifest was read, as an array: no value is read until it is used."""
    written = manifest['files'][name]
    if not written['bytes']:
        return np.zeros(0, written['dtype'])
    return np.asarray(np.memmap(folder / f'{name}.bin', written['dtype'], 'r'))


def remedy(folder: Path) -> str:
    """The advice for a folder that is not as it was written."""
    return f'delete {folder}, and it is prepared anew'


def count_values(manifest: Manifest, name: str) -> int:
    """How many numbers an array has."""
    written = manifest['files'][name]
    return written['bytes'] // np.dtype(written['dtype']).itemsize


def _find_misfit(found: object, kind: Kind, identity: Plain) -> str | None:
    manifest: Manifest = found if isinstance(found, dict) else {}
    names = {name: frozenset(np.dtype(dtype).str for dtype in kind.dtypes[name]) for name in kind.dtypes}
    files = manifest['files'] if isinstance(manifest.get('files'), dict) else {}
    there = list(files)
    if unknown := [name for name in there if name not in names]:
        return f'files has {_show(unknown[0])}'
    forms = {
        name: {'dtype': dtypes, **_FILE} for name, dtypes in names.items() if name in there or name not in kind.optional
    }
    misfit = find_misfit(found, {'format': frozenset({kind.format}), 'files': forms, **kind.values})
    if misfit is not None:
        return misfit
    if identity is not None and manifest.get('identity') != json.loads(json.dumps(identity)):
        return 'it is of other documents or settings than the name of its folder says'
    for name in there:
        if files[name]['bytes'] % np.dtype(files[name]['dtype']).itemsize:
            return f'files.{name}.bytes is {files[name]["bytes"]}, no whole number of {files[name]["dtype"]}'
    for name, n in kind.sizes(manifest).items():
        if count_values(manifest, name) != n:
            return f'{name} has {count_values(manifest, name):,} values, where {n:,} must be'
    return None


def _is_one(value: object, form: type | frozenset) -> bool:
    if isinstance(form, frozenset):
        return isinstance(value, str | int) and any(value == one and type(value) is type(one) for one in form)
    if form is int:
        return type(value) is int and 0 <= value <= _MAX_NUMBER
    if not isinstance(value, str) or form is not str:
        return isinstance(value, form)
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show(value: object) -> str:
    """A value for an error message, cut."""
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else f'a {type(value).__name__}'
    return text if len(text) <= 80 else f'{text[:80]}…'
