"""Milliseconds a training step of the language model, eager and compiled, on packed rows of ever new layouts.

`operator` is what the package does: attention inside documents is one operator, so that the model is one graph.
`break` leaves the compiled code at each layer's attention instead. Compiling itself is not counted, but shown.
"""

import argparse
import time
from collections.abc import Callable

import torch
from alternate import alternate, seconds
from attention import ROW, draw_lengths
from torch._dynamo.utils import counters

from xlabml.batches import Layout
from xlabml.heads import LanguageModel, language_model
from xlabml.transformer.attention.compiled_documents import OperatorPass

_ATTEND = dict.fromkeys(('operator', 'eager'), OperatorPass.attend)
_ATTEND['break'] = torch.compiler.disable(OperatorPass.attend)


def make_batch(n_tokens: int, n_documents: int, n_vocab: int) -> tuple[torch.Tensor, torch.Tensor, Layout]:
    """Ids, targets and a layout that no other batch has."""
    lengths = draw_lengths(n_tokens, n_documents)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    ids, targets = torch.randint(n_vocab, (2, n_tokens // ROW, ROW))
    return ids, targets, Layout(starts, ROW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--tokens', type=int, default=2048, help=f'a multiple of {ROW}')
    parser.add_argument('--documents', type=int, default=25)
    parser.add_argument('--vocabulary', type=int, default=4096)
    parser.add_argument('--rounds', type=int, default=5, help='the median of so many')
    parser.add_argument('--steps', type=int, default=5, help='in each round')
    options = parser.parse_args()
    torch.manual_seed(0)
    n_batches = 2 + options.steps * options.rounds
    batches = [make_batch(options.tokens, options.documents, options.vocabulary) for _ in range(n_batches)]

    def step(name: str, model: LanguageModel, batch: tuple[torch.Tensor, torch.Tensor, Layout]) -> None:
        ids, targets, layout = batch
        OperatorPass.attend = _ATTEND[name]  # type: ignore[method-assign]  # torch checks that it is the compiled one
        with torch.autocast('cpu', torch.bfloat16):
            model(ids, layout, targets=targets).objective.backward()
        model.zero_grad()

    ways: dict[str, Callable[[], float]] = {}
    for name in ('eager', 'operator', 'break'):
        model = language_model(options.vocabulary, ROW)
        if name != 'eager':
            model.compile(dynamic=False)
        counters.clear()
        start = time.perf_counter()
        for batch in batches[:2]:
            step(name, model, batch)
        print(f'{name:10}{counters["stats"]["unique_graphs"]:4} graphs, ready in {time.perf_counter() - start:.1f} s')
        rest = iter(batches[2:])
        ways[name] = lambda name=name, model=model, rest=rest: seconds(
            lambda: [step(name, model, next(rest)) for _ in range(options.steps)]
        )
    counters.clear()
    medians = alternate(ways, options.rounds)
    print(f'{counters["stats"]["unique_graphs"]} more graphs while measuring')
    for name, taken in medians.items():
        print(f'{name:10}{1000 * taken / options.steps:10.1f} ms/step, {medians["eager"] / taken:.2f} of eager')


if __name__ == '__main__':
    main()
