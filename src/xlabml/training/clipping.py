"""Clipping that adapts to the gradients: one that is much longer than those before it is shortened."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


class AdaptiveClip:
    """A limit on the gradient's norm: a percentile of the norms of the last steps, before they were clipped.

    Nothing here waits for the device. A norm that is not finite is never counted.
    Source: Seetharaman et al. 2020, https://arxiv.org/abs/2007.14469, with a bounded window.

    Args:
        percentile: The percentage of steps that are not clipped, 0..100.
        window_steps: The percentile is that of this many last steps, at least 1.
        min_steps: Until this many steps were made, the limit is `trainer.gradient_clip_val`.

    Attributes:
        norms: Those of the last steps, oldest first; inf where there was no step yet.
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
        """The longest that the next gradient may be: the smallest norm that percentile % of those seen do not exceed.

        Args:
            default: The limit while too few steps were seen; None: there is none.
        """
        n_seen = self.norms.isfinite().sum()
        rank = (n_seen * self.percentile / 100).ceil().long().clamp(min=1)
        chosen = self.norms.sort().values.take(rank - 1)  # indexed by a tensor, it would wait for the device
        return torch.where(n_seen < self.min_steps, math.inf if default is None else default, chosen)

    def add(self, norm: Float[Tensor, '']) -> None:
        """Remember the norm of a step."""
        norms = self.norms.to(norm.device)
        self.norms = torch.where(norm.isfinite(), torch.cat([norms[1:], norm.detach().to(norms.dtype)[None]]), norms)

    def state_dict(self) -> dict[str, Tensor]:
        """The norms seen."""
        return {'norms': self.norms[self.norms.isfinite()].cpu()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Restore the norms of a checkpoint; of a longer window, the newest."""
        seen = state_dict['norms'][-self.window_steps :]
        self.norms = torch.cat([seen.new_full((self.window_steps - seen.numel(),), math.inf), seen])
