"""How fast a model decodes, and which share of the memory bandwidth its reads take."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from runs import TRAINED, Sizes, tell

from xlabml import inference
from xlabml.heads import language_model
from xlabml.telemetry import peaks
from xlabml.transformer import Transformer

_BANDWIDTH = (('H200', 4.8e12), ('H100 NVL', 3.9e12), ('H100 PCIE', 2.0e12), ('H100', 3.35e12), ('A100', 2.0e12))
"""Bytes a second of memory, by the makers' data sheets."""


def decode(sizes: Sizes) -> None:
    """Tokens a second of greedy decoding with the cache, and the share of memory bandwidth that its reads take."""
    device = torch.device(sizes.device)
    d_model, n_layers, n_heads = (32, 2, 2) if sizes.tiny else TRAINED['124 M']
    n_vocab, max_len = (512, 64) if sizes.tiny else (50_304, 1024)
    prompt, n_tokens = (4, sizes.decoded) if sizes.tiny else (32, sizes.decoded)
    name = peaks.device_name(device)
    copied = copy_bandwidth(device, 1 << 22 if sizes.device == 'cpu' else 1 << 31)
    known = next((rate for part, rate in _BANDWIDTH if part in name.upper()), None)
    torch.manual_seed(0)
    trunk = partial(Transformer, d_model=d_model, n_layers=n_layers, n_heads=n_heads, d_ff=4 * d_model)
    model = language_model(n_vocab, max_len, trunk).eval().requires_grad_(False).to(device)
    for dtype in (torch.bfloat16, torch.float32):
        model.to(dtype)
        for batch in (1, 16):
            prompts = list(torch.randint(n_vocab, (batch, prompt), device=device))
            generate = partial(_decode, model, prompts, n_tokens, max_len)
            generate()  # warms up
            seconds = min(_timed(generate, device) for _ in range(3)) / n_tokens
            # Every step reads all weights once (the table of embeddings as the head), and the keys and values so far.
            weights = sum(p.numel() * p.element_size() for p in model.parameters())
            kept = 2 * batch * n_layers * d_model * (prompt + n_tokens / 2) * dtype.itemsize
            rate = (weights + kept) / seconds
            shares = f'{100 * rate / copied:.1f} % of the {copied / 1e12:.3g} TB/s that a copy reaches'
            if known is not None:
                shares += f', {100 * rate / known:.1f} % of the {known / 1e12:.3g} TB/s of the data sheet'
            tell(
                f'decoding 124 M, batch {batch}, {str(dtype).removeprefix("torch.")}',
                f'{batch / seconds:,.0f} tokens/s, {1000 * seconds:.2f} ms a step, {shares}',
                seconds_a_step=seconds,
                bytes_a_step=weights + kept,
                copied_bytes_a_second=copied,
            )


def _decode(model: Any, prompts: list[torch.Tensor], n_tokens: int, max_len: int) -> None:
    for _ in inference.stream(model, prompts, n_tokens, max_len, inference.Greedy(), None, None):
        pass


def copy_bandwidth(device: torch.device, n_bytes: int) -> float:
    """Bytes read and written a second by the best of some copies."""
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * n_bytes / min(_timed(partial(target.copy_, source), device) for _ in range(5))


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    peaks.synchronize(device)
    begin = time.perf_counter()
    call()
    peaks.synchronize(device)
    return time.perf_counter() - begin
