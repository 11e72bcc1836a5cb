"""Values and gradients equal those of sentence-transformers in float64, for every loss that both have."""

import pytest
import torch
from grouped_views import columns_of, random_views

from xlabml import losses

pytest.importorskip('sentence_transformers', reason='needs sentence-transformers (pip install sentence-transformers)')

from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses as theirs

DIRECTIONS = {'q2d': 'query_to_doc', 'd2q': 'doc_to_query', 'q2q': 'query_to_query', 'd2d': 'doc_to_doc'}
HARDNESS = {'in_batch': 'in_batch_negatives', 'own': 'hard_negatives', 'all': 'all_negatives'}


def assert_equal(objective, views, oracle, labels=None, times=1.0):
    """The mean over the examples, times a number, is the oracle's value; so are the gradients of all texts."""
    torch.set_default_dtype(torch.float64)
    try:
        ours = objective(views).mean() * times
        plain = oracle.compute_loss_from_embeddings(columns_of(views), labels)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, views.vectors)[0] for value in (ours, plain)), rtol=1e-8, atol=1e-11
    )


@pytest.mark.parametrize('n_negatives', [0, 1, 3])
@pytest.mark.parametrize(
    'directions', [['q2d'], ['q2d', 'd2q'], ['q2d', 'q2q'], ['q2d', 'd2d'], ['q2d', 'd2q', 'q2q', 'd2d']]
)
@pytest.mark.parametrize('hardness', [None, 'in_batch', 'own', 'all'])
def test_info_nce(n_negatives, directions, hardness):
    views = random_views(n_examples=7, n_negatives=n_negatives)
    weights = {} if hardness is None else {'hardness': hardness, 'hardness_strength': 3.0}
    oracle = theirs.MultipleNegativesRankingLoss(
        None,
        directions=tuple(DIRECTIONS[name] for name in directions),
        hardness_mode=None if hardness is None else HARDNESS[hardness],
        hardness_strength=weights.get('hardness_strength', 0.0),
    )
    assert_equal(losses.InfoNCE(directions=directions, **weights), views, oracle)


@pytest.mark.parametrize('similarity', ['cosine', 'dot'])
def test_symmetric_info_nce(similarity):
    function = util.cos_sim if similarity == 'cosine' else util.dot_score
    oracle = theirs.MultipleNegativesRankingLoss(
        None, 2.0, function, directions=('query_to_doc', 'doc_to_query'), partition_mode='per_direction'
    )
    ours = losses.InfoNCE(0.5, similarity=similarity, directions=['q2d', 'd2q'], symmetric=True)
    assert_equal(ours, random_views(n_negatives=1), oracle)
