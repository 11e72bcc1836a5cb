"""Curves for TensorBoard, whose errors never end a run.

TensorBoard's own writer is a thread: it prints a disk error as a traceback, and a later call raises it. Ours writes
synchronously, row by row, so that a kill loses none, and stops writing at the first error.
"""

import contextlib
import io
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from xlabml.telemetry.tags import tag_of

from .charts import draw_charts

_numbers = itertools.count()


class Events(TensorBoardLogger):
    """Lightning's logger for TensorBoard, with an `EventFile`.

    Figures get the tags of `telemetry.tags`, and the first row a layout of charts.

    Attributes:
        give_up: Called with the error after which nothing more is written.
    """

    give_up: Callable[[OSError], None] = staticmethod(lambda error: None)
    _has_charts = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of summaries, for callbacks that log texts or images."""
        if self._experiment is None:
            self._experiment = _Summaries(self.log_dir, lambda error: self.give_up(error), **self._kwargs)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row."""
        with self.experiment.held():
            if not self._has_charts:
                self._has_charts = True
                self.experiment._get_file_writer().add_summary(draw_charts(metrics), 0)
            super().log_metrics({tag_of(name): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_settings(self, settings: Mapping[str, str | float], monitor: str) -> None:
        """Describe the run in the tab HPARAMS.

        Args:
            settings: Plain values, by dotted names.
            monitor: The figure that the runs are compared by.
        """
        with self.experiment.held():
            for summary in hparams(dict(settings), {tag_of(monitor): 0.0}):
                self.experiment._get_file_writer().add_summary(summary, 0)

    @rank_zero_only
    def save(self) -> None:
        """Flush, and write `hparams.yaml` where a callback has logged hyper-parameters."""
        try:
            if self.hparams:
                super().save()
            else:
                self.experiment.flush()
        except OSError as error:
            self.give_up(error)


class EventFile:
    """Events in TensorBoard's format, appended to a file; after the first error nothing more is written.

    Args:
        folder: Folder of the file; created if it does not exist.
        give_up: Called with the error.

    Attributes:
        is_held: Whether events are buffered until the next flush.
    """

    def __init__(self, folder: str, give_up: Callable[[OSError], None]) -> None:
        name = f'events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}'
        self.folder = folder
        self.path = Path(folder, name)
        self._give_up = give_up
        self.is_held = False
        self._pending = io.BytesIO()
        self._is_open = True
        self.add_event(Event(wall_time=time.time(), file_version='brain.Event:2'))

    def get_logdir(self) -> str:
        return self.folder

    def add_event(self, event: Event) -> None:
        RecordWriter(self._pending).write(event.SerializeToString())
        if not self.is_held:
            self.flush()

    def flush(self) -> None:
        """Write the buffered events. No retry after an error, since readers stop at a truncated record."""
        data = self._pending.getvalue()
        self._pending = io.BytesIO()
        if not data or not self._is_open:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open('ab') as file:
                file.write(data)
        except OSError as error:
            self._is_open = False
            self._give_up(error)

    def close(self) -> None:
        self.flush()


class _Summaries(SummaryWriter):
    """torch's writer of summaries, into our file.

    Args:
        folder: Folder of the file.
        give_up: Called with an error.
    """

    def __init__(self, folder: str, give_up: Callable[[OSError], None], **options: Any) -> None:
        self._give_up = give_up
        super().__init__(folder, **options)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Buffer events inside the context, and write them at its end."""
        file = self._get_file_writer().event_writer
        file.is_held = True
        try:
            yield
        finally:
            file.is_held = False
            file.flush()

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            writer: Any = FileWriter.__new__(FileWriter)  # its constructor would start the thread
            writer.event_writer = EventFile(self.log_dir, self._give_up)
            everywhere: Any = {self.log_dir: writer}
            self.file_writer = writer
            self.all_writers = everywhere
            if self.purge_step is not None:  # as in the overridden method
                writer.add_event(Event(step=self.purge_step, file_version='brain.Event:2'))
                writer.add_event(Event(step=self.purge_step, session_log=SessionLog(status=SessionLog.START)))
                self.purge_step = None
        return self.file_writer
