"""Tiny models that know order, so that a window that begins elsewhere gives other logits."""

import torch
from torch import Tensor, nn

from xlabml.heads import language_model
from xlabml.transformer import Transformer


class Plain(nn.Module):
    """Any module from ids to logits: no cache, no layout.

    Args:
        n_vocab: Ids.
        seed: Of its weights.
    """

    def __init__(self, n_vocab: int = 6, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(n_vocab, 8, generator=generator))
        self.head = nn.Parameter(torch.randn(8, n_vocab, generator=generator))
        self.n_calls = 0

    def forward(self, ids: Tensor) -> Tensor:
        self.n_calls += 1
        weight = torch.arange(1, ids.size(1) + 1).sin()[:, None]
        return (self.embedding[ids] * weight).cumsum(1).tanh() @ self.head * 2


class Fixed(nn.Module):
    """Says the same whatever it reads."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits.expand(*ids.shape, -1)


class Hidden(nn.Module):
    """A model without its cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)


def tiny_language_model(seed: int = 0, n_vocab: int = 20) -> nn.Module:
    """A trunk of ours, large weights, so that what it says depends on all that it reads."""
    torch.manual_seed(seed)
    model = language_model(n_vocab, 64, lambda v, m: Transformer(v, m, d_model=16, n_layers=2, n_heads=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    return model
