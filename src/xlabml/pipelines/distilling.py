"""A table of token vectors that stands in for an encoder: no trunk, hundreds of times as many texts a second.

The vector of a token embedded alone says little of what it adds to a text. So the table is fitted: the mean of the
token vectors of a text shall be the vector that the encoder makes of the whole text, in the least squares over many
texts. Tokens that are rare there stay near a prior, their vectors alone, weighted by frequency.

Sources: Model2Vec, Tulkens & van Dongen 2024, https://github.com/MinishLab/model2vec (tokens alone, principal axes);
weights: SIF, Arora et al. 2017, https://openreview.net/forum?id=SyK00v5xx, eq. 3.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from xlabml import checkpoints
from xlabml.checkpoints import Part
from xlabml.errors import DataError, RequestError
from xlabml.heads import StaticEncoder, TextEncoder
from xlabml.heads.text_encoder import frame, pack
from xlabml.plain import PlainDict
from xlabml.tokenizer import Tokenizer

from .embedder import TextEmbedder

RIDGES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Weights of the prior that are tried, from the strongest on; the texts held out decide."""

_CLASS = 'xlabml.heads.StaticEncoder'
_DATA = 'xlabml.datamodules.XLabDataModule'
_SIF = 1e-3
_HELD_OUT = 10
_FEWEST = 20
_N_STEPS = 30
_N_PROBES = 64
_BATCH = 1024


class Distilled(NamedTuple):
    """A table of token vectors, and how near its vectors are to those of the encoder.

    Args:
        network: The table.
        cosine: Mean cosine of both vectors of the texts held out, on the axes that are kept; the prior's alone comes
            before it.
        prior_cosine: The same of the prior.
        kept: The share of the squared length of the encoder's vectors that the axes have.
        ridge: The weight of the prior that was chosen.
        n_texts: How many texts there were, those held out included.
        n_held_out: How many of them decided on the ridge; the table is then fitted to all.
    """

    network: StaticEncoder
    cosine: float
    prior_cosine: float
    kept: float
    ridge: float
    n_texts: int
    n_held_out: int


def distill(
    embedder: TextEmbedder,
    texts: Sequence[str],
    d_vector: int | None = None,
    prompt: str | None = None,
    progress: bool | None = None,
) -> Distilled:
    """Fit a table of token vectors to what an encoder makes of texts.

    Args:
        embedder: Of an encoder.
        texts: Like those that will be embedded, queries and documents; the more, the better.
        d_vector: The width of the vectors, by principal axes of the encoder's; None: as wide as those, and
            comparable with them.
        prompt: The name of the prompt that the encoder reads before each text.
        progress: Whether a bar is shown; None: on a terminal.

    Raises:
        RequestError: It is an embedder of token vectors already, d_vector is out of range, or a text is empty.
        DataError: There are fewer than 20 texts.
    """
    model = embedder.model
    if not isinstance(model, TextEncoder):
        raise RequestError('the checkpoint holds token vectors already; give that of the encoder')
    if d_vector is not None and not 1 <= d_vector <= model.d_vector:
        raise RequestError(f'd_vector is {d_vector}; give 1 to {model.d_vector}, the width of the vectors')
    if len(texts) < _FEWEST:
        raise DataError(f'{len(texts)} texts are too few to fit token vectors to; give {_FEWEST} or more')
    vectors = embedder.encode(texts, prompt, normalize=True, progress=progress)
    return fit(embedder, texts, vectors, d_vector)


