"""The rows of a plan: which pieces of which documents each holds, as arrays that are mapped rather than read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from xlabml.artifacts import folders, manifests
from xlabml.errors import SettingsError
from xlabml.plain import PlainDict

FORMAT = 2
PIECE_ARRAYS = ('documents', 'begins', 'lengths', 'first_counted')
DTYPES = {
    'row_starts': np.int64,
    'counted_before': np.int64,
    'documents': np.int64,
    'begins': np.int64,
    'lengths': np.int32,
    'first_counted': np.int32,
}


def _array_sizes(manifest: dict[str, Any]) -> dict[str, int]:
    n_rows = manifest['source_rows'][-1] if manifest['source_rows'] else 0
    n_pieces = manifests.count_values(manifest, 'documents')
    return {'row_starts': n_rows + 1, 'counted_before': n_rows + 1, **dict.fromkeys(PIECE_ARRAYS, n_pieces)}


_KIND = manifests.Kind(
    FORMAT,
    {name: (dtype,) for name, dtype in DTYPES.items()},
    {'length': int, 'max_documents': int, 'fingerprint': str, 'source_rows': [int], 'identity': {'stores': [str]}},
    _array_sizes,
)
_MAX_SLOTS = int(np.iinfo(np.int32).max)
_CHUNK_ROWS = 1 << 16


class Pieces(NamedTuple):
    """Pieces in the order of their rows.

    Args:
        row_sizes: How many pieces each row has.
        documents: The document that a piece is of.
        begins: Its first slot in the document's stream.
        lengths: Its slots.
        first_counted: Its first slot, from its own begin, whose target counts; what is before is context.
    """

    row_sizes: Int64[np.ndarray, ' rows']
    documents: Int64[np.ndarray, ' pieces']
    begins: Int64[np.ndarray, ' pieces']
    lengths: Int64[np.ndarray, ' pieces']
    first_counted: Int64[np.ndarray, ' pieces']

    def row_ends(self, n_pieces: int, n_counted: int) -> dict[str, np.ndarray]:
        """Pieces, and targets that count, up to the end of each row, counted from the first row of the plan."""
        ends = np.cumsum(self.row_sizes)
        counted = np.cumsum(self.lengths - self.first_counted)
        return {'row_starts': n_pieces + ends, 'counted_before': n_counted + counted[ends - 1]}


class RowPieces(NamedTuple):
    """The pieces of some rows, back to back.

    Args:
        row: For each piece, the index of its row among these.
        positions: Its first slot in the row.
        documents: The document that it is of.
        begins: Its first slot in the document's sequence.
        lengths: Its slots.
        first_counted: Its first slot, from its own begin, whose target counts.
    """

    row: Int64[np.ndarray, ' pieces']
    positions: Int64[np.ndarray, ' pieces']
    documents: Int64[np.ndarray, ' pieces']
    begins: Int64[np.ndarray, ' pieces']
    lengths: Int64[np.ndarray, ' pieces']
    first_counted: Int64[np.ndarray, ' pieces']


class PlanRows:
    """The rows of a plan: row i holds the pieces row_starts[i] to row_starts[i + 1] - 1.

    Args:
        arrays: row_starts, counted_before (targets that count in all rows before, one entry more than rows), and the
            documents, begins, lengths and first_counted of Pieces.
        length: Slots in a row.
        max_documents: No row has more segments, its padding counted as one.
        fingerprint: A short name for the rows and their documents.
        folder: Where they are mapped from, if they are.
        source_rows: Where the rows of each source begin, and where the last one's end; None: all are of one.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        length: int,
        max_documents: int,
        fingerprint: str,
        folder: Path | None = None,
        source_rows: Sequence[int] | None = None,
    ) -> None:
        self._arrays = dict(arrays)
        self.row_starts = arrays['row_starts']
        self.counted_before = arrays['counted_before']
        self.documents = arrays['documents']
        self.begins = arrays['begins']
        self.lengths = arrays['lengths']
        self.first_counted = arrays['first_counted']
        self.length = length
        self.max_documents = max_documents
        self.fingerprint = fingerprint
        self.folder = folder
        self.source_rows = list(source_rows) if source_rows is not None else [0, len(self)]

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    def __reduce__(self) -> tuple[object, ...]:
        if self.folder is not None:
            return open_rows, (self.folder,)
        return type(self), (self._arrays, self.length, self.max_documents, self.fingerprint, None, self.source_rows)

    @property
    def n_used(self) -> int:
        """Slots that hold text, ends of text included."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def n_padded(self) -> int:
        """Slots that hold nothing."""
        return len(self) * self.length - self.n_used

    @property
    def n_cut(self) -> int:
        """Targets that count in pieces that begin inside a document, and so do not see its beginning."""
        return int((self.lengths - self.first_counted)[self.begins > 0].sum(dtype=np.int64))

    @property
    def n_counted(self) -> int:
        """Targets that count, over all rows."""
        return int(self.counted_before[-1])

    @property
    def source_counted(self) -> list[int]:
        """Targets that count in the rows of each source."""
        return np.diff(self.counted_before[self.source_rows]).tolist()

    @property
    def fill_ratio(self) -> float:
        """Used slots over all slots."""
        return self.n_used / max(1, len(self) * self.length)

    @property
    def max_pieces(self) -> int:
        """The most pieces that a row has."""
        return int(np.diff(self.row_starts).max(initial=0))

    def counts(self, row_numbers: Int64[np.ndarray, ' b']) -> Int64[np.ndarray, ' b']:
        """How many targets count in each of these rows; -1 is a row without any."""
        counted = self.counted_before[row_numbers + 1] - self.counted_before[row_numbers]
        return np.where(row_numbers < 0, 0, counted)

    def pieces_of(self, row_numbers: Int64[np.ndarray, ' b']) -> RowPieces:
        """The pieces of some rows; -1 is a row without any.

        Raises:
            ValueError: These are no rows that a plan writes.
        """
        first = self.row_starts[row_numbers]
        n_pieces = np.where(row_numbers < 0, 0, self.row_starts[row_numbers + 1] - first)
        self._require((n_pieces >= 0) & (n_pieces < self.max_documents))
        pieces = ranges(first, n_pieces)
        row = np.repeat(np.arange(len(row_numbers)), n_pieces)
        lengths = self.lengths[pieces].astype(np.int64)
        self._require((lengths >= 1) & (lengths <= self.length))
        used = np.bincount(row, lengths, len(row_numbers)).astype(np.int64)
        self._require(used <= self.length)
        positions = np.cumsum(lengths) - lengths - (np.cumsum(used) - used)[row]
        first_counted = self.first_counted[pieces].astype(np.int64)
        return RowPieces(row, positions, self.documents[pieces], self.begins[pieces], lengths, first_counted)

    def _require(self, are_right: Bool[np.ndarray, ' _']) -> None:
        if not are_right.all():
            raise ValueError(
                f'rows {self.folder or ""} are not as xlabml writes them; xlab validate_data names the folder to delete'
            )

    def locate(self, row: int, position: int) -> tuple[int, int] | None:
        """Whose slot this is: the document, and the slot of its stream, whose token of that number is its target
        (or the end of text, after the last). None for padding.

        Raises:
            ValueError: There is no such row or position.
        """
        if not (0 <= row < len(self) and 0 <= position < self.length):
            raise ValueError(
                f'there is no row {row}, position {position}: rows are 0 to {len(self) - 1}, positions 0 to '
                f'{self.length - 1}'
            )
        for first, document, offset, length in self.pieces(row):
            if position < first + length:
                return document, offset + position - first
        return None

    def pieces(self, row: int) -> list[tuple[int, int, int, int]]:
        """What is in a row: (position, document, offset, slots) of each piece, in their order; the rest is padding.

        Raises:
            ValueError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise SettingsError(f'there is no row {row}; rows are 0 to {len(self) - 1}')
        here = slice(int(self.row_starts[row]), int(self.row_starts[row + 1]))
        lengths = self.lengths[here].astype(np.int64)
        positions = np.cumsum(lengths) - lengths
        return list(
            zip(positions.tolist(), self.documents[here].tolist(), self.begins[here].tolist(), lengths.tolist())
        )


