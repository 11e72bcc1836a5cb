"""Every pair of options works together: packed, cached and in rows, a model gives what its definition gives."""

import itertools
import random

import pytest
import torch
from torch import nn
from trunks import copy_weights, gradients, make_ids, make_layout, make_trunk

from xlabml.transformer import ALiBi, Learned, NoPositions, RMSNorm, Rotary, Sinusoidal

CHOICES = {
    'score_cap': [None, 1.5],
    'window': [None, 3, [2, None]],
    'n_kv_heads': [None, 2, 1],
    'form': ['rows', 'packed', 'steps', 'packed, then steps'],
    'positions': [NoPositions, Rotary, Sinusoidal, Learned, ALiBi],
    'norm': [RMSNorm, nn.LayerNorm],
    'prenorm': [True, False],
    'final_norm': [True, False],
    'causal': [True, False],
    'qk_norm': [True, False],
    'bias': [True, False],
    'shift_width': [1, 3],
    'shift_places': [None, ['attention', 'feed_forward'], ['projections', 'hidden']],
}
CACHED = {'steps', 'packed, then steps'}


def is_possible(case):
    return case.get('causal', True) or case.get('form') not in CACHED


def cover_pairs(choices, seed=0):
    """Few combinations, in which every possible pair of choices occurs: greedily, the best of some random ones."""
    draw = random.Random(seed)
    names = list(choices)
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x, y in itertools.product(range(len(choices[a])), range(len(choices[b])))
        if is_possible({a: choices[a][x], b: choices[b][y]})
    }
    while missing:
        best, best_pairs = None, set()
        for _ in range(60):
            case = dict(draw.choice(sorted(missing)))  # holds one that is missing
            case |= {name: draw.randrange(len(choices[name])) for name in names if name not in case}
            if not is_possible({name: choices[name][i] for name, i in case.items()}):
                continue
            pairs = missing & {((a, case[a]), (b, case[b])) for a, b in itertools.combinations(names, 2)}
            if len(pairs) > len(best_pairs):
                best, best_pairs = case, pairs
        if best is not None:
            missing -= best_pairs
            yield {name: choices[name][best[name]] for name in names}


CASES = list(cover_pairs(CHOICES))


def test_few_cases_cover_all_pairs():
    assert len(CASES) < 60
    for a, b in itertools.combinations(CHOICES, 2):
        for x, y in itertools.product(CHOICES[a], CHOICES[b]):
            if is_possible({a: x, b: y}):
                assert any(case[a] == x and case[b] == y for case in CASES)


@pytest.mark.parametrize(
    'case', CASES, ids=lambda case: ' '.join(str(getattr(v, '__name__', v)) for v in case.values())
)
def test_a_model_gives_what_its_definition_gives(case):
    options = {name: choice for name, choice in case.items() if name != 'form'}
    trunk = make_trunk(**options)
    definition = copy_weights(trunk, **options, attention='plain')
    lengths, form = [5, 2, 6], case['form']
    documents = make_ids(sum(lengths)).split(lengths, dim=1)
    expected = torch.cat([definition(document) for document in documents], 1)

    if form == 'rows':
        got = torch.cat([trunk(document) for document in documents], 1)
    elif form == 'packed':
        got = trunk(torch.cat(documents, 1), make_layout(lengths))
    elif form == 'steps':
        rows = []
        for document in documents:
            cache = trunk.new_cache(1, 6)
            rows += [trunk(part, cache=cache) for part in document.split([1, 1, *[3] * ((document.size(1) - 2) // 3),
                     *[1] * ((document.size(1) - 2) % 3)], dim=1)]  # fmt: skip
        got = torch.cat(rows, 1)
    else:
        cache = trunk.new_cache(3, 6)
        begun = trunk(
            torch.cat([documents[0][:, :3], documents[1], documents[2][:, :3]], 1), make_layout([3, 2, 3]), cache
        )
        # The shortest goes on with what is not looked at.
        more = torch.cat([documents[0][:, 3:5], make_ids(2, seed=9), documents[2][:, 3:5]])
        rest = torch.cat([trunk(part, cache=cache) for part in more.split(1, dim=1)], 1)
        got = torch.cat([begun[:, :3], rest[:1], begun[:, 3:5], begun[:, 5:], rest[2:]], 1)
        expected = expected[:, :12]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    if form in CACHED:
        return
    for ours, plain in zip(gradients(trunk, got), gradients(definition, expected)):
        if plain is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
