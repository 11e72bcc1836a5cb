"""Text that the model generates at each validation."""

import contextlib

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from xlabml import inference
from xlabml.engine import Callback, Run, Task
from xlabml.telemetry import records
from xlabml.telemetry.tags import as_markdown

from .compiling import eagerly


class SampledText(Callback):
    """Sample a text at every validation of a task that generates: into `samples.jsonl`, and to loggers that take text.

    Args:
        prompt: The beginning of the text; empty: the start of a document.
        n_tokens: Maximum number of tokens to sample; 0 turns sampling off.
        temperature: Divides the logits.
        top_k: Sample from the top_k most probable tokens only; None: all.
        top_p: Sample from the fewest most probable tokens whose probabilities sum to top_p; None: all.
        seed: The seed of every validation.
        show: Whether the text is printed as well.
    """

    def __init__(
        self,
        prompt: str = '',
        n_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = 0.95,
        seed: int = 0,
        show: bool = False,
    ) -> None:
        if n_tokens < 0:
            raise ValueError(f'samples.n_tokens is {n_tokens}; it must be 0 or more')
        inference.Sampler(temperature, top_k, top_p)  # checks the values before the run begins
        self.prompt = prompt
        self.n_tokens = n_tokens
        self.seed = seed
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.show = show
        self.newest = ''

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = Run.of(trainer).folder
        if trainer.is_global_zero and folder is not None:
            with contextlib.suppress(OSError):  # the curves say that the disk refuses them
                records.drop_after(folder / records.SAMPLES, trainer.global_step)

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
        network = Task.of(pl_module).network
        tokenizer = Run.of(trainer).data.tokenizer
        sos = tokenizer.special_ids['sos']
        eos = tokenizer.special_ids['eos']
        prompt = [sos, *tokenizer.encode(self.prompt)]
        # Sharded blocks are gathered in the precision of training; an unsharded model is run in float32.
        precision = trainer.precision_plugin.forward_context() if is_sharded else contextlib.nullcontext()
        with eagerly(network), precision:  # eagerly, since shapes change with every token
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
            except inference.NonFiniteLogitsError as error:  # on all ranks, which have the same logits
                self.newest = ''
                rank_zero_warn(f'no sample at step {trainer.global_step}: {error}')
                return
        if not trainer.is_global_zero:
            return
        self.newest = tokenizer.decode([*prompt, *ids.tolist()])
        run = Run.of(trainer)
        if run.folder is not None and not run.is_trial:
            with contextlib.suppress(OSError):
                records.append(run.folder / records.SAMPLES, {'step': trainer.global_step, 'text': self.newest})
        if self.show:
            text = ''.join(letter if letter.isprintable() or letter in '\n\t' else '\ufffd' for letter in self.newest)
            print(f'step {trainer.global_step:,}, sample: {text}', flush=True)
        for logger in trainer.loggers:
            add_text = getattr(getattr(logger, 'experiment', None), 'add_text', None)
            if add_text is not None:
                add_text('sample', as_markdown(self.newest), trainer.global_step)


class _InStep(nn.Module):
    """A sharded model, which all ranks must call equally often: all get rank 0's logits, so they sample the same ids.

    Args:
        model: Ids to logits, with `new_cache`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.new_cache = model.new_cache

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        logits = self.model(*args, **kwargs)
        torch.distributed.broadcast(logits, src=0)
        return logits
