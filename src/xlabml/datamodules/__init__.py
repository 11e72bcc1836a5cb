"""Lightning's view of data: from sources to batches, for every task."""

from .xlab_data_module import DEFAULT_SPLITS, XLabDataModule

__all__ = ['DEFAULT_SPLITS', 'XLabDataModule']
