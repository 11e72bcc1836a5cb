"""Checkpoints written atomically, with a checksum."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError

from xlabml import artifacts
from xlabml.artifacts import checksums
from xlabml.artifacts.hashes import hash_bytes

from . import migrations
from .contents import FORMAT, Saved


def dump(checkpoint: Saved, file: checksums.Writable) -> None:
    """Write a checkpoint into an open file, as `write` does, with its checksum; only the file's `write` is called."""
    archive = checksums.SealedArchive(file)
    torch.save({**checkpoint, **header()}, archive)  # type: ignore[arg-type]
    archive.seal()


def write(checkpoint: Saved, path: str | Path) -> None:
    """Save a checkpoint, or leave the path as it was.

    Raises:
        OSError: It cannot be written, for example because the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_of(path) as part:
        with part.open('wb') as file:
            dump(checkpoint, file)
        artifacts.put(part, path, sync=True)


def unpack_tokenizer(data: bytes, folder: Path) -> Path:
    """Write a tokenizer's model file into a folder of the cache, named by its hash.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / f'{hash_bytes(data)}.model'
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.sweep(path.parent)
        with part_of(path) as part:
            part.write_bytes(data)
            artifacts.put(part, path, sync=True)
    return path


@contextlib.contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A name beside a path to write to before renaming; it is removed in any case."""
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


def header() -> dict[str, int]:
    """The format number, which marks a file as ours."""
    return {FORMAT: migrations.FORMAT}
