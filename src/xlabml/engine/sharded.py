"""FSDP2: every rank holds a slice of each weight, gradient and optimizer state, and checkpoints stay ordinary files.

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
    """Train a model that is cut over all ranks; what it saves, one process reads, and the other way round.

    A checkpoint is the one file that every strategy writes: rank 0 gathers it tensor by tensor. So a run goes on with
    another number of ranks, without sharding, or is exported, as any other is.

    Args:
        process_group_backend: What ranks talk through; None: nccl on GPUs, gloo on CPUs.
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
        """All ranks are data-parallel: Lightning's default would give those of one machine the same rows."""
        self._data_parallel_size = self.world_size
        super().setup_environment()

    def set_world_ranks(self) -> None:
        """Refuse numbers of devices and machines other than those that processes were started for."""
        if self.cluster_environment is not None:
            self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        super().set_world_ranks()

    def setup(self, trainer: L.Trainer) -> None:
        """Evaluate without inference mode, in which gathered weights would be of no use to the next training step."""
        evaluate_without_inference_mode(trainer)
        super().setup(trainer)

    # Checkpoints: as of a strategy that does not shard, each tensor gathered or cut on the way.

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights on rank 0; nothing on the others, who help to gather them."""
        assert self.model is not None
        return self._gather(self.model.state_dict()) or {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What an optimizer that is not sharded would save, on rank 0; nothing on the others."""
        return self._gather(getattr(optimizer, '_optimizer', optimizer).state_dict()) or {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Write one file, on rank 0."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every rank its slices of the weights."""
        assert self.model is not None
        own = self.model.state_dict()
        saved = Contents.of(checkpoint).weights
        cut = {name: cut_like(tensor, own[name]) if name in own else tensor for name, tensor in saved.items()}
        self.model.load_state_dict(cut, strict=strict)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every rank its slices of the optimizers' states."""
        for optimizer, saved in zip(self.optimizers, Contents.of(checkpoint).optimizers, strict=True):
            groups = zip(saved['param_groups'], optimizer.param_groups)
            owners = {
                number: parameter
                for theirs, ours in groups
                for number, parameter in zip(theirs['params'], ours['params'])
            }
            state = {
                number: {name: cut_like(value, owners[number]) for name, value in values.items()}
                for number, values in saved['state'].items()
            }
            optimizer.load_state_dict({**saved, 'state': state})

    def _gather(self, value: Any) -> Any:
        """Tensors made whole on rank 0's CPU, in one order on all ranks; on the others None in place of each."""
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
    """Cut a module over the ranks of a mesh, in place; called again, it changes nothing.

    Each of its blocks (`list_blocks`, where it has that method) is gathered by itself when its turn comes, and released
    after it; the rest (embeddings, head, last norm) with the module. So the module has to be called by its `forward`.

    Args:
        module: It holds the blocks.
        mesh: The ranks, in one dimension.
        dtype: What the blocks' weights are sent and multiplied in; None: as they are kept. Gradients are added up in
            float32 in any case.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    if isinstance(module, FSDPModule):
        return
    list_blocks = getattr(module, 'list_blocks', list)
    for block in list_blocks():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh)


def cut_like(whole: Any, like: Any) -> Any:
    """A whole tensor, cut as another of its shape is; anything else as it is."""
    if isinstance(like, DTensor) and isinstance(whole, Tensor) and whole.shape == like.shape:
        # Every rank has the whole: nothing is sent.
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return whole


StrategyRegistry.register('sharded', Sharded, description=(Sharded.__doc__ or '').partition('\n')[0])
