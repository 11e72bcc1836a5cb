"""Documents -> rows: plans (Pack, Chunk, Concat), the pieces that they put into each row, and rows as tensors."""

from .packed import Rows
from .plan_rows import PlanRows
from .plans import Chunk, Concat, Pack, Plan, open_plan, verify_plan

__all__ = [
    'Chunk',
    'Concat',
    'Pack',
    'Plan',
    'PlanRows',
    'Rows',
    'open_plan',
    'verify_plan',
]
