"""Initialization of the weights."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from xlabml.anatomy import find_matrices

from .block import Attention


class Initializer(ABC):
    """Initializes the weights of a new model; weights that it does not set keep torch's default.

    Args:
        embedding_std: Standard deviation of the embeddings, and of an untied vocabulary head; None: torch's defaults
            (1 for embeddings, uniform in ±1/sqrt(d_model) for the head).
    """

    def __init__(self, embedding_std: float | None = 0.05) -> None:
        if embedding_std is not None and not embedding_std >= 0:
            raise ValueError(f'init.embedding_std is {embedding_std}; give 0 or more, or null')
        self.embedding_std = embedding_std

    def embedding(self, weight: Tensor) -> None:
        """Initialize an embedding table."""
        if self.embedding_std is not None:
            nn.init.normal_(weight, std=self.embedding_std)

    def head(self, weight: Tensor, bias: Tensor | None) -> None:
        """Initialize an untied vocabulary head (a tied one is the embedding)."""
        bound = 1 / math.sqrt(weight.size(1))
        if self.embedding_std is None:
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)
        else:
            nn.init.normal_(weight, std=self.embedding_std)
            if bias is not None:
                nn.init.zeros_(bias)

    @abstractmethod
    def blocks(self, blocks: nn.ModuleList) -> None:
        """Initialize the stack of layers."""


class Normal(Initializer):
    """Gaussian weights; projections into the residual stream are scaled down by depth.

    Source: GPT-2, Radford et al. 2019, section 2.3.

    Args:
        std: Standard deviation of the matrices; None: 1 / sqrt(fan_in).
        scale_residual: Divide matrices whose output is added to the residual stream by sqrt(2 n_layers).
        embedding_std: Standard deviation of the embeddings, and of an untied head; None: torch's defaults.
    """

    def __init__(
        self, std: float | None = None, scale_residual: bool = True, embedding_std: float | None = 0.05
    ) -> None:
        super().__init__(embedding_std)
        if std is not None and not std >= 0:
            raise ValueError(f'init.std is {std}; give 0 or more, or null for 1 / sqrt(inputs)')
        self.std = std
        self.scale_residual = scale_residual

    def blocks(self, blocks: nn.ModuleList) -> None:
        """Initialize every matrix, biases to zero."""
        matrices = find_matrices(blocks)
        for name, parameter in blocks.named_parameters():
            if parameter.dim() >= 2:
                std = 1 / math.sqrt(parameter.size(1)) if self.std is None else self.std
                if self.scale_residual and matrices[name].is_residual:
                    std = std / math.sqrt(2 * len(blocks))
                nn.init.normal_(parameter, std=std)
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)


class Copying(Normal):
    """As `Normal`, but attention begins by copying: what a token attends to becomes more probable as the next token.

    The value matrix of each attention layer is orthogonal, and its output matrix a multiple of the transpose, so that
    their product is a multiple of the identity: with tied embeddings a token that is attended to adds to its own logit.
    What is left to learn is where to attend. With random matrices both have to be found together, and a run of minutes
    ends before.
    Source: mimetic initialization, Trockman & Kolter 2023, https://arxiv.org/abs/2305.09828, section 3; here only the
    product of values and outputs, with a positive sign.

    Args:
        gain: The multiple of the identity.
        std: Standard deviation of the other matrices; None: 1 / sqrt(fan_in).
        scale_residual: Divide the output matrices of the feed-forward networks by sqrt(2 n_layers).
        embedding_std: Standard deviation of the embeddings, and of an untied head; None: torch's defaults.
    """

    def __init__(
        self,
        gain: float = 1.0,
        std: float | None = None,
        scale_residual: bool = True,
        embedding_std: float | None = 0.05,
    ) -> None:
        super().__init__(std, scale_residual, embedding_std)
        if not gain > 0:
            raise ValueError(f'init.gain is {gain}; give a positive number, or choose Normal')
        self.gain = gain

    def blocks(self, blocks: nn.ModuleList) -> None:
        """Initialize every matrix, biases to zero."""
        super().blocks(blocks)
        for module in blocks.modules():
            if isinstance(module, Attention):
                self._copy(module)

    def _copy(self, attention: Attention) -> None:
        c = attention.d_head
        values = attention.projection.weight[-attention.n_kv_heads * c :]  # g·c d
        nn.init.orthogonal_(values)
        of_heads = values.detach().unflatten(0, (-1, c))  # g c d
        of_heads = of_heads.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=0)  # h c d
        with torch.no_grad():
            attention.output.weight.copy_(self.gain * of_heads.flatten(0, 1).mT)  # d h·c


class Xavier(Initializer):
    """Xavier uniform (fan-in and fan-out) for every matrix of the layers; biases keep torch's default.

    The projection to queries, keys and values counts as one matrix. Source: Glorot & Bengio 2010, eq. 16.

    Args:
        gain: Factor on the bound of the uniform distribution.
        embedding_std: Standard deviation of the embeddings, and of an untied head; None: torch's defaults.
    """

    def __init__(self, gain: float = 1.0, embedding_std: float | None = 0.05) -> None:
        super().__init__(embedding_std)
        if not gain > 0:
            raise ValueError(f'init.gain is {gain}; give a positive number')
        self.gain = gain

    def blocks(self, blocks: nn.ModuleList) -> None:
        """Initialize every matrix."""
        for parameter in blocks.parameters():
            if parameter.dim() >= 2:
                nn.init.xavier_uniform_(parameter, gain=self.gain)
