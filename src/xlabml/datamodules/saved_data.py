"""What a checkpoint knows of the data that it was trained on, and how that differs from the data at hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import checkpoints, settings
from xlabml.data import Format, NextTokens, Plan, Source
from xlabml.errors import DataError, SettingsError
from xlabml.untrusted.building import building
from xlabml.untrusted.matching import match_arguments

from .run_length import StepSize
from .streamed import StreamedTraining
from .texts import Texts
from .training_rows import TrainingRows

_PROTOCOLS = ('http', 'https', 's3', 's3a', 'gs', 'gcs', 'az', 'abfs', 'abfss', 'hf', 'file', 'memory')
"""Of addresses that a checkpoint may name: some others of fsspec unpack archives, or templates that are code."""

_EARLIER_EXAMPLES = NextTokens().settings()
"""The examples of a checkpoint that names none, being of an earlier version."""
_WHERE_SET = ('data.group', 'data.stratify', 'data.sources.only')
"""Settings that a checkpoint has only where they are set."""

_Data = TypeVar('_Data', bound='SavedData')


class SavedData(L.LightningDataModule):
    """A data module seen from a checkpoint: what it holds of it, and how it is built and put in its place from one."""

    splits: dict[str, float]
    drop_duplicates: bool
    max_len: int
    batch_tokens: int
    device_batch_tokens: int | None
    first_batch_tokens: int | None
    batch_warmup_steps: int
    first_len: int | None
    len_warmup_steps: int
    plan: Callable[[int], Plan]
    examples: Format
    accept_changes: bool
    _texts: Texts
    _training: TrainingRows | StreamedTraining
    _goes_on_from: dict[str, Any]
    _came_from: dict[str, Any]
    _saved_state: dict[str, Any] | None
    sources: Sequence[Source]
    held_out: Sequence[Source]
    named_by: str | None = None
    """The checkpoint that names the sources, where nobody typed them."""

    def tell_addresses(self) -> None:
        """Say, once and before it is opened, which address only a checkpoint names.

        Raises:
            ValueError: It is of a kind that could run code or reach other files.
        """
        path, self.named_by = self.named_by, None
        if path is None:
            return
        for address in (one for source in (*self.sources, *self.held_out) for one in source.addresses()):
            if '::' in address or address.partition('://')[0] not in _PROTOCOLS:
                raise ValueError(
                    f'{path} names {address!r:.200} as a source of its data, which is opened only where data.sources '
                    f'names it; from a checkpoint alone come {", ".join(_PROTOCOLS)}'
                )
            if getattr(rank_zero_only, 'rank', 0) == 0:
                print(f'reading {address!r:.200}, which {path} names as a source of its data', flush=True)

    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _step(self) -> int:
        return self.trainer.global_step if self.trainer else 0

    def _step_size(self) -> StepSize:
        return StepSize(
            self.max_len,
            self.batch_tokens,
            self.device_batch_tokens,
            self._world(),
            self.first_batch_tokens,
            self.batch_warmup_steps,
            self.first_len,
            self.len_warmup_steps,
        )

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer's bytes, and where the data stands: free of rank, worker and micro-batch."""
        place = self._training.place(self._step_size(), self._goes_on_from, self._step())
        return checkpoints.pack_data(self._texts.tokenizer.data, {**place, **self._what_is_trained_on()})

    def _what_is_trained_on(self) -> dict[str, Any]:
        """Plain values that the sequence of training rows follows from."""
        saved = {
            'data.splits': self.splits,
            'data.drop_duplicates': self.drop_duplicates,
            'data.near_duplicates': self._dropped_near(),
            'data.max_len': self.max_len,
            'data.plan': self.plan(self.max_len).settings(),
            'data.examples': self.examples.settings(),
            **self._texts.splitting.settings(),
            **self._training.settings(),
        }
        return {'rows': self._training.fingerprint, 'data': {**self._texts.describe(), 'settings': saved}}

    def _dropped_near(self) -> dict[str, Any] | None:
        """How near-duplicates that are dropped are found."""
        near = self._texts.near_duplicates
        return None if near is None or near.action != 'drop' else dict(vars(near))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's tokenizer and, when a fit goes on, its place in the data.

        Raises:
            ValueError: The data is not what the checkpoint was trained on, and data.accept_changes is not set; what
                changed is named.
        """
        tokenizer, place = checkpoints.unpack_data(state_dict)
        self.use_tokenizer(tokenizer)
        if self.trainer is None or self.trainer.state.fn != 'fit':
            return
        self._goes_on_from = self._place_in(place)
        self._saved_state = None
        self._came_from = self._goes_on_from

    def will_go_on(self, place: dict[str, Any]) -> None:
        """Count epochs from a checkpoint's place in the data, which Lightning gives us later than it asks for them."""
        self._saved_state = place

    def _place(self) -> dict[str, Any]:
        """Where the run begins, that of the checkpoint which is still to come, if one is."""
        return self._goes_on_from if self._saved_state is None else self._place_in(self._saved_state)

    def _place_in(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        is_new = check_changes(state_dict, self._what_is_trained_on(), self.accept_changes)
        start = self._training.start
        place = start if is_new else {name: state_dict.get(name, value) for name, value in start.items()}
        place = {**place, 'step': state_dict['step']}
        if is_new and 'skipped' in start:  # these rows were of the old data, but their steps are not asked for anew
            place['skipped'] = [[first, last, 0, 0] for first, last, *_ in state_dict.get('skipped', [])]
        return place

    def use_tokenizer(self, data: bytes) -> None:
        """Use the tokenizer that a checkpoint holds; a file in the cache, named by its hash, is written from it.

        Raises:
            ValueError: data.tokenizer_path is the file of another one.
        """
        self._texts.use_tokenizer(data)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls: type[_Data], checkpoint_path: str | Path, map_location: Any = 'cpu', **overrides: Any
    ) -> _Data:
        """Build the data module that a training checkpoint or an exported file was trained with. Opens no source.

        Args:
            checkpoint_path: Either kind of file.
            map_location: Where its tensors come to.
            overrides: Constructor arguments to use instead of the saved ones.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no checkpoint of ours.
        """
        checkpoint = checkpoints.load(checkpoint_path, map_location)
        with building(checkpoint_path, {}):
            values = match_arguments(cls, checkpoint.data, 'data')
            data = cls(**{**settings.build_arguments(cls, values), 'tokenizer_path': None, **overrides})
            data.use_tokenizer(checkpoint.tokenizer_bytes())
        if not {'sources', 'held_out'} <= set(overrides):
            data.named_by = str(checkpoint_path)
        return data


