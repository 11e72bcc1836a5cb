"""How one run uses several devices, beyond what Lightning's own strategies do."""

from .choice import check_strategy
from .deepspeed import DeepSpeed
from .sharded import Sharded, shard

__all__ = ['DeepSpeed', 'Sharded', 'check_strategy', 'shard']
