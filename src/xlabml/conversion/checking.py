"""The same texts through our encoder and through sentence-transformers, where that is installed."""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from xlabml.errors import CheckpointError
from xlabml.heads import TextEncoder
from xlabml.heads.text_encoder import frame, pack
from xlabml.tokenizer import Tokenizer

TOLERANCE = 1e-5
"""The largest difference of a channel that is not refused."""

TEXTS = (
    'A',
    'The quick brown fox jumps over the lazy dog.',
    'Größe, naïve café, 世界 and 🙂: characters of all kinds.',
    'import numpy as np\n\nprint(np.arange(3) ** 2)',
    'word ' * 40,
    'longer than any context ' * 400,
)


PROBE = 'A probe, of 7 words or so.'
"""A short text by which tokens around a text are found."""


def encode(network: TextEncoder, tokenizer: Tokenizer, texts: Sequence[str]) -> Float[Tensor, 's e']:
    """The vectors of texts by our encoder, in one pass."""
    sos = tokenizer.special_ids['sos']
    eos = tokenizer.special_ids['eos']
    ids, layout = pack([frame(text, sos, eos, network.max_len) for text in tokenizer.encode(list(texts))])
    with torch.inference_mode():
        return network(ids, layout)


def check_same(folder: Path, network: TextEncoder, tokenizer: Tokenizer) -> float | None:
    """Compare with sentence-transformers, which reads the folder without executing code of it.

    Returns:
        The largest difference of a channel; None: the library is not installed.

    Raises:
        CheckpointError: The vectors differ, or the library cannot read the folder.
    """
    if importlib.util.find_spec('sentence_transformers') is None:
        return None
    from sentence_transformers import SentenceTransformer

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress of its own
            model = SentenceTransformer(str(folder), device='cpu', trust_remote_code=False, local_files_only=True)
            # Weights in half precision are computed with in single precision here, as ours are.
            theirs = model.float().encode(list(TEXTS), show_progress_bar=False, convert_to_numpy=True)
    except Exception as error:  # a library's, of any kind
        raise CheckpointError(
            f'sentence-transformers cannot read {folder}: {type(error).__name__}: {str(error)[:300]}'
        ) from error
    ours = encode(network, tokenizer, TEXTS)
    difference = (
        float((ours - torch.from_numpy(theirs)).abs().max()) if tuple(ours.shape) == theirs.shape else float('inf')
    )
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f'the vectors of {folder} by sentence-transformers differ from ours by {difference:.1e}, more than '
            f'{TOLERANCE:.0e}: something in it is not expressed by our settings; please report it'
        )
    return difference


def describe_difference(difference: float | None) -> str:
    """What the comparison found, in a line."""
    if difference is None:
        return 'not compared: sentence-transformers is not installed'
    return f'same vectors by sentence-transformers, to {difference:.0e} ({len(TEXTS)} texts)'
