"""What metadata saves: bits of the same text without it, with all of it, and with each type, paired by document."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.batches import Batch, token_targets
from xlabml.data.conditioned import Conditioned
from xlabml.data.conditioned.variants import WITHOUT, make_variants
from xlabml.errors import SettingsError

from .bootstrap import Interval, statistic_interval
from .evaluator import Evaluator, Gather
from .language import TokenOutputs, sum_segments


class Saving(NamedTuple):
    """The bits of some documents with some of their metadata.

    Args:
        name: Which metadata: a type, all, shuffled, together, or without.
        bits_per_byte: Of the text (of metadata and text, for together, over the bytes of the text).
        saved: The share of the bits without metadata that it saves, with its interval over the documents.
    """

    name: str
    bits_per_byte: float
    saved: Interval


class MetadataBits(Evaluator):
    """Bits per byte of the texts of `data.examples: Conditioned` without metadata, with all, with each type alone.

    Tokens of a text are the same each time, and targets are those of the text alone. Two controls: `shuffled`, with the
    prefix of another document, which should save nothing; and `together`, whose metadata is counted as well: what it
    saves the text is worth it only where this is below 0 by less than what the metadata itself takes.

    Args:
        val_documents: Documents of a validation at the most; a test has all.
        n_draws: Drawings of the bootstrap intervals, over documents.
        seed: Of the intervals, and of which document's metadata another gets.
    """

    has_own_examples = True
    needs_nats = True

    def __init__(self, val_documents: int = 200, n_draws: int = 1000, seed: int = 0) -> None:
        if val_documents < 1 or n_draws < 1:
            raise SettingsError(f'MetadataBits has val_documents {val_documents} and n_draws {n_draws}; give 1 or more')
        self.val_documents = val_documents
        self.n_draws = n_draws
        self.seed = seed
        self.last: list[Saving] = []
        self._names: list[str] = []
        self._n_documents = 0
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def names(self) -> list[str] | None:
        return None

    def examples(self, data: Any) -> Any:
        form = data.examples
        if not isinstance(form, Conditioned):
            raise SettingsError(
                f'the evaluator MetadataBits compares texts with and without metadata, but data.examples is '
                f'{type(form).__name__}; set it to Conditioned, or leave the evaluator out'
            )
        is_test = data.trainer is not None and data.trainer.testing
        most = None if is_test else self.val_documents
        split = 'test' if is_test else 'val'
        made = make_variants(form, data.texts.corpus, split, data.texts.reading(), most, self.seed)
        self._names = made.names
        self._n_documents = made.n_documents
        return made

    def start(self) -> None:
        self._seen = []

    def update(self, outputs: TokenOutputs, batch: Batch) -> None:
        assert outputs.nats is not None
        assert batch.layout is not None
        targets = token_targets(batch)
        _, nats = sum_segments(outputs.nats, targets.ids, batch.layout)
        is_text = batch.documents >= 0
        kept = [values[is_text].cpu() for values in (batch.documents, nats, targets.n_bytes)]
        self._seen.append((kept[0], kept[1], kept[2]))

    def result(self, gather: Gather) -> dict[str, float]:
        parts = [part for rank in gather.everything(self._seen) for part in rank]
        if not parts:
            self.last = []
            return {}
        documents, nats, n_bytes = (torch.cat(values) for values in zip(*parts))
        self.last = compare(documents, nats, n_bytes, self._names, self._n_documents, self.n_draws, self.seed)
        found: dict[str, float] = {}
        for one in self.last:
            found[f'metadata_bits_per_byte/{one.name}'] = one.bits_per_byte
            if one.name != WITHOUT:
                found[f'metadata_saved/{one.name}'] = one.saved.value
                found[f'metadata_saved_low/{one.name}'] = one.saved.low
                found[f'metadata_saved_high/{one.name}'] = one.saved.high
        return found


def compare(
    documents: Int[Tensor, ' s'],
    nats: Float[Tensor, ' s'],
    n_bytes: Int[Tensor, ' s'],
    names: Sequence[str],
    n_documents: int,
    n_draws: int,
    seed: int,
) -> list[Saving]:
    """What each kind of metadata saves, in the order of the names, the first of which is without.

    Args:
        documents: Of each part of a document its number, `n_documents` apart from name to name.
        nats: The negative log-likelihood of its targets.
        n_bytes: The bytes of these.

    Returns:
        [] where no document was seen with each kind.
    """
    kept, number = torch.unique(documents % n_documents, return_inverse=True)  # in order: the same for any batches
    kind = documents // n_documents
    bits = torch.zeros(len(names), len(kept), dtype=torch.float64)
    bits.index_put_((kind, number), nats.double() / math.log(2), accumulate=True)
    size = torch.zeros(len(names), len(kept), dtype=torch.float64)
    size.index_put_((kind, number), n_bytes.double(), accumulate=True)
    is_whole = (size > 0).all(0)  # a limited evaluation may have seen some with one kind of metadata only
    if not is_whole.any():
        return []
    bits = bits[:, is_whole]
    total = float(size[0, is_whole].sum())
    found = []
    for i, name in enumerate(names):

        def saved(drawn: Int[Tensor, ' e'], i: int = i) -> float:
            plain = bits[0, drawn].sum()
            return float((plain - bits[i, drawn].sum()) / plain)

        interval = statistic_interval(saved, bits.size(1), n_draws if i else 1, seed=seed)
        found.append(Saving(name, float(bits[i].sum()) / total, interval))
    return found


def format_savings(savings: Sequence[Saving]) -> str:
    """A table for people."""
    width = max(len('metadata'), *(len(one.name) for one in savings))
    lines = [f'{"metadata":{width}}  bits/byte  saves  (95 % of drawings)']
    for one in savings:
        value, low, high = one.saved
        said = '' if one.name == WITHOUT else f'  {value:+.2%}  ({low:+.2%} to {high:+.2%})'
        lines.append(f'{one.name:{width}}  {one.bits_per_byte:9.4f}{said}')
    return '\n'.join(lines)
