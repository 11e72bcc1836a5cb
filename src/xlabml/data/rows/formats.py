"""What an example is: formats make examples of documents, for every task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from xlabml.batches import Batch
from xlabml.data.corpus import Corpus
from xlabml.data.sources import Source
from xlabml.plain import Plain
from xlabml.tokenizer import Tokenizer

from .plans import Plan

if TYPE_CHECKING:
    from .passes import Passes


class Reading(NamedTuple):
    """What a format makes examples with, beside the documents.

    Args:
        tokenizer: The one that the stores were made with.
        plan: How documents become rows.
        folder: Where plans lie that are laid out already, and new ones are written.
        seed: The seed of what a whole pass draws.
        n_groups: Groups of an optimizer step over all devices; None: examples are rows.
        device_tokens: Slots that a device holds at a time; None: its whole share of a step.
        n_rows: Rows of an optimizer step over all devices, of a mixture of formats; None: of another.
    """

    tokenizer: Tokenizer
    plan: Plan
    folder: Path
    seed: int
    n_groups: int | None = None
    device_tokens: int | None = None
    n_rows: int | None = None


class Part(NamedTuple):
    """A stretch of an example for people.

    Args:
        text: Some tokens, decoded.
        is_metadata: Whether they say something of the text and are none of it.
        is_counted: Whether they are targets.
    """

    text: str
    is_metadata: bool
    is_counted: bool


class Examples(ABC):
    """The examples of a split in one pass, numbered from 0."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short name for the examples."""

    @property
    @abstractmethod
    def source_starts(self) -> list[int]:
        """The first example of each store, and the number of all: those of a store follow one another."""

    @property
    @abstractmethod
    def source_counted(self) -> list[int]:
        """How many targets the examples of each store have, where all of them count."""

    @abstractmethod
    def counts(
        self, numbers: Int64[np.ndarray, ' e'], keys: UInt64[np.ndarray, ' e']
    ) -> Float64[np.ndarray, ' e'] | Int64[np.ndarray, ' e']:
        """The number of targets (or their weight) of each example, without reading its tokens.

        Args:
            numbers: Of the examples; -1 is padding, which has none.
            keys: The key of each example.
        """

    @abstractmethod
    def batch(
        self,
        numbers: Int64[np.ndarray, ' e'],
        keys: UInt64[np.ndarray, ' e'],
        n_counted: float,
        seed: int = 0,
    ) -> Batch:
        """Examples as a batch.

        Args:
            numbers: Of the examples; -1 is padding.
            keys: The key of each example: what it draws follows from that alone.
            n_counted: The number of targets of the whole optimizer step.
            seed: The seed of the step's randomness.
        """

    @abstractmethod
    def name(self, document: int) -> str:
        """A document's name for people, by the number that a batch has for it."""

    def source_of(self, numbers: Int64[np.ndarray, ' e']) -> Int64[np.ndarray, ' e']:
        """The number of the store that each example is of."""
        return np.searchsorted(self.source_starts, numbers, 'right') - 1

    def describe(self) -> list[str]:
        """What the examples are like, as lines for people; [] where there is nothing to say."""
        return []

    def paint(self, number: int) -> list[tuple[str, list[Part]]] | None:
        """An example for people, parted by what its tokens are; None: there are no such parts, and `render` is all."""
        return None

    @abstractmethod
    def render(self, number: int) -> list[tuple[str, str]]:
        """An example for people: its parts, each a name and a text.

        Raises:
            ValueError: There is no such example.
        """


class Format(ABC):
    """The base of all formats, the setting `data.examples`.

    Attributes:
        targets: The kind of targets that its batches have; a task names the kinds that it trains on.
        columns: The columns of a document, beside its text, that the examples are made of.
        sized_by: What counts the size of a step: slots of rows (data.batch_tokens), groups (data.batch_groups), or, for
            several formats, what counts that of the step's.
        unused: Names of settings of the data that mean nothing to this format; setting one is an error.
        from_data: Names of arguments that are facts of the data where they are null; see `facts`.
        parts: The formats that this one has steps of, each with targets of its own; (): it is one format.
    """

    targets: ClassVar[type]
    columns: ClassVar[tuple[str, ...]] = ()
    sized_by: ClassVar[Literal['tokens', 'groups', 'steps']] = 'tokens'
    unused: ClassVar[tuple[str, ...]] = ()
    from_data: ClassVar[tuple[str, ...]] = ()
    parts: 'tuple[Format, ...]' = ()

    @property
    def unused_settings(self) -> tuple[str, ...]:
        """Names of settings of the data that mean nothing to this format, as it is set."""
        return self.unused

    def settings(self) -> dict[str, object]:
        """Plain values: what the examples depend on, beside the documents."""
        return {'class': type(self).__name__, **vars(self)}

    def source(self, source: Source) -> Source:
        """The documents that examples are made of, from a source as the user names it."""
        return source

    def sources(self, sources: Sequence[Source]) -> list[Source]:
        """The same of all sources, in their order."""
        return [self.source(source) for source in sources]

    def columns_of(self, source: int) -> tuple[str, ...]:
        """The columns of a source's documents, beside their texts, that the examples are made of.

        Args:
            source: Its number among the sources of this format.
        """
        return self.columns

    def arrange(self, passes: 'Passes', reading: Reading) -> 'Passes':
        """Passes over the training examples, where it matters which of them come together in a step."""
        return passes

    def facts(self, corpus: Corpus) -> dict[str, Plain]:
        """What only the documents tell, by name: classes and their order, for example.

        Called once before anything else is built, and only where an argument in `from_data`, of this format or of the
        task, is null: it becomes the fact of its name.

        Raises:
            ValueError: The documents do not tell it; the message says what is wrong with them.
        """
        return {}

    def verify(self, corpus: Corpus, reading: Reading) -> list[str] | None:
        """Read in full what this format keeps in the cache beside stores and plans, and compare it with its hashes.

        Returns:
            Lines for people, or None if it was not made yet, so that there are no examples either.

        Raises:
            ValueError: It is not as it was written; the message names the folder.
        """
        return []

    @abstractmethod
    def examples(self, corpus: Corpus, split: str, stage: str, pass_index: int, reading: Reading) -> Examples:
        """The examples of a split.

        Args:
            corpus: The documents.
            split: One of train, val, test, predict.
            stage: What they are read for: train, val, test or predict.
            pass_index: Which pass over the data this is, from 0; 0 where the stage is not train.
            reading: The tokenizer, and how and where rows are laid out.

        Raises:
            ValueError: The split is empty, or the tokenizer is another one than that of the stores.
        """
