"""Types that are known of a text as a whole, each with its rendering."""

import re
from calendar import month_name
from urllib.parse import unquote, urlsplit

from .names import Name
from .types import GlobalType

_DATE = re.compile(r'\s*(\d{4})(?:[-/.](\d{1,2}))?(?!\d)')


class Url(GlobalType):
    """The address of a text, decoded: `url: https://example.org/a page`."""

    key = Name.URL.value

    def render(self, value: str) -> str:
        return f'url: {unquote(value.strip())}' if value.strip() else ''


class Timestamp(GlobalType):
    """When a text was written: `Year: 2018 | Month: December`; of a year alone `Year: 2018`."""

    key = Name.TIMESTAMP.value

    def render(self, value: str) -> str:
        found = _DATE.match(value)
        if found is None:
            return ''
        month = int(found[2] or 0)
        return f'Year: {found[1]}' + (f' | Month: {month_name[month]}' if 1 <= month <= 12 else '')


class Title(GlobalType):
    """The title of a text: `Title: …`."""

    key = Name.TITLE.value

    def render(self, value: str) -> str:
        return f'Title: {value.strip()}' if value.strip() else ''


class Author(GlobalType):
    """Who wrote a text: `Author: …`."""

    key = Name.AUTHOR.value

    def render(self, value: str) -> str:
        return f'Author: {value.strip()}' if value.strip() else ''


class Topic(GlobalType):
    """The topic of a text: `Topic: …`."""

    key = Name.TOPIC.value

    def render(self, value: str) -> str:
        return f'Topic: {value.strip()}' if value.strip() else ''


class WebsiteDescription(GlobalType):
    """A sentence on the site that a text is from: `Website Description: …`."""

    key = Name.WEBSITE_DESCRIPTION.value

    def render(self, value: str) -> str:
        return f'Website Description: {value.strip()}' if value.strip() else ''


class Datasource(GlobalType):
    """Where on a site a text was: `Datasource: host > part > part`. A value that is an address is taken apart."""

    key = Name.DATASOURCE.value

    def render(self, value: str) -> str:
        said = datasource(value) if '://' in value else value.strip()
        return f'Datasource: {said}' if said else ''


class Length(GlobalType):
    """The number of characters of a text: `Text Length: …`."""

    key = Name.LENGTH.value

    def render(self, value: str) -> str:
        return f'Text Length: {value.strip()}' if value.strip() else ''


def datasource(url: str) -> str:
    """Host and folders of an address, without what numbers alone name: `example.org > sports > 2020-olympics`."""
    parts = urlsplit(url.strip())
    host = (parts.hostname or '').removeprefix('www.')
    folders = [unquote(part) for part in parts.path.split('/')[:-1]]
    named = [part for part in folders if part and not part.isdigit()]
    return ' > '.join([host, *named]) if host else ''
