"""A path <-> plain values: training checkpoints and exported files, read without running code, written atomically.

`contents` has the keys of a checkpoint, `schema` what each may hold, `migrations` what became of earlier formats;
`reading`, `writing` and `exporting` are files, `finding` turns `last`, `best` or a path into one. No class of ours is
known here.
"""

from .contents import (
    Contents,
    Part,
    Saved,
    SavedRun,
    imported,
    pack_data,
    put_best,
    put_callback,
    put_run,
    put_task,
    unpack_data,
)
from .exporting import Export, check_target, export, write_export
from .finding import best_name, by_step, find, find_best, find_newest, naming_another, written_step
from .migrations import FORMAT
from .reading import load, read, require_whole
from .writing import dump, unpack_tokenizer, write

__all__ = [
    'FORMAT',
    'Contents',
    'Export',
    'Part',
    'Saved',
    'SavedRun',
    'best_name',
    'by_step',
    'check_target',
    'dump',
    'export',
    'find',
    'find_best',
    'find_newest',
    'imported',
    'load',
    'naming_another',
    'pack_data',
    'put_best',
    'put_callback',
    'put_run',
    'put_task',
    'read',
    'require_whole',
    'unpack_data',
    'unpack_tokenizer',
    'write',
    'write_export',
    'written_step',
]
