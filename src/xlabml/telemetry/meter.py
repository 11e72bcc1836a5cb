"""What training costs: tokens and FLOPs a second, where a step's time goes, memory, clipped steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xlabml.batches import Batch

from .flops import TrainFlops
from .memory import MIB, memory_bytes
from .peaks import synchronize
from .step_clock import PARTS, StepClock


class Meter:
    """Counts on the device what the steps of a row do, and makes a row of it; only that waits for the device.

    Args:
        model: The whole of what is trained.
        device: Where it is.
        tflops: TFLOP/s that one device can do.
        world: How many devices there are.
        add_up: Sums a tensor over all ranks.
        largest: The largest of each entry over all ranks.

    Attributes:
        n_steps: How many steps the row has so far.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        tflops: float,
        world: int,
        add_up: Callable[[Tensor], Tensor],
        largest: Callable[[Tensor], Tensor],
    ) -> None:
        self.device = device
        self.tflops = tflops
        self.world = world
        self.add_up = add_up
        self.largest = largest
        self.flops = TrainFlops(model)
        self.clock = StepClock(lambda: synchronize(device))
        self.n_steps = 0
        self._n_clipped: Tensor | None = None

    def count_batch(self, batch: Any) -> None:
        """Count what a micro-batch costs, where it is one of ours."""
        if isinstance(batch, Batch):
            self.flops.add(batch.ids, batch.layout)

    def count_step(self, norm: Tensor | None, limit: Tensor | float | None) -> None:
        """Count a step, and whether its gradient was longer than it may be.

        Args:
            norm: Of the gradient, before it was clipped; None: it is not known.
            limit: The longest that it may be; None: any.
        """
        self.n_steps += 1
        if norm is not None and limit is not None:
            is_clipped = (norm > limit) & norm.isfinite()  # else the step is skipped
            self._n_clipped = is_clipped.long() if self._n_clipped is None else self._n_clipped + is_clipped

    def row(self, n_targets: float, seconds: float) -> dict[str, float]:
        """The figures of the steps since the last call, the same on all ranks.

        Args:
            n_targets: How many targets they counted, over all ranks.
            seconds: How long they took.

        Returns:
            Times are means over the ranks (they sum to the step as each rank's do), memory is the largest of any. What
            there was nothing to measure of is missing.
        """
        parts = self.clock.stop()
        waited = self.clock.waited_seconds
        self.clock.waited_seconds = 0.0
        dtype = torch.float32 if self.device.type == 'mps' else torch.float64
        times = torch.tensor([waited, *(parts or {}).values()], dtype=dtype, device=self.device)
        counts = self.flops.take(self.device).to(dtype)
        clipped = counts.new_zeros(1) if self._n_clipped is None else self._n_clipped.to(dtype).view(1)
        values = self.add_up(torch.cat([times, clipped, counts])).tolist()
        memory = self.largest(counts.new_tensor(memory_bytes(self.device))).tolist()
        waited, *spent = (value / self.world for value in values[: len(times)])
        row = {'tokens_per_second': n_targets / seconds}
        if total := self.flops.total(values[len(times) + 1 :], n_targets):
            row['tflops_per_second'] = 1e-12 * total / seconds / self.world
            row['mfu_ratio'] = row['tflops_per_second'] / self.tflops
        row |= {'memory/now_mib': memory[0] / MIB, 'memory/peak_mib': memory[1] / MIB}
        row['time/mean_step_seconds'] = seconds / max(1, self.n_steps)
        row['time/waiting_ratio'] = waited / seconds
        if parts is not None:
            row |= {f'time/{part}_seconds': value for part, value in zip(PARTS, spent)}
            row['time/step_seconds'] = sum(spent)
        if self._n_clipped is not None:
            row['clipped_ratio'] = values[len(times)] / self.world / self.n_steps
        self.n_steps = 0
        self._n_clipped = None
        return row
