"""Metadata of texts: its types, how each is written, and where in a text its markers stand. No torch, no data."""

from .global_types import Author, Datasource, Length, Timestamp, Title, Topic, Url, WebsiteDescription, datasource
from .html_text import HtmlToText, read_page
from .local_types import Entity, EntityParagraph, Html, Paragraph, SentenceLength
from .names import Name
from .posterior import Posterior, fit_posterior
from .prefix import Prefix
from .preprocessing import Preprocessor, columns_read, preprocess
from .preprocessors import (
    DatasourceFromUrl,
    EntitiesByDictionary,
    EntitiesOfParagraphs,
    LengthOfText,
    ParagraphsFromText,
    SentenceLengths,
    TimestampFromUrl,
)
from .reading import NOTHING, Rendered, Schema, columns_of, render
from .spans import Marker, check_spans, order_markers
from .types import GlobalType, KeyValue, LocalKeyValue, LocalTemplate, LocalType, MetadataType, Span, Template

__all__ = [
    'NOTHING',
    'Author',
    'Datasource',
    'DatasourceFromUrl',
    'EntitiesByDictionary',
    'EntitiesOfParagraphs',
    'Entity',
    'EntityParagraph',
    'GlobalType',
    'Html',
    'HtmlToText',
    'KeyValue',
    'Length',
    'LengthOfText',
    'LocalKeyValue',
    'LocalTemplate',
    'LocalType',
    'Marker',
    'MetadataType',
    'Name',
    'Paragraph',
    'ParagraphsFromText',
    'Posterior',
    'Prefix',
    'Preprocessor',
    'Rendered',
    'Schema',
    'SentenceLength',
    'SentenceLengths',
    'Span',
    'Template',
    'Timestamp',
    'TimestampFromUrl',
    'Title',
    'Topic',
    'Url',
    'WebsiteDescription',
    'check_spans',
    'columns_of',
    'columns_read',
    'datasource',
    'fit_posterior',
    'order_markers',
    'preprocess',
    'read_page',
    'render',
]
