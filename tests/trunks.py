"""Small trunks with weights large enough that every part matters, and packed rows of documents."""

import itertools

import torch
from torch import nn

from xlabml.batches import Layout
from xlabml.transformer import Transformer
from xlabml.transformer.attention.choice import make_pass

N_VOCAB, MAX_LEN = 50, 32


def make_trunk(seed=0, **options):
    torch.manual_seed(seed)
    options = {'d_model': 16, 'n_layers': 2, 'n_heads': 4, 'd_ff': 24, **options}
    trunk = Transformer(N_VOCAB, MAX_LEN, **options)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return trunk.eval()


def make_ids(n, seed=0, batch=1):
    return torch.randint(N_VOCAB, (batch, n), generator=torch.Generator().manual_seed(seed))


def make_layout(lengths, is_text=None):
    starts = torch.tensor([0, *itertools.accumulate(lengths)])
    return Layout(starts, max(lengths), None if is_text is None else torch.tensor(is_text))


def mix_documents(q, k, v, rule, documents, is_plain=False):
    """Attention inside the documents of one row, t h c, as a CPU computes it."""
    name = 'plain' if is_plain else 'sdpa'
    one = make_pass(name, rule, documents, (1, q.size(0)), q.device)
    return one.attend(q[None], k[None], v[None])[0]


def copy_weights(trunk, **options):
    """The same trunk with other options that need no other weights."""
    other = make_trunk(**options)
    other.load_state_dict(trunk.state_dict())
    return other


def gradients(module: nn.Module, output):
    """Gradients of a fixed function of the output."""
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((output * weight).sum(), list(module.parameters()), allow_unused=True)
