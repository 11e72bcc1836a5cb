"""Where texts come from: sources of documents, the kinds of files they read, and what makes a document invalid."""

from . import tally
from .base import Document, Part, Source, SplitName
from .beir import BeirFolder, read_corpus, read_qrels, read_queries
from .chunk_pairs import ChunkPairs, NextChunks
from .derived import Derived
from .embedded import StandardLibrary, WikipediaLeads
from .files import Span
from .kinds import kind_of
from .location import Location
from .pieces import CutAtColumn, CutAtPattern, InPieces, JoinColumns, split_text
from .recorded import hash_file, same_content, stat_files
from .remote import Advance, RemoteFiles
from .validation import REASONS, Invalid, utf8, validate, write_invalid

__all__ = [
    'REASONS',
    'Advance',
    'BeirFolder',
    'ChunkPairs',
    'CutAtColumn',
    'CutAtPattern',
    'Derived',
    'Document',
    'InPieces',
    'Invalid',
    'JoinColumns',
    'Location',
    'NextChunks',
    'Part',
    'RemoteFiles',
    'Source',
    'Span',
    'SplitName',
    'StandardLibrary',
    'WikipediaLeads',
    'hash_file',
    'kind_of',
    'read_corpus',
    'read_qrels',
    'read_queries',
    'same_content',
    'split_text',
    'stat_files',
    'tally',
    'utf8',
    'validate',
    'write_invalid',
]
