"""Encoders of transformers as a trunk: what they compute, of texts of a flat row, and what is refused."""

import functools

import pytest
import torch
from encoders import CONFIGS

from xlabml.batches import Layout
from xlabml.errors import SettingsError
from xlabml.models.trunk_task import Freezing
from xlabml.transformer import HuggingFaceEncoder, LoRA, LowRankLinear

pytest.importorskip('transformers', reason='needs the extra hf')
N_VOCAB = 60
LENGTHS = [5, 0, 70, 30, 66]


def make_encoder(model_type, max_len=72, **options):
    torch.manual_seed(0)
    made = HuggingFaceEncoder(N_VOCAB, max_len, model_type, CONFIGS[model_type], **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.double().eval()


def flat_row(n_padding=9):
    """A row of texts, of which one is empty, and padding behind them."""
    starts = torch.tensor([0, *LENGTHS, n_padding]).cumsum(0)
    ids = torch.randint(4, N_VOCAB, (1, int(starts[-1])), generator=torch.Generator().manual_seed(0))
    return ids, Layout(starts, 72, torch.tensor([True] * len(LENGTHS) + [False]))


@pytest.mark.parametrize('model_type', CONFIGS)
def test_a_text_of_a_flat_row_is_computed_as_alone(model_type):
    trunk = make_encoder(model_type)
    ids, layout = flat_row()
    hidden = trunk(ids, layout)
    assert hidden.shape == (1, sum(LENGTHS) + 9, 16)
    for start, length in zip(layout.starts.tolist(), LENGTHS):
        if length:
            alone = trunk.model(input_ids=ids[:, start : start + length]).last_hidden_state
            torch.testing.assert_close(hidden[:, start : start + length], alone, rtol=1e-10, atol=1e-10)
    assert not hidden[0, sum(LENGTHS) :].any()
    first, last = trunk(ids, layout, layers=[1])
    assert torch.equal(last, hidden)
    trunk.keep_layers(1)
    torch.testing.assert_close(trunk(ids, layout), first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('model_type', CONFIGS)
def test_every_weight_is_of_a_layer_or_below_and_learns(model_type):
    trunk = make_encoder(model_type)
    trunk(*flat_row()).square().sum().backward()
    assert [name for name, parameter in trunk.named_parameters() if parameter.grad is None] == []
    parts = Freezing(trunk, 'bottom:1').at(0)
    frozen = {id(parameter) for part in parts for parameter in part.parameters()}
    rest = {name for name, parameter in trunk.named_parameters() if id(parameter) not in frozen}
    # ALBERT's layers are one, so nothing is left of it.
    assert (rest == set()) == (model_type == 'albert')
    assert all('.layer.1.' in name for name in rest)
    assert trunk.of_vocabulary <= {name for name, _ in trunk.named_parameters()}
    LoRA(rank=2).attach(trunk)
    adapted = [name for name, part in trunk.named_modules() if isinstance(part, LowRankLinear)]
    assert adapted
    assert all(name.startswith('model.') for name in adapted)


def test_what_follows_the_first_separator_is_of_the_second_type():
    trunk = make_encoder('bert', separator=3)
    ids = torch.tensor([[2, 7, 8, 3, 9, 3, 10, 3]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    expected = trunk.model(input_ids=ids, token_type_ids=types).last_hidden_state
    torch.testing.assert_close(trunk(ids), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(make_encoder('bert')(ids), expected)


def test_the_positions_of_roberta_begin_behind_that_of_padding():
    trunk = make_encoder('roberta')
    ids = torch.randint(4, N_VOCAB, (2, 7))
    torch.testing.assert_close(trunk(ids), trunk.model(input_ids=ids).last_hidden_state, rtol=0, atol=1e-12)
    assert trunk.n_positions == 80 - 2


def test_a_row_of_padding_alone_has_a_shape():
    layout = Layout(torch.tensor([0, 6]), 6, torch.tensor([False]))
    assert make_encoder('bert')(torch.zeros(1, 6, dtype=torch.long), layout).shape == (1, 6, 16)


@pytest.mark.parametrize(
    ('model_type', 'change', 'message'),
    [
        ('gpt2', {}, r"model_type is 'gpt2'; what can be used is bert, "),
        ('bert', {'config': {'auto_map': 'x'}}, r"trunk\.config has 'auto_map', which is no setting of bert; it has"),
        ('bert', {'config': {'hidden_act': 'evil'}}, r'none that a BertModel of transformers is built from'),
        ('bert', {'config': {'hidden_size': 15}}, r'none that a BertModel'),
        ('bert', {'max_len': 81}, r'data\.max_len is 81, but this bert has positions for 80 tokens'),
        ('roberta', {'max_len': 79}, 'positions for 78 tokens'),
        ('bert', {'causal': True}, r'trunk\.causal is true'),
    ],
)
def test_what_cannot_be_built_is_refused(model_type, change, message):
    options = {'max_len': 10, **change}
    config = {**CONFIGS.get(model_type, {}), **options.pop('config', {})}
    with pytest.raises(SettingsError, match=message):
        HuggingFaceEncoder(N_VOCAB, model_type=model_type, config=config, **options)


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match='81 tokens needs more positions than the 80'):
        make_encoder('bert')(torch.zeros(1, 81, dtype=torch.long))


def test_adapters_are_a_setting():
    made = make_encoder('bert', adapters=functools.partial(LoRA, rank=2, layers=['*.query']))
    assert {name.rpartition('.')[2] for name, one in made.named_parameters() if one.requires_grad} == {
        'lora_a',
        'lora_b',
    }
