"""Documents -> examples that are rows: formats and token views, plans (Pack, Chunk, Concat), and rows as tensors."""

from .formats import Examples, Format, Part, Reading
from .joining import join_batches, take_rows
from .masked_tokens import MaskedNextTokens, MaskedTokens
from .masking import Masking, SpanMasking, TokenMasking, WordMasking
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
    'MaskedNextTokens',
    'MaskedTokens',
    'Masking',
    'Mixed',
    'NextTokenView',
    'NextTokens',
    'Pack',
    'Part',
    'Passes',
    'Plan',
    'PlanRows',
    'Reading',
    'RowFormat',
    'RowPieces',
    'Rows',
    'SpanMasking',
    'TokenMasking',
    'TokenView',
    'WordMasking',
    'join_batches',
    'open_plan',
    'ranges',
    'take_rows',
    'verify_plan',
]
