"""A plain training loop to compare with: a language model in some 100 lines of torch, trained for some seconds.

It has the ideas of the default recipe (Muon, rotary positions, norms of queries and keys, ReLU squared, a head of its
own) and little else: windows of one long stream of documents, attention over the whole window, one matrix at a time in
Muon. Of ours there are only the tokenizer and the arithmetic of bits per byte. `--compile` compiles the model.

Learning rates fall to zero over the seconds, so a run needs no number of steps. Compiling, the first steps that warm up
(undone afterwards) and evaluation are not counted. Evaluation begins each document at the start of a window, in windows
without overlap; all of its tokens and its end are counted: nats over the bytes of the texts.
"""

import argparse
import copy
import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlabml.tokenizer import Tokenizer

N_WARMUP = 3
IS_BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
"""Whether the CPU multiplies bf16; where it does not, a step in bf16 takes 17 times as long as one in fp32."""
autocast = functools.partial(torch.autocast, 'cpu', torch.bfloat16, enabled=IS_BF16)


class Learner(NamedTuple):
    """What a loop trains, and how.

    Args:
        model: ids and targets (b, n) to the sum of nats; targets of -100 are not counted.
        optimizers: Between them they update all weights.
        adjust: Sets learning rates before a step, from its number and the share of the seconds that is over.
        max_norm: Gradients are clipped to this norm; None: they are not clipped.
    """

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    adjust: Callable[[int, float], None]
    max_norm: float | None = None


def norm(x: Tensor) -> Tensor:
    """Divide by the root mean square of the last axis."""
    return F.rms_norm(x, (x.size(-1),))


class Attention(nn.Module):
    """Causal attention over the whole window, with rotary positions."""

    def __init__(self, d_model: int, n_heads: int, n_positions: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        frequencies = 10_000.0 ** -torch.arange(0, 1, 2 * n_heads / d_model)
        angles = torch.outer(torch.arange(n_positions), frequencies)
        self.register_buffer('turns', torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate channels i and i + c / 2 by the angle of the position: b h n c."""
        cos, sin = self.turns[:, : x.size(-2)].to(x.dtype)
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # b h n c
        mixed = F.scaled_dot_product_attention(self.rotate(norm(q)), self.rotate(norm(k)), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a feed-forward network."""

    def __init__(self, d_model: int, n_heads: int, n_positions: int) -> None:
        super().__init__()
        self.attention = Attention(d_model, n_heads, n_positions)
        self.up = nn.Linear(d_model, 4 * d_model, bias=False)
        self.down = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(norm(x))
        return x + self.down(F.relu(self.up(norm(x))).square())


class Model(nn.Module):
    """A decoder; matrices that write into the residual stream, and the head, begin at zero."""

    def __init__(self, n_vocab: int, d_model: int, n_layers: int, n_heads: int, n_positions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_vocab, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, n_positions) for _ in range(n_layers))
        self.head = nn.Linear(d_model, n_vocab, bias=False)
        nn.init.zeros_(self.head.weight)
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.down.weight)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = norm(self.embedding(ids))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(norm(x)).flatten(0, 1).float(), targets.flatten(), reduction='sum')


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/."""

    def __init__(self, matrices: list[nn.Parameter], lr: float) -> None:
        super().__init__(matrices, {'lr': lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        for group in self.param_groups:
            for matrix in group['params']:
                mean = self.state[matrix].setdefault('mean', torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 0.05)
                x = matrix.grad.lerp(mean, 0.95)
                x = x.bfloat16() if IS_BF16 else x
                x = x.T if x.size(0) > x.size(1) else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                x = x.T if matrix.size(0) > matrix.size(1) else x
                matrix.add_(x, alpha=-group['lr'] * max(1, matrix.size(0) / matrix.size(1)) ** 0.5)


def make_plain(options: argparse.Namespace, n_vocab: int) -> Learner:
    """The model of this file, with rates that fall to zero in a line."""
    model = Model(n_vocab, options.d_model, options.n_layers, options.n_heads, options.context)
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim == 2]
    rates = 0.04 * options.rate_factor, 0.03 * options.rate_factor
    muon = Muon(matrices, rates[0])
    tables = [model.embedding.weight, model.head.weight]
    adamw = torch.optim.AdamW(tables, rates[1], (0.9, 0.98), weight_decay=0.0, fused=True)

    def adjust(step: int, share: float) -> None:
        for optimizer, rate in zip((muon, adamw), rates):
            optimizer.param_groups[0]['lr'] = rate * max(0.0, 1 - share)

    return Learner(model, (muon, adamw), adjust)


# Texts


def read_texts(path: Path) -> list[str]:
    """The texts of a file of JSON lines."""
    with path.open(encoding='utf-8') as lines:
        return [json.loads(line)['text'] for line in lines]


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of each text between those of its start and its end."""
    start = tokenizer[tokenizer.sos_token]
    end = tokenizer[tokenizer.eos_token]
    return [[start, *ids, end] for ids in tokenizer.encode(texts)]


