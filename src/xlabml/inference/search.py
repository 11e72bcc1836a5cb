"""The decoding loop, and sampling and greedy search, which are built on it."""

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlabml.errors import RequestError

from .context import Adjust, Context, Overflow
from .sampling import Greedy, Sampler, exclude, mark_unusable, refuse_unusable

Prompts = TypeVar('Prompts', Int[Tensor, ' _'], list[Int[Tensor, ' _']])
"""The ids of a prompt, or a list of prompts of any lengths; the result has the same form."""

Choose = Callable[[Float[Tensor, 'r v'], list[int], int], Int[Tensor, ' r']]
"""Logits of the unfinished rows, their numbers, and the number of rows of the initial batch -> their next ids."""


@torch.inference_mode()
def stream(
    model: nn.Module,
    prompts: list[Int[Tensor, ' _']],
    output_length: int,
    block_size: int | None,
    choose: Choose,
    eos_class: int | None = None,
    exclude_classes: Collection[int] | None = None,
    overflow: Overflow = 'refill',
    adjust: Adjust | None = None,
) -> Iterator[list[int | None]]:
    """Generate the next id of every row, step by step.

    Args:
        model: Ids (b, n) to logits (b, n, v); run with a cache if it has `new_cache`. Its training mode is not changed.
        prompts: The first ids of the rows.
        output_length: Maximum number of steps.
        block_size: The longest context, prompt included; None: no limit.
        choose: `Greedy`, a `Sampler`, or any function like them.
        eos_class: The id that ends a row.
        exclude_classes: Ids that are never generated; excluded before ids are chosen.
        overflow: What happens past `block_size`.
        adjust: Changes the logits of each step, before ids are excluded: mixes them with n-grams, for example.

    Yields:
        For each row its next id, or None if it has ended; the end of text is not returned.

    Raises:
        ValueError: A value is out of range, a prompt has no tokens, or a row's logits are not finite.
    """
    if output_length < 0:
        raise RequestError(f'output_length is {output_length}; it must be 0 or more')
    n_rows = len(prompts)
    if not n_rows:
        return
    context = Context(model, prompts, output_length, block_size, overflow, adjust)
    rows = list(range(n_rows))
    for n_made in range(output_length):
        logits = exclude(context.logits(), exclude_classes)
        ids = mark_unusable(choose(logits, rows, n_rows), logits)
        values = ids.tolist()  # the only device synchronization of a step
        if min(values) < 0:
            refuse_unusable([row for row, value in zip(rows, values) if value < 0], n_made)
        kept = [i for i, value in enumerate(values) if value != eos_class]
        if len(kept) < len(rows):
            if not kept:
                return
            rows = [rows[i] for i in kept]
            values = [values[i] for i in kept]
            ids = ids[kept]
            context.select(kept)
        step: list[int | None] = [None] * n_rows
        for row, value in zip(rows, values):
            step[row] = value
        yield step
        context.append(ids, values)


def sample(
    model: nn.Module,
    x: Prompts,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Collection[int] | None = None,
    temperature: float | int = 1,
    top_k: int | None = None,
    top_p: float | int | None = None,
    generator: torch.Generator | None = None,
    overflow: Overflow = 'refill',
) -> Prompts:
    """Sample ids autoregressively.

    At each step ids are excluded, logits divided by the temperature, the `top_k` most probable ids kept, and of these
    the fewest that make up `top_p`; then one is drawn. `Sampler` says what a draw depends on.

    Args:
        model: Ids (b, n) to logits (b, n, v); run with a cache if it has `new_cache`.
        x: The prompt's ids, or a list of prompts of any lengths.
        output_length: Maximum number of new ids.
        block_size: The longest context, prompt included; None: no limit. A longer prompt is cut to its last ids.
        eos_class: The id of the end of text.
        exclude_classes: Ids that are never generated.
        temperature: Divides the logits: below 1 sharpens the distribution, above 1 flattens it.
        top_k: Sample from the top_k most probable ids only; None: all.
        top_p: Sample from the fewest most probable ids whose probabilities sum to top_p; None: all.
        generator: Random number generator; None: torch's global one.
        overflow: What happens past `block_size`: 'refill' recomputes the last half of the context and continues from
            there, 'slide' recomputes the last `block_size` ids at every step.

    Returns:
        The new ids without the end of text; a list of them for a list.

    Raises:
        ValueError: A value is out of range, a prompt has no tokens, or a row's logits are not finite.
    """
    choose = Sampler(temperature, top_k, top_p, generator)
    return _collect(model, x, output_length, block_size, choose, eos_class, exclude_classes, overflow)


def greedy_search(
    model: nn.Module,
    x: Prompts,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Collection[int] | None = None,
    overflow: Overflow = 'refill',
) -> Prompts:
    """Generate the most probable id at each step.

    Arguments, result and errors are those of `sample`.
    """
    return _collect(model, x, output_length, block_size, Greedy(), eos_class, exclude_classes, overflow)


def _collect(
    model: nn.Module,
    x: Prompts,
    output_length: int,
    block_size: int | None,
    choose: Choose,
    eos_class: int | None,
    exclude_classes: Collection[int] | None,
    overflow: Overflow,
) -> Prompts:
    prompts = x if isinstance(x, list) else [x]
    made: list[list[int]] = [[] for _ in prompts]
    for step in stream(model, prompts, output_length, block_size, choose, eos_class, exclude_classes, overflow):
        for ids, value in zip(made, step):
            if value is not None:
                ids.append(value)
    results = [torch.tensor(ids, dtype=prompt.dtype, device=prompt.device) for ids, prompt in zip(made, prompts)]
    return results if isinstance(x, list) else results[0]
