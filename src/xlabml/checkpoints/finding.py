"""A file, `last` or `best`, as the user types it -> the path of a checkpoint."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from .contents import STEP
from .reading import look, require_file

_WRITTEN = re.compile(r'step=(\d{1,18})(-[\w.+-]+=[\w.+-]+)?\.ckpt')


def find(
    ckpt: str,
    root: Path,
    class_path: str | tuple[str, ...] | None = None,
    typed: str = '{}',
    of_a_run: Literal['best', 'newest'] = 'best',
) -> Path:
    """Find the checkpoint that a user typed.

    Args:
        ckpt: A path, of a file or of a run's folder; or `last`: the newest file of the newest run (the highest
            `version_N`) that has one, or `best`: the best of that run.
        root: The folder that holds `logs`.
        class_path: The task whose runs count, or several; None: any.
        typed: How another path is typed in its place, `--ckpt_path {}` for example.
        of_a_run: Which checkpoint the folder of a run stands for: the best, and the newest where it has none; or the
            newest, which training resumes from.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A checkpoint that has to be opened cannot be read; another one of its run is named.
    """
    if ckpt not in ('last', 'best'):
        path = Path(ckpt)
        return find_in_run(path, of_a_run) if _is_run(path) else require_file(path)
    kinds = (class_path,) if isinstance(class_path, str) else class_path or ()
    runs = [run for run in root.glob('logs/version_*') if run.name.removeprefix('version_').isdecimal()]
    for run in sorted(runs, key=lambda run: int(run.name.removeprefix('version_')), reverse=True):
        if not any(run.glob('checkpoints/*.ckpt')):
            continue
        newest = find_newest(run / 'checkpoints')
        try:
            with naming_another(ckpt, newest, typed):
                if class_path is None or _class_path(newest) in kinds:
                    return newest if ckpt == 'last' else find_best(newest)
        except FileNotFoundError:
            if newest.exists():
                raise
            return find(
                ckpt, root, class_path, typed, of_a_run
            )  # the run trains on, and has just deleted it for a newer one
    kind = '' if class_path is None else f' of {" or ".join(kinds)}'
    raise FileNotFoundError(
        f'there is no checkpoint{kind} in {root.absolute()}/logs/version_*/checkpoints; '
        'train a model with fit, or give the path of a checkpoint'
    )


def find_in_run(folder: Path, which: Literal['best', 'newest'] = 'best') -> Path:
    """The checkpoint of a run that its folder, or that of its checkpoints, stands for; see `find`.

    Raises:
        FileNotFoundError: There is none.
    """
    inner = folder / 'checkpoints'
    newest = find_newest(inner if inner.is_dir() else folder)
    if which == 'best':
        with contextlib.suppress(FileNotFoundError):
            return find_best(newest)
    return newest


def _is_run(path: Path) -> bool:
    """Whether a path is the folder of a run or of its checkpoints; DeepSpeed's checkpoints are folders themselves."""
    try:
        return (
            path.is_dir() and path.suffix != '.ckpt' and ((path / 'checkpoints').is_dir() or any(path.glob('*.ckpt')))
        )
    except OSError:
        return False


def _class_path(path: Path) -> str:
    return look(path).task.class_path


def find_newest(folder: Path) -> Path:
    """The checkpoint in a folder that was written at the latest step.

    Raises:
        FileNotFoundError: There is none.
    """
    files = by_step(folder)
    if not files:
        raise FileNotFoundError(f'there is no checkpoint in {folder.absolute()}')
    return files[-1]


def by_step(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of the steps that they were written at.

    A copy has a new time, so the name says the step, or what is inside where somebody gave the file another name. Of
    two of one step the one that was validated is later; what cannot be read comes first.
    """
    return sorted((file for file in folder.glob('*.ckpt') if file.is_file()), key=_place)


def _place(file: Path) -> tuple[int, bool, bool, float, str]:
    step = written_step(file.name)
    seconds = 0.0
    has_own_name = step is not None
    with contextlib.suppress(ValueError, OSError):  # no checkpoint, or deleted by now
        seconds = file.stat().st_mtime
        step = look(file).training.get(STEP) if step is None else step
    return -1 if step is None else step, has_own_name, '-' in file.name, seconds, file.name


def written_step(name: str) -> int | None:
    """The step of a file that `fit` has written, from its bare name; None: the name has no step."""
    found = _WRITTEN.fullmatch(name)
    return None if found is None else int(found[1])


def find_best(newest: Path) -> Path:
    """The best checkpoint of the run that a newest one is of.

    Raises:
        FileNotFoundError: It has none, or it is gone.
    """
    return require_file(newest.with_name(best_name(newest)))


def best_name(path: Path) -> str:
    """The name of the file that was the best of its run when a checkpoint was written.

    Raises:
        FileNotFoundError: There was none.
    """
    name = look(path).run.best
    if name is None or written_step(name) is None:
        raise FileNotFoundError(
            f'{path} knows of no best checkpoint: none had been validated by then, or checkpoint.monitor was null; '
            "say 'last' for the newest one"
        )
    return name


@contextlib.contextmanager
def naming_another(asked: str, path: Path, typed: str = '{}') -> Iterator[None]:
    """While this lasts, errors about a checkpoint that `last` or `best` stood for name another one of its run.

    Args:
        asked: The value that the user typed; errors about a path stay as they are.
        path: The checkpoint that it stood for.
        typed: How another path is typed in its place.
    """
    try:
        yield
    except ValueError as error:
        if asked not in ('last', 'best') or not str(error).startswith(str(path)):
            raise
        other = _find_another(path)
        if other is None:
            note = f"('{asked}' stands for it, and {path.parent} has no other that opens)"
        else:
            note = f"('{asked}' stands for it). The one before it: {typed.format(shlex.quote(str(other)))}"
        error.args = (f'{error} {note}',)
        raise


def _find_another(path: Path) -> Path | None:
    """The checkpoint before one, else the newest of those after it, that opens."""
    there = by_step(path.parent)
    at = there.index(path) if path in there else len(there)
    for other in [*reversed(there[:at]), *reversed(there[at + 1 :])]:
        with contextlib.suppress(ValueError, OSError):
            look(other)
            return other
    return None