def windows_of(documents: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    """Ids and targets of each document in windows of its own; -100 where there is no target."""
    pieces = [ids[begin : begin + length + 1] for ids in documents for begin in range(0, len(ids) - 1, length)]
    rows = torch.full((len(pieces), length + 1), -100)
    for row, piece in zip(rows, pieces):
        row[: len(piece)] = torch.tensor(piece)
    return rows[:, :-1].clamp(min=0), rows[:, 1:].contiguous()


@torch.no_grad()
def measure(model: nn.Module, documents: list[list[int]], n_bytes: int, options: argparse.Namespace) -> float:
    """Bits per byte of texts."""
    ids, targets = windows_of(documents, options.context)
    n_rows = options.batch_tokens // options.context
    model.eval()
    with autocast():
        nats = sum(float(model(*some)) for some in zip(ids.split(n_rows), targets.split(n_rows)))
    return nats / math.log(2) / n_bytes


class Windows:
    """Windows of a stream in batches without end: each pass begins at a drawn place and is shuffled."""

    def __init__(self, stream: Tensor, length: int, n_rows: int) -> None:
        self.stream = stream
        self.length = length
        self.n_rows = n_rows
        self.order = torch.empty(0, dtype=torch.long)

    def take(self) -> tuple[Tensor, Tensor]:
        """Ids and targets (b, n) of the next step."""
        while len(self.order) < self.n_rows:
            shift = int(torch.randint(self.length, ()))
            n_windows = (len(self.stream) - shift - 1) // self.length
            self.order = torch.cat([self.order, torch.randperm(n_windows) * self.length + shift])
        places = self.order[: self.n_rows, None] + torch.arange(self.length + 1)
        self.order = self.order[self.n_rows :]
        rows = self.stream[places]
        return rows[:, :-1], rows[:, 1:].contiguous()


# The loop


def train(
    learner: Learner, windows: Windows, seconds: float, is_compiled: bool, now: Callable[[], float] = time.perf_counter
) -> int:
    """Train for some seconds of a clock after a warm-up, and return the number of steps."""
    model = learner.model.train()
    run = torch.compile(model, dynamic=False) if is_compiled else model

    def step(number: int, share: float) -> None:
        learner.adjust(number, share)
        ids, targets = windows.take()
        with autocast():
            loss = run(ids, targets) / targets.numel()
        loss.backward()
        if learner.max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), learner.max_norm)
        for optimizer in learner.optimizers:
            optimizer.step()
        for optimizer in learner.optimizers:
            optimizer.zero_grad()

    weights = copy.deepcopy(model.state_dict())
    for number in range(N_WARMUP):
        step(number, 0.0)
    model.load_state_dict(weights)
    for optimizer in learner.optimizers:
        optimizer.state.clear()

    begin = now()
    n_steps = 0
    while (share := (now() - begin) / seconds) < 1:
        step(n_steps, share)
        n_steps += 1
    return n_steps


def parse(description: str) -> argparse.ArgumentParser:
    """The arguments of every loop."""
    parser = argparse.ArgumentParser(description=description.partition('\n')[0])
    parser.add_argument('--train', type=Path, required=True, help='JSON lines with a text each')
    parser.add_argument('--val', type=Path, required=True, help='the same, for bits per byte')
    parser.add_argument('--test', type=Path, help='the same; none: it is not measured')
    parser.add_argument('--tokenizer', type=Path, required=True, help='the file of a tokenizer of xlab')
    parser.add_argument('--seconds', type=float, default=120.0, help='of training')
    parser.add_argument('--cpu_time', action='store_true', help='count seconds of CPU time, all threads together')
    parser.add_argument('--compile', action='store_true', help='compile the model, which takes a C++ compiler')
    parser.add_argument('--d_model', type=int, default=256)
    parser.add_argument('--n_layers', type=int, default=6)
    parser.add_argument('--n_heads', type=int, default=4)
    parser.add_argument('--context', type=int, default=256, help='tokens of a window')
    parser.add_argument('--batch_tokens', type=int, default=2048, help='tokens of a step')
    parser.add_argument('--rate_factor', type=float, default=1.0, help='on all learning rates')
    parser.add_argument('--threads', type=int, help='of torch; none: as torch chooses')
    parser.add_argument('--seed', type=int, default=0)
    return parser


def run(make: Callable[[argparse.Namespace, int], Learner], options: argparse.Namespace) -> None:
    """Train and measure what `make` makes, and print one line of JSON."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = Tokenizer.load(options.tokenizer)
    stream = torch.tensor([id for ids in encode(tokenizer, read_texts(options.train)) for id in ids])
    learner = make(options, len(tokenizer))
    windows = Windows(stream, options.context, options.batch_tokens // options.context)
    now = time.process_time if options.cpu_time else time.perf_counter
    n_steps = train(learner, windows, options.seconds, options.compile, now)
    slots = n_steps * options.batch_tokens
    result = {'steps': n_steps, 'slots': slots, 'tokens_per_second': round(slots / options.seconds)}
    for name, path in {'val': options.val, 'test': options.test}.items():
        if path is not None:
            texts = read_texts(path)
            n_bytes = sum(len(text.encode()) for text in texts)
            result[name] = round(measure(learner.model, encode(tokenizer, texts), n_bytes, options), 4)
    print(json.dumps(result))


if __name__ == '__main__':
    run(make_plain, parse(__doc__).parse_args())
