"""The subcommands that prepare and inspect data."""

import inspect
import os
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import numpy as np

from xlabml.artifacts.manifests import Manifest
from xlabml.data import (
    REASONS,
    SharedJob,
    Source,
    TokenStore,
    check_picture,
    compute_statistics,
    counts_of,
    describe_changed,
    describe_near_duplicates,
    format_statistics,
    permute,
    plan_store,
    plot_histogram,
    split_names,
    validate,
    write_invalid,
)
from xlabml.data.prepared import verify
from xlabml.data.rows import Part
from xlabml.datamodules import XLabDataModule

from .errors import MOST_SHOWN, UsageError, typed_paths, usage_errors
from .output import visible

FLAGS = {
    'dump': 'Also write the text, in base64.',
    'dry_run': 'Slurm: only print the scripts that would be submitted.',
}
"""What the flags of these commands mean, for --help."""


def prepare_data(
    data: XLabDataModule,
    engine: Literal['processes', 'ray', 'slurm'] = 'processes',
    shared_folder: str | None = None,
    n_tasks: int | None = None,
    n_workers: int | None = None,
    n_cpus: int = 1,
    memory_gb: int = 2,
    max_hours: int = 12,
    partition: str | None = None,
    qos: str | None = None,
    env_command: str | None = None,
    sbatch_args: dict[str, str] | None = None,
    dry_run: bool = False,
) -> None:
    """Read the sources, train the tokenizer and build the token stores, where they are not there yet.

    Args:
        engine: What tokenizes: processes of this machine (data.n_processes), or tasks on the machines of a Ray or Slurm
            cluster (extra `cluster`); the stores are the same, byte for byte, and a run that was killed is resumed.
        shared_folder: Ray and Slurm: a folder that all machines see, for the parts until they are gathered here: a
            path, or a URL of fsspec (s3://, gs:// …). They must also see the sources under the same paths.
        n_tasks: Ray and Slurm: how many tasks share the parts of a source out; null: one a part.
        n_workers: Ray and Slurm: how many of them run at a time; null: all.
        n_cpus: Ray and Slurm: cores of a task.
        memory_gb: Ray and Slurm: memory for each core, in GiB.
        max_hours: Ray and Slurm: how long a task may take.
        partition: Slurm: where the jobs shall run.
        qos: Slurm: their quality of service.
        env_command: Slurm: what a job runs first; null: it activates the virtual environment of this command.
        sbatch_args: Slurm: more of what sbatch takes, by name.
        dry_run: Slurm: only print the scripts that would be submitted.
    """
    cluster = _cluster(engine, locals())
    if dry_run:
        _print_scripts(data, cluster)
        return
    data.prepare_data(cluster)
    print(f'tokenizer: {data.tokenizer_path} ({len(data.tokenizer):,} tokens)')
    _print_losses(data)
    _print_extent(data)
    names = data.sources if data.stream is None else [store.manifest['source'] for store in data.texts.corpus.stores]
    for source, store in zip(names, data.texts.corpus.stores):
        left_out = sum(found['count'] for found in store.manifest['invalid'].values())
        _print_rows(source, store.manifest)
        print(
            f'store: {store.folder} ({source}: {len(store):,} documents, {len(store.tokens):,} tokens, '
            f'{int(store.n_bytes.sum()):,} bytes; {left_out:,} documents left out)'
        )
        _print_changed(store)
    if data.drop_duplicates:
        print(f'{data.texts.corpus.n_copies:,} exact copies of other documents are dropped (data.drop_duplicates)')
    _print_near_duplicates(data)


def _print_rows(source: Source | str, manifest: Manifest) -> None:
    """Print how much was read of a source, and how much of it was kept: more lines than rows show an unclosed quote."""
    read = counts_of(manifest)
    rows = manifest['n_rows']
    counts = [f'{read[name]:,} {name}' for name in ('files', 'lines') if read.get(name)]
    if read.get('lines', 0) > rows:
        counts[-1] += f' ({read["lines"] - rows:,} of them headers, blank or inside quoted fields)'
    reasons = ', '.join(f'{found["count"]:,} {reason}' for reason, found in manifest['invalid'].items())
    left_out = sum(found['count'] for found in manifest['invalid'].values())
    counts += [f'{rows:,} rows', f'{manifest["n_documents"]:,} documents']
    print(f'read {source}: {", ".join(counts)}, {left_out:,} left out' + (f' ({reasons})' if reasons else ''))


def _print_passed_over(data: XLabDataModule) -> None:
    for source in data.sources:
        if line := source.passed_over():
            print(f'{source}: {line}')


def _print_extent(data: XLabDataModule) -> None:
    if data.texts.extent:
        print(f'the following is of {data.texts.extent}')


