"""A data module seen from a checkpoint: what it holds of it, and how it is built and put in its place from one."""

from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml import checkpoints, paths, settings
from xlabml.data.prepared import Texts
from xlabml.errors import SettingsError
from xlabml.untrusted.building import building
from xlabml.untrusted.matching import match_arguments

from .changes import check_changes
from .starts import Start, read_start

_PROTOCOLS = ('http', 'https', 's3', 's3a', 'gs', 'gcs', 'az', 'abfs', 'abfss', 'hf', 'file', 'memory')
"""Of addresses that a checkpoint may name: some others of fsspec unpack archives, or templates that are code."""

_Data = TypeVar('_Data', bound='SavedData')


class SavedData(L.LightningDataModule):
    """The part of a data module that checkpoints hold, and the place in the data where a run begins.

    Attributes:
        named_by: The checkpoint that names the sources, where nobody typed them.
        accept_changes: Whether a run resumes although its data changed.
    """

    named_by: str | None = None
    accept_changes: bool
    _texts: Texts

    def __init__(self) -> None:
        super().__init__()
        self._why_unsaveable = settings.keep_arguments(self)
        self._start = Start()
        self._coming_state: dict[str, Any] | None = None  # of a checkpoint that Lightning has not loaded yet

    def tell_addresses(self) -> None:
        """Say, once and before it is opened, which address only a checkpoint names.

        Raises:
            ValueError: It is of a kind that could run code or reach other files.
        """
        path = self.named_by
        self.named_by = None
        if path is None:
            return
        sources = (*self._texts.sources, *self._texts.read.held_out)
        for address in (one for source in sources for one in source.addresses()):
            if '::' in address or address.partition('://')[0] not in _PROTOCOLS:
                raise ValueError(
                    f'{path} names {address!r:.200} as a source of its data, which is opened only where data.sources '
                    f'names it; from a checkpoint alone come {", ".join(_PROTOCOLS)}'
                )
            if getattr(rank_zero_only, 'rank', 0) == 0:
                print(f'reading {address!r:.200}, which {path} names as a source of its data', flush=True)

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer's bytes, and where the data stands: free of rank, worker and micro-batch.

        Raises:
            ValueError: This data module was built from parts that no checkpoint can hold.
        """
        if self._why_unsaveable:
            raise SettingsError(f'this {type(self).__name__} cannot be saved: {self._why_unsaveable}')
        tokenizer = torch.frombuffer(bytearray(self._texts.tokenizer.data), dtype=torch.uint8)
        return {'tokenizer': tokenizer, **self._stands_at().state(), **self._what_is_trained_on()}

    def _stands_at(self) -> Start:
        """Where a run would begin that resumes now."""
        raise NotImplementedError

    def _what_is_trained_on(self) -> dict[str, Any]:
        """Plain values that the sequence of training examples follows from."""
        return {
            'rows': self._texts.passes.fingerprint,
            'data': {**self._texts.describe(), 'settings': self._texts.settings()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a checkpoint's tokenizer and, when a fit resumes, its place in the data.

        Raises:
            ValueError: The data is not what the checkpoint was trained on, and data.accept_changes is not set; what
                changed is named.
        """
        self.use_tokenizer(state_dict['tokenizer'].numpy().tobytes())
        if self.trainer is None or self.trainer.state.fn != 'fit':
            return
        self._start = self._start_in(state_dict)
        self._coming_state = None

    def will_go_on(self, state_dict: dict[str, Any]) -> None:
        """Count epochs from a checkpoint's place in the data, which Lightning loads later than it asks for them."""
        self._coming_state = state_dict

    def _find_start(self) -> Start:
        """Where the run begins: in the checkpoint that is still to be loaded, if one is."""
        return self._start if self._coming_state is None else self._start_in(self._coming_state)

    def _start_in(self, state_dict: dict[str, Any]) -> Start:
        is_new = check_changes(state_dict, self._what_is_trained_on(), self.accept_changes)
        return read_start(state_dict, self._texts.passes, is_new)

    def use_tokenizer(self, data: bytes) -> None:
        """Use the tokenizer that a checkpoint holds; a file in the cache, named by its hash, is written from it.

        Raises:
            ValueError: data.tokenizer_path is the file of another one.
        """
        self._texts.use_tokenizer(data, lambda: checkpoints.unpack_tokenizer(data, paths.tokenizers()))

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
