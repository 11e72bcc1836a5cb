"""What the step loop costs: `xlab fit` and a raw PyTorch loop on a one-layer model, 128 wide, 1,024 tokens a step.

A model so small that whatever is done once a step, and not by the model, shows. `fit` is the real one, with all its
callbacks, curves and data path; the raw loop has its batches ready (benchmarks/training.py says what it does).
`--profile FILE` writes where one run of `fit` spends its time, for pstats.
"""

import argparse
import cProfile
import functools
import warnings

import torch
from alternate import alternate
from training import time_fit, time_plain

from xlabml.commands.fit import quieten
from xlabml.datamodules import XLabDataModule
from xlabml.engine import auto_precision
from xlabml.training import AdamW, WarmupCosine
from xlabml.transformer import Transformer

TRUNK = {'d_model': 128, 'n_layers': 1, 'n_heads': 2}
TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--steps', type=int, default=200, help='steps that are measured, each time')
    parser.add_argument('--warmup', type=int, default=20, help='steps before them')
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--profile', help='a file for the profile of one run of fit; nothing is compared then')
    options = parser.parse_args()
    quieten()
    warnings.filterwarnings('ignore', message='.*limit_val_batches.*')

    data = XLabDataModule(batch_tokens=TOKENS)
    data.prepare_data()
    arguments = [
        *(f'--model.trunk.{name}={value}' for name, value in TRUNK.items()),
        *(f'--data.batch_tokens={TOKENS}', '--model.optimizer=xlabml.training.AdamW', '--model.schedule=WarmupCosine'),
    ]
    fit = functools.partial(time_fit, arguments, options.warmup, options.steps)
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(fit)
        profile.dump_stats(options.profile)
        return
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(options.warmup + options.steps)]
    trunk = functools.partial(Transformer, **TRUNK)
    plain = functools.partial(time_plain, batches, data, options.warmup, trunk, AdamW, WarmupCosine)
    medians = alternate({'raw PyTorch loop': plain, 'xlab fit': fit}, options.rounds)
    print(f'{"":20}{"ms/step":>10}   ({torch.get_num_threads()} threads, {auto_precision("cpu")})')
    for name, taken in medians.items():
        print(f'{name:20}{1000 * taken / options.steps:10.2f}')
    print(f'a step of xlab fit takes {medians["xlab fit"] / medians["raw PyTorch loop"]:.2f} times one of the raw loop')


if __name__ == '__main__':
    main()
