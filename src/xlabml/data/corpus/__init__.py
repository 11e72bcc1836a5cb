"""The documents of several stores as one numbering: splits, exact copies, near-duplicates and held-out texts."""

from .copies import mark_copies, open_copies, verify_copies
from .corpus import Corpus, train_texts
from .drawn_splits import DrawnSplits, open_splits, small_splits, verify_splits
from .held_out import Overlap, check_held_out, find_overlap, read_hashes
from .near_duplicates import NearDuplicates, NearPairs, open_near_duplicates, verify_near_duplicates
from .near_reports import check_near_duplicates, describe_near_duplicates, shared_between_splits
from .splits import Splitting, check_ratios, split_names, splits_of
from .units import value_of

__all__ = [
    'Corpus',
    'DrawnSplits',
    'NearDuplicates',
    'NearPairs',
    'Overlap',
    'Splitting',
    'check_held_out',
    'check_near_duplicates',
    'check_ratios',
    'describe_near_duplicates',
    'find_overlap',
    'mark_copies',
    'open_copies',
    'open_near_duplicates',
    'open_splits',
    'read_hashes',
    'shared_between_splits',
    'small_splits',
    'split_names',
    'splits_of',
    'train_texts',
    'value_of',
    'verify_copies',
    'verify_near_duplicates',
    'verify_splits',
]
