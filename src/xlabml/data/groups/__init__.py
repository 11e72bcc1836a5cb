"""Documents -> examples that are groups of whole texts: formats, batching, and groups as tensors."""

from .arranged import Arranged
from .batching import Batching, InOrder, NoDuplicates, PerClass, SameSource
from .formats import GroupFormat, TextGroups
from .groups import Groups, Prompts, TextLimits
from .index import GroupIndex, make_index
from .labelled import LabelledGroups, LabelledTexts
from .records import GROUP, Columns, GroupRecords

__all__ = [
    'GROUP',
    'Arranged',
    'Batching',
    'Columns',
    'GroupFormat',
    'GroupIndex',
    'GroupRecords',
    'Groups',
    'InOrder',
    'LabelledGroups',
    'LabelledTexts',
    'NoDuplicates',
    'PerClass',
    'Prompts',
    'SameSource',
    'TextGroups',
    'TextLimits',
    'make_index',
]
