"""A data module seen from a checkpoint: what it holds of it, and how it is built and put in its place from one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as L

from xlabml import checkpoints, paths, settings
from xlabml.data.prepared import Texts
from xlabml.errors import SettingsError
from xlabml.untrusted.building import building
from xlabml.untrusted.matching import match_arguments

from .changes import check_changes
from .run_batches import RunBatches
from .starts import Start, read_start

_OF_TEXTS = {
    **{name: name for name in ('corpus', 'extent', 'columns', 'stores', 'near_pairs', 'rows', 'open_examples')},
    'train_rows': 'train_examples',
    'check_tokenizer': 'tokenizer_file.check',
    'train_tokenizer': 'tokenizer_file.train',
}
"""What a data module of earlier versions had itself."""


_Data = TypeVar('_Data', bound='SavedData')


class SavedData(L.LightningDataModule):
    """The part of a data module that checkpoints hold, and the place in the data where a run begins.

    Attributes:
        named_by: The checkpoint that names the sources, where they were not typed.
        accept_changes: Whether a run resumes although its data changed.
        texts: The texts, as examples.
    """

    named_by: str | None = None
    accept_changes: bool
    texts: Texts

    def __init__(self) -> None:
        super().__init__()
        self._why_unsaveable = settings.keep_arguments(self)
        self._start = Start()
        self._coming_state: dict[str, object] | None = None  # of a checkpoint that Lightning has not loaded yet

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> None:
            now = f'; it is data.texts.{_OF_TEXTS[name]} now' if name in _OF_TEXTS else ''
            raise AttributeError(f'{type(self).__name__} has no attribute {name!r}{now}')

    @property
    def _run(self) -> RunBatches:
        """What the run reads."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, object]:
        """The tokenizer's bytes, and where the data stands: free of rank, worker and micro-batch.

        Raises:
            SettingsError: This data module was built from parts that no checkpoint can hold.
        """
        if self._why_unsaveable:
            raise SettingsError(f'this {type(self).__name__} cannot be saved: {self._why_unsaveable}')
        start = self._run.stands_at()
        place = {**start.state(), **self.texts.passes.memory(start.place)}
        return checkpoints.pack_data(self.texts.tokenizer.data, {**place, **self.texts.trained_on()})

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restore a checkpoint's tokenizer and, when a fit resumes, its place in the data.

        Raises:
            ValueError: The data is not what the checkpoint was trained on, and data.accept_changes is not set; what
                changed is named.
        """
        tokenizer, place = checkpoints.unpack_data(state_dict)
        self.use_tokenizer(tokenizer)
        if self.trainer is not None and self.trainer.state.fn == 'fit':
            self._coming_state = place
            self._start = self._find_start()
            self._coming_state = None

    def will_go_on(self, state_dict: dict[str, object]) -> None:
        """Count epochs from a checkpoint's place in the data, which Lightning loads after it needs them."""
        self._coming_state = state_dict

    def _find_start(self) -> Start:
        """Where the run begins: in the checkpoint that is still to be loaded, if one is."""
        state = self._coming_state
        if state is None:
            return self._start
        is_new = check_changes(state, self.texts.trained_on(), self.accept_changes)
        if not is_new:
            self.texts.passes.recall(state)
        return read_start(state, self.texts.passes, is_new)

    def use_tokenizer(self, data: bytes) -> None:
        """Use the tokenizer that a checkpoint holds; a file in the cache, named by its hash, is written from it.

        Raises:
            ValueError: data.tokenizer_path is the file of another one.
        """
        self.texts.tokenizer_file.use(data, lambda: checkpoints.unpack_tokenizer(data, paths.tokenizers()))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls: type[_Data], checkpoint_path: str | Path, map_location: Any = 'cpu', **overrides: object
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
