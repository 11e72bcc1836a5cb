"""Several processes that embed chunks of texts side by side, on the processors of one machine."""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.multiprocessing
from jaxtyping import Float32

from xlabml.errors import RequestError

if TYPE_CHECKING:
    from .embedder import Plan, TextEmbedder

_AHEAD = 2
"""Chunks that wait for a process, so that none is idle; the memory of a stream is bounded by them."""

_embedder: 'TextEmbedder | None' = None


def encode_in_processes(
    embedder: 'TextEmbedder', chunks: Iterator[list[str]], plan: 'Plan', n_processes: int
) -> Iterator[tuple[Float32[np.ndarray, 'n d'], int]]:
    """What `encode_chunk` returns of each chunk, in order; each process has its share of the threads.

    Raises:
        RequestError: The model is not on a CPU.
    """
    if embedder.device.type != 'cpu':
        raise RequestError(f'n_processes is {n_processes}, but the model is on {embedder.device}; give 1 there')
    n_threads = max(1, torch.get_num_threads() // n_processes)
    context: Any = torch.multiprocessing.get_context('spawn')  # a fork of a process with threads may hang
    embedder.model.share_memory()
    with context.Pool(n_processes, _start, (embedder.model, embedder.tokenizer, n_threads)) as pool:
        waiting: deque[Any] = deque()
        for chunk in chunks:
            waiting.append(pool.apply_async(_encode, (chunk, plan)))
            if len(waiting) >= n_processes * _AHEAD:
                yield waiting.popleft().get()
        while waiting:
            yield waiting.popleft().get()


def _start(model: Any, tokenizer: Any, n_threads: int) -> None:
    from .embedder import TextEmbedder

    global _embedder
    torch.set_num_threads(n_threads)
    _embedder = TextEmbedder(model, tokenizer)


def _encode(chunk: list[str], plan: 'Plan') -> tuple[Float32[np.ndarray, 'n d'], int]:
    assert _embedder is not None
    return _embedder.encode_chunk(chunk, plan)
