"""Texts -> batches: sources, splits, the token store, plans (pack, chunk, concat), the order, collation, statistics."""

from . import folders, manifests
from .copies import mark_copies, open_copies, verify_copies
from .corpus import Corpus, train_texts
from .embedded import StandardLibrary, WikipediaLeads
from .held_out import Overlap, check_held_out, find_overlap
from .histograms import check_picture, plot_histogram
from .loaders import EvalBatches, Positions, TrainBatches, loader
from .location import Location
from .mixture import Mixture, check_weights
from .near_duplicates import NearDuplicates, NearPairs, open_near_duplicates, verify_near_duplicates
from .near_reports import check_near_duplicates, describe_near_duplicates, shared_between_splits
from .order import mix, permute, shuffled
from .pieces import CutAtColumn, CutAtPattern, InPieces, JoinColumns
from .plan_rows import PlanRows
from .plans import Chunk, Concat, Pack, Plan, open_plan, verify_plan
from .progress import TerminalProgress
from .remote import RemoteFiles
from .rows import Rows
from .shards import NoRoom, Shard, ShardCache
from .shared_parts import SharedJob
from .sources import Document, Part, Source
from .splits import check_ratios, split_names, splits_of
from .statistics import compute_statistics, format_statistics
from .store import TokenStore, describe_changed, plan_store, prepare_store, store_folder
from .store_build import Engine, Report
from .store_parts import counts_of, encode_part
from .stream import Stream, StreamedRows
from .stream_batches import StreamBatches, join_batches
from .validation import Invalid, validate, write_invalid
from .warmup import Doubling, count_doublings

__all__ = [
    'Chunk',
    'Concat',
    'Corpus',
    'CutAtColumn',
    'CutAtPattern',
    'Document',
    'Doubling',
    'Engine',
    'EvalBatches',
    'InPieces',
    'Invalid',
    'JoinColumns',
    'Location',
    'Mixture',
    'NearDuplicates',
    'NearPairs',
    'NoRoom',
    'Overlap',
    'Pack',
    'Part',
    'Plan',
    'PlanRows',
    'Positions',
    'RemoteFiles',
    'Report',
    'Rows',
    'Shard',
    'ShardCache',
    'SharedJob',
    'Source',
    'StandardLibrary',
    'Stream',
    'StreamBatches',
    'StreamedRows',
    'TerminalProgress',
    'TokenStore',
    'TrainBatches',
    'WikipediaLeads',
    'check_held_out',
    'check_near_duplicates',
    'check_picture',
    'check_ratios',
    'check_weights',
    'compute_statistics',
    'count_doublings',
    'counts_of',
    'describe_changed',
    'describe_near_duplicates',
    'encode_part',
    'find_overlap',
    'folders',
    'format_statistics',
    'join_batches',
    'loader',
    'manifests',
    'mark_copies',
    'mix',
    'open_copies',
    'open_near_duplicates',
    'open_plan',
    'permute',
    'plan_store',
    'plot_histogram',
    'prepare_store',
    'shared_between_splits',
    'shuffled',
    'split_names',
    'splits_of',
    'store_folder',
    'train_texts',
    'validate',
    'verify_copies',
    'verify_near_duplicates',
    'verify_plan',
    'write_invalid',
]
