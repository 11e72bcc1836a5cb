"""Measure training: tokens and FLOPs per second, the parts of a step's time, memory, clipped steps."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xlabml.batches import Batch

from .flops import TrainFlops
from .memory import MIB, memory_bytes
from .peaks import synchronize
from .step_clock import PARTS, StepClock


class Meter:
    """Counts on the device over the steps of a row, and computes the row, with one synchronization.

    Args:
        model: The whole model.
        device: Its device.
        tflops: Peak TFLOP/s of one device.
        world: Number of devices.
        add_up: Sums a tensor over all ranks.
        largest: Takes the maximum of each entry over all ranks.

    Attributes:
        n_steps: Number of steps of the row so far.
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

    def count_batch(self, batch: object) -> None:
        """Count the operations of a micro-batch, if it is a Batch."""
        if isinstance(batch, Batch):
            self.flops.add(batch.ids, batch.layout)

    def count_step(self, norm: Tensor | None, limit: Tensor | float | None) -> None:
        """Count a step, and whether its gradient was clipped.

        Args:
            norm: Norm of the gradient before clipping; None: unknown.
            limit: Limit on the norm; None: no limit.
        """
        self.n_steps += 1
        if norm is not None and limit is not None:
            is_clipped = (norm > limit) & norm.isfinite()  # a step that is not finite is skipped
            self._n_clipped = is_clipped.long() if self._n_clipped is None else self._n_clipped + is_clipped

    def row(self, n_targets: float, seconds: float, are_tokens: bool = True) -> dict[str, float]:
        """The figures of the steps since the last call, the same on all ranks.

        Args:
            n_targets: Number of targets of these steps, over all ranks.
            seconds: Their duration.
            are_tokens: Whether a target is a token; else, as of groups, the tokens that were read are counted per
                second, padding aside.

        Returns:
            Times are means over the ranks (and still sum to the step), memory is the maximum of all ranks. Figures that
            were not measured are missing.
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
        operations = values[len(times) + 1 :]
        row = {'tokens_per_second': (n_targets if are_tokens else operations[0]) / seconds}
        if total := self.flops.total(operations, n_targets):
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