def open_rows(folder: Path, identity: PlainDict | None = None) -> PlanRows:
    """Open rows that `open_plan` wrote.

    Args:
        identity: What they follow from; None: it is not compared.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are not as they were written.
    """
    manifest = manifests.read_manifest(folder, _KIND, identity)
    n_rows = manifest['source_rows'][-1]
    length = manifest['length']
    max_documents = manifest['max_documents']
    is_rising = manifest['source_rows'] == sorted([0, *manifest['source_rows'][1:]])
    if not (is_rising and 1 <= length <= _MAX_SLOTS and 2 <= max_documents <= _MAX_SLOTS):
        what = f'length {length}, max_documents {max_documents}, source_rows {n_rows}'
        raise ValueError(f'{folder} has rows as no plan makes them ({what}); {manifests.remedy(folder)}')
    if manifest['fingerprint'] != find_fingerprint(manifest['identity']['stores'], manifest['files'], length):
        raise ValueError(f'{folder} has rows of other files than its fingerprint says; {manifests.remedy(folder)}')
    arrays = {name: manifests.map_array(folder, name, manifest) for name in DTYPES}
    for name, total in (
        ('row_starts', len(arrays['documents'])),
        ('counted_before', int(arrays['counted_before'][-1])),
    ):
        manifests.check_ends(arrays[name], total, folder, name, in_full=False)
    return PlanRows(arrays, length, max_documents, manifest['fingerprint'], folder, manifest['source_rows'])


