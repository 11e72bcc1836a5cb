"""Where a run begins, as checkpoints hold it: a step, a place in what is read, and stretches that are left out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xlabml.data import START, BatchSequence, Passes, Place, Places, Stretch
from xlabml.data.order import Gaps
from xlabml.errors import SettingsError


class Skipped(NamedTuple):
    """A stretch that is left out.

    Args:
        asked: The first and the last step of data.skip, or the first and the last place of data.skip_rows; the same
            setting leaves out nothing more.
        start: The first place that is left out.
        end: The place after the last.
    """

    asked: tuple[object, object]
    start: Place
    end: Place


class Start(NamedTuple):
    """Where a run begins: free of rank, worker and micro-batch.

    Args:
        step: The optimizer steps before it.
        place: The place of the first row that is not read yet.
        skipped: What is left out, before the place and after it.
    """

    step: int = 0
    place: Place = START
    skipped: tuple[Skipped, ...] = ()

    @property
    def stretches(self) -> list[Stretch]:
        """What is left out, as places."""
        return [(one.start, one.end) for one in self.skipped]

    def n_read(self, passes: Passes) -> int:
        """How many rows were read before it, since the first pass."""
        return Places(passes.n_rows, passes.n_each, START, self.stretches).index(self.place)

    def state(self) -> dict[str, object]:
        """Plain values."""
        skipped = [[*_plain(one.asked), list(one.start), list(one.end)] for one in self.skipped]
        return {'step': self.step, 'pass': self.place.pass_index, 'row': self.place.row, 'skipped': skipped}


def read_start(state: Mapping[str, Any], passes: Passes, is_new: bool) -> Start:
    """The start that a checkpoint holds.

    Earlier versions counted the rows of stores over all epochs, without those left out, and named a stream's passes
    windows.

    Args:
        state: As `Start.state` wrote it, or an earlier version.
        passes: What is read.
        is_new: Whether this is not what the checkpoint was trained on: the run then begins at its first place, and what
            was left out before is known, but means nothing.
    """
    if is_new:
        known = [_asked(entry) for entry in state.get('skipped', [])]
        return Start(state['step'], START, tuple(Skipped(asked, START, START) for asked in known))
    n_each = passes.n_each
    entries = state.get('skipped', [])
    if 'pass' in state or n_each is None:
        place = Place(state.get('pass', state.get('window', 0)), state['row'])
        skipped = [Skipped(_asked(entry), Place(*entry[2]), Place(*entry[3])) for entry in entries]
        return Start(state['step'], place, tuple(skipped))
    gaps = Gaps([(start, end) for _, _, start, end in entries])
    place = Place(*divmod(gaps.place(state['row']), n_each))
    skipped = [Skipped(_asked(entry), *(Place(*divmod(row, n_each)) for row in entry[2:])) for entry in entries]
    return Start(state['step'], place, tuple(skipped))


def leave_out(
    start: Start, sequence: BatchSequence, steps: Sequence[list[int]], rows: Sequence[list[list[int]]]
) -> Start:
    """A start that leaves out more: what was left out before stays so.

    Args:
        start: Where the run begins.
        sequence: The run's batches from there on.
        steps: `data.skip`: the first and the last step, as this run would count them.
        rows: `data.skip_rows`: the first and the last place.

    Raises:
        ValueError: Some of it was read already.
    """
    known = [one.asked for one in start.skipped]
    found = []
    for first_step, last_step in steps:
        asked = (first_step, last_step)
        if asked not in known:
            found.append(Skipped(asked, *_find_steps(asked, start, sequence)))
    for pair in rows:
        first, last = (Place(*place) for place in pair)
        if (first, last) not in known:
            found.append(Skipped((first, last), *_check_rows(first, last, start, sequence.passes)))
    return start._replace(skipped=(*start.skipped, *found))


def _find_steps(asked: tuple[int, int], start: Start, sequence: BatchSequence) -> Stretch:
    first, last = asked
    if first <= start.step:
        raise SettingsError(
            f'data.skip has [{first}, {last}], but the checkpoint has trained {start.step} steps already; '
            f'resume from one of step {first - 1} or before, or leave the pair out'
        )
    return sequence.places_read(first - 1, last)


def _check_rows(first: Place, last: Place, start: Start, passes: Passes) -> Stretch:
    n_each = passes.n_each
    if n_each is not None and last.row >= n_each:
        raise SettingsError(
            f'data.skip_rows has {_plain((first, last))}, but a pass over this data has {n_each:,} rows; give places '
            'as [pass, row], as a run that ended early printed them'
        )
    end = Place(last.pass_index, last.row + 1)
    if first.row % passes.unit or end.row % passes.unit:
        raise SettingsError(
            f'data.skip_rows has {_plain((first, last))}, but {passes.unit} groups (data.batch_groups) are one step '
            f'here: the first row has to be a multiple of that, and the last one come before a multiple'
        )
    if first < start.place:
        until = min(end, start.place)
        if Places(passes.n_rows, n_each, first, start.stretches).index(until):
            raise SettingsError(
                f'data.skip_rows has {_plain((first, last))}, but the checkpoint has read rows of that already; resume '
                'from an earlier one, or leave the pair out'
            )
    return first, end


def _asked(entry: Sequence[object]) -> tuple[object, object]:
    first, last = (Place(*value) if isinstance(value, (list, tuple)) else value for value in entry[:2])
    return first, last


def _plain(asked: tuple[object, object]) -> list[object]:
    return [list(value) if isinstance(value, tuple) else value for value in asked]
