"""The token store: every document's tokens in one flat file, mapped into memory, with what is known of each document.

Built once per source, tokenizer and asked columns, part by part: memory does not grow with the corpus. One store serves
all splits, which follow from the documents' hashes.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from xlabml.artifacts import folders, manifests
from xlabml.data.sources import Source, same_content, stat_files
from xlabml.tokenizer import Tokenizer

from .processes import Processes
from .store_build import Engine, Report, build_store, plan_job
from .store_parts import CHANGED, FORMAT, Job, store_kind

_STORE = store_kind(
    {
        'identity': {'format': int, 'source': dict, 'tokenizer': str, 'columns': [str]},
        'source': str,
        'source_files': [list],
        'columns': [str],
        'n_vocab': int,
    },
    n_begins=1,
)
_SOURCE_FILES = [(str, int, object, str)]
_MOST_ADDED = 1024  # bytes that a tokenizer makes of one, at the very most


class TokenStore:
    """The documents of one source as token ids, opened by `open` or `prepare_store`.

    Arrays, all mapped: `tokens` (every document's ids, back to back), `offsets` (document i is
    tokens[offsets[i]:offsets[i + 1]]), `n_bytes` (of raw UTF-8 text), `hashes` (of the content), `rows` (in the
    source), and `end_bytes` where the tokenizer may lose text (how many of a document's raw bytes its tokens do not
    stand for). `manifest` holds counts, hashes, what was left out and why. `columns(i)` returns the columns of a text,
    `pieces(i)` where its pieces are.

    Args:
        folder: Where it is.
        manifest: What is in it.
    """

    tokens: np.ndarray
    offsets: Int64[np.ndarray, ' documents+1']
    n_bytes: Int64[np.ndarray, ' documents']
    hashes: UInt64[np.ndarray, 'documents 2']
    rows: Int64[np.ndarray, ' documents']
    end_bytes: Int64[np.ndarray, ' documents'] | None

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokens, self.offsets, self.n_bytes, hashes, self.rows = (
            manifests.map_array(folder, name, manifest) for name in ('tokens', 'offsets', 'n_bytes', 'hashes', 'rows')
        )
        self.hashes = hashes.reshape(-1, 2)
        self._columns, self._column_offsets = (
            manifests.map_array(folder, name, manifest) for name in ('columns', 'column_offsets')
        )
        self._piece_ends, self._piece_offsets, self.end_bytes = (
            manifests.map_array(folder, name, manifest) if name in manifest['files'] else None
            for name in ('piece_ends', 'piece_offsets', 'end_bytes')
        )

    @classmethod
    def open(cls, folder: Path) -> 'TokenStore':
        """Open a store that is there.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not as it was written.
        """
        store = cls(folder, manifests.read_manifest(folder, _STORE))
        store._check_offsets(in_full=False)
        return store

    def verify(self) -> None:
        """Read all of it, compare the hashes, and see that every number points into what it counts.

        Raises:
            ValueError: A file is not what the manifest says, or not what xlabml writes.
        """
        manifests.check_files(self.folder, self.manifest)
        self._check_offsets(in_full=True)
        manifests.check_range(self.tokens, 0, self.manifest['n_vocab'] - 1, self.folder, 'tokens')
        manifests.check_range(self.n_bytes, 1, self.manifest['n_bytes'], self.folder, 'n_bytes')
        if self.end_bytes is not None:
            most = self.manifest['n_bytes']
            manifests.check_range(self.end_bytes, -_MOST_ADDED * most, most, self.folder, 'end_bytes')
        manifests.check_range(self.rows, 0, self.manifest['n_rows'] - 1, self.folder, 'rows')

    def _check_offsets(self, in_full: bool) -> None:
        ends = [('offsets', self.offsets, self.tokens), ('column_offsets', self._column_offsets, self._columns)]
        if self._piece_ends is not None and self._piece_offsets is not None:
            ends.append(('piece_offsets', self._piece_offsets, self._piece_ends))
            n_tokens = len(self.tokens)
            manifests.check_ends(self._piece_ends, n_tokens, self.folder, 'piece_ends', in_full, begins=False)
        for name, offsets, values in ends:
            manifests.check_ends(offsets, len(values), self.folder, name, in_full)

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.folder, self.manifest)

    @property
    def fingerprint(self) -> str:
        """A short name for all that it holds."""
        return folders.short_hash([self.manifest['files'][name]['sha256'] for name in sorted(self.manifest['files'])])

    def columns(self, document: int) -> dict[str, object]:
        """What stood beside a document's text: the requested columns."""
        if not self.manifest['columns']:
            return {}
        start, end = self._column_offsets[document : document + 2]
        try:
            return json.loads(self._columns[start:end].tobytes())
        except (ValueError, RecursionError):
            raise manifests.wrong_values(self.folder, 'columns', f'no JSON for document {document}') from None

    def pieces(self, document: int) -> Int64[np.ndarray, 'pieces 2']:
        """Where each of a document's pieces begins and ends, in tokens from the document's first: back to back. One of
        all, where the source has none.
        """
        first, end = self.offsets[document : document + 2]
        if self._piece_ends is None or self._piece_offsets is None:
            return np.array([[0, end - first]], np.int64)
        some = slice(*self._piece_offsets[document : document + 2])
        ends = self._piece_ends[some] - first
        return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)


