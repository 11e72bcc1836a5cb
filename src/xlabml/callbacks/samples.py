"""Text that the model makes at each validation, so that a run can be read."""

import contextlib
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from xlabml import inference
from xlabml.engine import Callback, Run, Task

from .compiling import eagerly


class SampledText(Callback):
    """Sample a continuation at every validation, where the task generates, and hand it to the loggers that take text.

    Args:
        prompt: What the text starts with; empty: the start of a document.
        n_tokens: How many tokens to sample at the most; 0 turns sampling off.
        temperature: Logits are divided by it.
        top_k: Only so many of the likeliest tokens; None: all.
        top_p: Only the likeliest tokens that make up this share of probability; None: all.
        seed: The same draws at every validation.
    """

    def __init__(
        self,
        prompt: str = '',
        n_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = 0.95,
        seed: int = 0,
    ) -> None:
        if n_tokens < 0:
            raise ValueError(f'samples.n_tokens is {n_tokens}; it must be 0 or more')
        inference.Sampler(temperature, top_k, top_p)  # refuses what is out of range before the run begins
        self.prompt = prompt
        self.n_tokens = n_tokens
        self.seed = seed
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.newest = ''

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (
            not self.n_tokens
            or trainer.state.fn != 'fit'
            or trainer.sanity_checking
            or not Task.of(pl_module).generates
        ):
            return
        is_sharded = any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
        if not trainer.is_global_zero and not is_sharded:
            return
        network: Any = Task.of(pl_module).network
        tokenizer = Run.of(trainer).data.tokenizer
        sos = tokenizer.special_ids['sos']
        eos = tokenizer.special_ids['eos']
        prompt = [sos, *tokenizer.encode(self.prompt)]
        # Blocks that are cut over ranks come in the precision of training; a whole model keeps float32.
        precision = trainer.precision_plugin.forward_context() if is_sharded else contextlib.nullcontext()
        with eagerly(network), precision:  # text grows by a token at a time
            try:
                ids = inference.sample(
                    _InStep(network) if is_sharded else network,
                    torch.tensor(prompt, device=pl_module.device),
                    self.n_tokens,
                    block_size=pl_module.hparams['max_len'],
                    eos_class=eos,
                    exclude_classes=[i for i in tokenizer.reserved_ids if i != eos],
                    temperature=self.temperature,
                    top_k=self.top_k,
                    top_p=self.top_p,
                    generator=torch.Generator().manual_seed(self.seed),
                )
            except inference.NonFiniteLogitsError as error:  # on all ranks at once: they have the same logits
                self.newest = ''
                rank_zero_warn(f'no sample at step {trainer.global_step}: {error}')
                return
        if not trainer.is_global_zero:
            return
        self.newest = tokenizer.decode([*prompt, *ids.tolist()])
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, 'experiment', None)
            if hasattr(experiment, 'add_text'):
                experiment.add_text('sample', self.newest, trainer.global_step)


class _InStep(nn.Module):
    """A model that is cut over ranks, who all have to call it as often: they are given one answer, rank 0's.

    Args:
        model: From ids to logits; it makes caches.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.new_cache = model.new_cache

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        logits = self.model(*args, **kwargs)
        torch.distributed.broadcast(logits, src=0)
        return logits
