"""Low-rank adapters: what is trained, what is merged, and that peft computes the same."""

import copy
import functools

import pytest
import torch

from xlabml.checkpoints.merging import merge_weights
from xlabml.errors import SettingsError
from xlabml.transformer import LoRA, LowRankLinear, Transformer

IDS = torch.arange(24).view(2, 12)


def make_trunk(adapters=None, seed=0):
    torch.manual_seed(seed)
    return Transformer(50, 16, d_model=16, n_layers=2, n_heads=2, bias=True, adapters=adapters)


def stir(trunk):
    """Give the adapters a difference to make."""
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if name.endswith('lora_b'):
                parameter.normal_(std=0.1)
    return trunk


def test_an_adapted_trunk_begins_as_the_trunk_and_trains_nothing_else():
    plain = make_trunk()
    adapted = make_trunk(functools.partial(LoRA, rank=3))
    adapted.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(adapted(IDS), plain(IDS), rtol=0, atol=0)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    layers = ('attention.projection', 'attention.output', 'feed_forward.input', 'feed_forward.output')
    assert trained == {f'blocks.{i}.{layer}.lora_{part}' for i in (0, 1) for layer in layers for part in 'ab'}
    assert set(plain.state_dict()) <= set(adapted.state_dict())  # the trunk's own weights keep their names


def test_merged_weights_compute_what_the_adapters_do():
    adapted = stir(make_trunk(functools.partial(LoRA, rank=3, alpha=5.0))).eval()
    plain = make_trunk().eval()
    assert (adapted(IDS) - plain(IDS)).abs().max() > 0.05
    plain.load_state_dict(merge_weights(adapted.state_dict()))
    found = adapted(IDS)
    # Relative to the largest hidden state (about 2.5): float32 rounds to 1.2e-7 of it at each of the layers.
    assert (plain(IDS) - found).abs().max() <= 1e-6 * found.abs().max()
    wide = adapted.double()
    plain = plain.double()
    plain.load_state_dict(merge_weights(wide.state_dict()))
    torch.testing.assert_close(plain(IDS), wide(IDS), rtol=1e-10, atol=1e-10)


def test_a_layer_by_hand():
    layer = torch.nn.Linear(2, 1, bias=False)
    adapted = LowRankLinear(layer, 1, 4.0, 0.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        adapted.lora_a.copy_(torch.tensor([[1.0, -1.0]]))
        adapted.lora_b.copy_(torch.tensor([[0.5]]))
    assert adapted(torch.tensor([3.0, 1.0])).tolist() == [5.0 + 4 * 0.5 * 2]
    named = {f'layer.{name}': tensor for name, tensor in adapted.state_dict().items()}
    assert merge_weights(named)['layer.weight'].tolist() == [[3.0, 0.0]]


def test_dropout_is_of_the_adapters_input_and_of_training_only():
    adapted = stir(make_trunk(functools.partial(LoRA, dropout=0.5)))
    assert not torch.equal(adapted(IDS), adapted(IDS))
    adapted.eval()
    assert torch.equal(adapted(IDS), adapted(IDS))


def test_layers_are_chosen_by_patterns_of_their_names():
    adapted = make_trunk(functools.partial(LoRA, layers=['*.1.*.projection', '*feed_forward.input']))
    found = [name for name, part in adapted.named_modules() if isinstance(part, LowRankLinear)]
    assert found == ['blocks.0.feed_forward.input', 'blocks.1.attention.projection', 'blocks.1.feed_forward.input']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'layers': ['*query']}, r"layers is \['\*query'\], but .* first block are \*attention\.projection, \*att"),
        ({'rank': 0}, r'adapters\.rank is 0; give 1 or more'),
        ({'alpha': 0.0}, r'adapters\.alpha is 0'),
        ({'dropout': 1.0}, r'adapters\.dropout is 1'),
    ],
)
def test_what_is_no_adapter_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        make_trunk(functools.partial(LoRA, **options))


@pytest.mark.parametrize('change', ['missing', 'shape'])
def test_adapters_that_do_not_fit_are_refused(change):
    weights = make_trunk(LoRA).state_dict()
    name = 'blocks.0.attention.output.lora_b'
    if change == 'missing':
        del weights[name]
    else:
        weights[name] = weights[name][:, 1:]
    with pytest.raises(ValueError, match=r'blocks\.0\.attention\.output has an adapter'):
        merge_weights(weights)


def test_peft_computes_the_same_with_the_same_adapters_and_learns_the_same():
    peft = pytest.importorskip('peft')
    adapted = stir(make_trunk(functools.partial(LoRA, rank=3, alpha=5.0, layers=['*.projection', '*.output'])))
    config = peft.LoraConfig(r=3, lora_alpha=5.0, lora_dropout=0.0, target_modules=['projection', 'output'])
    other = peft.inject_adapter_in_model(config, make_trunk())
    theirs = {
        name.replace('.base_layer', '')
        .replace('lora_A.default.weight', 'lora_a')
        .replace('lora_B.default.weight', 'lora_b'): parameter
        for name, parameter in other.named_parameters()
    }
    ours = dict(adapted.named_parameters())
    assert set(theirs) == set(ours)
    assert all(
        ours[name].requires_grad == parameter.requires_grad for name, parameter in theirs.items() if 'lora' in name
    )
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(ours[name])
    for _ in range(3):  # and the same after steps, which takes the same gradients
        for trunk in (adapted, other):
            trunk.zero_grad()
            hidden = trunk(IDS)
            hidden.square().mean().backward()
            with torch.no_grad():
                for name, parameter in trunk.named_parameters():
                    if 'lora' in name:
                        parameter.sub_(parameter.grad, alpha=0.1)
        torch.testing.assert_close(adapted(IDS), other(IDS), rtol=1e-5, atol=1e-6)
    merged = copy.deepcopy(other)
    for part in merged.modules():
        if hasattr(part, 'merge'):
            part.merge()
    plain = make_trunk()
    plain.load_state_dict(merge_weights(adapted.state_dict()))
    torch.testing.assert_close(plain(IDS), merged(IDS), rtol=1e-5, atol=1e-6)