def fit(
    embedder: TextEmbedder, texts: Sequence[str], vectors: Float32[np.ndarray, 'n d'], d_vector: int | None = None
) -> Distilled:
    """The same, of vectors of length 1 that the encoder made before; arguments as of `distill`."""
    model = embedder.model
    assert isinstance(model, TextEncoder)
    wide = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    # At full width nothing is turned: the encoder's own vectors can be searched with those of the table.
    axes, kept = (torch.eye(wide.size(1)), 1.0) if d_vector is None else principal_axes(wide, d_vector)
    target = wide @ axes
    bags = Bags.of(embedder, texts, model.max_len)
    prior = alone(embedder) @ axes * sif_weights(bags.counts())[:, None]
    is_held_out = torch.arange(len(texts)) % _HELD_OUT == 0
    train = bags.pick(~is_held_out)
    held_out = bags.pick(is_held_out)
    known = target[~is_held_out]
    prior = prior * train.scale(prior, known)

    def score(table: Tensor, axes: Tensor) -> float:
        return float(F.cosine_similarity(held_out.product(table), target[is_held_out] @ axes).mean())

    # Columns are fitted apart from one another: the few of the largest variance choose the ridge for all.
    probes, _ = principal_axes(target, min(_N_PROBES, target.size(1)))
    found = {ridge: score(solve(train, known @ probes, prior @ probes, ridge), probes) for ridge in RIDGES}
    ridge = max(RIDGES, key=lambda ridge: found[ridge])
    table = solve(train, known, prior, ridge)
    whole = torch.eye(target.size(1))
    cosine = score(table, whole)
    prior_cosine = score(prior, whole)
    network = StaticEncoder(len(embedder.tokenizer), model.max_len, axes.size(1), model.normalize)
    network.table.data = solve(bags, target, prior, ridge, table)
    n_held_out = int(is_held_out.sum())
    network = network.eval().requires_grad_(False)
    return Distilled(network, cosine, prior_cosine, kept, ridge, len(texts), n_held_out)


class Bags(NamedTuple):
    """The tokens of texts, as a sparse matrix of texts by tokens: how large a share of a text each token is.

    Args:
        row: Of each occurrence of a token, the text; rising.
        id: The token.
        share: What it adds: 1 / the number of tokens of the text.
        n_texts: Rows of the matrix.
        n_vocab: Its columns.
    """

    row: Int[Tensor, ' t']
    id: Int[Tensor, ' t']
    share: Float[Tensor, ' t']
    n_texts: int
    n_vocab: int

    @classmethod
    def of(cls, embedder: TextEmbedder, texts: Sequence[str], max_len: int) -> 'Bags':
        """The first `max_len` tokens of texts; a text without any is an empty row."""
        encoded = [torch.tensor(ids[:max_len], dtype=torch.long) for ids in embedder.tokenizer.encode(list(texts))]
        n_tokens = torch.tensor([len(ids) for ids in encoded])
        row = torch.repeat_interleave(n_tokens)
        return cls(row, torch.cat(encoded), 1 / n_tokens.float()[row], len(texts), len(embedder.tokenizer))

    def pick(self, chosen: Bool[Tensor, ' n']) -> 'Bags':
        """Some of the texts."""
        kept = chosen[self.row]
        number = chosen.long().cumsum(0) - 1
        return Bags(number[self.row[kept]], self.id[kept], self.share[kept], int(chosen.sum()), self.n_vocab)

    def transpose(self) -> 'Bags':
        """Tokens by texts."""
        order = self.id.argsort(stable=True)
        return Bags(self.id[order], self.row[order], self.share[order], self.n_vocab, self.n_texts)

    def counts(self) -> Float[Tensor, ' v']:
        """How often each token occurs."""
        return torch.bincount(self.id, minlength=self.n_vocab).float()

    def product(self, table: Float[Tensor, 'v d']) -> Float[Tensor, 'n d']:
        """The matrix times a table: the mean of the token vectors of each text."""
        starts = torch.searchsorted(self.row, torch.arange(self.n_texts + 1))
        return F.embedding_bag(
            self.id, table, starts, mode='sum', per_sample_weights=self.share, include_last_offset=True
        )

    def scale(self, table: Float[Tensor, 'v d'], target: Float[Tensor, 'n d']) -> float:
        """The factor that brings the means of a table nearest to the targets."""
        means = self.product(table)
        return float((means * target).sum() / means.square().sum().clamp(min=torch.finfo(means.dtype).tiny))


