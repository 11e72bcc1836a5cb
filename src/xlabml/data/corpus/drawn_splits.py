"""Splits that need more than a document's own hash: drawn by a column's value, within classes, by the document's place
in its source, or fixed by the source.

A document's unit is what may not be divided: its content or, with data.group, all documents of one value. The hash of
the unit is its place between 0 and 1. With data.stratify, places are ranks among the units of one class: of n units the
one with the k-th smallest hash lies at (k - 1/2) / n, so that each split has its share of every class, rounded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8

from xlabml.artifacts import folders, manifests
from xlabml.data.sources import Source, utf8
from xlabml.data.store import TokenStore, document_hash, hash_words
from xlabml.errors import SettingsError
from xlabml.plain import PlainDict

from .splits import FEW, Splitting, split_names, splits_in_order, splits_of, splits_of_few, splits_of_fold
from .strata import Strata
from .units import Records, records_of_source, records_of_store, units_of

_FORMAT = 1


class DrawnSplits(NamedTuple):
    """The split of every document of some sources.

    Args:
        splits: As indices into split_names; -1 where the ratios leave it out.
        settings: What they follow from, beside the ratios and the documents.
    """

    splits: Int8[np.ndarray, ' documents']
    settings: PlainDict


def open_splits(stores: Sequence[TokenStore], splitting: Splitting, folder: Path) -> DrawnSplits:
    """The splits of the documents of some stores, which keep the columns that it takes.

    Args:
        folder: Where drawn splits are kept, each named by what it depends on; it is read from there, or written.

    Raises:
        ValueError: A document has no group or class, a class is too small for its splits, the disk is full, or what is
            there is not as it was written.
    """
    identity = _identity(stores, splitting)
    folder = folder / folders.short_hash(identity)

    def is_ready() -> bool:
        return (folder / manifests.MANIFEST).exists()

    def build(partial: Path) -> dict[str, object]:
        readers = [lambda store=store: records_of_store(store, bool(splitting.columns)) for store in stores]
        with folders.ArrayFiles(partial, {'splits': np.int8}) as files:
            files.append(splits=draw_splits(splitting, readers))
            written = files.close()
        return {'format': _FORMAT, 'identity': identity, 'files': written}

    if not is_ready():
        folders.build_folder(folder, build, is_ready)
    manifest = manifests.read_manifest(folder, _kind(stores), identity)
    return DrawnSplits(manifests.map_array(folder, 'splits', manifest), splitting.settings())


def verify_splits(stores: Sequence[TokenStore], splitting: Splitting, folder: Path) -> DrawnSplits | None:
    """What `open_splits` has written, compared with its hash; None where it is not there.

    Raises:
        ValueError: It is not as it was written.
    """
    folder = folder / folders.short_hash(_identity(stores, splitting))
    if not folder.exists():
        return None
    manifest = manifests.read_manifest(folder, _kind(stores), _identity(stores, splitting))
    manifests.check_files(folder, manifest)
    splits = manifests.map_array(folder, 'splits', manifest)
    manifests.check_range(splits, -1, len(split_names) - 1, folder, 'splits')
    return DrawnSplits(splits, splitting.settings())


def small_splits(stores: Sequence[TokenStore], ratios: Mapping[str, float]) -> DrawnSplits | None:
    """The splits of a set whose documents are few, where one would have none (`splits_of_few`); None elsewhere."""
    if sum(map(len, stores)) > FEW:
        return None
    splits = splits_of_few(np.concatenate([store.hashes for store in stores]), ratios)
    return None if splits is None else DrawnSplits(splits, {'data.splits, of few documents': 'each has one'})


def splits_of_sources(sources: Sequence[Source], splitting: Splitting) -> list[Int8[np.ndarray, ' documents']] | None:
    """The splits of the valid documents of each source, straight from the sources: the same as from their stores.

    Returns:
        None where each document's own hash decides.
    """
    if splitting.is_plain:
        return _splits_of_few_in(sources, splitting.ratios)
    columns = splitting.columns
    readers = [lambda source=source: records_of_source(source, columns) for source in sources]
    sizes: list[int] = []
    drawn = draw_splits(splitting, readers, sizes)
    return np.split(drawn, np.cumsum(sizes)[:-1])


def _splits_of_few_in(
    sources: Sequence[Source], ratios: Mapping[str, float]
) -> list[Int8[np.ndarray, ' documents']] | None:
    """As `small_splits`, from the sources: at most `FEW` documents are read."""
    sizes: list[int] = []
    digests = b''
    for source in sources:
        documents = ((document, utf8(document.text)) for document in source.documents())
        valid = (document_hash(document, data) for document, data in documents if isinstance(data, bytes))
        found = list(islice(valid, FEW + 1))
        sizes.append(len(found))
        digests += b''.join(found)
        if sum(sizes) > FEW:
            return None
    splits = splits_of_few(hash_words(digests), ratios)
    return None if splits is None else np.split(splits, np.cumsum(sizes)[:-1])


def draw_splits(
    splitting: Splitting, readers: Sequence[Callable[[], Iterator[Records]]], sizes: list[int] | None = None
) -> Int8[np.ndarray, ' documents']:
    """Draw the split of every document of some sources, one source after the other.

    A source that is fixed to a split takes the groups that it holds with it, wherever else their documents are. Memory
    grows by a byte for each document; with data.stratify by about 100.

    Args:
        readers: Of each source, what reads its documents.
        sizes: Where to append how many documents each source has.

    Raises:
        SettingsError: A document has no group or class, a group belongs to sources fixed to different splits or, with
            data.stratify, to two classes, or a class is too small for its splits.
    """
    only = splitting.only or (None,) * len(readers)
    fixed: dict[bytes, tuple[int, str]] = {}
    drawn = [np.zeros(0, np.int8) for _ in readers]
    for i, name in enumerate(only):
        if name is not None:
            drawn[i] = _fix(readers[i](), split_names.index(name), splitting.group, fixed)
    divided = []
    for i, name in enumerate(only):
        if name is None and splitting.by_place(i):
            drawn[i] = splits_in_order(sum(len(records.rows) for records in readers[i]()), splitting.ratios)
        elif name is None:
            divided.append(i)
    strata = Strata(splitting)
    for i in divided:
        some = [_divide(records, splitting, fixed, strata) for records in readers[i]()]
        drawn[i] = np.concatenate([drawn[i], *some])
    if splitting.stratify is not None and divided:
        ends = np.cumsum([len(drawn[i]) for i in divided])
        for i, splits in zip(divided, np.split(strata.draw(), ends[:-1])):
            drawn[i] = splits
    if sizes is not None:
        sizes += map(len, drawn)
    return np.concatenate(drawn)


def _fix(
    documents: Iterator[Records], split: int, group: str | None, fixed: dict[bytes, tuple[int, str]]
) -> Int8[np.ndarray, ' documents']:
    """The splits of the documents of a source that is fixed to one.

    Args:
        split: Which.
        group: The column of groups, which are fixed with their documents.
        fixed: The groups that are fixed so far: their splits, and a document of each for people; more are added.
    """
    n = 0
    for records in documents:
        n += len(records.rows)
        if group is None:
            continue
        for row, unit in zip(records.rows, units_of(records, group)):
            here = f'{records.source}, row {row}'
            there, where = fixed.setdefault(unit.tobytes(), (split, here))
            if there != split:
                raise SettingsError(
                    f'{where}, and {here}, are of one group (data.group: {group}), but their sources are fixed to '
                    f'different splits (only: {split_names[there]} and {split_names[split]}); fix both to one, or '
                    'leave data.group out'
                )
    return np.full(n, split, np.int8)


def _divide(
    records: Records, splitting: Splitting, fixed: dict[bytes, tuple[int, str]], strata: Strata
) -> Int8[np.ndarray, ' documents']:
    """The splits of some documents, by their hashes or as their groups are fixed; with data.stratify, some of these are
    drawn anew once all documents are known.
    """
    units = units_of(records, splitting.group)
    if splitting.fold is None:
        splits = splits_of(units, splitting.ratios)
    else:
        splits = splits_of_fold(units, splitting.ratios, splitting.fold)
    is_free = np.ones(len(units), np.bool_)
    if fixed:
        for k, unit in enumerate(units):
            if (found := fixed.get(unit.tobytes())) is not None:
                splits[k] = found[0]
                is_free[k] = False
    if splitting.stratify is not None:
        strata.add(records, units, splits, is_free)
    return splits


def _identity(stores: Sequence[TokenStore], splitting: Splitting) -> PlainDict:
    return {
        'format': _FORMAT,
        'stores': [store.fingerprint for store in stores],
        'splits': dict(splitting.ratios),
        **splitting.settings(),
    }


def _kind(stores: Sequence[TokenStore]) -> manifests.Kind:
    n_documents = sum(map(len, stores))
    return manifests.Kind(_FORMAT, {'splits': (np.int8,)}, {}, lambda _: {'splits': n_documents})
