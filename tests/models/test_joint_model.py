"""A task of two heads: each batch trains what its targets ask for, by passes that attend as they should."""

from functools import partial

import pytest
import torch
from pair_batches import pair_batch, random_groups

from xlabml.batches import IGNORED, Batch, Layout, MaskedTargets, TokenTargets
from xlabml.data import FormatMixture, LabelledTexts, NextTokens
from xlabml.errors import SettingsError
from xlabml.heads import AttentionPooling, Dense, LanguageModel, TextEncoder
from xlabml.heads.loading import network_weights
from xlabml.models import JointModel
from xlabml.models.joint_model import SUMS
from xlabml.transformer import Transformer


def make_model(**options):
    torch.manual_seed(0)
    trunk = partial(Transformer, d_model=16, n_layers=2, n_heads=4, d_ff=24)
    model = JointModel(
        50, 16, trunk=trunk, pooling=AttentionPooling, dense=[partial(Dense, d_out=8)], tied=False, **options
    )
    return model.double()


def token_batch(n_rows, kind=TokenTargets, seed=0):
    """Rows of 12 slots: a text of 7 and one of 3, and padding; every second slot is masked where that is asked."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (n_rows, 12), generator=draw)
    targets = torch.randint(5, 50, (n_rows, 12), generator=draw)
    targets[:, 10:] = IGNORED
    if kind is MaskedTargets:
        targets[:, ::2] = IGNORED
    starts = [12 * row + end for row in range(n_rows) for end in (0, 7, 10)] + [12 * n_rows]
    is_text = torch.tensor([True, True, False] * n_rows)
    documents = torch.where(is_text, torch.arange(len(is_text)), -1)
    return Batch(
        ids,
        Layout(torch.tensor(starts, dtype=torch.int32), 12, is_text),
        documents,
        torch.where(is_text, torch.arange(len(is_text)) // 3, -1),
        torch.zeros_like(documents),
        kind(targets, torch.ones(len(documents), dtype=torch.long)),
        float((targets != IGNORED).sum()),
        0,
    )


def gradients(model, batch):
    model.zero_grad()
    sums = model.loss(batch)
    sums.objective.backward()
    return sums, {name: parameter.grad for name, parameter in model.named_parameters()}


def batch_of(kind):
    return pair_batch(random_groups(4)) if kind == 'groups' else token_batch(3, kind)


@pytest.mark.parametrize('kind', [TokenTargets, MaskedTargets, 'groups'])
def test_every_weight_has_a_gradient_and_every_sum_a_name_in_any_step(kind):
    sums, grads = gradients(make_model(), batch_of(kind))
    assert all(grad is not None for grad in grads.values())
    assert sums.names == [*SUMS, 'count']
    used = {'network.head_weight': kind != 'groups', 'network.pooling.query': kind == 'groups'}
    known = {name: grad for name, grad in grads.items() if name in used}
    assert known
    for name, grad in known.items():
        assert bool(grad.any()) == used[name], name


@pytest.mark.parametrize('kind', [TokenTargets, MaskedTargets])
def test_rows_one_after_the_other_have_the_loss_and_gradient_of_all_at_once(kind):
    model = make_model().train()
    chunks = token_batch(4, kind)
    whole = chunks._replace(
        ids=chunks.ids.view(1, -1),
        targets=chunks.targets._replace(ids=chunks.targets.ids.view(1, -1)),
    )
    one, grads_of_one = gradients(model, whole)
    found, grads = gradients(model, chunks)
    torch.testing.assert_close(found.objective, one.objective)
    assert found.count == one.count == chunks.n_counted
    for name, grad in grads.items():  # the loss over a vocabulary is float32
        torch.testing.assert_close(
            grad,
            grads_of_one[name],
            rtol=1e-4,
            atol=1e-6,  # the loss over a vocabulary is float32
        )


@pytest.mark.parametrize('kind', [TokenTargets, MaskedTargets])
def test_next_tokens_are_predicted_by_causal_passes_and_masked_ones_by_bidirectional_ones(kind):
    model = make_model()
    batch = token_batch(2, kind)
    plain = LanguageModel(
        Transformer(50, 16, d_model=16, n_layers=2, n_heads=4, d_ff=24, causal=kind is TokenTargets, shift_width=3),
        tied=False,
    ).double()
    weights = network_weights(model.state_dict())
    plain.load_state_dict({name: value for name, value in weights.items() if not name.startswith(('pool', 'dense'))})
    wanted = plain(batch.ids, batch.layout, targets=batch.targets.ids)
    torch.testing.assert_close(model.loss(batch).objective.float(), wanted.objective)


def test_texts_are_embedded_by_bidirectional_passes():
    model = make_model()
    bidirectional = Transformer(50, 16, d_model=16, n_layers=2, n_heads=4, d_ff=24, causal=False, shift_width=3)
    encoder = TextEncoder(bidirectional, AttentionPooling(16), [Dense(16, 8)]).double()
    weights = network_weights(model.state_dict())
    encoder.load_state_dict({name: value for name, value in weights.items() if not name.startswith('head')})
    ids = torch.randint(5, 50, (3, 6))
    torch.testing.assert_close(model.network(ids, vectors=True), encoder(ids))
    torch.testing.assert_close(model.network.text_encoder(ids), encoder(ids))
    assert {id(p) for p in model.network.text_encoder.parameters()} <= {id(p) for p in model.network.parameters()}


def test_figures_are_of_the_kinds_that_were_read():
    model = make_model()
    sums = dict.fromkeys(SUMS, 0.0)
    pairs = {**sums, 'embedding_objective': 3.0, 'n_groups': 2.0}
    assert model.figures(pairs) == {'embedding_loss': 1.5, 'loss': 1.5}
    both = model.figures({**pairs, 'nats': 8.0, 'correct': 1.0, 'n_bytes': 16.0, 'n_tokens': 4.0})
    assert both['loss'] == 3.5
    assert both['bits_per_byte'] == pytest.approx(0.5 / 0.6931471805599453)
    assert both['accuracy'] == 0.25


def test_a_format_of_classes_is_refused_by_name():
    mixture = FormatMixture([NextTokens, partial(LabelledTexts, label='topic')])
    with pytest.raises(SettingsError, match='LabelledTexts, which yields ClassTargets, but JointModel trains on Token'):
        JointModel.check_format(mixture)
