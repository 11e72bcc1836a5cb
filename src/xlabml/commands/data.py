"""The subcommands that prepare data and look at it."""

from collections import Counter
from pathlib import Path
from textwrap import shorten

from xlabml.data import compute_statistics, format_statistics, split_names, validate, write_invalid
from xlabml.datamodules import XLabDataModule

from .errors import UsageError

FLAGS = {'dump': 'Write the text too, in base64.'}
"""What the flags of these commands mean, for --help."""


def prepare_data(data: XLabDataModule) -> None:
    """Read the sources, train the tokenizer and build the token stores, where they are not there yet."""
    data.prepare_data()
    print(f'tokenizer: {data.tokenizer_path} ({len(data.tokenizer):,} tokens)')
    for source, store in zip(data.sources, data.corpus.stores):
        left_out = sum(found['count'] for found in store.manifest['invalid'].values())
        print(
            f'store: {store.folder} ({source}: {len(store):,} documents, {len(store.tokens):,} tokens, '
            f'{int(store.n_bytes.sum()):,} bytes; {left_out:,} documents left out)'
        )
    if data.drop_duplicates:
        print(f'{data.corpus.n_copies:,} exact copies of other documents are dropped (data.drop_duplicates)')


def train_tokenizer(data: XLabDataModule) -> None:
    """Train the tokenizer on the train split, where there is no file yet."""
    if data.tokenizer_path.exists():
        print(f'{data.tokenizer_path} is there already; it is left as it is')
        return
    print(f'tokenizer: {data.train_tokenizer()}')


def validate_data(
    data: XLabDataModule,
    output_path: str | None = None,
    dump: bool = False,
    map_rows: list[int] | None = None,
    map_split: str = 'train',
) -> None:
    """Read every document of the sources, and say which are left out and why.

    Token stores that are there already are read as well, and compared with the hashes of what was written.

    Args:
        output_path: A CSV file to write them to (index, reason); nothing may be there. With several sources, each but
            the first gets a file of its own, numbered.
        dump: Whether the file has their text too, in base64.
        map_rows: Rows of the plan to take apart: for each position, the document and the offset in it that its target
            has. Fills the cache where it has to.
        map_split: The split that these rows are of.
    """
    if dump and output_path is None:
        raise UsageError('--dump writes into the file of --output_path; name one')
    paths = [] if output_path is None else [numbered(Path(output_path), i) for i in range(len(data.sources))]
    for path in paths:
        if path.exists():
            raise FileExistsError(f'{path} exists and is not overwritten; name another --output_path')
        if not path.parent.is_dir():
            raise UsageError(f'there is no folder {path.parent} to write {path.name} to; make it first')
    for i, source in enumerate(data.sources):
        n_valid, found = 0, []
        for invalid in validate(source):
            if invalid is None:
                n_valid += 1
            else:
                found.append(invalid)
        reasons = Counter(invalid.reason for invalid in found)
        print(f'{source}: {n_valid:,} valid documents, {len(found):,} left out')
        for reason, n in reasons.most_common():
            rows = ', '.join(str(invalid.row) for invalid in found if invalid.reason == reason)
            print(f'  {reason}: {n:,} (rows {shorten(rows, 60, placeholder=" …")})')
        if paths:
            write_invalid(found, paths[i], dump)
            print(f'  written to {paths[i]}')
    for store in data.stores() if map_rows is None else data.corpus.stores:
        store.verify()
        print(f'store: {store.folder} is as it was written ({len(store):,} documents)')
    for row in map_rows or []:
        print_row(data, map_split, row)


def print_row(data: XLabDataModule, split: str, row: int) -> None:
    """Say whose each position of a row is: an offset counts a document's tokens, then comes its end of text."""
    plan, end = data.rows(split).plan, 0
    for position, document, offset, length in plan.pieces(row):
        end = position + length
        print(
            f'{split} row {row}, positions {position} to {end - 1}: document {data.document_id(document)}, '
            f'offsets {offset} to {offset + length - 1}'
        )
    if end < plan.length:
        print(f'{split} row {row}, positions {end} to {plan.length - 1}: padding')


def numbered(path: Path, i: int) -> Path:
    """The path of the i-th file of several: the path itself, then path-2, path-3 …"""
    return path if i == 0 else path.with_stem(f'{path.stem}-{i + 1}')


def compute_stats(data: XLabDataModule, split: str = 'train', sample_size: int = 10_000) -> None:
    """Say what a split holds: lengths, tokens, how full its rows are.

    Args:
        split: One of train, val, test, predict.
        sample_size: How many documents to look into, drawn at random.
    """
    if split not in split_names:
        raise UsageError(f'--split is {split!r}; the splits are {", ".join(split_names)}')
    if sample_size < 1:
        raise UsageError(f'--sample_size is {sample_size}; it must be at least 1')
    data.prepare_data()
    figures = compute_statistics(data.corpus, split, data.tokenizer, data.rows(split).plan, sample_size, data.seed)
    print(format_statistics(figures))
    for source in data.sources:
        if source.credit:
            print(f'{source}: {source.credit}')