def count_changed(manifest: dict[str, Any]) -> int | None:
    """How many documents of a store do not come back from their tokens as they were; None where all do."""
    n = manifest.get(CHANGED)
    return n if type(n) is int and 0 <= n <= manifest['n_documents'] else None


def describe_changed(manifest: dict[str, Any]) -> str:
    """How many documents of a store do not come back as they were, for people; '' where the tokenizer loses nothing."""
    n = count_changed(manifest)
    n_all = manifest['n_documents']
    if n is None:
        return ''
    return f'{n:,} of {n_all:,} documents ({n / n_all:.2%}) do not come back as they were from their tokens'


def store_folder(cache: Path, source: Source, tokenizer: Tokenizer, columns: Sequence[str] = ()) -> Path:
    """Where the store of a source lies among others: a name made of what it holds."""
    return cache / folders.short_hash(_identity(source, tokenizer, columns))


def prepare_store(
    source: Source,
    tokenizer: Tokenizer,
    folder: Path,
    columns: Sequence[str] = (),
    report: Report | None = None,
    say: Callable[[str], None] | None = None,
    n_processes: int | None = None,
    engine: Engine | None = None,
) -> TokenStore:
    """Open the store of a source; build it where it is not there, or is of other documents or another tokenizer.

    Killed half way, the next call resumes from the last whole part. Files of the source whose time changed are compared
    with their recorded hashes; nothing else of them is read where the store is ready.

    Args:
        folder: Where it is or shall be; whoever comes second waits.
        columns: What to keep beside the texts: values that JSON can hold.
        report: Told how far it is.
        say: Told what is about to be done and how much disk it takes, and what was left out.
        n_processes: Processes that tokenize; the store is the same for any number. None: one a core.
        engine: What tokenizes the parts instead, on other machines perhaps; the store is the same.

    Raises:
        ValueError: The source is broken or has no valid document, a column cannot be kept, the disk is full or about
            to be, or the store that is there is not as it was written.
    """
    identity = _identity(source, tokenizer, columns)

    def is_ready() -> bool:
        try:
            manifest = manifests.read_manifest(folder, _STORE)
        except FileNotFoundError:
            return False
        return manifest['identity'] == identity and _holds_the_same(source, folder, manifest)

    def build(partial: Path) -> dict[str, Any]:
        tell = report or _be_silent
        speak = say or _be_silent
        manifest = build_store(
            source, tokenizer, columns, identity, partial, engine or Processes(n_processes), tell, speak
        )
        if manifest['invalid']:
            counts = ', '.join(f'{item["count"]:,} {reason}' for reason, item in manifest['invalid'].items())
            speak(f'{source}: left out of {manifest["n_rows"]:,} documents: {counts} (validate_data names them)')
        if changed := describe_changed(manifest):
            speak(f'{source}: {changed}')
        return manifest

    if not is_ready():
        folders.build_folder(folder, build, is_ready, resumable=True, say=say)
    return TokenStore.open(folder)


def plan_store(source: Source, tokenizer: Tokenizer, columns: Sequence[str] = ()) -> Job:
    """What `prepare_store` would have done for a store that is not there; its folder is of no meaning.

    Raises:
        ValueError: The source is absent or broken.
    """
    return plan_job(source, tokenizer, columns, _identity(source, tokenizer, columns), Path())


def _holds_the_same(source: Source, folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the source's files have the content that was read; a new time is written down."""
    recorded = manifest['source_files']
    now = stat_files(source.files())
    if [file[:3] for file in recorded] == now:
        return True
    if manifests.find_misfit(recorded, _SOURCE_FILES) or not same_content(recorded, now):
        return False
    files = [[*today, then[3]] for then, today in zip(recorded, now)]
    with contextlib.suppress(OSError):  # a read-only store is compared each time
        manifests.write_manifest(folder, {**manifest, 'source_files': files})
    return True


def _identity(source: Source, tokenizer: Tokenizer, columns: Sequence[str]) -> dict[str, object]:
    return {
        'format': FORMAT,
        'source': source.fingerprint(),
        'tokenizer': tokenizer.hash,
        'columns': list(columns),
    }


def _be_silent(*_: object) -> None:
    """Report to nobody."""
