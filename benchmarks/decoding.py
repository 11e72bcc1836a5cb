"""Tokens per second of sampling with the cache and without it; how far the cached logits are from a full pass.

The default model with random weights, float32, on a CPU.
"""

import argparse

import torch
from alternate import alternate, seconds
from torch import Tensor, nn

from xlabml import inference
from xlabml.heads import LanguageModel, language_model


class Uncached(nn.Module):
    """The model without its cache: every step reads all tokens."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)


@torch.no_grad()
def largest_difference(model: LanguageModel, ids: Tensor, n_prompt: int) -> float:
    """Of the logits, between reading the prompt and then token by token with a cache, and one full pass."""
    full, cache = model(ids[None])[0], model.new_cache(1, len(ids))
    pieces = [ids[:n_prompt], *ids[n_prompt:].split(1)]
    cached = torch.cat([model(piece[None], cache=cache)[0] for piece in pieces])
    return float((full - cached).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--n_vocab', type=int, default=4096)
    parser.add_argument('--max_len', type=int, default=512)
    parser.add_argument('--prompt', type=int, default=8, help='tokens of the prompt')
    parser.add_argument('--tokens', type=int, default=256, help='tokens to make')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    options = parser.parse_args()

    torch.manual_seed(0)
    model = language_model(options.n_vocab, options.max_len).eval().requires_grad_(False)
    prompt = torch.randint(options.n_vocab, (options.prompt,))

    def sample(module: nn.Module) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return inference.sample(module, prompt, options.tokens, options.max_len, generator=generator)

    ids = torch.cat([prompt, sample(model)])  # warms up
    same = bool((ids[options.prompt :] == sample(Uncached(model))).all())
    medians = alternate(
        {
            'without cache': lambda: seconds(lambda: sample(Uncached(model))),
            'with cache': lambda: seconds(lambda: sample(model)),
        },
        options.rounds,
    )
    for name, taken in medians.items():
        print(f'{name:16}{options.tokens / taken:8,.0f} tokens/s')
    print(f'{medians["without cache"] / medians["with cache"]:.1f} times as fast; the same tokens: {same}')
    print(f'largest difference of a logit to the full pass: {largest_difference(model, ids, options.prompt):.1e}')


if __name__ == '__main__':
    main()
