"""Beam search."""

import math
from collections.abc import Collection

import torch
from torch import nn

from xlabml.errors import RequestError

from .context import Adjust, Context, Overflow
from .sampling import exclude, precise, refuse_unusable
from .search import Prompts


class Best:
    """The best finished hypothesis of a prompt, and the test whether an open one can still beat it.

    The score of a hypothesis of n ids (end of text included) is log_prob / n ** length_penalty.

    Args:
        length_penalty: Above 0 favours long texts, below 0 short ones.
        max_length: Maximum length of a hypothesis, in ids.
    """

    def __init__(self, length_penalty: float | int, max_length: int) -> None:
        self.score = -math.inf
        self.ids = list[int]()
        self._penalty = length_penalty
        self._max_length = max_length

    def offer(self, log_prob: float, length: int, ids: list[int]) -> None:
        """Keep a finished hypothesis if its score is higher; the first of equal ones stays."""
        score = log_prob / length**self._penalty
        if score > self.score:
            self.score = score
            self.ids = ids

    def is_beyond(self, log_prob: float, length: int) -> bool:
        """Whether an open hypothesis of `length` ids cannot become better than the best.

        Its upper bound: all later ids have probability 1. The score, which is negative, is then nearest to 0 at the
        maximum length if the penalty is above 0, and at the next length otherwise.
        """
        final = self._max_length if self._penalty > 0 else length + 1
        return log_prob / final**self._penalty <= self.score


@torch.inference_mode()
def beam_search(
    model: nn.Module,
    x: Prompts,
    beam_width: int,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Collection[int] | None = None,
    length_penalty: float | int = 0,
    overflow: Overflow = 'refill',
    adjust: Adjust | None = None,
) -> Prompts:
    """The most probable continuation that beam search finds.

    Each step keeps the `beam_width` most probable continuations of a prompt's open hypotheses. Those with the end of
    text are finished; the others stay open. A prompt is done when no open hypothesis can beat its best finished one; at
    the length limit open hypotheses compete as well. All hypotheses of all prompts form one batch. A width of 1 is
    greedy search.

    Args:
        model: Ids (b, n) to logits (b, n, v); run with a cache if it has `new_cache`.
        x: The prompt's ids, or a list of prompts of any lengths.
        beam_width: Number of hypotheses per prompt.
        output_length: Maximum number of new ids, the end of text included.
        block_size: The longest context, prompt included; None: no limit. A longer prompt is cut to its last ids.
        eos_class: The id of the end of text.
        exclude_classes: Ids that are never generated; the probabilities of the others are renormalised.
        length_penalty: Hypotheses are ranked by log_prob / length ** length_penalty: 0 ranks by log-probability, 1 by
            its mean per id.
        overflow: What happens past `block_size`, as in `sample`.
        adjust: Changes the logits of each step, as in `stream`.

    Returns:
        The new ids without the end of text; a list of them for a list.

    Raises:
        ValueError: A value is out of range, a prompt has no tokens, or a prompt's logits are not finite.
    """
    if beam_width < 1:
        raise RequestError(f'beam_width is {beam_width}; it must be at least 1')
    if output_length < 0:
        raise RequestError(f'output_length is {output_length}; it must be 0 or more')
    if not -10 <= length_penalty <= 10:
        raise RequestError(f'length_penalty is {length_penalty}; it must lie in -10..10')
    prompts = x if isinstance(x, list) else [x]
    best = [Best(length_penalty, output_length) for _ in prompts]
    if prompts and output_length:
        context = Context(model, prompts, output_length, block_size, overflow, adjust)
        _search(context, best, beam_width, output_length, eos_class, exclude_classes)
    results = [torch.tensor(found.ids, dtype=p.dtype, device=p.device) for found, p in zip(best, prompts)]
    return results if isinstance(x, list) else results[0]


def _search(
    context: Context,
    best: list[Best],
    beam_width: int,
    output_length: int,
    eos_class: int | None,
    exclude_classes: Collection[int] | None,
) -> None:
    """Find the best hypothesis of each prompt."""
    open_prompts = list(range(len(best)))  # each has n_beams neighbouring rows of the context
    log_probs: list[list[float]] = [[0.0] for _ in best]
    for length in range(1, output_length + 1):
        logits = exclude(context.logits(), exclude_classes)
        n_beams = len(log_probs[0])
        n_vocab = logits.size(1)
        beams = torch.tensor(log_probs, dtype=precise(logits).dtype, device=logits.device)  # p beams
        scores = precise(logits).log_softmax(dim=1).unflatten(0, beams.shape) + beams[..., None]  # p beams v
        values, places = scores.flatten(1).topk(min(beam_width, n_beams * n_vocab), dim=1)  # place = beam * v + id
        step = list(zip(values.tolist(), places.tolist()))
        # topk ranks NaN first; log_softmax has made NaN of +inf, and of rows of -inf only.
        if unusable := [prompt for prompt, (row, _) in zip(open_prompts, step) if math.isnan(row[0])]:
            refuse_unusable(unusable, length - 1)

        # Finished hypotheses are offered, and stay in the beam at -inf, so that all prompts have n_beams rows.
        rows = []
        ids = []
        still_open = []
        log_probs = []
        for i, (prompt, (row_values, row_places)) in enumerate(zip(open_prompts, step)):
            found = best[prompt]
            kept = []
            for value, place in zip(row_values, row_places):
                parent = i * n_beams + place // n_vocab
                token = place % n_vocab
                is_end = token == eos_class
                if value > -math.inf and (is_end or length == output_length):
                    made = context.tokens[parent][len(context.tokens[parent]) - length + 1 :]
                    found.offer(value, length, made if is_end else [*made, token])
                kept.append((-math.inf if is_end else value, parent, token))
            if not found.is_beyond(max(value for value, _, _ in kept), length):
                still_open.append(prompt)
                log_probs.append([value for value, _, _ in kept])
                rows += [parent for _, parent, _ in kept]
                ids += [token for _, _, token in kept]
        if not still_open or length == output_length:
            return
        open_prompts = still_open
        context.select(rows)
        context.append(torch.tensor(ids, device=logits.device), ids)