def principal_axes(vectors: Float[Tensor, 'n d'], k: int) -> tuple[Float[Tensor, 'd k'], float]:
    """The k axes through the origin that keep most of the vectors' squared length, and the share that they keep.

    Through the origin, not the mean: products with a query go by it.
    """
    wide = vectors.double()
    squares, axes = torch.linalg.eigh(wide.mT @ wide)  # rising
    kept = squares[-k:].sum() / squares.sum()
    return axes.flip(1)[:, :k].float(), float(kept)


def sif_weights(counts: Float[Tensor, ' v']) -> Float[Tensor, ' v']:
    """Smooth inverse frequency a / (a + p), with a = 0.001 and p the share of a token among all."""
    return _SIF / (_SIF + counts / counts.sum().clamp(min=1))


@torch.inference_mode()
def alone(embedder: TextEmbedder) -> Float[Tensor, 'v d']:
    """The encoder's vector of each token as a text of its own, at length 1; zero for those that stand for no text."""
    model = embedder.model
    ends = embedder.tokenizer.special_ids
    reserved = {*embedder.tokenizer.reserved_ids}
    ids = [id for id in range(len(embedder.tokenizer)) if id not in reserved]
    found = torch.zeros(len(embedder.tokenizer), model.d_vector)
    for i in range(0, len(ids), _BATCH):
        some = ids[i : i + _BATCH]
        row, layout = pack([frame([id], ends['sos'], ends['eos'], model.max_len) for id in some], embedder.device)
        found[some] = F.normalize(model.vectors(row, layout).float(), dim=-1).cpu()
    return found


def solve(
    bags: Bags,
    target: Float[Tensor, 'n d'],
    prior: Float[Tensor, 'v d'],
    ridge: float,
    start: Float[Tensor, 'v d'] | None = None,
    n_steps: int = _N_STEPS,
) -> Float[Tensor, 'v d']:
    """The table T of the least |X T - Y|^2 + ridge |T - T0|^2, by conjugate gradients on all columns at once.

    X are the shares of tokens, Y the targets, T0 the prior.
    Source: Hestenes & Stiefel 1952, https://doi.org/10.6028/jres.049.044.

    Args:
        start: Where the search begins; None: at the prior.
        n_steps: The most steps.
    """

    def apply(table: Tensor) -> Tensor:
        return transposed.product(bags.product(table)) + ridge * table

    transposed = bags.transpose()
    table = prior if start is None else start
    residual = transposed.product(target) + ridge * prior - apply(table)
    direction = residual
    square = residual.square().sum(dim=0)
    tiny = torch.finfo(square.dtype).tiny
    for _ in range(n_steps):
        applied = apply(direction)
        step = square / (direction * applied).sum(dim=0).clamp(min=tiny)
        table = table + step * direction
        residual = residual - step * applied
        before = square
        square = residual.square().sum(dim=0)
        direction = residual + square / before.clamp(min=tiny) * direction
    return table


def save(network: StaticEncoder, tokenizer: Tokenizer, path: Path) -> checkpoints.Export:
    """Write a table and its tokenizer as a file that `TextEmbedder.load` opens; nothing in it is code.

    Raises:
        FileExistsError: The file is there.
        FileNotFoundError: There is no folder to write to.
    """
    checkpoints.check_target(path)
    arguments: PlainDict = {
        'n_vocab': network.n_vocab,
        'max_len': network.max_len,
        'd_vector': network.d_vector,
        'normalize': network.normalize,
    }
    checkpoint = checkpoints.imported(
        Part(_CLASS, arguments),
        Part(_CLASS, arguments),
        Part(_DATA, {'n_vocab': network.n_vocab, 'max_len': network.max_len}),
        {f'network.{name}': tensor.contiguous() for name, tensor in network.state_dict().items()},
        tokenizer.data,
        version('lightning'),
    )
    return checkpoints.write_export(checkpoint, path, path)
