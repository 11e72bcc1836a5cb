"""Predictions -> numbers: pure functions of sums, so that any batch size and device count gives the same result."""

from .language import TokenMetric, WithinNats, summarize

__all__ = ['TokenMetric', 'WithinNats', 'summarize']
