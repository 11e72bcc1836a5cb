"""The names of all types of metadata, in one enumeration: key, column and setting are the same word."""

from enum import StrEnum


class Name(StrEnum):
    """A type of metadata that has a class of its own; any other key is a `KeyValue`, a `LocalKeyValue` or a template.

    The value is the key of an item, the name of its column, and what settings and curves call it.
    """

    URL = 'url'
    TIMESTAMP = 'timestamp'
    TITLE = 'title'
    AUTHOR = 'author'
    WEBSITE_DESCRIPTION = 'website_description'
    DATASOURCE = 'datasource'
    LENGTH = 'length'
    HTML = 'html'
    ENTITY = 'entity'
    ENTITY_PARAGRAPH = 'entity_paragraph'
    PARAGRAPH = 'paragraph'
    TOPIC = 'topic'


V2_COLUMNS = {
    'website_desc': Name.WEBSITE_DESCRIPTION.value,
    'generation_datasource': Name.DATASOURCE.value,
    'generation_length_text': Name.LENGTH.value,
    'generation_length_sentence': Name.LENGTH.value,
}
"""Columns of schema v2, behind `metadata_`, whose keys are other words; all others are named as their keys."""


def v2_column(key: str, is_local: bool) -> str:
    """The column of schema v2 that holds the items of a key."""
    if key == Name.LENGTH.value:
        return f'metadata_generation_length_{"sentence" if is_local else "text"}'
    suffix = next((suffix for suffix, name in V2_COLUMNS.items() if name == key), key)
    return f'metadata_{suffix}'
