"""The bases of all types of metadata: how a value becomes text before a document, or markers inside it.

Source: Metadata for language models, bigscience, https://github.com/bigscience-workshop/metadata, whose renderings the
classes of `global_types` and `local_types` have.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from xlabml.errors import SettingsError


class Span(NamedTuple):
    """Local metadata: something that is known of a stretch of a text.

    Args:
        value: What is known; '' where the type says it all.
        start: The first character of the stretch.
        end: The character after its last.
        start_order: Which of several markers at `start` this one's opening is; None: that follows from the spans.
        end_order: Which of those at `end` its closing is.
        attributes: Names and values, of html tags.
    """

    value: str
    start: int
    end: int
    start_order: int | None = None
    end_order: int | None = None
    attributes: tuple[tuple[str, str], ...] = ()


class MetadataType(ABC):
    """The base of all types of metadata, the entries of `data.examples.types`.

    Attributes:
        is_local: Whether it is known of stretches of a text; else of the text as a whole.
        key: Its name.
    """

    is_local: ClassVar[bool]
    column: str | None
    key: str

    @property
    def is_target(self) -> bool:
        """Whether its tokens are predicted in training, as those of the text are."""
        return False

    def settings(self) -> dict[str, object]:
        """Plain values that what is stored of it follows from."""
        return {
            'class': type(self).__name__,
            **{name: value for name, value in vars(self).items() if name != 'trainable'},
        }


class GlobalType(MetadataType):
    """The base of types that are known of a text as a whole.

    Args:
        column: Where its value is; null: in the column of its name.
        trainable: Whether its tokens are targets in training; else it is only read.
        after: Whether it comes after the text, to be predicted from it; else it stands before.
    """

    is_local = False

    def __init__(self, column: str | None = None, trainable: bool = False, after: bool = False) -> None:
        self.column = column
        self.trainable = trainable
        self.after = after

    @property
    def is_target(self) -> bool:
        return self.trainable or self.after

    @abstractmethod
    def render(self, value: str) -> str:
        """A value as text; '' where it says nothing."""


class LocalType(MetadataType):
    """The base of types that are known of stretches of a text.

    Args:
        column: Where its spans are; null: in the column of its name.
        trainable: Whether its markers are targets in training, so that the model learns to write them.
        control: A word that stands before a text that has such markers, to ask for them; null: none.
        wrap: Two texts that stand around each marker; null: nothing does.
    """

    is_local = True

    def __init__(
        self,
        column: str | None = None,
        trainable: bool = False,
        control: str | None = None,
        wrap: list[str] | None = None,
    ) -> None:
        if wrap is not None and len(wrap) != 2:
            raise SettingsError(
                f'data.examples.types: {type(self).__name__}.wrap has {len(wrap)} texts; give two, one for each side'
            )
        if control is not None and not control:
            raise SettingsError(
                f"data.examples.types: {type(self).__name__}.control is ''; give a word, or null for none"
            )
        self.column = column
        self.trainable = trainable
        self.control = control
        self.wrap = wrap

    @property
    def is_target(self) -> bool:
        return self.trainable

    def keeps(self, span: Span) -> bool:
        """Whether a span is one to mark; what is filtered here is not counted as a loss."""
        return True

    @abstractmethod
    def render(self, span: Span) -> tuple[str, str]:
        """The texts at the start and at the end of a span; '' where there is none."""

    def markers(self, span: Span) -> tuple[str, str]:
        """The same with `wrap` around each that is not empty."""
        before, after = self.wrap or ('', '')
        opening, closing = self.render(span)
        return before + opening + after if opening else '', before + closing + after if closing else ''


class KeyValue(GlobalType):
    """Any key of a whole text: `key: value`.

    Args:
        key: Its name.
        column: Where its value is; null: in the column of that name.
        trainable: Whether its tokens are targets in training.
        after: Whether it comes after the text, to be predicted from it.
    """

    def __init__(self, key: str, column: str | None = None, trainable: bool = False, after: bool = False) -> None:
        super().__init__(column, trainable, after)
        self.key = _check_key(key)

    def render(self, value: str) -> str:
        return f'{self.key}: {value}' if value.strip() else ''


class Template(KeyValue):
    """Any key of a whole text, in words of yours.

    Args:
        key: Its name.
        text: What is written: `{value}` is replaced by the value, `{key}` by the name.
        column: Where its value is; null: in the column of that name.
        trainable: Whether its tokens are targets in training.
        after: Whether it comes after the text, to be predicted from it.
    """

    def __init__(
        self, key: str, text: str, column: str | None = None, trainable: bool = False, after: bool = False
    ) -> None:
        super().__init__(key, column, trainable, after)
        self.text = _check_template(text, 'text')

    def render(self, value: str) -> str:
        return fill(self.text, self.key, value) if value.strip() else ''


class LocalKeyValue(LocalType):
    """Any key of stretches of a text: `[key: value]` before, `[/key: value]` behind.

    Args:
        key: Its name.
        column: Where its spans are; null: in the column of that name.
        trainable: Whether its markers are targets in training.
        control: A word that stands before a text that has such markers; null: none.
        wrap: Two texts that stand around each marker; null: nothing does.
    """

    def __init__(
        self,
        key: str,
        column: str | None = None,
        trainable: bool = False,
        control: str | None = None,
        wrap: list[str] | None = None,
    ) -> None:
        super().__init__(column, trainable, control, wrap)
        self.key = _check_key(key)

    def render(self, span: Span) -> tuple[str, str]:
        said = f'{self.key}: {span.value}' if span.value else self.key
        return f'[{said}]', f'[/{said}]'


class LocalTemplate(LocalKeyValue):
    """Any key of stretches of a text, in words of yours.

    Args:
        key: Its name.
        opening: What is written before a stretch: `{value}` is replaced by the value, `{key}` by the name.
        closing: What is written behind it.
        column: Where its spans are; null: in the column of that name.
        trainable: Whether its markers are targets in training.
        control: A word that stands before a text that has such markers; null: none.
        wrap: Two texts that stand around each marker; null: nothing does.
    """

    def __init__(
        self,
        key: str,
        opening: str = '',
        closing: str = '',
        column: str | None = None,
        trainable: bool = False,
        control: str | None = None,
        wrap: list[str] | None = None,
    ) -> None:
        super().__init__(key, column, trainable, control, wrap)
        if not opening and not closing:
            raise SettingsError(f'data.examples.types: the template of {key} marks nothing; give opening or closing')
        self.opening = opening
        self.closing = closing

    def render(self, span: Span) -> tuple[str, str]:
        return fill(self.opening, self.key, span.value), fill(self.closing, self.key, span.value)


def fill(template: str, key: str, value: str) -> str:
    """A template with its two places filled; braces of the value are left alone."""
    return template.replace('{key}', key).replace('{value}', value)


def _check_key(key: str) -> str:
    if not key or not key.replace('_', '').isalnum():
        raise SettingsError(
            f'data.examples.types has the key {key!r}; a key is a word of letters, digits and underscores'
        )
    return key


def _check_template(text: str, name: str) -> str:
    if '{value}' not in text:
        raise SettingsError(
            f'data.examples.types: {name} is {text!r}, which never says the value; write {{value}} in it'
        )
    return text
