"""Models and recipes of other projects in the loop of plain_loop.py: same texts, same tokenizer, same seconds.

- `--peer litgpt`: its GPT with the parts of a Llama (RMSNorm, SwiGLU, rotary positions, a head of its own), initialized
  and trained as its pretrain.py does: AdamW, a warmup, a cosine to a tenth of the rate, gradients clipped to 1. The
  interpreter needs litgpt. Source: https://github.com/Lightning-AI/litgpt, litgpt/pretrain.py of 0.5.13.
- `--peer nanochat`: the GPT and the optimizer of a checkout of it (`--nanochat PATH`): value embeddings, scalars of the
  residual stream, smear, Muon with Polar Express, NorMuon and cautious weight decay, with the schedules of its
  base_train.py. Rates are scaled by the root of the step's tokens, as there; its scaling of the weight decay by the
  length of the run is left out, since it was measured on runs of billions of tokens and would be 100 times as strong
  here. The optimizer is compiled, as it is there, so a C++ compiler is needed.
  Source: https://github.com/karpathy/nanochat, commit 92d63d4 (nanochat/gpt.py, optim.py, scripts/base_train.py).

Probe `--rate_factor`: neither was made for steps of 2,048 tokens.
"""

import argparse
import math
import os
import sys

import plain_loop
import torch
from plain_loop import IS_BF16, Learner
from torch import Tensor, nn

WARMUP_RATIO = 0.05
"""Of litgpt's 2,000 steps of warmup, in a run of this length."""
WARMUP_STEPS = 40
WARMDOWN_RATIO = 0.65
MOMENTUM_STEPS = 400
FINAL_RATE = 0.05
BATCH_REFERENCE = 2**19
"""Of nanochat's base_train.py."""


class LitGPT(nn.Module):
    """litgpt's GPT, with its chunked cross-entropy."""

    def __init__(self, options: argparse.Namespace, n_vocab: int) -> None:
        super().__init__()
        from litgpt import GPT, Config

        config = Config(
            block_size=options.context,
            n_layer=options.n_layers,
            n_embd=options.d_model,
            n_head=options.n_heads,
            padded_vocab_size=n_vocab,
            vocab_size=n_vocab,
            norm_class_name='RMSNorm',
            mlp_class_name='LLaMAMLP',
            intermediate_size=math.ceil(8 / 3 * options.d_model / 32) * 32,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
        )
        self.network = GPT(config)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        from litgpt.utils import chunked_cross_entropy

        n_targets = (targets >= 0).sum()
        return chunked_cross_entropy(self.network(ids), targets, ignore_index=-100) * n_targets


def make_litgpt(options: argparse.Namespace, n_vocab: int) -> Learner:
    """litgpt's model and recipe."""
    import lightning
    from litgpt.pretrain import initialize_weights

    model = LitGPT(options, n_vocab)
    fabric = lightning.Fabric(accelerator='cpu', devices=1)
    initialize_weights(fabric, model.network, n_layer=options.n_layers, n_embd=options.d_model)
    rate = 4e-4 * options.rate_factor
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.1, fused=True)

    def adjust(step: int, share: float) -> None:
        over = min(1.0, max(0.0, share - WARMUP_RATIO) / (1 - WARMUP_RATIO))
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * over)) / 2
        optimizer.param_groups[0]['lr'] = rate * min(1.0, share / WARMUP_RATIO) * cosine

    return Learner(model, (optimizer,), adjust, max_norm=1.0)


class Nanochat(nn.Module):
    """nanochat's GPT, whose ignored targets are -1."""

    def __init__(self, options: argparse.Namespace, n_vocab: int) -> None:
        super().__init__()
        from nanochat.gpt import GPT, GPTConfig

        self.network = GPT(
            GPTConfig(
                sequence_len=options.context,
                vocab_size=n_vocab,
                n_layer=options.n_layers,
                n_head=options.n_heads,
                n_kv_head=options.n_heads,
                n_embd=options.d_model,
            )
        )
        self.network.init_weights()

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.network(ids, targets.clamp(min=-1), loss_reduction='sum')


def make_nanochat(options: argparse.Namespace, n_vocab: int) -> Learner:
    """nanochat's model and recipe."""
    if options.nanochat is None:
        raise SystemExit('--peer nanochat needs a checkout of https://github.com/karpathy/nanochat: --nanochat PATH')
    sys.path.insert(0, options.nanochat)
    os.environ['NANOCHAT_DTYPE'] = 'bfloat16' if IS_BF16 else 'float32'  # read when its modules are imported
    model = Nanochat(options, n_vocab)
    scale = options.rate_factor * math.sqrt(options.batch_tokens / BATCH_REFERENCE)
    optimizer = model.network.setup_optimizer(
        unembedding_lr=0.008 * scale,
        embedding_lr=0.3 * scale,
        scalar_lr=0.5 * scale,
        matrix_lr=0.02 * scale,
        weight_decay=0.28,
    )

    def adjust(step: int, share: float) -> None:
        left = min(1.0, (1 - share) / WARMDOWN_RATIO)
        rate = (step + 1) / WARMUP_STEPS if step < WARMUP_STEPS else FINAL_RATE + (1 - FINAL_RATE) * left
        momentum = 0.85 + 0.12 * step / MOMENTUM_STEPS if step < MOMENTUM_STEPS else 0.90 + 0.07 * left
        for group in optimizer.param_groups:
            group['lr'] = group['initial_lr'] * rate
            if group['kind'] == 'muon':
                group['momentum'] = momentum
                group['weight_decay'] = 0.28 * 0.5 * (1 + math.cos(math.pi * share))

    return Learner(model, (optimizer,), adjust)


def main() -> None:
    parser = plain_loop.parse(__doc__)
    parser.add_argument('--peer', choices=['litgpt', 'nanochat'], required=True)
    parser.add_argument('--nanochat', help='a checkout of nanochat')
    options = parser.parse_args()
    plain_loop.run({'litgpt': make_litgpt, 'nanochat': make_nanochat}[options.peer], options)


if __name__ == '__main__':
    main()
