"""The cache folder and its subfolders."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of everything that can be rebuilt: XLABML_CACHE, or a folder in the user's home."""
    return Path(os.environ.get('XLABML_CACHE') or '~/.cache/xlabml').expanduser()


def tokenizers() -> Path:
    """Tokenizers trained without a path, and those of checkpoints, named by their hash."""
    return cache_folder() / 'tokenizers'


def stores() -> Path:
    """Token stores."""
    return cache_folder() / 'stores'


def plans() -> Path:
    """Plans that take too long to compute at every start."""
    return cache_folder() / 'plans'


def copies() -> Path:
    """Duplicate documents."""
    return cache_folder() / 'copies'


def splits() -> Path:
    """The split of each document, where it does not follow from its hash alone."""
    return cache_folder() / 'splits'


def near_duplicates() -> Path:
    """Near-duplicate documents, and their overlap with held-out texts."""
    return cache_folder() / 'near_duplicates'


def streams() -> Path:
    """Cached shards of streams, within the limit of disk space."""
    return cache_folder() / 'stream'


def vectors() -> Path:
    """Vectors of corpora that were searched, by what they are of."""
    return cache_folder() / 'vectors'


def baselines() -> Path:
    """Linear models that classifiers are compared with, by what they were trained on."""
    return cache_folder() / 'baselines'
