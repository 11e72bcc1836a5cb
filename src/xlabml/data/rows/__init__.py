"""Documents -> examples that are rows: formats and token views, plans (Pack, Chunk, Concat), and rows as tensors."""

from .formats import Examples, Format, Reading
from .masked_tokens import MaskedTokens
from .next_tokens import NextTokens, RowFormat
from .packed import Rows
from .passes import Epochs, Mixed, Passes
from .plan_rows import PlanRows, RowPieces, ranges
from .plans import Chunk, Concat, Pack, Plan, open_plan, verify_plan
from .token_views import NextTokenView, TokenView

__all__ = [
    'Chunk',
    'Concat',
    'Epochs',
    'Examples',
    'Format',
    'MaskedTokens',
    'Mixed',
    'NextTokenView',
    'NextTokens',
    'Pack',
    'Passes',
    'Plan',
    'PlanRows',
    'Reading',
    'RowFormat',
    'RowPieces',
    'Rows',
    'TokenView',
    'open_plan',
    'ranges',
    'verify_plan',
]
