"""The parts of a store in a folder that many machines see: a path, or a URL of fsspec (s3://, gs://, memory:// …).

One machine writes down the job; any number of others, at any time, tokenize parts of it into the folder; then the parts
are gathered and made one store, as if they had been made at home. All that travels is plain values, the tokenizer's
bytes and the parts.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec

from xlabml import settings
from xlabml.artifacts import folders, manifests
from xlabml.data.sources import Part, Source
from xlabml.plain import Plain
from xlabml.tokenizer import Tokenizer

from .store_parts import PART, Job, encode_part, read_part

_JOB = 'job.json'
_TOKENIZER = 'tokenizer.model'
_PLAN = {
    'source': {'class_path': str},
    'columns': [str],
    'begun': {'identity': {'source': dict}, 'parts': [list]},
    'folder': str,
}
_PART_NAME = re.compile(r'[0-9]{5,9}')


class SharedJob:
    """A job in a shared folder.

    Args:
        url: Its own folder, not shared with other jobs.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip('/')
        self._files, self._root = fsspec.core.url_to_fs(self.url)

    @classmethod
    def named(cls, job: Job, shared_folder: str) -> 'SharedJob':
        """Where a job goes among others: its name follows from the texts, their times, their parts and the tokenizer,
        so that parts of other texts are never gone on with."""
        return cls(f'{_absolute(shared_folder)}/{folders.short_hash(job.begun)}')

    @property
    def is_local(self) -> bool:
        """Whether the folder is a path of this machine."""
        return 'file' in self._files.protocol

    def write(self, job: Job) -> None:
        """Write down what others need to know.

        Raises:
            ValueError: The source is not one that can be written as plain values.
        """
        plan = {
            'source': describe_source(job.source),
            'columns': job.columns,
            'begun': job.begun,
            'folder': os.getcwd(),  # what the source's paths are relative to
        }
        self._files.makedirs(self._at('parts'), exist_ok=True)
        self._files.pipe_file(self._at(_TOKENIZER), job.tokenizer.data)
        self._files.pipe_file(self._at(_JOB), json.dumps(plan, indent=1, sort_keys=True).encode())
        if self._files.exists(self._at('errors')):
            self._files.rm(self._at('errors'), recursive=True)

    def there(self) -> set[int]:
        """The parts that somebody has finished."""
        self._files.invalidate_cache()
        found = self._files.glob(f'{self._at("parts")}/*/{manifests.MANIFEST}')
        names = (path.split('/')[-2] for path in found)
        return {int(name) for name in names if _PART_NAME.fullmatch(name)}

    def _is_there(self, index: int) -> bool:
        self._files.invalidate_cache()
        return self._files.exists(self._at(f'{_part(index)}/{manifests.MANIFEST}'))

    def encode(
        self, rank: int, n_ranks: int, n_threads: int, advance: Callable[[int], None] = lambda n_bytes: None
    ) -> int:
        """Tokenize every n_ranks-th part from number rank on, but those that are there, and return how many it were.

        Args:
            advance: Told how many bytes of text were done since it was last told.

        Raises:
            ValueError: A part is broken, or this machine sees another source; kept for who gathers, too.
        """
        try:
            return self._encode(rank, n_ranks, n_threads, advance)
        except Exception as error:
            message = str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
            self._files.makedirs(self._at('errors'), exist_ok=True)
            self._files.pipe_file(self._at(f'errors/{rank:05d}'), message.encode())
            raise

    def _encode(self, rank: int, n_ranks: int, n_threads: int, advance: Callable[[int], None]) -> int:
        plan = self._read_job()
        tokenizer = Tokenizer.from_bytes(
            self._files.cat_file(self._at(_TOKENIZER)), f'tokenizer {self.url}/{_TOKENIZER}'
        )
        n_done = 0
        with _inside(Path(plan['folder'])), tempfile.TemporaryDirectory() as scratch:
            source: Source = settings.build(plan['source'], Source)
            parts = source.parts(plan['columns'])
            there = json.loads(json.dumps({'source': source.fingerprint(), 'parts': parts}))
            if there != {'source': plan['begun']['identity']['source'], 'parts': plan['begun']['parts']}:
                raise ValueError(
                    f'{source} is not the same here ({os.uname().nodename}, {Path.cwd()}) as where the job was '
                    'written; let all machines see the same files under the same path'
                )
            for index in range(rank, len(parts), n_ranks):
                if not self._is_there(index):
                    folder = Path(scratch, f'{index:05d}')
                    encode_part(source, parts[index], tokenizer, plan['columns'], folder, advance, n_threads)
                    self._put(folder)
                    folders.remove(folder)
                    n_done += 1
        return n_done

    def _read_job(self) -> dict[str, Any]:
        try:
            plan = json.loads(self._files.cat_file(self._at(_JOB)))
            misfit = manifests.find_misfit(plan, _PLAN)
        except (ValueError, RecursionError) as error:
            misfit = str(error)
        if misfit is not None:
            raise ValueError(
                f'{self.url}/{_JOB} was changed by hand or is broken: {misfit}; delete {self.url}, and give the '
                'command that wrote it again'
            )
        return plan

    def _put(self, folder: Path) -> None:
        """Copy a part into the shared folder; its manifest last, under another name until it is whole."""
        target = self._at(f'parts/{folder.name}')
        self._files.makedirs(target, exist_ok=True)
        for file in sorted(folder.glob('*.bin')):
            self._files.put_file(str(file), f'{target}/{file.name}')
        part = f'{target}/{manifests.MANIFEST}.{os.getpid()}.partial'
        self._files.put_file(str(folder / manifests.MANIFEST), part)
        self._files.mv(part, f'{target}/{manifests.MANIFEST}')

    def gather(self, job: Job, indices: Iterable[int]) -> None:
        """Copy finished parts into the folder of the job, and compare their content with their hashes.

        Raises:
            ChildProcessError: A part is not as it was written; it is removed.
        """
        for index in indices:
            folder = job.part_folder(index)
            source = self._at(_part(index))
            with folders.replacing_folder(folder) as partial:
                for path in self._files.ls(source, detail=False):
                    name = path.rpartition('/')[2]
                    if name == manifests.MANIFEST or name in {f'{array}.bin' for array in PART.dtypes}:
                        self._files.get_file(path, str(partial / name))
                if read_part(partial) is None:
                    self._files.rm(source, recursive=True)
                    folders.remove(partial)
                    raise ChildProcessError(
                        f'part {index} of {job.source} is not in {self.url} as it was written, and was removed there; '
                        'the same command tokenizes it again'
                    )

    def errors(self) -> list[str]:
        """What went wrong for others, if anything."""
        if not self._files.exists(self._at('errors')):
            return []
        return [
            self._files.cat_file(path).decode(errors='replace') for path in sorted(self._files.find(self._at('errors')))
        ]

    def remove_parts(self) -> None:
        """Delete the parts; what else there is (logs) stays."""
        self._files.rm(self._at('parts'), recursive=True)

    def read_note(self, name: str) -> str:
        """A line that was left in the folder; empty where there is none."""
        return (
            self._files.cat_file(self._at(name)).decode(errors='replace') if self._files.exists(self._at(name)) else ''
        )

    def write_note(self, name: str, text: str) -> None:
        """Leave a line in the folder."""
        self._files.pipe_file(self._at(name), text.encode())

    def _at(self, name: str) -> str:
        return f'{self._root.rstrip("/")}/{name}'


def _part(index: int) -> str:
    return f'parts/{index:05d}'


def describe_source(source: Source) -> Plain:
    """A source as plain values.

    Raises:
        ValueError: It does not keep its constructor's arguments.
    """
    try:
        return settings.describe(source)
    except ValueError as error:
        raise ValueError(
            f'{source} cannot be written down for other machines: it must keep the arguments of its constructor as '
            f'attributes of the same names, and they must be plain values ({error})'
        ) from error


def bytes_of(parts: Sequence[Part], indices: Iterable[int]) -> int:
    """About how much text some parts have."""
    return sum(parts[index].n_bytes or 0 for index in indices if index < len(parts))


def _absolute(url: str) -> str:
    return url.rstrip('/') if '://' in url else str(Path(url).expanduser().absolute())


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder, where this machine has it."""
    with contextlib.chdir(folder) if folder.is_dir() else contextlib.nullcontext():
        yield