def _print_losses(data: XLabDataModule) -> None:
    """Print the special tokens of a foreign tokenizer, and which parts of a text it does not restore."""
    tokenizer = data.tokenizer
    if tokenizer.is_lossless:
        return
    roles = ', '.join(f'{role} {tokenizer.piece(id)!r}' for role, id in tokenizer.special_ids.items())
    print(f'  special tokens: {roles}')
    if not tokenizer.losses:
        print('  no text was found that is not restored exactly')
    else:
        print('  not restored exactly:')
        print('\n'.join(f'    {loss}' for loss in tokenizer.losses))


def _print_changed(store: TokenStore) -> None:
    if changed := describe_changed(store.manifest):
        print(f'  {changed}')


def _print_near_duplicates(data: XLabDataModule) -> None:
    if data.texts.near_pairs is not None:
        print('\n'.join(describe_near_duplicates(data.texts.corpus, data.texts.near_pairs)))


def _cluster(engine: str, given: Mapping[str, Any]) -> Any:
    """The engine of these arguments; None: processes of this machine.

    Raises:
        UsageError: An argument is of another engine, or one is missing, or a package is.
    """
    of_all = ('shared_folder', 'n_tasks', 'n_workers', 'n_cpus', 'memory_gb', 'max_hours')
    of_slurm = ('partition', 'qos', 'env_command', 'sbatch_args', 'dry_run')
    taken = {'processes': (), 'ray': of_all, 'slurm': of_all + of_slurm}[engine]
    defaults = inspect.signature(prepare_data).parameters
    for name in (*of_all, *of_slurm):
        if name not in taken and given[name] != defaults[name].default:
            raise UsageError(f'--{name} is of no use with --engine {engine}; leave it out, or name another engine')
    for name in ('shared_folder', 'partition'):
        if name in taken and given[name] is None:
            raise UsageError(f'--engine {engine} needs --{name} (prepare_data --help says what it is)')
    if engine == 'processes':
        return None
    try:
        from xlabml.data.store import cluster

        if engine == 'ray':
            import ray  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f'--engine {engine} needs the packages of the extra cluster ({error}): pip install "xlabml[cluster]"'
        ) from error
    with usage_errors():
        arguments = {name: given[name] for name in taken if name != 'dry_run'}
        return cluster.Ray(**arguments) if engine == 'ray' else cluster.Slurm(**arguments)


def _print_scripts(data: XLabDataModule, cluster: Any) -> None:
    """Print what would be submitted for each source whose store is not there."""
    if not data.tokenizer_path.exists():
        raise UsageError(f'there is no tokenizer at {data.tokenizer_path} yet; run xlab train_tokenizer first')
    ready = {store.manifest['source'] for store in data.texts.stores()}
    for i, source in enumerate(data.texts.sources):
        if str(source) in ready:
            print(f'# {source}: its store is there already')
            continue
        job = plan_store(source, data.tokenizer, data.texts.columns_of(i))
        print(f'# {source}, {len(job.parts)} parts')
        print(cluster.script(SharedJob.named(job, cluster.shared_folder), job))


def train_tokenizer(data: XLabDataModule) -> None:
    """Train the tokenizer on the train split, where there is no file yet."""
    if data.tokenizer_path.exists():
        print(f'{data.tokenizer_path} is there already; it is left as it is')
        return
    _print_passed_over(data)
    print(f'tokenizer: {data.texts.tokenizer_file.train()}')


