"""Lightning's view of data: from sources to batches, for every task."""

from .xlab_data_module import XLabDataModule

__all__ = ['XLabDataModule']
