"""Pipelines: a checkpoint and text -> text. No Lightning."""

from .generator import TextGenerator

__all__ = ['TextGenerator']
