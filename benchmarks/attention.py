"""Milliseconds of attention inside documents, forward and backward, on a CPU: three ways to the same result.

Rows of 512 tokens that whole documents fill; heads of 64. `ours` is what a packed row goes through, `loop` is torch's
fused kernel for one document after another, `dense` the same kernel for all rows at once with a mask of which tokens
are in one document. With --device cuda, every backend instead.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from alternate import alternate, seconds
from torch import Tensor

from xlabml.transformer.attention import Documents, Rule
from xlabml.transformer.attention.backends import Ask, objection
from xlabml.transformer.attention.choice import make_pass, take

ROW = 512
D_HEAD = 64


def draw_lengths(n_tokens: int, n_documents: int) -> list[int]:
    """Lengths of documents that fill rows of ROW tokens."""
    n_rows, lengths = n_tokens // ROW, []
    for row in range(n_rows):
        here = n_documents * (row + 1) // n_rows - n_documents * row // n_rows
        cuts = sorted((torch.randperm(ROW - 1)[: here - 1] + 1).tolist())
        lengths += [end - start for start, end in zip([0, *cuts], [*cuts, ROW])]
    return lengths


def ours(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """t h c -> t h c."""
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    segment = torch.repeat_interleave(starts.diff())[None]
    documents = Documents(starts, max(lengths), None, segment, [(length, True) for length in lengths])
    one = make_pass('sdpa', Rule(), documents, (1, q.size(0)), q.device)
    return one.attend(q[None], k[None], v[None])[0]


def loop(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """t h c -> t h c."""
    parts = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v))  # 1 h n c
    mixed = [F.scaled_dot_product_attention(*part, is_causal=True) for part in zip(*parts)]
    return torch.cat(mixed, dim=2)[0].transpose(0, 1)


def dense(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """t h c -> t h c."""
    document = torch.repeat_interleave(torch.tensor(lengths)).view(-1, 1, 1, ROW)
    visible = (document == document.mT).tril()  # b 1 n n
    q, k, v = (x.unflatten(0, (-1, ROW)).transpose(1, 2) for x in (q, k, v))  # b h n c
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(0, 1)


def measure(
    n_tokens: int, n_documents: int, n_heads: int, dtype: torch.dtype, n_rounds: int, same_lengths: bool
) -> dict[str, float]:
    """Seconds of each way, forward and backward."""
    ways = (ours, loop, dense)
    q, k, v = (torch.randn(n_tokens, n_heads, D_HEAD, dtype=dtype).requires_grad_() for _ in range(3))
    grad, lengths = torch.randn_like(q), draw_lengths(n_tokens, n_documents)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2

    def run(way: Callable[..., Tensor], lengths: list[int]) -> Tensor:
        mixed = way(q, k, v, lengths)
        torch.autograd.grad(mixed, (q, k, v), grad)
        return mixed

    first, *others = (run(way, lengths) for way in ways)  # warms up
    for other in others:
        torch.testing.assert_close(other, first, atol=tolerance, rtol=tolerance)
    rounds = [lengths if same_lengths else draw_lengths(n_tokens, n_documents) for _ in range(n_rounds)]
    drawn = {way: iter(rounds) for way in ways}
    return alternate(
        {way.__name__: lambda way=way: seconds(lambda: run(way, next(drawn[way]))) for way in ways}, n_rounds
    )


def measure_backends(n_tokens: int, n_documents: int, n_heads: int, n_rounds: int) -> None:
    """Print each backend's milliseconds on a CUDA device in bf16, forward and backward, or why it cannot."""
    parts = [torch.randn(n_tokens // ROW, ROW, n_heads, D_HEAD) for _ in range(3)]
    q, k, v = (part.to('cuda', torch.bfloat16).requires_grad_() for part in parts)
    starts = torch.tensor([0, *draw_lengths(n_tokens, n_documents)]).cumsum(0).int().cuda()
    segment = torch.repeat_interleave(starts.diff()).view(-1, ROW)
    documents, grad = Documents(starts, ROW, None, segment, None), torch.randn_like(q)
    ask = Ask(True, False, False, False, False, False, D_HEAD, True, False, True, 'cuda', q.dtype)

    def run(name: str) -> None:
        mixed = make_pass(take(name, *ask), Rule(), documents, (q.size(0), ROW), q.device).attend(q, k, v)
        torch.autograd.grad(mixed, (q, k, v), grad)
        torch.cuda.synchronize()

    # FlashAttention-3 and -4 stand in for -2 from then on, and so come last.
    for name in ('plain', 'sdpa', 'flex', 'flash_attn', 'varlen', 'flash3', 'flash4'):
        if reason := objection(name, ask):
            print(f'{name:>12}  {reason}')
            continue
        run(name)  # warms up
        taken = statistics.median(seconds(lambda name=name: run(name)) for _ in range(n_rounds))
        print(f'{name:>12}{1000 * taken:10.2f} ms, {n_tokens} tokens in {n_documents} documents')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--tokens', type=int, default=8192, help=f'a multiple of {ROW}')
    parser.add_argument('--heads', type=int, default=4)
    parser.add_argument('--documents', type=int, nargs='+', default=[16, 50, 256, 1024])
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='cuda: all backends side by side')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--same_lengths', action='store_true', help='draw lengths once, not anew each time as data is')
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.device == 'cuda':
        for n_documents in options.documents:
            measure_backends(options.tokens, n_documents, options.heads, options.rounds)
        return
    print(f'{"documents":>9}{"type":>10}' + ''.join(f'{way.__name__:>10}' for way in (ours, loop, dense)))
    for n_documents in options.documents:
        for dtype in (torch.float32, torch.bfloat16):
            medians = measure(options.tokens, n_documents, options.heads, dtype, options.rounds, options.same_lengths)
            name = str(dtype).removeprefix('torch.')
            print(f'{n_documents:9}{name:>10}' + ''.join(f'{1000 * taken:10.1f}' for taken in medians.values()))


if __name__ == '__main__':
    main()
