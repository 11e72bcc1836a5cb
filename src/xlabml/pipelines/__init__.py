"""Pipelines: a checkpoint and text -> text, or what a classifier says of it. No Lightning."""

from .classifier import Prediction, TextClassifier
from .generator import TextGenerator

__all__ = ['Prediction', 'TextClassifier', 'TextGenerator']
