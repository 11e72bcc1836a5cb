"""Documents with metadata -> rows: records, what each document keeps, its token sequence, passes."""

from .composition import Form
from .formats import Conditioned, shuffle_documents
from .index import MetadataIndex, make_index
from .records import METADATA, ConditionedRecords
from .rows import ConditionedRows, DrawnPasses
from .sampling import Independent, Sampling, SomeOfPresent
from .view import ConditionedView

__all__ = [
    'METADATA',
    'Conditioned',
    'ConditionedRecords',
    'ConditionedRows',
    'ConditionedView',
    'DrawnPasses',
    'Form',
    'Independent',
    'MetadataIndex',
    'Sampling',
    'SomeOfPresent',
    'make_index',
    'shuffle_documents',
]