def validate_data(
    data: XLabDataModule,
    output_path: str | None = None,
    dump: bool = False,
    map_rows: list[int] | None = None,
    map_split: str = 'train',
    render: int = 0,
    render_split: str = 'train',
) -> None:
    """Read every document of the sources, and say which are left out and why.

    Token stores, and the rows laid out from them, that are there already are read as well, and compared with the hashes
    of what was written.

    Args:
        output_path: A CSV file to write them to (index, reason); nothing may be there. With several sources, each but
            the first gets a file of its own, numbered.
        dump: Whether the file has their text too, in base64.
        map_rows: Rows of the plan to take apart: for each position, the document and the offset in it that its target
            has. Fills the cache where it has to.
        map_split: The split that these rows are of.
        render: How many examples of each source to print as the model reads them, drawn at random, and what the
            examples are like: lengths of their texts, how many are cut, texts a group. Fills the cache where it has to.
        render_split: The split that these examples are of.
    """
    if render < 0:
        raise UsageError(f'--render is {render}; it must be 0 or more')
    for name, split in (('map_split', map_split), ('render_split', render_split)):
        if split not in split_names:
            raise UsageError(f'--{name} is {split!r}; the splits are {", ".join(split_names)}')
    if dump and output_path is None:
        raise UsageError('--dump writes into the file of --output_path; name one')
    paths = [] if output_path is None else [numbered(Path(output_path), i) for i in range(len(data.sources))]
    for path in paths:
        if path.exists():
            raise UsageError(f'{path} exists and is not overwritten; name another --output_path')
        if not path.parent.is_dir():
            raise UsageError(f'there is no folder {path.parent} to write {path.name} to; make it first')
    _print_passed_over(data)
    for i, source in enumerate(data.texts.sources):
        n_valid = 0
        found = []
        for invalid in validate(source, data.texts.columns_of(i)):
            if invalid is None:
                n_valid += 1
            else:
                found.append(invalid)
        reasons = Counter(invalid.reason for invalid in found)
        n_left_out = sum(n for reason, n in reasons.items() if reason in REASONS)
        print(f'{source}: {n_valid:,} valid documents, {n_left_out:,} left out')
        for reason, n in reasons.most_common():
            rows = ', '.join(str(invalid.row) for invalid in found if invalid.reason == reason)
            refused = '' if reason in REASONS else ': every document needs a value there, and fit refuses these'
            print(f'  {reason}: {n:,} (rows {shorten(rows, 60, placeholder=" …")}){refused}')
        if paths:
            write_invalid(found, paths[i], dump)
            print(f'  written to {paths[i]}')
    if data.tokenizer_path.exists():
        _print_losses(data)
    if map_rows is not None:
        data.prepare_data()
    for line in verify(data.texts):
        print(line)
    if data.near_duplicates is not None:
        data.prepare_data()
        _print_near_duplicates(data)
    for row in map_rows or []:
        print_row(data, map_split, row)
    if render:
        print_examples(data, render_split, render)


def print_examples(data: XLabDataModule, split: str, n: int) -> None:
    """Say what the examples of a split are like, and show n of each source."""
    examples = data.texts.open_examples(split, split)
    for line in examples.describe():
        print(line)
    for first, end in pairwise(examples.source_starts):
        for number in first + permute(np.arange(min(n, end - first)), end - first, data.seed, 0):
            print(f'{split} example {number}')
            painted = examples.paint(int(number))
            if painted is not None:
                for name, parts in painted:
                    print(f'  {name}: {"".join(map(show_part, parts))}')
                continue
            for name, text in examples.render(int(number)):
                print(f'  {name}: {shorten(text, MOST_SHOWN, placeholder=" …")}')


def show_part(part: Part) -> str:
    """A part of an example, as a terminal shows it: metadata coloured, targets underlined. Else metadata stands in ‹›,
    or where it is a target in «»."""
    text = visible(part.text)
    if not sys.stdout.isatty() and 'FORCE_COLOR' not in os.environ:
        quotes = '«»' if part.is_counted else '‹›'
        return f'{quotes[0]}{text}{quotes[1]}' if part.is_metadata else text
    codes = ['36'] * part.is_metadata + ['4'] * part.is_counted
    return f'\033[{";".join(codes)}m{text}\033[0m' if codes else text


def print_row(data: XLabDataModule, split: str, row: int) -> None:
    """Print the document of each position of a row: offsets count its tokens; its end of text follows them."""
    plan = data.texts.rows(split).plan
    end = 0
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


def compute_stats(
    data: XLabDataModule, split: str = 'train', sample_size: int = 10_000, n_examples: int = 3, plot: str | None = None
) -> None:
    """Print statistics of a split: lengths, tokens, the fill ratio of its rows.

    Args:
        split: One of train, val, test, predict.
        sample_size: Documents to read, drawn at random.
        n_examples: Documents whose beginnings are printed.
        plot: A file for a histogram of the lengths (.png, .svg, .pdf; extra `plots`); it must not exist.
    """
    if split not in split_names:
        raise UsageError(f'--split is {split!r}; the splits are {", ".join(split_names)}')
    if sample_size < 1:
        raise UsageError(f'--sample_size is {sample_size}; it must be at least 1')
    if n_examples < 0:
        raise UsageError(f'--n_examples is {n_examples}; it must be 0 or more')
    if plot is not None:
        with usage_errors(), typed_paths():
            check_picture(Path(plot))
    data.prepare_data()
    plan = data.texts.rows(split).plan
    figures = compute_statistics(data.texts.corpus, split, data.tokenizer, plan, sample_size, data.seed, n_examples)
    _print_extent(data)
    print(format_statistics(figures))
    _print_losses(data)
    _print_near_duplicates(data)
    for source in data.sources:
        if source.credit:
            print(f'{source}: {source.credit}')
    if plot is not None:
        _, lengths = data.texts.corpus.token_spans(data.texts.corpus.documents(split))
        title = f'{split}: {", ".join(map(str, data.sources))} ({len(lengths):,} texts, {lengths.sum():,} tokens)'
        plot_histogram(lengths, data.max_len, title, Path(plot))
        print(f'picture: {plot}')
