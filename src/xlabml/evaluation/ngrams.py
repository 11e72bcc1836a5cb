"""What n-grams of some texts save a language model: bits of both, and of their mixtures, paired by document."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from xlabml.batches import IGNORED, Batch, token_targets
from xlabml.ngram import Mixture

from .evaluator import Evaluator, Gather
from .language import TokenOutputs, sum_segments
from .savings import Saving, compare, saving_figures

MODEL = 'model'
ROWS = (MODEL, 'kneser_ney', 'constant', 'gated')
"""The model alone, the n-grams alone, their mixture by one weight, and by the gate."""


@runtime_checkable
class Mixable(Protocol):
    """A task whose predictions can be mixed with n-grams."""

    mixture: Mixture | None


def mixed_nats(
    mixture: Mixture, batch: Batch, nats: Float[Tensor, 'b n'], entropy: Float[Tensor, 'b n']
) -> Float64[Tensor, 'rows b n']:
    """The negative log-likelihood of each target by each of `ROWS`, on the CPU; 0 where it is ignored.

    Contexts are those of the model: from the first token of a document's part of a row.

    Args:
        batch: Packed rows.
        nats: The model's.
        entropy: Of the model's distributions, in nats.
    """
    assert batch.layout is not None
    targets = token_targets(batch).ids.cpu()
    is_counted = targets.flatten().numpy() != IGNORED
    inputs = batch.ids.cpu().flatten().numpy()
    wanted = np.where(is_counted, targets.flatten().numpy(), 0)
    model = torch.exp(-nats.cpu().double()).flatten().numpy()
    starts = np.unique(batch.layout.starts.cpu().numpy())
    found = mixture.score(inputs, wanted, starts, model, entropy.cpu().double().flatten().numpy())
    others = np.stack([np.where(is_counted, -np.log(values), 0.0) for values in found])
    own = nats.cpu().double().flatten()[None]
    return torch.cat([own, torch.from_numpy(others)]).view(len(ROWS), *targets.shape)


class NgramBits(Evaluator):
    """Bits per byte of the split by a language model, by n-grams, and by their mixtures; of one device or several.

    Args:
        mixture: The n-grams and their gate.
        n_draws: Drawings of the bootstrap intervals, over documents.
        seed: Of the intervals.

    Attributes:
        last: What the last evaluation found, in the order of `ROWS`.
    """

    needs_nats = True
    needs_entropy = True

    def __init__(self, mixture: Mixture, n_draws: int = 1000, seed: int = 0) -> None:
        self.mixture = mixture
        self.n_draws = n_draws
        self.seed = seed
        self.last: list[Saving] = []
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def names(self) -> list[str] | None:
        saved = [f'ngram_{what}/{row}' for row in ROWS[1:] for what in ('saved', 'saved_low', 'saved_high')]
        return [*(f'ngram_bits_per_byte/{row}' for row in ROWS), *saved]

    def start(self) -> None:
        self._seen = []

    def update(self, outputs: TokenOutputs, batch: Batch) -> None:
        assert outputs.nats is not None
        assert outputs.entropy is not None
        assert batch.layout is not None
        targets = token_targets(batch)
        layout = batch.layout._replace(starts=batch.layout.starts.cpu())
        rows = mixed_nats(self.mixture, batch, outputs.nats, outputs.entropy)
        nats = torch.stack([sum_segments(row, targets.ids.cpu(), layout)[1] for row in rows])
        is_text = batch.documents.cpu() >= 0
        n_bytes = targets.n_bytes.cpu()
        self._seen.append((batch.documents.cpu()[is_text], nats[:, is_text], n_bytes[is_text]))

    def result(self, gather: Gather) -> dict[str, float]:
        parts = [part for rank in gather.everything(self._seen) for part in rank]
        if not parts:
            return dict.fromkeys(self.names() or (), math.nan)
        documents = torch.cat([part[0] for part in parts])
        kept, place = torch.unique(documents, return_inverse=True)  # in order: the same for any batches
        sums = torch.zeros(len(ROWS) + 1, len(kept), dtype=torch.float64)
        values = torch.cat([torch.cat([part[1], part[2][None].double()]) for part in parts], dim=1)
        sums.index_add_(1, place, values)
        self.last = compare(sums[:-1], sums[-1], ROWS, self.n_draws, self.seed)
        return saving_figures('ngram', self.last)


def format_ngrams(savings: Sequence[Saving], constant: float) -> str:
    """A table for people.

    Args:
        constant: The share of the n-grams in the mixture by one weight.
    """
    said = {'kneser_ney': 'Kneser-Ney', 'constant': f'mixed, {constant:.0%} Kneser-Ney', 'gated': 'mixed by the gate'}
    lines = [f'{"":24}bits/byte  saves    (95 % of drawings of documents)']
    for one in savings:
        value, low, high = one.saved
        rest = '' if one.name == MODEL else f'  {value:+.2%}  ({low:+.2%} to {high:+.2%})'
        lines.append(f'{said.get(one.name, one.name):24}{one.bits_per_byte:9.4f}{rest}')
    return '\n'.join(lines)
