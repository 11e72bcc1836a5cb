"""Adaptive gradient clipping, by a percentile of earlier gradient norms."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


class AdaptiveClip:
    """A limit on the gradient norm: a percentile of the norms of the last steps, before clipping.

    No device synchronization. A norm that is not finite is not counted.
    Source: Seetharaman et al. 2020, https://arxiv.org/abs/2007.14469, with a bounded window.

    Args:
        percentile: The percentage of steps that are not clipped, 0..100.
        window_steps: Number of last steps of which the percentile is taken, at least 1.
        min_steps: Until this many steps, the limit is `trainer.gradient_clip_val`.

    Attributes:
        norms: Norms of the last steps, oldest first; inf where there was no step yet.
    """

    def __init__(self, percentile: float = 90.0, window_steps: int = 1000, min_steps: int = 100) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f'clip.percentile is {percentile}; give more than 0, and at most 100')
        if window_steps < 1:
            raise ValueError(f'clip.window_steps is {window_steps}; give 1 or more')
        if not 1 <= min_steps <= window_steps:
            raise ValueError(f'clip.min_steps is {min_steps}; give 1 to window_steps, which is {window_steps}')
        self.percentile = percentile
        self.window_steps = window_steps
        self.min_steps = min_steps
        self.norms = torch.full((window_steps,), math.inf)

    def limit(self, default: float | None) -> Float[Tensor, '']:
        """The limit of the next gradient's norm: the smallest norm that percentile % of the norms do not exceed.

        Args:
            default: The limit during the first min_steps; None: no limit.
        """
        n_seen = self.norms.isfinite().sum()
        rank = (n_seen * self.percentile / 100).ceil().long().clamp(min=1)
        chosen = self.norms.sort().values.take(rank - 1)  # indexing by a tensor would wait for the device
        return torch.where(n_seen < self.min_steps, math.inf if default is None else default, chosen)

    def add(self, norm: Float[Tensor, '']) -> None:
        """Record the norm of a step."""
        norms = self.norms.to(norm.device)
        self.norms = torch.where(norm.isfinite(), torch.cat([norms[1:], norm.detach().to(norms.dtype)[None]]), norms)

    def state_dict(self) -> dict[str, Tensor]:
        """The recorded norms."""
        return {'norms': self.norms[self.norms.isfinite()].cpu()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Restore the norms of a checkpoint; the newest of a longer window."""
        seen = state_dict['norms'][-self.window_steps :]
        self.norms = torch.cat([seen.new_full((self.window_steps - seen.numel(),), math.inf), seen])
