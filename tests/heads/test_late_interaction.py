"""Several vectors a text: pooled as defined, compared as ColBERT compares, trained through the embedder."""

from functools import partial

import pytest
import torch
from pair_batches import pair_batch, random_groups

from xlabml.batches import Layout
from xlabml.heads import TextEncoder, TokenVectors
from xlabml.losses import InfoNCE, LateInteraction, make_views, max_similarity
from xlabml.losses.late_interaction import pair_max_similarity
from xlabml.models import Embedder
from xlabml.transformer import Transformer


def make_texts(n, most=4, d=3, seed=0):
    """Lists of vectors, and the same as rows with zeros behind them."""
    draw = torch.Generator().manual_seed(seed)
    texts = [torch.randn(1 + i % most, d, generator=draw, dtype=torch.float64) for i in range(n)]
    rows = torch.zeros(n, most * d, dtype=torch.float64)
    for row, text in zip(rows, texts):
        row[: text.numel()] = text.flatten()
    return texts, rows


def plain(query, document):
    """ColBERT's sum of maxima, over the number of the query's vectors."""
    total = 0.0
    for q in query:
        total += max(float(q @ d / q.norm() / d.norm()) for d in document)
    return total / len(query)


def test_scores_equal_the_plain_definition():
    queries, query_rows = make_texts(20)
    documents, document_rows = make_texts(7, seed=1)
    expected = torch.tensor([[plain(q, d) for d in documents] for q in queries], dtype=torch.float64)
    torch.testing.assert_close(max_similarity(query_rows, document_rows, 4), expected, rtol=1e-12, atol=1e-12)
    scaled = max_similarity(query_rows, 5 * document_rows, 4)
    torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=1e-12)
    pairs = pair_max_similarity(query_rows[:7], document_rows, 4)
    torch.testing.assert_close(pairs, expected[:7].diagonal(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match='n_vectors is 5, but texts have 12 entries'):
        max_similarity(query_rows, document_rows, 5)


def test_a_text_without_vectors_scores_zero_and_has_no_nan():
    _, rows = make_texts(3)
    rows[1] = 0
    rows.requires_grad_()
    scores = max_similarity(rows, rows, 4)
    assert not scores[1].any()
    assert not scores[:, 1].any()
    scores.sum().backward()
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize(('factor', 'n_vectors'), [(1, 8), (2, 8), (3, 8), (1, 2)])
def test_neighbours_share_a_vector(factor, n_vectors):
    pooling = TokenVectors(5, d_token=3, n_vectors=n_vectors, factor=factor).double()
    lengths = [1, 4, 7, 2]
    hidden = torch.randn(1, sum(lengths), 5, dtype=torch.float64)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    n_skipped = torch.tensor([0, 1, 0, 2])
    layout = Layout(starts, 7, torch.tensor([True, True, True, True]))
    found = pooling(hidden, layout, n_skipped).unflatten(1, (n_vectors, 3))
    for i, (start, end, skipped) in enumerate(zip(starts.tolist(), starts.tolist()[1:], n_skipped.tolist())):
        tokens = pooling.linear(hidden[0, start + skipped : end])
        n_groups = min(n_vectors, -(-len(tokens) // factor))
        groups = [[t for k, t in enumerate(tokens) if k * n_groups // len(tokens) == g] for g in range(n_groups)]
        assert max(map(len, groups), default=0) - min(map(len, groups), default=0) <= 1
        for vector, group in zip(found[i], groups):
            mean = torch.stack(group).mean(dim=0)
            torch.testing.assert_close(vector, mean / mean.norm(), rtol=1e-12, atol=1e-12)
        assert not found[i, n_groups:].any()


def make_embedder(**options):
    torch.manual_seed(0)
    trunk = partial(Transformer, d_model=16, n_layers=1, n_heads=4, d_ff=24, causal=False)
    pooling = partial(TokenVectors, d_token=4, n_vectors=6)
    objective = partial(LateInteraction, n_vectors=6)
    return Embedder(50, 16, trunk=trunk, pooling=pooling, normalize=False, objective=objective, **options).double()


def test_the_objective_is_cross_entropy_over_the_scores():
    model = make_embedder()
    batch = pair_batch(random_groups(6))
    views = make_views(model.embed(batch), batch)
    scores = max_similarity(views.vectors[views.anchors()], views.vectors[views.role > 0], 6) / 0.05
    candidates = (views.role > 0).nonzero()[:, 0].tolist()
    expected = []
    objective = LateInteraction(6, mask_duplicates=False)
    for example in range(views.n_examples):
        own = [i for i, text in enumerate(candidates) if views.example[text] == example and views.role[text] == 1]
        rest = [i for i in range(len(candidates)) if i not in own]
        rows = [-scores[example, [i, *rest]].log_softmax(dim=0)[0] for i in own]
        expected.append(torch.stack(rows).mean())
    torch.testing.assert_close(objective(views), torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_chunks_have_the_gradient_of_one_pass_and_it_learns():
    model = make_embedder()
    groups = random_groups(6)
    found = []
    for batch in (pair_batch(groups), pair_batch(groups, row_slots=20)):
        model.zero_grad()
        model.loss(batch).objective.backward()
        found.append([weight.grad.clone() for weight in model.parameters()])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    batch = pair_batch(groups)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.loss(batch).objective
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 5


def test_one_vector_a_text_is_info_nce():
    batch = pair_batch(random_groups(6))
    vectors = torch.randn(len(batch.role), 4, dtype=torch.float64)
    views = make_views(vectors, batch)
    torch.testing.assert_close(LateInteraction(1)(views), InfoNCE()(views), rtol=1e-10, atol=1e-10)


def test_an_encoder_is_built_and_wrong_sizes_are_refused():
    trunk = partial(Transformer, d_model=16, n_layers=1, n_heads=4)
    encoder = TextEncoder.build(50, 16, trunk, partial(TokenVectors, d_token=4, n_vectors=6))
    assert encoder.d_vector == 24
    assert encoder(torch.randint(4, 50, (2, 5))).shape == (2, 24)
    assert TokenVectors(8, d_token=None, n_vectors=2).d_out == 16
    with pytest.raises(ValueError, match=r'pooling\.factor is 0'):
        TokenVectors(8, factor=0)
    with pytest.raises(ValueError, match='n_vectors is 0'):
        LateInteraction(0)
