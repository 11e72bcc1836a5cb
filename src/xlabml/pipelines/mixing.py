"""A language model mixed with n-grams of somebody's texts: the gate fitted, and the next-token distributions mixed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from xlabml.errors import RequestError
from xlabml.heads import LanguageModel
from xlabml.ngram import CountedNgrams, Gate, KneserNey, Known, Mixture, fit_gate, open_ngrams

_MOST_SAMPLED = 4096
"""Values of a weight that name it: training changes all of them."""

Report = Callable[[str, int, int | None], None]


def name_model(weights: Mapping[str, Tensor]) -> str:
    """A name of 16 letters for a model, the same for its checkpoint and its export: the start of a hash.

    Args:
        weights: By their names; of each, evenly spaced values are hashed.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        flat = weights[name].detach().flatten()
        some = flat[:: max(1, len(flat) // _MOST_SAMPLED)].float().cpu().contiguous()
        digest.update(f'{name} {tuple(weights[name].shape)}'.encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()[:16]


def open_mixture(
    folder: Path,
    model: LanguageModel,
    name: str,
    tokenizer_hash: str,
    whose: str,
    say: Callable[[str], None],
    report: Report | None = None,
) -> Mixture:
    """The n-grams of a folder with their gate for a model, which is fitted where it is not there yet.

    Args:
        folder: As `xlab-manage ngram` writes it.
        model: The language model, in evaluation mode.
        name: Its name, by `name_model`; the gate is kept under it.
        tokenizer_hash: That of its tokenizer.
        whose: Its file, for messages.
        say: Told when the gate is fitted.
        report: Told how far that is, in tokens.

    Raises:
        FileNotFoundError: There is no such folder.
        DataError: It is not as it was written.
        SettingsError: It is of another tokenizer.
        RequestError: It has no text to fit a gate on.
    """
    counted = open_ngrams(folder)
    counted.check_tokenizer(tokenizer_hash, whose)
    ngrams = KneserNey(counted)
    gate = counted.read_gate(name)
    if gate is None:
        gate = fit_with(model, counted, ngrams, report)
        try:
            counted.write_gate(name, gate)
        except OSError as error:  # a folder that is not ours to write to: it is fitted each time
            say(f'{folder}: the gate could not be kept ({error.strerror or error})')
        say(describe_gate(folder, gate))
    return Mixture(ngrams, gate)


def describe_gate(folder: Path, gate: Gate) -> str:
    """One line, for people."""
    return (
        f'{folder}: gate fitted on {gate.n_tokens:,} tokens held out; one weight for all would be {gate.constant:.2f}'
    )


def fit_with(model: LanguageModel, counted: CountedNgrams, ngrams: KneserNey, report: Report | None = None) -> Gate:
    """Fit the gate on the texts that were held out.

    Long texts are cut where the model's context ends; either side then begins anew, as in a test.

    Raises:
        RequestError: There are none.
    """
    rows = _rows(counted, model.max_len)
    if not rows:
        raise RequestError(
            f'{counted.folder} holds no text that was held out, on which its gate could be fitted; count the texts '
            'anew, with more of them'
        )
    inputs = np.concatenate([row[:-1] for row in rows])
    targets = np.concatenate([row[1:] for row in rows])
    starts = np.cumsum([0, *(len(row) - 1 for row in rows[:-1])])
    nats, entropy = score_rows(model, rows, report)
    scores = ngrams.score(inputs, targets, starts)
    known = Known(scores.matched, scores.total, scores.backoff, entropy)
    return fit_gate(np.exp(-nats), scores.probability, known, counted.order)


@torch.inference_mode()
def score_rows(
    model: LanguageModel, rows: Sequence[np.ndarray], report: Report | None = None
) -> tuple[Float64[np.ndarray, ' t'], Float64[np.ndarray, ' t']]:
    """The model's negative log-likelihood of each token but the first of each row, and the entropy there, in nats."""
    device = next(model.parameters()).device
    found: list[Float[Tensor, '2 n']] = []
    n_done = 0
    for row in rows:
        ids = torch.from_numpy(row.astype(np.int64))[None].to(device)
        _, nats, entropy = model(ids[:, :-1], targets=ids[:, 1:], each='entropy')
        found.append(torch.cat([nats, entropy]))
        n_done += len(row)
        if report is not None:
            report('fitting the gate', n_done, sum(map(len, rows)))
    nats, entropy = torch.cat(found, dim=1).double().cpu().numpy()
    return nats, entropy


class Mixing:
    """Mixes the next-token distributions of a model with n-grams, those of several folders one after the other.

    Args:
        mixtures: Their n-grams and gates; the second is mixed with what the first has made, by the model's entropy.
    """

    def __init__(self, mixtures: Sequence[Mixture]) -> None:
        self.mixtures = list(mixtures)

    def __call__(self, logits: Float[Tensor, 'r v'], rows: Sequence[Sequence[int]]) -> Float[Tensor, 'r v']:
        """The logarithms of the mixed distributions.

        Args:
            logits: The model's, of each row's next token.
            rows: The tokens before it.
        """
        log_prob = logits.cpu().double().log_softmax(dim=1)
        made = []
        for own, row in zip(log_prob, rows):
            plain = own.exp()
            entropy = float(torch.special.entr(plain).sum())
            mixed = plain.numpy()
            for mixture in self.mixtures:
                mixed = mixture.next(row, mixed, entropy)
            made.append(torch.from_numpy(mixed))
        return torch.stack(made).log().to(logits)


def _rows(counted: CountedNgrams, max_len: int) -> list[np.ndarray]:
    """Held-out texts between their start and end, in windows of max_len inputs; each begins with the token before."""
    rows = []
    for text in counted.held_out.texts():
        ids = np.concatenate([[counted.sos], text, [counted.eos]]).astype(np.int64)
        rows += [ids[begin : begin + max_len + 1] for begin in range(0, len(ids) - 1, max_len)]
    return rows
