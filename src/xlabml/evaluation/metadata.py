"""What metadata saves: bits of the same text without it, with all of it, and with each type, paired by document."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlabml.batches import Batch, token_targets
from xlabml.data import Corpus, Reading
from xlabml.data.conditioned import Conditioned
from xlabml.data.conditioned.variants import WITHOUT, Variants, make_variants, some_documents
from xlabml.errors import SettingsError

from .evaluator import Evaluator, Gather
from .language import TokenOutputs, sum_segments
from .savings import Saving, compare, saving_figures


class VariantEvaluator(Evaluator):
    """The base of evaluators that read the same documents several times, each time with other metadata."""

    has_own_examples = True
    needs_nats = True

    def __init__(self) -> None:
        self._made: Variants | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def names(self) -> list[str] | None:
        return None

    @abstractmethod
    def variants(self, form: Conditioned, corpus: Corpus, reading: Reading, is_test: bool) -> Variants:
        """The rows of all kinds.

        Args:
            form: The format that the model is trained in.
            corpus: The documents.
            reading: The tokenizer, and how rows are laid out.
            is_test: Whether this is a test; else a validation.
        """

    def examples(self, data: Any) -> Any:
        form = data.examples
        if not isinstance(form, Conditioned):
            raise SettingsError(
                f'the evaluator {type(self).__name__} compares texts with and without metadata, but data.examples is '
                f'{type(form).__name__}; set it to Conditioned, or leave the evaluator out'
            )
        is_test = data.trainer is not None and data.trainer.testing
        self._made = self.variants(form, data.texts.corpus, data.texts.reading(), is_test)
        return self._made

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

    def sums(self, gather: Gather) -> 'Sums':
        """What was seen of each document with each kind of metadata, on all ranks."""
        assert self._made is not None
        parts = [part for rank in gather.everything(self._seen) for part in rank]
        parts = parts or [(torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0, dtype=torch.long))]
        documents, nats, n_bytes = (torch.cat(values) for values in zip(*parts))
        return sum_documents(documents, nats, n_bytes, len(self._made.names), self._made.n_documents)


class Sums(NamedTuple):
    """Sums over the documents that were seen with each kind of metadata.

    Args:
        documents: Their numbers, in order.
        nats: The negative log-likelihood of their targets, by kind.
        n_bytes: The bytes of their targets, by kind.
    """

    documents: Int[Tensor, ' d']
    nats: Float[Tensor, 'k d']
    n_bytes: Float[Tensor, 'k d']


def sum_documents(
    documents: Int[Tensor, ' s'],
    nats: Float[Tensor, ' s'],
    n_bytes: Int[Tensor, ' s'],
    n_kinds: int,
    n_documents: int,
) -> Sums:
    """Sums of documents over their parts; a limited evaluation may have seen some with one kind only: these are left
    out.

    Args:
        documents: Of each part of a document its number, `n_documents` apart from kind to kind.
        nats: The negative log-likelihood of its targets.
        n_bytes: The bytes of these.
    """
    kept, number = torch.unique(documents % n_documents, return_inverse=True)  # in order: the same for any batches
    kind = documents // n_documents
    sums = torch.zeros(2, n_kinds, len(kept), dtype=torch.float64)
    sums[0].index_put_((kind, number), nats.double(), accumulate=True)
    sums[1].index_put_((kind, number), n_bytes.double(), accumulate=True)
    is_whole = (sums[1] > 0).all(0)
    return Sums(kept[is_whole], sums[0][:, is_whole], sums[1][:, is_whole])


class MetadataBits(VariantEvaluator):
    """Bits per byte of the texts of `data.examples: Conditioned` without metadata, with all, with each type alone.

    Tokens of a text are the same each time, and targets are those of the text alone. Two controls: `shuffled`, with the
    prefix of another document, which should save nothing; and `together`, whose metadata is counted as well: what it
    saves the text is worth it only where this is below 0 by less than what the metadata itself takes.

    Args:
        val_documents: Documents of a validation at the most; a test has all.
        sets: Further types that are compared together, each a list of names, shown as `title+description`.
        n_draws: Drawings of the bootstrap intervals, over documents.
        seed: Of the intervals, and of which document's metadata another gets.
    """

    def __init__(
        self, val_documents: int = 200, sets: list[list[str]] | None = None, n_draws: int = 1000, seed: int = 0
    ) -> None:
        super().__init__()
        if val_documents < 1 or n_draws < 1:
            raise SettingsError(f'MetadataBits has val_documents {val_documents} and n_draws {n_draws}; give 1 or more')
        self.val_documents = val_documents
        self.sets = sets or []
        self.n_draws = n_draws
        self.seed = seed
        self.last: list[Saving] = []

    def variants(self, form: Conditioned, corpus: Corpus, reading: Reading, is_test: bool) -> Variants:
        documents = some_documents(corpus, 'test' if is_test else 'val', None if is_test else self.val_documents)
        return make_variants(form, corpus, documents, reading, self.sets, self.seed)

    def result(self, gather: Gather) -> dict[str, float]:
        sums = self.sums(gather)
        assert self._made is not None
        names = self._made.names if len(sums.documents) else ()
        self.last = compare(sums.nats, sums.n_bytes[0], names, self.n_draws, self.seed)
        return saving_figures('metadata', self.last)


def format_savings(savings: Sequence[Saving]) -> str:
    """A table for people."""
    width = max(len('metadata'), *(len(one.name) for one in savings))
    lines = [f'{"metadata":{width}}  bits/byte  saves  (95 % of drawings)']
    for one in savings:
        value, low, high = one.saved
        said = '' if one.name == WITHOUT else f'  {value:+.2%}  ({low:+.2%} to {high:+.2%})'
        lines.append(f'{one.name:{width}}  {one.bits_per_byte:9.4f}{said}')
    return '\n'.join(lines)
