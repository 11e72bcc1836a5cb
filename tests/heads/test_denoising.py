"""The denoising autoencoder: what its decoder knows, and that it learns to reconstruct."""

import pytest
import torch
from trunks import N_VOCAB, make_ids, make_trunk

from xlabml.batches import IGNORED, Layout
from xlabml.heads.denoising import DenoisingAutoencoder, split_rows
from xlabml.heads.pooling import MeanPooling
from xlabml.losses import CrossEntropy


def make_network(**options):
    trunk = make_trunk(causal=False, **options)
    return DenoisingAutoencoder(trunk, MeanPooling(16), CrossEntropy())


def make_batch(seed=0):
    """Two texts of 3 and 4 noisy tokens, and of 5 and 6 tokens; rows of 12 slots, the rest is padding."""
    ids = make_ids(24, seed).view(2, 12)
    starts = torch.tensor([0, 3, 7, 12, 17, 23, 24])
    layout = Layout(starts, 6, torch.tensor([True, True, False] * 2))
    targets = torch.full((2, 12), IGNORED)
    targets[1, :4] = ids[1, 1:5]
    targets[1, 5:10] = ids[1, 6:11]
    targets[1, 4] = targets[1, 10] = 2
    return ids, layout, targets


def test_a_text_is_predicted_from_the_vector_of_its_own_noisy_text_and_the_tokens_before():
    network = make_network()
    ids, layout, targets = make_batch()
    nats = network(ids, layout, targets, each=True)
    changed = ids.clone()
    changed[0, 1] = (ids[0, 1] + 1) % N_VOCAB  # of the first noisy text
    moved = (network(changed, layout, targets, each=True) - nats).abs()[1] > 1e-5
    assert moved[:5].all()
    assert not moved[5:].any()
    changed = ids.clone()
    changed[1, 8] = (ids[1, 8] + 1) % N_VOCAB  # the fourth token of the second text
    moved = (network(changed, layout, targets, each=True) - nats).abs()[1] > 1e-5
    assert not moved[:8].any()
    assert moved[8:11].all()
    changed = ids.clone()
    changed[1, [0, 5]] = (ids[1, [0, 5]] + 1) % N_VOCAB  # the start of a text, whose place the vector takes
    assert torch.equal(network(changed, layout, targets, each=True), nats)


def test_sums_are_those_of_each_target():
    network = make_network()
    ids, layout, targets = make_batch()
    sums = network(ids, layout, targets)
    assert sums.count == 11
    torch.testing.assert_close(sums.objective, network(ids, layout, targets, each=True).sum())


def test_without_a_vector_the_first_token_is_its_embedding():
    trunk, ids, layout, _ = make_trunk(), *make_batch()
    _, whole = split_rows(layout, 12)
    vectors = trunk.embedding(ids[1, whole.starts[:-1].clamp(max=11)]) * trunk.scale
    torch.testing.assert_close(trunk(ids[1:], whole, first=vectors), trunk(ids[1:], whole))


def test_the_direction_of_a_pass_may_be_chosen():
    ids = make_ids(9)
    both, left = (make_trunk(causal=causal, shift_width=3) for causal in (False, True))
    assert torch.equal(both(ids, causal=True), left(ids))
    assert torch.equal(left(ids, causal=False), both(ids))


def test_a_tiny_network_learns_to_reconstruct_one_batch():
    torch.manual_seed(0)
    network = make_network().train()
    ids, layout, targets = make_batch()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        sums = network(ids, layout, targets)
        sums.objective.backward()
        optimizer.step()
    assert sums.correct == sums.count


def test_refusals():
    with pytest.raises(ValueError, match=r'model\.trunk\.causal is true, but the encoder reads whole texts'):
        DenoisingAutoencoder(make_trunk(), MeanPooling(16), CrossEntropy())
    trunk = make_trunk()
    with pytest.raises(ValueError, match='it needs a layout'):
        trunk(make_ids(4), first=torch.zeros(1, 16))
