"""The settings of a data module, in a few groups."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xlabml.data.corpus import NearDuplicates, Splitting
from xlabml.data.rows import Format, Plan
from xlabml.data.sources import Source


class ReadChoice(NamedTuple):
    """Which documents there are, and which of them are trained on.

    Args:
        sources: Where the texts come from.
        weights: The share of the training targets that comes from each source; None: what it holds.
        max_source_epochs: How often a run may go through each source; None: any number of times.
        splitting: How documents are divided among the splits.
        drop_duplicates: Whether exact copies of earlier documents are in no split.
        near_duplicates: Whether near-duplicates are looked for, and what follows; None: not.
        held_out: Sources none of whose documents may be trained on.
    """

    sources: Sequence[Source]
    weights: Sequence[float] | None
    max_source_epochs: Sequence[float] | None
    splitting: Splitting
    drop_duplicates: bool
    near_duplicates: NearDuplicates | None
    held_out: Sequence[Source]


class TokenizerChoice(NamedTuple):
    """Which tokenizer is used.

    Args:
        path: Its file; None: one in the cache.
        special_tokens: Which of its tokens are special, by role.
        append_special_tokens: Whether those that it lacks are appended.
        n_vocab: How many tokens it has.
        coverage: Share of the characters that a tokenizer which is trained here has tokens for.
        fold_text: Whether one that is trained here folds case, forms of letters and spaces.
    """

    path: str | None
    special_tokens: Mapping[str, str]
    append_special_tokens: bool
    n_vocab: int
    coverage: float
    fold_text: bool = False


class ExampleChoice(NamedTuple):
    """What documents become.

    Args:
        examples: The format.
        plan: How documents become rows.
        seed: The seed of the orders, and of what examples draw.
        n_groups: Groups of an optimizer step over all devices, of a format of groups; None: of another.
        device_tokens: Slots that a device holds at a time, of a format of groups; None: its whole share of a step.
        n_rows: Rows of an optimizer step over all devices, of a mixture of formats; None: of another.
    """

    examples: Format
    plan: Plan
    seed: int
    n_groups: int | None = None
    device_tokens: int | None = None
    n_rows: int | None = None
