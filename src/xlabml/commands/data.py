"""The subcommands that prepare data and look at it."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn

from xlabml.data import compute_statistics, format_statistics, validate
from xlabml.datamodules import XLabDataModule


class Reporter:
    """Show a bar with bytes, speed and the time left for what takes longer than two seconds."""

    def __init__(self, delay_seconds: float = 2.0) -> None:
        self._delay = delay_seconds
        self._started: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bar: Progress | None = None

    def __call__(self, description: str, done_bytes: int, total_bytes: int | None) -> None:
        """Say how far a piece of work is; done once done_bytes is total_bytes, or -1."""
        is_done = done_bytes < 0 or done_bytes == total_bytes
        started = self._started.setdefault(description, time.monotonic())
        if self._bar is None and not is_done and time.monotonic() - started > self._delay and sys.stdout.isatty():
            self._bar = Progress(
                TextColumn('{task.description}'),
                BarColumn(bar_width=24),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(compact=True),
                console=Console(),
                transient=True,
            )
            self._bar.start()
        if self._bar is not None:
            if description not in self._tasks:
                self._tasks[description] = self._bar.add_task(description, total=total_bytes)
            self._bar.update(self._tasks[description], completed=max(0, done_bytes), total=total_bytes)
            if is_done:
                self._bar.stop()
                self._bar, self._tasks = None, {}


def prepare_data(data: XLabDataModule) -> None:
    """Read the sources, train the tokenizer and build the token stores, where they are not there yet."""
    data.prepare_data()
    print(f'tokenizer: {data.tokenizer_path} ({len(data.tokenizer):,} tokens)')
    for source, store in zip(data.sources, data.corpus.stores):
        left_out = sum(store.manifest['invalid'].values())
        print(
            f'store: {store.folder} ({source}: {len(store):,} documents, {len(store.tokens):,} tokens, '
            f'{int(store.n_bytes.sum()):,} bytes; {left_out:,} documents left out)'
        )


def train_tokenizer(data: XLabDataModule) -> None:
    """Train the tokenizer on the train split, where there is no file yet."""
    if data.tokenizer_path.exists():
        print(f'{data.tokenizer_path} is there already; it is left as it is')
        return
    print(f'tokenizer: {data.train_tokenizer()}')


def validate_data(data: XLabDataModule, output_path: str | None = None, dump: bool = False) -> None:
    """Read every document of the sources, and say which are left out and why.

    Args:
        output_path: A CSV file to write them to (source, row, reason); nothing may be there.
        dump: Whether the file has their text too, in base64.
    """
    validate(data.sources, output_path, dump)


def compute_stats(data: XLabDataModule, split: str = 'train', sample_size: int = 10_000) -> None:
    """Say what a split holds: lengths, tokens, how full its rows are.

    Args:
        split: One of train, val, test, predict.
        sample_size: How many documents to look into, drawn at random.
    """
    data.prepare_data()
    figures = compute_statistics(data.corpus, split, data.tokenizer, data.rows(split), sample_size, data.seed)
    print(format_statistics(figures))
    for source in data.sources:
        if source.credit:
            print(f'{source}: {source.credit}')
