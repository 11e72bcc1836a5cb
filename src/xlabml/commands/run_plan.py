"""How large a tokenizer, a validation split, a step and a run suit a corpus: arithmetic on numbers of bytes and tokens.

The rules are rough on purpose: each is right to a factor of two, and all of them print what they found. Sources: 20
tokens a parameter, Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, table 3; repeated texts, Muennighoff et al.
2023, https://arxiv.org/abs/2305.16264, fig. 1 (four epochs are nearly as good as new text, later ones less and less).
"""

import math

LEAST_VOCABULARY = 512
MOST_VOCABULARY = 32_768
_TOKENS_PER_PARAMETER = 20
_MOST_EPOCHS = 10
_LEAST_STEPS = 200
_USUAL_STEPS = 4000
_LEAST_BATCH = 1024
_MOST_BATCH = 524_288
_MOST_SHARE = 0.05
_MOST_EVALUATED = 200_000
"""Tokens of a validation: more change the third digit of the loss."""

_EVALUATED_RATIO = 0.03
"""Tokens of a validation, of those of the run: ten validations, at a third of a step's work, are then a tenth of it."""

MOST_ON_DEVICE = 16_384
"""Tokens that a device holds at a time where nobody has said how many."""


def vocabulary(n_bytes: int) -> int:
    """Size of the tokenizer: a power of two, about four times the square root of the bytes.

    Each token is then seen a few hundred times or more, and the embeddings are no larger than a small model's layers.
    """
    fit = 2 ** round(math.log2(max(1.0, 4 * math.sqrt(n_bytes))))
    return max(LEAST_VOCABULARY, min(MOST_VOCABULARY, fit))


def bytes_per_token(n_vocab: int) -> float:
    """Bytes that a token of a tokenizer of this size stands for, in European prose, about."""
    return max(1.0, 0.4 * math.log2(n_vocab) - 1.5)


def trained_tokens(n_tokens: int, n_parameters: int) -> int:
    """Tokens that a run trains on: 20 a parameter, and at most ten times the text."""
    return min(_TOKENS_PER_PARAMETER * n_parameters, _MOST_EPOCHS * n_tokens)


def held_share(n_tokens: int, n_trained: int) -> float:
    """Share of the text that is for validation: 5 %, but no more tokens than a validation has use for.

    Args:
        n_tokens: Tokens of the whole text.
        n_trained: Tokens that the run trains on, each epoch counted.
    """
    most = min(_MOST_EVALUATED, _EVALUATED_RATIO * n_trained)
    return float(f'{min(_MOST_SHARE, most / max(1, n_tokens)):.2g}')


def batch_tokens(n_trained: int, max_len: int, world: int = 1) -> int:
    """Tokens of a step: about 4,000 steps in the run, in whole rows on each device."""
    rows_at_once = max_len * world
    wanted = min(_MOST_BATCH, max(_LEAST_BATCH, n_trained / _USUAL_STEPS))
    return rows_at_once * 2 ** max(0, round(math.log2(wanted / rows_at_once)))


def n_steps(n_trained: int, n_tokens_per_step: int) -> int:
    """Steps of the run, in two digits; 200 at least: fewer train nothing."""
    exact = max(_LEAST_STEPS, math.ceil(n_trained / n_tokens_per_step))
    unit = 10 ** max(0, len(str(exact)) - 2)
    return math.ceil(exact / unit) * unit
