"""FLOPs against torch's own count, and what documents see against the masks of the definition."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from xlabml.batches import Layout
from xlabml.heads import LanguageModel
from xlabml.losses import CrossEntropy
from xlabml.telemetry.flops import TrainFlops, count_pairs
from xlabml.transformer import GeGLU, Transformer
from xlabml.transformer.attention import Rule, make_masks


def model(**options):
    torch.manual_seed(0)
    trunk = Transformer(50, 32, d_model=16, n_layers=2, n_heads=4, **options)
    return LanguageModel(trunk, tied=False)


def total(flops, n_targets):
    return flops.total(flops.take(torch.device('cpu')).double().tolist(), float(n_targets))


@pytest.mark.parametrize('options', [{}, {'n_kv_heads': 2}, {'activation': GeGLU, 'd_ff': 24}])
def test_every_product_that_torch_counts_is_counted_and_no_other(options):
    """Where every token sees all, without padding, the plain definition multiplies just what has to be."""
    ids = torch.randint(50, (3, 10))
    language_model = model(causal=False, attention='plain', **options)
    with FlopCounterMode(display=False) as counted:
        language_model(ids, targets=ids).objective.backward()
    flops = TrainFlops(language_model)
    flops.add(ids, None)
    assert total(flops, ids.numel()) == counted.get_total_flops()


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('window', [None, 1, 3, 8, 100])
def test_pairs_are_those_that_the_masks_let_through(causal, window):
    lengths = [1, 2, 7, 8, 9, 30, 0]
    rule = Rule(causal=causal, window=window)
    places = [torch.arange(length) for length in lengths]
    seen = sum(int(make_masks(place[None], place, rule)[0].sum()) for place in places)
    assert int(count_pairs(torch.tensor(lengths), causal, window)) == seen


def test_padding_costs_nothing_and_documents_do_not_see_each_other():
    language_model = model(window=[2, None])
    layout = Layout(torch.tensor([0, 3, 4, 8, 8]), 8, torch.tensor([True, True, False, True]))
    flops = TrainFlops(language_model)
    flops.add(torch.zeros(1, 8, dtype=torch.long), layout)
    # 4 tokens; a document of 3 and one of 1. Causal pairs: 6 + 1; within a window of 2: 5 + 1. Width 16.
    matrices = 6 * 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64)
    assert total(flops, 3) == 4 * matrices + 3 * 6 * 50 * 16 + 12 * 16 * (7 + 6)


def test_a_tied_head_is_counted_and_a_table_that_is_only_looked_up_is_not():
    trunk = Transformer(50, 32, d_model=16, n_layers=2, n_heads=4)
    assert TrainFlops(trunk).per_target == 0
    assert TrainFlops(LanguageModel(trunk)).per_target == 6 * 50 * 16
    assert TrainFlops(LanguageModel(trunk, loss=CrossEntropy())).per_token == TrainFlops(trunk).per_token


def test_frozen_matrices_need_no_gradient_of_their_own():
    language_model = model()
    free = TrainFlops(language_model).per_token
    language_model.trunk.requires_grad_(False)
    assert TrainFlops(language_model).per_token == free * 4 // 6


def test_counting_never_waits_for_the_device():
    """Tensors without values: whatever reads one raises."""
    flops = TrainFlops(model(window=[2, None]))
    starts, is_text = torch.zeros(9, dtype=torch.int32, device='meta'), torch.ones(8, dtype=torch.bool, device='meta')
    for _ in range(2):
        flops.add(torch.zeros(2, 16, dtype=torch.long, device='meta'), Layout(starts, 16, is_text))
    assert flops.take(torch.device('meta')).shape == (3,)


def test_large_batches_do_not_overflow():
    lengths = torch.tensor([1 << 20])
    assert int(count_pairs(lengths, False, None)) == 1 << 40