def find_fingerprint(stores: Sequence[str], files: Mapping[str, Any], length: int) -> str:
    """A short name for rows and their documents.

    Args:
        stores: The fingerprints of the documents' stores.
        files: What the manifest says of the arrays.
        length: Slots in a row.
    """
    return folders.short_hash([list(stores), [files[name]['sha256'] for name in sorted(files)], length])


def verify_rows(
    folder: Path, identity: PlainDict, find_slots: Callable[[Int64[np.ndarray, ' k']], Int64[np.ndarray, ' k']]
) -> PlanRows:
    """Open rows, read all of them, compare their hashes, and see that they are rows of these documents.

    Args:
        identity: What they follow from.
        find_slots: The slots of documents of these numbers; IndexError where there is no such document.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file is not what the manifest says, or not what a plan writes.
    """
    plan = open_rows(folder, identity)
    manifests.check_files(folder, manifests.read_manifest(folder, _KIND))
    manifests.check_ends(plan.row_starts, len(plan.documents), folder, 'row_starts', in_full=True)
    manifests.check_range(plan.documents, 0, _MAX_SLOTS * _MAX_SLOTS, folder, 'documents')
    manifests.check_range(plan.begins, 0, _MAX_SLOTS * _MAX_SLOTS, folder, 'begins')
    manifests.check_range(plan.lengths, 1, plan.length, folder, 'lengths')
    manifests.check_range(plan.first_counted, 0, plan.length, folder, 'first_counted')
    for first in range(0, len(plan), _CHUNK_ROWS):
        starts = np.asarray(plan.row_starts[first : first + _CHUNK_ROWS + 1])
        here = slice(int(starts[0]), int(starts[-1]))
        before = np.concatenate([[0], np.cumsum(plan.lengths[here], dtype=np.int64)])
        if (np.diff(before[starts - starts[0]]) > plan.length).any():
            raise manifests.wrong_values(folder, 'lengths', f'more than {plan.length} in a row')
        if (np.diff(starts) >= plan.max_documents).any():
            raise manifests.wrong_values(folder, 'row_starts', f'more than {plan.max_documents - 1} pieces in a row')
        counted = np.cumsum(plan.lengths[here] - plan.first_counted[here], dtype=np.int64)
        counted = np.concatenate([[0], counted])[starts - starts[0]]
        if (np.diff(plan.counted_before[first : first + len(starts)]) != np.diff(counted)).any():
            raise manifests.wrong_values(folder, 'counted_before', 'not those of the rows')
        try:
            room = find_slots(np.asarray(plan.documents[here]))
        except IndexError:
            raise manifests.wrong_values(folder, 'documents', 'not all documents of the stores') from None
        if (plan.begins[here] + plan.lengths[here] > room).any():
            raise manifests.wrong_values(folder, 'begins', 'beyond the ends of documents')
    return plan


def ranges(starts: Int64[np.ndarray, ' k'], lengths: Int64[np.ndarray, ' k']) -> Int64[np.ndarray, ' n']:
    """starts[0], starts[0] + 1, … (lengths[0] of them), then the same from starts[1], and so on."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
