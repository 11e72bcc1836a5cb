"""What this package writes and reads again: files and folders written atomically, locks, manifests and hashes.

`files` are single ones, `folders` whole ones with flat arrays and a manifest (`manifests`), `locks` say who writes,
`hashes` and `checksums` find out whether anything is as it was written.
"""

from .files import part, put, replacing, scratch, sweep, write_bytes, write_text
from .locks import is_alive, is_locked

__all__ = [
    'is_alive',
    'is_locked',
    'part',
    'put',
    'replacing',
    'scratch',
    'sweep',
    'write_bytes',
    'write_text',
]
