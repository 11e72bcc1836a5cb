"""Types that are known of stretches of a text, each with its rendering and its filters."""

import math

from xlabml.errors import SettingsError

from .names import Name
from .types import LocalType, Span

TABLE_TAGS = ('table', 'caption', 'colgroup', 'col', 'thead', 'tbody', 'tfoot', 'tr', 'th', 'td')
"""Tags that say something even where they are empty."""


class Html(LocalType):
    """The tags that stood around a stretch: `<div class:note>` before and `</div>` behind.

    Args:
        column: Where its spans are; null: in the column html.
        trainable: Whether its markers are targets in training.
        control: A word that stands before a text that has such markers; null: none.
        wrap: Two texts that stand around each marker, `[<HTML>, </HTML>]` for example; null: nothing does.
        attributes: The attributes that are written; null: class and id.
        least_chars: Tags around fewer characters are not written.
        exempt: Tags that are written whatever is in them; null: those of tables.
        dropped: For each tag that is not written, the least and the most characters in it for which it is not; null:
            body never is.
    """

    key = Name.HTML.value

    def __init__(
        self,
        column: str | None = None,
        trainable: bool = False,
        control: str | None = None,
        wrap: list[str] | None = None,
        attributes: list[str] | None = None,
        least_chars: int = 1,
        exempt: list[str] | None = None,
        dropped: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__(column, trainable, control, wrap)
        for tag, band in (dropped or {}).items():
            if len(band) != 2 or not 0 <= band[0] <= band[1]:
                raise SettingsError(
                    f'data.examples.types: Html.dropped.{tag} is {band}; give the least and the most characters, as '
                    '[0, .inf]'
                )
        if least_chars < 0:
            raise SettingsError(f'data.examples.types: Html.least_chars is {least_chars}; give 0 or more')
        self.attributes = attributes
        self.least_chars = least_chars
        self.exempt = exempt
        self.dropped = dropped

    def keeps(self, span: Span) -> bool:
        n_chars = span.end - span.start
        dropped = {'body': [0, math.inf]} if self.dropped is None else self.dropped
        if span.value in dropped:
            least, most = dropped[span.value]
            return not least <= n_chars <= most
        exempt = TABLE_TAGS if self.exempt is None else self.exempt
        return n_chars >= self.least_chars or span.value in exempt

    def render(self, span: Span) -> tuple[str, str]:
        if not span.value:
            return '', ''
        shown = ('class', 'id') if self.attributes is None else self.attributes
        written = [f' {name}:{value}' for name, value in span.attributes if name in shown]
        return f'<{span.value}{"".join(written)}>', f'</{span.value}>'


class Entity(LocalType):
    """What a mention means, behind it: `Paris [[Paris, Texas]]`."""

    key = Name.ENTITY.value

    def render(self, span: Span) -> tuple[str, str]:
        name = span.value.replace('_', ' ').strip()
        return '', f' [[{name}]]' if name else ''


class EntityParagraph(LocalType):
    """What a paragraph mentions, between bars at its start or its end.

    Args:
        column: Where its spans are; null: in the column entity_paragraph.
        trainable: Whether its markers are targets in training.
        control: A word that stands before a text that has such markers; null: none.
        wrap: Two texts that stand around each marker, `[<ENTITY_CHAIN>, </ENTITY_CHAIN>]` for example.
        at_end: Whether it stands at the end of a paragraph; else at the start.
    """

    key = Name.ENTITY_PARAGRAPH.value

    def __init__(
        self,
        column: str | None = None,
        trainable: bool = False,
        control: str | None = None,
        wrap: list[str] | None = None,
        at_end: bool = False,
    ) -> None:
        super().__init__(column, trainable, control, wrap)
        self.at_end = at_end

    def render(self, span: Span) -> tuple[str, str]:
        name = span.value.replace('_', ' ').strip()
        if not name:
            return '', ''
        return ('', f' |{name}|') if self.at_end else (f'|{name}| ', '')


class Paragraph(LocalType):
    """Where paragraphs begin and end: `[paragraph]` and `[/paragraph]`, with their value where they have one."""

    key = Name.PARAGRAPH.value

    def render(self, span: Span) -> tuple[str, str]:
        said = f'{self.key}: {span.value}' if span.value else self.key
        return f'[{said}]', f'[/{said}]'


class SentenceLength(LocalType):
    """The number of characters of a sentence, before it: `[Sentence Length: 42] `."""

    key = Name.LENGTH.value

    def render(self, span: Span) -> tuple[str, str]:
        return (f'[Sentence Length: {span.value}] ', '') if span.value else ('', '')
