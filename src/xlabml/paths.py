"""The cache folder, and what is in it."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where everything is kept that can be made again: XLABML_CACHE, or a folder of the user's."""
    return Path(os.environ.get('XLABML_CACHE') or '~/.cache/xlabml').expanduser()


def tokenizers() -> Path:
    """Tokenizers that were trained without a path of their own, and those of checkpoints, by their hash."""
    return cache_folder() / 'tokenizers'


def stores() -> Path:
    """Token stores."""
    return cache_folder() / 'stores'


def plans() -> Path:
    """Plans that were too long to be made anew at every start."""
    return cache_folder() / 'plans'


def copies() -> Path:
    """Which documents are copies of others."""
    return cache_folder() / 'copies'


def splits() -> Path:
    """Which split each document is in, where that is more than its hash."""
    return cache_folder() / 'splits'


def near_duplicates() -> Path:
    """Which documents nearly are, and their overlap with held-out texts."""
    return cache_folder() / 'near_duplicates'


def streams() -> Path:
    """Shards of streams, as long as there is room."""
    return cache_folder() / 'stream'


def vectors() -> Path:
    """Vectors of corpora that were searched, by what they are of."""
    return cache_folder() / 'vectors'
