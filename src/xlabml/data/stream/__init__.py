"""Sources that do not fit the disk: shards in a bounded folder, and windows of them as rows."""

from .shards import NoRoom, Shard, ShardCache
from .stream import Stream, StreamedRows

__all__ = [
    'NoRoom',
    'Shard',
    'ShardCache',
    'Stream',
    'StreamedRows',
]
