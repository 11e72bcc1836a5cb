"""How one run uses several devices, beyond what Lightning's own strategies do."""

from .sharded import Sharded, shard

__all__ = ['Sharded', 'shard']
