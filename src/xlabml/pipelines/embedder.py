"""A checkpoint and texts -> vectors. No Lightning."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from xlabml import checkpoints
from xlabml.blank import is_blank
from xlabml.bm25 import Fusion, read_fusion
from xlabml.errors import RequestError, SettingsError
from xlabml.heads import StaticEncoder, TextEncoder, TextVectors
from xlabml.heads.loading import load_network
from xlabml.heads.text_encoder import frame, pack
from xlabml.tokenizer import Tokenizer
from xlabml.untrusted.building import naming, try_out

from .bars import progress_bar
from .devices import find_device
from .generator import JOINT_MODEL
from .quantization import Calibration, VectorType, quantize

EMBEDDER = 'xlabml.models.Embedder'
STATIC_EMBEDDER = 'xlabml.models.StaticEmbedder'
"""The task whose checkpoints embed texts."""

CHUNK = 1024
"""Texts that are tokenized, sorted by length and embedded together."""

_CPU_TOKENS = 4096
_GPU_TOKENS = 32_768


class Cut(NamedTuple):
    """How many texts were cut.

    Args:
        n_texts: Texts in all.
        n_cut: Those with more tokens than fit.
        max_len: What fits, in tokens, with those around a text.
    """

    n_texts: int = 0
    n_cut: int = 0
    max_len: int = 0

    def __str__(self) -> str:
        return (
            f'{self.n_cut:,} of {self.n_texts:,} texts ({self.n_cut / max(1, self.n_texts):.1%}) were cut at '
            f'{self.max_len} tokens'
        )


class CutWarning(UserWarning):
    """Some of the texts that were embedded are longer than the model reads."""


class Plan(NamedTuple):
    """What is made of texts; see TextEmbedder.encode."""

    prompt: tuple[int, ...]
    truncate_dim: int | None
    normalize: bool
    batch_tokens: int


class TextEmbedder:
    """Turns texts into vectors. The vector of a text does not depend on the texts around it.

    Args:
        model: In evaluation mode, where it is to run.
        tokenizer: The one that the model was trained with.
        fusion: How its scores and those of BM25 are fused, chosen in training; None: nothing was.

    Attributes:
        cut: How many texts the last call cut.

    Raises:
        ValueError: They have not the same number of tokens.
    """

    def __init__(self, model: TextVectors, tokenizer: Tokenizer, fusion: Fusion | None = None) -> None:
        n_vocab = model.n_vocab
        if len(tokenizer) != n_vocab:
            raise SettingsError(
                f'the tokenizer has {len(tokenizer)} tokens, but the model {n_vocab}; '
                'use the tokenizer that it was trained with (its checkpoint has it inside)'
            )
        self.model = model
        self.tokenizer = tokenizer
        self.fusion = fusion
        self.cut = Cut(max_len=model.max_len)

    @classmethod
    def load(cls, ckpt: str | Path, device: str = 'auto', n_layers: int | None = None) -> 'TextEmbedder':
        """Build the encoder that a training checkpoint or an exported file holds.

        Args:
            ckpt: The file; `last`, `best`: of the newest of the runs of embedders below the current folder.
            device: `cpu`, `cuda`, `cuda:1`, …; `auto`: a GPU if there is one.
            n_layers: Use the first layers alone, of an encoder that was trained so (`AdaptiveLayers`); None: all.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: It is no checkpoint of an embedder of ours, its weights are NaN or infinite, or the device
                cannot be used.
        """
        where = find_device(device)
        path = find_embedder(ckpt)
        with checkpoints.naming_another(str(ckpt), path):
            contents = checkpoints.load(path)
        network = contents.network
        is_static = network is not None and network.class_path.endswith('.StaticEncoder')
        if (
            network is not None
            and network.class_path.startswith('xlabml.')
            and not (is_static or network.class_path.endswith(('.TextEncoder', '.JointModel')))
        ):
            raise SettingsError(
                f'{path} holds a {contents.task.class_path}, which makes no vectors of texts; give a checkpoint of '
                f'{EMBEDDER}, or begin one with fit --init_from {path}'
            )
        with naming(path):
            tokenizer = Tokenizer.from_bytes(contents.tokenizer_bytes())
        model: TextVectors = load_network(contents, path, StaticEncoder if is_static else TextEncoder)
        if n_layers is not None:
            if not isinstance(model, TextEncoder):
                raise RequestError(f'n_layers is {n_layers}, but {path} holds no layers: its vectors are of tokens')
            with naming(path):
                model.trunk.keep_layers(n_layers)
        try_out(path, network and network.arguments, lambda: model(torch.zeros(1, 3, dtype=torch.long)))
        with naming(path):
            return cls(model.to(where), tokenizer, read_fusion(contents.facts))

    @overload
    def encode(
        self,
        texts: str | Sequence[str],
        prompt: str | None = ...,
        truncate_dim: int | None = ...,
        normalize: bool | None = ...,
        batch_tokens: int | None = ...,
        dtype: VectorType = ...,
        calibration: Calibration | None = ...,
        as_tensor: Literal[False] = ...,
        n_processes: int = ...,
        progress: bool | None = ...,
    ) -> np.ndarray: ...
    @overload
    def encode(
        self,
        texts: str | Sequence[str],
        prompt: str | None = ...,
        truncate_dim: int | None = ...,
        normalize: bool | None = ...,
        batch_tokens: int | None = ...,
        dtype: VectorType = ...,
        calibration: Calibration | None = ...,
        *,
        as_tensor: Literal[True],
        n_processes: int = ...,
        progress: bool | None = ...,
    ) -> Tensor: ...
    def encode(
        self,
        texts: str | Sequence[str],
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        batch_tokens: int | None = None,
        dtype: VectorType = 'float32',
        calibration: Calibration | None = None,
        as_tensor: bool = False,
        n_processes: int = 1,
        progress: bool | None = None,
    ) -> np.ndarray | Tensor:
        """The vectors of texts, in their order: (n, d), or (d,) of a single string.

        Args:
            texts: One or several.
            prompt: Name of a prompt of the model that is put before each text; None: none.
            truncate_dim: How many of the first channels are kept (Matryoshka); None: all.
            normalize: Bring vectors to length 1, after they were cut; None: as the model was trained.
            batch_tokens: The most tokens of a pass; None: 4,096 on a CPU, 32,768 elsewhere.
            dtype: What the vectors are in: float32, float16, int8 (needs a calibration), or binary, a bit a channel.
            calibration: Of a sample of the corpus, for int8 and binary.
            as_tensor: Return a tensor of torch in the host's memory; else an array of numpy.
            n_processes: Processes that share the texts out; they are started anew, so that a script that asks for
                several must guard what it does by `if __name__ == '__main__'`.
            progress: Whether a bar is shown; None: on a terminal, from the third second on.

        Raises:
            RequestError: A text is empty or its vector zero, or an argument is out of range.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        plan = self.plan(prompt, truncate_dim, normalize, batch_tokens)
        check_texts(several)
        quantize(np.zeros((1, self.d_vector(plan)), np.float32), dtype, calibration)  # refuses before work starts
        parts = [
            quantize(vectors, dtype, calibration)
            for vectors in self.stream(several, plan, n_processes, progress, len(several))
        ]
        if self.cut.n_cut:
            warnings.warn(f'{self.cut}; what is behind that is not in their vectors', CutWarning, stacklevel=2)
        found = np.concatenate(parts) if parts else np.zeros((0, self.d_vector(plan)), np.float32)
        found = found[0] if isinstance(texts, str) else found
        return torch.from_numpy(found) if as_tensor else found

    def plan(
        self,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        batch_tokens: int | None = None,
    ) -> Plan:
        """Settle what is made of texts; arguments and errors as of `encode`."""
        known = self.model.prompts
        if prompt is not None and prompt not in known:
            there = ', '.join(known) or 'none'
            raise RequestError(f'the model has no prompt {prompt!r}; its prompts are: {there}')
        if truncate_dim is not None and not 1 <= truncate_dim <= self.model.d_vector:
            raise RequestError(f'truncate_dim is {truncate_dim}; give 1 to {self.model.d_vector}, the width of vectors')
        if batch_tokens is not None and batch_tokens < 1:
            raise RequestError(f'batch_tokens is {batch_tokens}; give 1 or more')
        ids = tuple(self.tokenizer.encode(known[prompt])) if prompt is not None else ()
        if len(ids) + 3 > self.model.max_len:
            raise RequestError(f'the prompt {prompt!r} has {len(ids)} tokens, which leave no room for a text')
        is_cpu = self.device.type == 'cpu'
        return Plan(
            ids,
            truncate_dim,
            self.model.normalize if normalize is None else normalize,
            batch_tokens or (_CPU_TOKENS if is_cpu else _GPU_TOKENS),
        )

    def d_vector(self, plan: Plan) -> int:
        """The width of the vectors of a plan."""
        return plan.truncate_dim or self.model.d_vector

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def stream(
        self,
        texts: Iterable[str],
        plan: Plan,
        n_processes: int = 1,
        progress: bool | None = False,
        total: int | None = None,
    ) -> Iterator[Float32[np.ndarray, 'n d']]:
        """The vectors of texts as they are made, 1,024 at a time and in order; memory does not grow with the texts.

        Args:
            texts: Any number, none of them empty.
            plan: Of `plan`.
            n_processes: As in `encode`.
            progress: As in `encode`.
            total: How many there are, for the bar; None: not known.

        Raises:
            RequestError: As in `encode`.
        """
        if n_processes < 1:
            raise RequestError(f'n_processes is {n_processes}; give 1 or more')
        self.cut = Cut(max_len=self.model.max_len)
        chunks = _in_chunks(texts)
        with progress_bar('texts embedded', progress, total) as advance:
            for vectors, n_cut in self._chunks(chunks, plan, n_processes):
                wrong = ~(np.linalg.norm(vectors, axis=1) > 0)
                if wrong.any():
                    number = self.cut.n_texts + int(wrong.argmax())
                    what = 'zero' if np.isfinite(vectors[wrong.argmax()]).all() else 'not finite'
                    raise RequestError(f'the vector of text {number} is {what}; look at the text, or at the model')
                self.cut = Cut(self.cut.n_texts + len(vectors), self.cut.n_cut + n_cut, self.cut.max_len)
                advance(len(vectors))
                yield vectors

    def _chunks(
        self, chunks: Iterator[list[str]], plan: Plan, n_processes: int
    ) -> Iterator[tuple[Float32[np.ndarray, 'n d'], int]]:
        if n_processes == 1:
            yield from (self.encode_chunk(chunk, plan) for chunk in chunks)
            return
        from .embedding_processes import encode_in_processes

        yield from encode_in_processes(self, chunks, plan, n_processes)

    def encode_chunk(self, texts: list[str], plan: Plan) -> tuple[Float32[np.ndarray, 'n d'], int]:
        """The vectors of some texts, and how many of these were cut."""
        if isinstance(self.model, StaticEncoder):
            return self._encode_bags(self.model, texts, plan)
        room = self.model.max_len - 2 - len(plan.prompt)
        encoded = self.tokenizer.encode(texts)
        n_cut = sum(len(ids) > room for ids in encoded)
        ends = self.tokenizer.special_ids
        framed = [frame(ids, ends['sos'], ends['eos'], self.model.max_len, plan.prompt) for ids in encoded]
        found = np.zeros((len(texts), self.d_vector(plan)), np.float32)
        # Texts of one length go together: attention inside them is then few large products.
        for rows in _passes(framed, plan.batch_tokens):
            ids, layout = pack([framed[row] for row in rows], self.device)
            # The start of text is no part of the prompt, but goes with it, as in sentence-transformers.
            n_prompt = torch.full((len(rows),), len(plan.prompt) + 1 if plan.prompt else 0, device=self.device)
            with torch.inference_mode():
                found[rows] = self._finish(self.model.vectors(ids, layout, n_prompt), plan).cpu().numpy()
        return found, n_cut

    def _encode_bags(
        self, model: StaticEncoder, texts: list[str], plan: Plan
    ) -> tuple[Float32[np.ndarray, 'n d'], int]:
        """The same by a table: no token around a text, no passes, no list of ids."""
        flat, lengths = self.tokenizer.encode_flat(texts, torch.get_num_threads())
        n_cut = int((lengths > model.max_len).sum())
        if n_cut:
            begins = np.repeat(lengths.cumsum() - lengths, lengths)
            flat = flat[np.arange(len(flat)) - begins < model.max_len]
            lengths = np.minimum(lengths, model.max_len)
        starts = np.concatenate([[0], lengths.cumsum()])
        with torch.inference_mode():
            means = model.means(torch.tensor(flat, device=self.device), torch.tensor(starts, device=self.device))
            return self._finish(means, plan).cpu().numpy(), n_cut

    @staticmethod
    def _finish(vectors: Float[Tensor, 's e'], plan: Plan) -> Float[Tensor, 's d']:
        vectors = vectors[:, : plan.truncate_dim].float()
        return F.normalize(vectors, dim=-1, eps=torch.finfo(torch.float32).tiny) if plan.normalize else vectors


def find_embedder(ckpt: str | Path) -> Path:
    """The file of a checkpoint; arguments and errors as of `TextEmbedder.load`."""
    return checkpoints.find(str(ckpt), Path(), (EMBEDDER, STATIC_EMBEDDER, JOINT_MODEL))


def check_texts(texts: Sequence[object]) -> None:
    """Refuse what is no text, before anything is embedded.

    Raises:
        RequestError: Names the first one by its number.
    """
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise RequestError(f'text {number} is a {type(text).__name__}; give strings')
        if is_blank(text):
            raise RequestError(f'text {number} is empty; leave it out, since its vector would mean nothing')


def _in_chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _passes(framed: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of texts that go through the model together, the longest first; a text longer than a pass goes alone."""
    rows: list[int] = []
    filled = 0
    for row in sorted(range(len(framed)), key=lambda row: -len(framed[row])):
        if rows and filled + len(framed[row]) > batch_tokens:
            yield rows
            rows = []
            filled = 0
        rows.append(row)
        filled += len(framed[row])
    if rows:
        yield rows
