"""Tokens/s of training steps: `xlab fit`, plain PyTorch loops, Hugging Face's Trainer and litgpt, in one shape.

All train a Llama-like model (RMSNorm, rotary positions, SwiGLU, one matrix for embedding and head) of the same sizes on
the same rows of the embedded corpus, in bf16 autocast (in fp32 where the CPU has neither AMX nor AVX-512-BF16), with
AdamW, gradients clipped by norm and a schedule. Every measurement is a process of its own, in alternation. What is
compared:

- `xlab fit`: the command, with its callbacks, curves and data path, attention inside documents;
- `plain`: our trunk in a bare loop over rows that are one document each, with torch's cross-entropy of all logits,
  `loss.item()` at every step and AdamW one tensor at a time; then, one after another, with the chunked loss, without
  the item, and with the fused AdamW;
- `transformers`: LlamaForCausalLM in Hugging Face's Trainer, which logs and saves nothing;
- `litgpt`: its GPT in the step of its pretrain.py (Fabric, its chunked cross-entropy), without its logging.

The last two run in the interpreter that --peers_python names (transformers, accelerate, litgpt, this torch).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

IS_BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
PRECISION = 'bf16-mixed' if IS_BF16 else '32-true'
SHAPES = {
    'default': {'d_model': 192, 'n_layers': 4, 'n_heads': 3, 'd_ff': 512, 'batch_tokens': 1024},
    '12m': {'d_model': 384, 'n_layers': 5, 'n_heads': 6, 'd_ff': 1024, 'batch_tokens': 2048},
}
N_VOCAB, MAX_LEN, LR, MAX_NORM = 8192, 512, 1e-3, 1.0
LADDER = {'plain': 0, '+ chunked loss': 1, '+ no item()': 2, '+ fused AdamW': 3}
PEERS = ('transformers', 'litgpt')


class Clock:
    """Seconds from the end of the last step of the warm-up to the end of the last step of all."""

    def __init__(self, n_warmup: int, n_steps: int) -> None:
        self.first, self.last, self.n_done, self.seconds = n_warmup, n_warmup + n_steps, 0, 0.0

    def step(self) -> None:
        self.n_done += 1
        if self.n_done == self.first:
            self.seconds = -time.perf_counter()
        elif self.n_done == self.last:
            self.seconds += time.perf_counter()


def run_xlab(shape: dict[str, int], rows: np.ndarray, clock: Clock, options: argparse.Namespace) -> int:
    from training import time_fit

    from xlabml.commands.fit import quieten

    quieten()
    warnings.filterwarnings('ignore', message='.*limit_val_batches.*')
    trunk = {name: value for name, value in shape.items() if name != 'batch_tokens'}
    trunk |= {'activation': 'SwiGLU', 'qk_norm': False, 'shift_width': 1}
    arguments = [f'--model.trunk.{name}={value}' for name, value in trunk.items()]
    arguments += [f'--data.batch_tokens={shape["batch_tokens"]}', f'--data.n_vocab={N_VOCAB}', '--data.plan=Concat']
    arguments += [f'--data.max_len={MAX_LEN}', '--model.optimizer=xlabml.training.AdamW', f'--model.optimizer.lr={LR}']
    arguments += ['--model.schedule=WarmupCosine', f'--trainer.precision={PRECISION}', '--trainer.accelerator=cpu']
    clock.seconds = time_fit(arguments, options.warmup, options.steps)
    return sum(parameter.numel() for parameter in make_model(shape).parameters())


def make_model(shape: dict[str, int]) -> torch.nn.Module:
    import functools

    from xlabml.heads import language_model
    from xlabml.transformer import SwiGLU, Transformer

    trunk = {name: value for name, value in shape.items() if name != 'batch_tokens'}
    return language_model(
        N_VOCAB, MAX_LEN, functools.partial(Transformer, **trunk, activation=SwiGLU, qk_norm=False, shift_width=1)
    ).train()


def run_plain(shape: dict[str, int], rows: np.ndarray, clock: Clock, options: argparse.Namespace) -> int:
    from xlabml.training import WarmupCosine, parameter_groups

    level, model = LADDER[options.one], make_model(shape)
    kind = {'fused': True} if level >= 3 else {'foreach': False}
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=LR, betas=(0.9, 0.98), **kind)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(len(rows)))
    for ids in torch.from_numpy(rows):
        inputs, targets = ids[:, :-1], ids[:, 1:]
        with torch.autocast('cpu', torch.bfloat16, enabled=IS_BF16):
            if level >= 1:
                loss = model(inputs, targets=targets).objective / targets.numel()
            else:
                logits = F.linear(model.hidden(inputs), model.trunk.embedding.weight).float()
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if level < 2:
            loss.item()
        clock.step()
    return sum(parameter.numel() for parameter in model.parameters())


def run_transformers(shape: dict[str, int], rows: np.ndarray, clock: Clock, options: argparse.Namespace) -> int:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=N_VOCAB,
        hidden_size=shape['d_model'],
        intermediate_size=shape['d_ff'],
        num_hidden_layers=shape['n_layers'],
        num_attention_heads=shape['n_heads'],
        max_position_embeddings=MAX_LEN,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation='sdpa',
    )
    model = transformers.LlamaForCausalLM(config)

    class Timer(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

    ids = torch.from_numpy(rows[:, :, :-1]).flatten(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=IS_BF16,
            per_device_train_batch_size=rows.shape[1],
            max_steps=len(rows),
            learning_rate=LR,
            lr_scheduler_type='cosine',
            optim='adamw_torch_fused',
            max_grad_norm=MAX_NORM,
            logging_strategy='no',
            save_strategy='no',
            report_to='none',
            disable_tqdm=True,
        )
        dataset = [{'input_ids': row, 'labels': row} for row in ids]
        transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=[Timer()]).train()
    return model.num_parameters()


def run_litgpt(shape: dict[str, int], rows: np.ndarray, clock: Clock, options: argparse.Namespace) -> int:
    import lightning as L
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=MAX_LEN,
        n_layer=shape['n_layers'],
        n_embd=shape['d_model'],
        n_head=shape['n_heads'],
        padded_vocab_size=N_VOCAB,
        vocab_size=N_VOCAB,
        norm_class_name='RMSNorm',
        mlp_class_name='LLaMAMLP',
        intermediate_size=shape['d_ff'],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    fabric = L.Fabric(accelerator='cpu', devices=1, precision=PRECISION)
    model = GPT(config)
    model.transformer.wte.weight = model.lm_head.weight
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    model = fabric.setup(model)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), fused=True))
    for step, ids in enumerate(torch.from_numpy(rows)):
        for group in optimizer.param_groups:
            group['lr'] = LR * (1 - step / len(rows))
        logits = model(ids[:, :-1].contiguous())
        fabric.backward(chunked_cross_entropy(logits, ids[:, 1:].contiguous()))
        fabric.clip_gradients(model, optimizer, max_norm=MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        clock.step()
    return n_parameters


def read_rows(shape: dict[str, int], n_steps: int) -> np.ndarray:
    """What `xlab fit` is given: for each step its rows, as ids and the target of the last one."""
    from xlabml.data import Concat
    from xlabml.datamodules import XLabDataModule

    data = XLabDataModule(n_vocab=N_VOCAB, max_len=MAX_LEN, batch_tokens=shape['batch_tokens'], plan=Concat)
    data.prepare_data()
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(n_steps)]
    ids = torch.stack([torch.cat([batch.ids, batch.targets.ids[:, -1:]], dim=1) for batch in batches])
    return ids.clamp(min=0).numpy()  # a row that the corpus does not fill ends in ignored targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--shape', choices=SHAPES, default='default')
    parser.add_argument('--steps', type=int, default=60, help='steps that are measured, each time')
    parser.add_argument('--warmup', type=int, default=10, help='steps before them')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument(
        '--peers_python', help='an interpreter with transformers, accelerate and litgpt; none: no peers'
    )
    parser.add_argument('--one', help=argparse.SUPPRESS)
    parser.add_argument('--rows', help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    if options.one:
        torch.set_num_threads(options.threads)
        torch.manual_seed(42)
        clock = Clock(options.warmup, options.steps)
        runs = {'xlab fit': run_xlab, 'transformers': run_transformers, 'litgpt': run_litgpt}
        n_parameters = runs.get(options.one, run_plain)(shape, np.load(options.rows), clock, options)
        print(json.dumps({'seconds': clock.seconds, 'n_parameters': n_parameters}))
        return

    taken: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    names = ['xlab fit', *LADDER, *(PEERS if options.peers_python else ())]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / 'rows.npy'
        np.save(rows, read_rows(shape, options.warmup + options.steps))
        for _ in range(options.rounds):
            for name in names:
                python = options.peers_python if name in PEERS else sys.executable
                command = [python, __file__, *sys.argv[1:], '--one', name, '--rows', str(rows)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f'{name} failed:\n{done.stderr}')
                found = json.loads(done.stdout.splitlines()[-1])
                taken.setdefault(name, []).append(found['seconds'])
                counts[name] = found['n_parameters']
    n_tokens = shape['batch_tokens'] * options.steps
    print(f'{"":18}{"parameters":>12}{"ms/step":>10}{"tokens/s":>11}{"of plain":>10}   ({options.threads} threads)')
    plain = statistics.median(taken['plain'])
    for name in names:
        seconds = statistics.median(taken[name])
        rate = f'{1000 * seconds / options.steps:10.1f}{n_tokens / seconds:11,.0f}{plain / seconds:10.2f}'
        print(f'{name:18}{counts[name]:12,}{rate}')


if __name__ == '__main__':
    main()
