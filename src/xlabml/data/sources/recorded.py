"""Files as they were when they were read: known again by size and time, and by their content where the time changed."""

from collections.abc import Sequence
from pathlib import Path

from xlabml.artifacts.hashes import hash_file


def stat_files(files: Sequence[Path]) -> list[list]:
    """(path, bytes, time) of each file."""
    stats = [(file, file.stat()) for file in files]
    return [[str(file.resolve()), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def same_content(recorded: Sequence[Sequence], now: Sequence[Sequence]) -> bool:
    """Whether files are those of a record: a file of another time is read and compared with its hash.

    Args:
        recorded: (path, bytes, time, hash) of each file.
        now: What `stat_files` says.
    """
    if [file[:2] for file in recorded] != [file[:2] for file in now]:
        return False
    return all(then[2] == today[2] or then[3] == hash_file(today[0]) for then, today in zip(recorded, now))
