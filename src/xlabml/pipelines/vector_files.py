"""Vectors on the disk as they are made: an .npy file that a killed process leaves half done and the next one goes on
with, as long as what they are of is the same.

Beside `vectors.npy` there are, until it is whole, `.vectors.npy.partial` and a record of the rows that are safe in it;
then `vectors.npy.json`, which says what the vectors are of.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
from jaxtyping import Shaped

from xlabml import artifacts
from xlabml.errors import DataError

Stamp: TypeAlias = Mapping[str, str | int | bool | None]
"""What vectors are of, as plain values: names of files with the hashes of their content, options."""

_SAFE_SECONDS = 5
"""How often rows are forced onto the disk and recorded: what a kill costs at the most."""


class VectorFile:
    """A file of vectors that grows; use it as a context.

    Args:
        path: Where it will be once it is whole.
        shape: Rows and columns that it will have.
        dtype: Of its values.
        stamp: What the vectors are of. A file that was begun is gone on with only where it is of the same.

    Attributes:
        n_done: Rows that are there already.
        counts: A number by name that goes with them, kept over kills.

    Raises:
        FileExistsError: The file is there.
        DataError: One was begun of something else; the message names what differs. Or another process writes it.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: str, stamp: Stamp) -> None:
        if path.exists():
            raise FileExistsError(f'{path} is there already; delete it, or choose another --output')
        if not path.parent.is_dir():
            raise FileNotFoundError(f'there is no folder {path.parent} to write {path.name} to; make it first')
        self.path = path
        self.stamp = dict(stamp)
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._partial = path.with_name(f'.{path.name}.partial')
        self._record = path.with_name(f'.{path.name}.partial.json')
        self.n_done = 0
        self.counts: dict[str, int] = {}
        self._saved = 0.0
        self._file = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666), 'r+b')
        try:
            if artifacts.is_locked(self._file.fileno()):
                raise DataError(f'another process is writing {path}; wait for it, or choose another --output')
            self._take_up()
        except BaseException:
            self._file.close()
            raise

    def _take_up(self) -> None:
        """Go on behind the recorded rows, or begin."""
        if not self._record.exists():
            self._file.truncate(0)
            header = {'descr': self._dtype.str, 'fortran_order': False, 'shape': self._shape}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._save()
            return
        self.n_done = self._read_record()
        self._saved = time.monotonic()
        self._file.seek(0)
        np.lib.format.read_magic(self._file)
        np.lib.format.read_array_header_1_0(self._file)
        end = self._file.tell() + self.n_done * self._row_bytes
        if os.fstat(self._file.fileno()).st_size < end:
            raise DataError(f'{self._partial} is shorter than its record says; delete both, and begin anew')
        self._file.truncate(end)
        self._file.seek(end)

    def _read_record(self) -> int:
        remedy = f'delete {self._partial} and {self._record} to begin anew'
        try:
            record = json.loads(self._record.read_bytes())
            stamp = dict(record['stamp'])
            n_done = int(record['n_done'])
            self.counts = {str(name): int(value) for name, value in record['counts'].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f'{self._record} is damaged; {remedy}') from error
        for name, value in self.stamp.items():
            if stamp.get(name) != value:
                raise DataError(
                    f'{self.path} was begun with other input: {name} was {stamp.get(name)!r} then and is {value!r} '
                    f'now; restore it to go on, or {remedy}'
                )
        if not 0 <= n_done <= self._shape[0]:
            raise DataError(f'{self._record} is damaged; {remedy}')
        return n_done

    @property
    def _row_bytes(self) -> int:
        return self._shape[1] * self._dtype.itemsize

    def append(self, vectors: Shaped[np.ndarray, 'n columns']) -> None:
        """Write the next rows."""
        assert vectors.dtype == self._dtype, 'rows are of one type'
        self._file.write(np.ascontiguousarray(vectors).tobytes())
        self.n_done += len(vectors)
        if time.monotonic() - self._saved >= _SAFE_SECONDS:
            self._save()

    def _save(self) -> None:
        """Force the rows onto the disk, then say that they are there: in this order they survive any end."""
        self._file.flush()
        os.fsync(self._file.fileno())
        record = {'stamp': self.stamp, 'n_done': self.n_done, 'counts': self.counts}
        artifacts.write_bytes(self._record, json.dumps(record).encode(), sync=True)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            DataError: It has not all rows.
        """
        if self.n_done != self._shape[0]:
            raise DataError(
                f'{self.path} has {self.n_done} rows of {self._shape[0]}: the corpus became shorter meanwhile'
            )
        self._save()
        about = {**self.stamp, 'rows': self._shape[0], 'columns': self._shape[1], **self.counts}
        artifacts.write_text(self.path.with_name(f'{self.path.name}.json'), json.dumps(about, indent=2) + '\n')
        artifacts.put(self._partial, self.path, sync=True)
        self._record.unlink(missing_ok=True)

    def __enter__(self) -> 'VectorFile':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            with contextlib.suppress(OSError):  # of a full disk, which is on its way already
                if kind is not None and self._partial.exists():
                    self._save()  # after Ctrl-C what is there need not be made again
            self._file.close()
