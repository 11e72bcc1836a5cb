"""Run by test_compile.py in a process of its own, since a compiler cannot look through pytest's checks of shapes.

Prints, as JSON, what five steps on ever new layouts compiled, and how far they were from what an eager model gives.
"""

import copy
import json
import sys

import torch
from torch._dynamo.utils import counters
from trunks import MAX_LEN, N_VOCAB, make_ids, make_layout

from xlabml.batches import IGNORED
from xlabml.heads import LanguageModel
from xlabml.losses import CrossEntropy
from xlabml.transformer import ALiBi, Transformer
from xlabml.transformer.attention import kernels

LENGTHS = [[10, 15, 7, 0], [32, 0, 0, 0], [1, 1, 1, 29], [5, 10, 15, 2], [16, 0, 15, 1]]
LAYERS = {
    'default': {},
    'bent': {'window': [4, None], 'positions': ALiBi, 'n_kv_heads': 2},
    'capped': {'score_cap': 5.0},
    'encoder': {'causal': False, 'window': 4},
    'dropout': {'dropout': 0.1},
}
LOSS = CrossEntropy(label_smoothing=0.1, z_loss=1e-3)
HEADS = {'bent': {'loss': LOSS, 'logit_cap': 5.0, 'head_bias': True, 'tied': False}}


FLEX = {
    'b': ('causal', False),
    'w': ('window', 5),
    'a': ('positions', ALiBi),
    'c': ('score_cap', 1.5),
    'g': ('n_kv_heads', 2),
}
"""What a letter of a case of FlexAttention asks for; with m, the model around it is compiled too."""


def make_model(kind):
    torch.manual_seed(0)
    trunk = Transformer(N_VOCAB, MAX_LEN, d_model=32, n_layers=2, n_heads=4, **LAYERS[kind])
    return LanguageModel(trunk, **HEADS.get(kind, {}))


def distance(ours, theirs):
    """The largest difference, over 1 plus the largest value."""
    return max(((a - b).abs().max() / (1 + b.abs().max())).item() for a, b in zip(ours, theirs))


def measure(kind, mode, backend):
    """What one way to run compiles, and how far it is off."""
    torch._dynamo.reset()
    model = make_model(kind)
    eager = copy.deepcopy(model)
    model.compile(dynamic=False, backend=backend)
    counters.clear()
    compiled, worst = [], 0.0
    for step, lengths in enumerate(LENGTHS):
        ids, targets = make_ids(MAX_LEN, seed=step), make_ids(MAX_LEN, seed=step + 100)
        targets[:, step : step + 3] = IGNORED
        is_whole = step % 2 == 0
        layout = make_layout(lengths, [True, True, True, is_whole])._replace(max_length=MAX_LEN)
        if not is_whole:
            targets[:, sum(lengths[:3]) :] = IGNORED  # padding means nothing
        sums = []
        for one in (model, eager):
            one.train(mode != 'eval')
            with torch.set_grad_enabled(mode != 'eval'), torch.autocast('cpu', torch.bfloat16, enabled=mode == 'bf16'):
                sums.append(one(ids, layout, targets=targets))
            if mode != 'eval':
                one.zero_grad()
                sums[-1].objective.backward()
        assert not sums[0].nats.requires_grad
        worst = max(worst, distance(*sums))
        if mode != 'eval':
            worst = max(worst, distance(*([p.grad for p in one.parameters()] for one in (model, eager))))
        compiled.append(counters['stats']['unique_graphs'])
    return {'graphs': compiled, 'breaks': sum(counters['graph_break'].values()), 'distance': worst}


def measure_flex(flags, backend):
    """How far FlexAttention is from the definition, going forward, and what five layouts compile."""
    torch._dynamo.reset()
    kernels._compile = lambda function: torch.compile(function, dynamic=False, backend=backend)
    options = dict(FLEX[flag] for flag in flags if flag in FLEX)
    flex, plain = (
        Transformer(N_VOCAB, MAX_LEN, d_model=64, n_layers=2, n_heads=4, attention=name, **options)
        for name in ('flex', 'plain')
    )
    plain.load_state_dict(flex.state_dict())
    if 'm' in flags:
        flex.compile(dynamic=False, backend=backend)
    counters.clear()
    compiled, worst = [], 0.0
    with torch.no_grad():
        for step, lengths in enumerate(LENGTHS):
            ids, layout = make_ids(MAX_LEN, seed=step), make_layout(lengths)._replace(max_length=MAX_LEN)
            for one in (layout, None):
                worst = max(worst, distance([flex(ids, one)], [plain(ids, one)]))
            compiled.append(counters['stats']['unique_graphs'])
    return {'graphs': compiled, 'distance': worst}


def main():
    backend, *cases = sys.argv[1:]
    found = {}
    for case in cases:
        kind, _, mode = case.partition('-')
        found[case] = measure_flex(mode, backend) if kind == 'flex' else measure(kind, mode, backend)
    print(json.dumps(found))


if __name__ == '__main__':
    main()