def find_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the training rows follow from and is not as it was, for people; empty where all of it is.

    Args:
        then: Plain values, as `XLabDataModule.state_dict` writes them: `data` (sources with their fingerprints, how
            many documents each has, settings) and `rows`, a fingerprint of what follows from them.
        now: The same, of today.
    """
    changes = _changed_settings(then['data']['settings'], now['data']['settings'])
    changes += _changed_sources(then['data'], now['data'])
    if not changes and then['rows'] != now['rows']:
        changes.append('this version of xlabml lays the rows out in another way')
    return changes


def _changed_settings(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    then = {'data.examples': _EARLIER_EXAMPLES, **then}
    # What only one of them has came with a later version, or with a stream, which is named by itself; but for what is
    # written only where it is set.
    then, now = ({**dict.fromkeys(_WHERE_SET), **settings} for settings in (then, now))
    return [f'{name} was {then[name]}, is {now[name]}' for name in then if then[name] != now.get(name, then[name])]


def _changed_sources(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if len(then['sources']) != len(now['sources']):
        before, after = (', '.join(name for name, _ in data['sources']) for data in (then, now))
        return [f'data.sources was {before}, is {after}']
    unit = now.get('unit', 'documents')
    if unit != then.get('unit', 'documents'):
        return ['data.stream was not set, is set' if unit == 'shards' else 'data.stream was set, is not set']
    changes = []
    for old, new, n_old, n_new in zip(then['sources'], now['sources'], then['n_documents'], now['n_documents']):
        if old[1] != new[1]:
            what = f'the texts of {new[0]} changed' if old[0] == new[0] else f'{old[0]} became {new[0]}'
            changes.append(f'{what} ({n_old:,} {unit} then, {n_new:,} now)')
    return changes


def check_changes(then: dict[str, Any], now: dict[str, Any], accept: bool) -> bool:
    """Whether the data changed since.

    Args:
        then: What the checkpoint says.
        now: What is true today.
        accept: Whether a change is allowed.

    Raises:
        SettingsError: A setting of it did, and that is not allowed; what changed is named.
        DataError: The same, where texts did, or this version of xlabml.
    """
    changes = find_changes(then, now)
    if changes and not accept:
        kind = SettingsError if _changed_settings(then['data']['settings'], now['data']['settings']) else DataError
        raise kind(
            f'the data is not what the checkpoint was trained on: {"; ".join(changes)}. Restore it, or accept the '
            'change with --data.accept_changes=true: the run then goes on at the beginning of the new data'
        )
    return bool(changes)
