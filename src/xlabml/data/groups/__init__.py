"""Documents -> examples that are groups of whole texts: formats, batching, and groups as tensors."""

from .arranged import Arranged
from .batching import Batching, InOrder, NoDuplicates, PerClass, SameSource
from .denoised import DenoisedTexts
from .formats import GroupFormat, TextGroups
from .groups import Groups, Prompts, TextLimits
from .index import GroupIndex, make_index, verify_index
from .labelled import LabelledGroups, LabelledTexts
from .preferences import PreferenceGroups, Preferences
from .records import GROUP, Columns, GroupRecords
from .sets import GroupSets, SetExamples

__all__ = [
    'GROUP',
    'Arranged',
    'Batching',
    'Columns',
    'DenoisedTexts',
    'GroupFormat',
    'GroupIndex',
    'GroupRecords',
    'GroupSets',
    'Groups',
    'InOrder',
    'LabelledGroups',
    'LabelledTexts',
    'NoDuplicates',
    'PerClass',
    'PreferenceGroups',
    'Preferences',
    'Prompts',
    'SameSource',
    'SetExamples',
    'TextGroups',
    'TextLimits',
    'make_index',
    'verify_index',
]
