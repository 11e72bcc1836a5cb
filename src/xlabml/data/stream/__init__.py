"""Sources that do not fit the disk: shards in a bounded folder, and windows of them as rows."""

from .shards import NoRoom, Shard, ShardCache
from .stream import Stream, StreamedRows
from .weighted import WeightedStream
from .window import is_global

__all__ = [
    'NoRoom',
    'Shard',
    'ShardCache',
    'Stream',
    'StreamedRows',
    'WeightedStream',
    'is_global',
]
