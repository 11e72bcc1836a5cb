"""`fit --init_from PATH`: a new run whose network begins with the weights of another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

from xlabml import checkpoints, models, settings
from xlabml.checkpoints import Contents
from xlabml.conversion import HUB, fetch_folder, is_pretrained, read_pretrained
from xlabml.datamodules import XLabDataModule
from xlabml.errors import SettingsError
from xlabml.plain import Plain, PlainDict, below
from xlabml.transformer import BY_DIRECTION, Transformer, Trunk
from xlabml.untrusted.building import REMEDY, naming
from xlabml.untrusted.matching import match_arguments, parameters

from .errors import typed_paths
from .saved import Seals

_OF_THE_TASK = ('causal',)
"""Arguments of a trunk that the new task decides, not the run that it begins with."""

_OF_THE_ENCODER = ('pooling', 'dense', 'normalize', 'prompts', 'include_prompt')
"""Arguments that make vectors of the trunk's hidden states: weights of these mean nothing in others."""

_OF_THE_TABLE = ('d_vector', 'normalize')
"""Arguments of a table of token vectors."""


class Initial(NamedTuple):
    """The checkpoint that a new run starts from.

    Args:
        path: The file.
        contents: Its contents.
    """

    path: Path
    contents: Contents


def open_initial(asked: str, root: Path) -> Initial:
    """Open the checkpoint that --init_from names.

    Args:
        asked: A checkpoint or an exported file, the folder of a run (its best checkpoint, else its newest), `last` or
            `best`: of the newest run; or the folder of a pretrained encoder of transformers, `hf://ORG/NAME` on a hub.
        root: The folder that holds `logs`.

    Raises:
        UsageError: There is nothing.
        CheckpointError: It cannot be read.
    """
    with typed_paths():
        if asked.startswith(HUB):
            folder = fetch_folder(asked)
            return Initial(folder, read_pretrained(folder))
        path = Path(asked)
        if path.is_dir() and not (path / 'checkpoints').is_dir() and is_pretrained(path):
            return Initial(path, read_pretrained(path))
        path = checkpoints.find(asked, root, typed='--init_from {}')
        with checkpoints.naming_another(asked, path, '--init_from {}'):
            return Initial(path, checkpoints.load(path).merged())


def initial_settings(initial: Initial, class_path: str, has_tokenizer: bool, seals: Seals) -> PlainDict:
    """Settings that a new run takes over: the trunk, what makes vectors of texts where both tasks do, or the width of a
    table of token vectors; the longest row, and the size of the tokenizer.

    Args:
        initial: The checkpoint that the run starts from.
        class_path: The task of the new run.
        has_tokenizer: Whether a tokenizer is named for the new run; else it is that of the file.
        seals: Closes all texts.

    Raises:
        ValueError: A name or a value does not fit the signature that it would end in.
    """
    network = initial.contents.network
    data = initial.contents.data
    task = settings.find_class(class_path)
    found: PlainDict = {'data': {}}
    with naming(initial.path, remedy=REMEDY):
        if network is not None and 'trunk' in network.arguments and 'trunk' in parameters(task):
            names = {'trunk', *_OF_THE_ENCODER} & network.arguments.keys() & parameters(task).keys()
            saved = {name: network.arguments[name] for name in sorted(names)}
            _require_trunk(initial.path, saved['trunk'], task)
            matched = match_arguments(task, saved, 'model', seals.close)
            trunk = below(matched, 'trunk')
            known = _written_out(trunk)
            trunk['init_args'] = {name: value for name, value in known.items() if name not in _OF_THE_TASK}
            found['model'] = {'class_path': class_path, 'init_args': {**matched, 'trunk': trunk}}
        elif network is not None and 'd_vector' in network.arguments and 'd_vector' in parameters(task):
            saved = {name: network.arguments[name] for name in _OF_THE_TABLE if name in network.arguments}
            matched = match_arguments(task, saved, 'model', seals.close)
            found['model'] = {'class_path': class_path, 'init_args': matched}
        sizes = {name: data[name] for name in ['max_len', *([] if has_tokenizer else ['n_vocab'])] if name in data}
        found['data'] = match_arguments(XLabDataModule, sizes, 'data', seals.close)
    return found


def _written_out(trunk: PlainDict) -> PlainDict:
    """The arguments of a trunk; those that follow from the direction of attention, which the new task decides, are
    written out as they followed from the direction that it had."""
    known = below(trunk, 'init_args')
    path = trunk.get('class_path')
    cls = settings.find_class(path) if isinstance(path, str) else None
    if cls is None or not issubclass(cls, Transformer):
        return known
    usual = BY_DIRECTION[known.get('causal') is not False]
    unset = {name: value for name, value in usual.items() if name in parameters(cls) and known.get(name) is None}
    return {**known, **unset}


def _require_trunk(path: Path, trunk: Plain, task: type) -> None:
    """Refuse a trunk of another kind than the task takes: of a pretrained encoder, for a language model.

    Raises:
        SettingsError: The message names both, and tasks that take it.
    """
    class_path = trunk.get('class_path') if isinstance(trunk, Mapping) else None
    taken = _trunk_of(task)
    if not isinstance(class_path, str) or taken is None:
        return
    found = settings.find_class(class_path)
    if issubclass(found, Trunk) and not issubclass(found, taken):
        others = (getattr(models, name) for name in models.__all__)
        able = [one.__name__ for one in others if issubclass(found, _trunk_of(one) or ())]
        raise SettingsError(
            f'--init_from {path} is an encoder whose trunk is a {found.__name__}, but {task.__name__} takes a '
            f'{taken.__name__} alone; choose ' + ' or '.join(f'--model {name}' for name in sorted(able))
        )


def _trunk_of(task: type) -> type | None:
    """The class of trunks that a task takes; None: it takes none."""
    taken = get_args(parameters(task).get('trunk'))
    return taken[-1] if taken and isinstance(taken[-1], type) else None
