"""What a corpus looks like: statistics and histograms."""

from .histograms import check_picture, plot_histogram
from .statistics import compute_statistics, format_statistics

__all__ = [
    'check_picture',
    'compute_statistics',
    'format_statistics',
    'plot_histogram',
]
