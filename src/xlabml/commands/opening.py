"""The data, which is built first; the class of the task; and whether an error comes from the user or a checkpoint."""

import contextlib
from collections.abc import Iterator

from xlabml.datamodules import XLabDataModule
from xlabml.engine import Task
from xlabml.settings import build_arguments, find_class
from xlabml.untrusted.building import building, naming

from .command_line import plain
from .errors import usage_errors
from .parsing import Settings


def open_data(settings: Settings) -> XLabDataModule:
    """Build the data that settings describe; no source is opened.

    Raises:
        ValueError: Its settings do not go together, or the tokenizer that they name cannot be used.
    """
    resumed = settings.resumed
    initial = settings.initial
    with blaming(settings), within_the_checkpoint(settings):
        data = XLabDataModule(**build_arguments(XLabDataModule, plain(settings.values.data)))
    if resumed is not None and resumed.names_sources:
        data.named_by = str(resumed.found.path)
    if initial is not None and settings.values.data.tokenizer_path is None:
        with naming(initial.path):
            data.use_tokenizer(initial.contents.tokenizer_bytes())
    elif resumed is None and settings.command != 'train_tokenizer':
        data.texts.tokenizer_file.check()
    return data


def find_task(settings: Settings) -> type[Task]:
    """The class of the task that settings name."""
    with blaming(settings):
        found = find_class(settings.values.model.class_path)
    assert issubclass(found, Task)  # the parser has seen to it
    return found


@contextlib.contextmanager
def blaming(settings: Settings) -> Iterator[None]:
    """Errors of constructors name the checkpoint where the settings are all its own; else they are errors of usage."""
    resumed = settings.resumed
    with contextlib.ExitStack() as stack:
        if resumed is None or not resumed.is_alone:
            stack.enter_context(usage_errors())
        if resumed is not None:
            stack.enter_context(naming(resumed.found.path, 'has settings that cannot be used'))
        yield


def within_the_checkpoint(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Limits the size of what is built while this is open to what a checkpoint's weights explain."""
    if settings.initial is not None:
        return building(settings.initial.path, settings.initial.contents.weights)
    if settings.resumed is None:
        return contextlib.nullcontext()
    return building(settings.resumed.found.path, settings.resumed.checkpoint.weights)
