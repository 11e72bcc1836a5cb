"""FSDP2: every rank holds a shard of each weight, gradient and optimizer state; checkpoints stay ordinary files.

Source: PyTorch FSDP, Zhao et al. 2023, https://arxiv.org/abs/2304.11277, in its second form, torch's `fully_shard`.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from xlabml.checkpoints import Contents

from .loops import evaluate_without_inference_mode


class Sharded(ModelParallelStrategy):
    """Train a model sharded over all ranks (FSDP2), with the checkpoint files of every other strategy.

    Rank 0 gathers a checkpoint tensor by tensor into one file. So a run can resume with another number of ranks or
    without sharding, and can be exported.

    Args:
        process_group_backend: Communication backend; None: nccl on GPUs, gloo on CPUs.
        timeout: How long a rank waits for the others.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """All ranks are data-parallel: by Lightning's default, those of one machine would have the same rows."""
        self._data_parallel_size = self.world_size
        super().setup_environment()

    def set_world_ranks(self) -> None:
        """Check the numbers of devices and machines against the processes that were started."""
        if self.cluster_environment is not None:
            self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        super().set_world_ranks()

    def setup(self, trainer: L.Trainer) -> None:
        """Evaluate without inference mode: the next training step could not use weights gathered in it."""
        evaluate_without_inference_mode(trainer)
        super().setup(trainer)

    # Checkpoints as without sharding: each tensor is gathered when saved, and sharded when loaded.

    def lightning_module_state_dict(self) -> dict[str, object]:
        """The full weights on rank 0; {} on the others, which take part in gathering."""
        assert self.model is not None
        return self._gather_state(self.model.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an unsharded optimizer on rank 0; {} on the others."""
        return self._gather_state(getattr(optimizer, '_optimizer', optimizer).state_dict())

    def save_checkpoint(
        self, checkpoint: dict[str, object], filepath: _PATH, storage_options: object | None = None
    ) -> None:
        """Write one file, on rank 0."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, object]:
        """Read a checkpoint, on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, object], strict: bool = True) -> None:
        """Load each rank's shards of the weights."""
        assert self.model is not None
        own = self.model.state_dict()
        saved = Contents.of(checkpoint).weights
        sharded = {name: shard_like(tensor, own[name]) if name in own else tensor for name, tensor in saved.items()}
        self.model.load_state_dict(sharded, strict=strict)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, object]) -> None:
        """Load each rank's shards of the optimizers' states."""
        for optimizer, saved in zip(self.optimizers, Contents.of(checkpoint).optimizers, strict=True):
            groups = zip(saved['param_groups'], optimizer.param_groups)
            owners = {
                number: parameter
                for theirs, ours in groups
                for number, parameter in zip(theirs['params'], ours['params'])
            }
            state = {
                number: {name: shard_like(value, owners[number]) for name, value in values.items()}
                for number, values in saved['state'].items()
            }
            optimizer.load_state_dict({**saved, 'state': state})

    def _gather_state(self, state: dict[str, object]) -> dict[str, object]:
        gathered = self._gather(state)
        return gathered if isinstance(gathered, dict) else {}

    def _gather(self, value: object) -> object:
        """Full tensors on rank 0's CPU, gathered in the same order on all ranks; None on the others."""
        if isinstance(value, dict):
            gathered = {name: self._gather(item) for name, item in value.items()}
            return gathered if self.is_global_zero else None
        if isinstance(value, list | tuple):
            gathered_items = [self._gather(item) for item in value]
            return type(value)(gathered_items) if self.is_global_zero else None
        if isinstance(value, DTensor):
            value = value.full_tensor()
        if not self.is_global_zero:
            return None
        return value.cpu() if isinstance(value, Tensor) else value


def shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Shard a module over the ranks of a mesh, in place; a second call changes nothing.

    Each of its blocks (`list_blocks`, where it has that method) is gathered separately before it is computed, and
    released after it; the rest (embeddings, head, last norm) with the module. So only the module's `forward` works.

    Args:
        module: The module with the blocks.
        mesh: The ranks, a mesh of one dimension.
        dtype: Dtype in which the blocks' weights are gathered and multiplied; None: their own. Gradients are reduced in
            float32 in any case.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    if isinstance(module, FSDPModule):
        return
    list_blocks = getattr(module, 'list_blocks', list)
    for block in list_blocks():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh)


def shard_like(whole: object, like: object) -> object:
    """A full tensor, sharded as another of its shape; anything else unchanged."""
    if isinstance(like, DTensor) and isinstance(whole, Tensor) and whole.shape == like.shape:
        # Every rank has the full tensor, so nothing is sent.
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return whole


StrategyRegistry.register('sharded', Sharded, description=(Sharded.__doc__ or '').partition('\n')[0])
