"""Muon on matrices that are cut over two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from xlabml.training import Muon


def _train(parameters, cut):
    groups = [
        {'params': parameters[:2], 'name': 'matrices', 'parts': [[4, 3], None]},
        {'params': parameters[2:], 'name': 'others'},
    ]
    optimizer = Muon(groups, split=True, ns_dtype='float32')
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = cut(torch.randn(parameter.shape, generator=generator))
        optimizer.step()
    return parameters


def _start():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((7, 4), (3, 5), (6, 2))]


def _worker(rank, path):
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    mesh = init_device_mesh('cpu', (2,))

    def cut(tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)])

    sharded = _train([nn.Parameter(cut(tensor)) for tensor in _start()], cut)
    whole = _train([nn.Parameter(tensor) for tensor in _start()], lambda tensor: tensor)
    for a, b in zip(sharded, whole):
        torch.testing.assert_close(a.full_tensor(), b, rtol=1e-5, atol=1e-6)
        assert a.to_local().size(0) < b.size(0)
    dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_matrices_step_as_whole_ones(tmp_path):
    mp.spawn(_worker, (tmp_path / 'rendezvous',), nprocs=2)
