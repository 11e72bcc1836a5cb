"""The prefix of a text that is to be written: what a user asks for, put into words as in training."""

from collections.abc import Mapping

from xlabml.errors import RequestError

from .types import GlobalType, LocalType, MetadataType


class Prefix:
    """The metadata that a model was trained with, as a checkpoint's settings hold it.

    Args:
        types: The types, in the order in which they stand.
        separator: Stands between two entries.
        end: Stands behind the last one.
        choices: The values that training has seen of each type of few values, by key.
        every_window: Whether each window of a long text has the prefix; else the first one.
    """

    def __init__(
        self,
        types: list[MetadataType],
        separator: str = ' | ',
        end: str = ' ||| ',
        choices: dict[str, list[str]] | None = None,
        every_window: bool = True,
    ) -> None:
        self.types = types
        self.separator = separator
        self.end = end
        self.choices = choices
        self.every_window = every_window

    @property
    def controls(self) -> list[str]:
        """The keys that a prefix can have: types of whole texts before them, and local ones with a control word."""
        found = [kind.key for kind in self.types if isinstance(kind, GlobalType) and not kind.after]
        return found + [kind.key for kind in self.types if isinstance(kind, LocalType) and kind.control is not None]

    def pieces(self, asked: Mapping[str, str]) -> list[str]:
        """The texts of a prefix, each to be tokenized apart; [] where nothing is asked for.

        Args:
            asked: A value for each key; of a local type any, since its control word is all that is written.

        Raises:
            RequestError: The model was not trained with a key, or its value says nothing.
        """
        for key in asked:
            if key not in self.controls:
                raise RequestError(
                    f'the model was trained without the metadata {key!r}; it knows '
                    f'{", ".join(self.controls) or "none that can be asked for"}'
                )
        entries = []
        for kind in self.types:
            if kind.key not in asked:
                continue
            said = ''
            if isinstance(kind, GlobalType) and not kind.after:
                said = kind.render(asked[kind.key])
                if not said:
                    raise RequestError(
                        f'the metadata {kind.key}={asked[kind.key]!r} says nothing to a model that has '
                        f'{type(kind).__name__}; give another value'
                    )
            elif isinstance(kind, LocalType) and kind.control is not None:
                said = kind.control
            if said:
                entries.append(said)
        found = [part for entry in entries for part in (entry, self.separator)]
        return [part for part in [*found[:-1], self.end] if part] if entries else []
