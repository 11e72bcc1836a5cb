"""Metadata of texts: its types, how each is written, and where in a text its markers stand. No torch, no data."""

from .global_types import Author, Datasource, Length, Timestamp, Title, Topic, Url, WebsiteDescription, datasource
from .local_types import Entity, EntityParagraph, Html, Paragraph, SentenceLength
from .names import Name
from .prefix import Prefix
from .reading import NOTHING, Rendered, Schema, columns_of, render
from .spans import Marker, check_spans, order_markers
from .types import GlobalType, KeyValue, LocalKeyValue, LocalTemplate, LocalType, MetadataType, Span, Template

__all__ = [
    'NOTHING',
    'Author',
    'Datasource',
    'Entity',
    'EntityParagraph',
    'GlobalType',
    'Html',
    'KeyValue',
    'Length',
    'LocalKeyValue',
    'LocalTemplate',
    'LocalType',
    'Marker',
    'MetadataType',
    'Name',
    'Paragraph',
    'Prefix',
    'Rendered',
    'Schema',
    'SentenceLength',
    'Span',
    'Template',
    'Timestamp',
    'Title',
    'Topic',
    'Url',
    'WebsiteDescription',
    'check_spans',
    'columns_of',
    'datasource',
    'order_markers',
    'render',
]
