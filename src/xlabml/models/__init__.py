"""One task a file: what is trained, and how its loss and figures come about."""

from xlabml.engine import Task

from .xlab_model import XLabModel

__all__ = ['Task', 'XLabModel']
