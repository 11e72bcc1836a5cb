"""A table of the model's parts, at the start of a run."""

import lightning.pytorch as L
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from xlabml.engine import Callback
from xlabml.transformer import Transformer


class Summary(Callback):
    """Print the model's parts with their parameter counts.

    Args:
        max_depth: Maximum depth of nested parts; 0: nothing is printed.
    """

    def __init__(self, max_depth: int = 3) -> None:
        if max_depth < 0:
            raise ValueError(f'summary.max_depth is {max_depth}; it must be 0 or more')
        self.max_depth = max_depth

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.max_depth and trainer.is_global_zero:
            Console().print(summary_table(pl_module, self.max_depth))


def attention_lines(trainer: L.Trainer, module: nn.Module) -> list[str]:
    """For each trunk in a module, one line: the attention backend of training on packed rows, and the reason.

    On a CPU a second line says how attention inside documents is computed.

    Raises:
        ValueError: The chosen backend does not support it here.
    """
    device = trainer.strategy.root_device.type
    with trainer.precision_plugin.forward_context():
        is_cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if is_cast else torch.get_default_dtype()
    trunks = [part for part in module.modules() if isinstance(part, Transformer)]
    lines = [trunk.describe_attention(device, dtype) for trunk in trunks]
    return lines + [line for trunk in trunks if (line := trunk.describe_documents(device, dtype)) is not None]


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """The number of parameters of a module, shared ones counted once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def summary_table(module: nn.Module, max_depth: int) -> Table:
    """A row per part down to a depth; equal siblings share a row."""
    table = Table(box=None, pad_edge=False, header_style='dim')
    table.add_column('part')
    table.add_column('class')
    table.add_column('parameters', justify='right')

    def add(parent: nn.Module, prefix: str, depth: int) -> None:
        children = [(name, child) for name, child in parent.named_children() if count_parameters(child)]
        i = 0
        while i < len(children):
            name, child = children[i]
            alike = [child]
            while i + len(alike) < len(children) and _same(child, children[i + len(alike)][1]):
                alike.append(children[i + len(alike)][1])
            label = f'{prefix}{name}' + (f'–{children[i + len(alike) - 1][0]}' if len(alike) > 1 else '')
            table.add_row(label, type(child).__name__, f'{sum(map(count_parameters, alike)):,}')
            if depth > 1 and len(alike) == 1:
                add(child, f'{prefix}{name}.', depth - 1)
            i += len(alike)

    add(module, '', max_depth)
    total = count_parameters(module)
    trainable = count_parameters(module, trainable_only=True)
    table.add_row('total', '' if total == trainable else f'({trainable:,} trained)', f'{total:,}', style='bold')
    return table


def _same(a: nn.Module, b: nn.Module) -> bool:
    return type(a) is type(b) and [p.shape for p in a.parameters()] == [p.shape for p in b.parameters()]
