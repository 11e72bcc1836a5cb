"""Values and gradients equal those of sentence-transformers in float64, for every loss that both have."""

from types import SimpleNamespace

import pytest
import torch
from grouped_views import columns_of, random_views

from xlabml import losses

pytest.importorskip('sentence_transformers', reason='needs sentence-transformers (pip install sentence-transformers)')

from sentence_transformers import util
from sentence_transformers.base.modules import Transformer
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


@pytest.mark.parametrize('relative', [False, True])
@pytest.mark.parametrize('margin', [0.0, 0.1, -0.1])
@pytest.mark.parametrize('n_negatives', [0, 1])
def test_guided_info_nce(n_negatives, relative, margin, monkeypatch):
    views = random_views(n_examples=8, n_negatives=n_negatives, guide=4)
    has_pairs = not n_negatives  # theirs compares positives with positives, ours with all documents: equal without
    # Its constructor wants tokenizers, which the loss itself does not: the vectors are handed over in their place.
    oracle = theirs.GISTEmbedLoss.__new__(theirs.GISTEmbedLoss)
    torch.nn.Module.__init__(oracle)
    oracle.__dict__.update(
        model='model', guide='guide', temperature=0.05, margin=margin, must_retokenize=False, contrast_anchors=True,
        contrast_positives=has_pairs, gather_across_devices=False, similarity_fct=torch.nn.CosineSimilarity(dim=-1),
        margin_strategy='relative' if relative else 'absolute', cross_entropy_loss=torch.nn.CrossEntropyLoss(),
    )  # fmt: skip
    found = {'model': columns_of(views), 'guide': columns_of(views._replace(vectors=views.guide))}
    monkeypatch.setattr(
        'sentence_transformers.sentence_transformer.losses.gist_embed.embed_columns',
        lambda model, features: found[model],
    )
    oracle.compute_loss_from_embeddings = lambda embeddings, labels: oracle([{}] * (2 + n_negatives), labels)
    directions = ['q2d', 'q2q', *(['d2d'] if has_pairs else [])]
    ours = losses.InfoNCE(directions=directions, guide_margin=margin, guide_relative=relative)
    assert_equal(ours, views, oracle)


def scores_of(views, least_role=1):
    """Scores by column, without the anchors'."""
    return torch.stack(columns_of(views._replace(vectors=views.score[:, None])), 1)[:, least_role:, 0]


@pytest.mark.parametrize('d', [6, 7])
@pytest.mark.parametrize('name', ['CosineScore', 'CoSENT', 'AnglE'])
def test_pairs_with_scores(name, d):
    views = random_views(n_examples=9, d=d, score=True)
    views = views._replace(score=views.score.mul(4).round().div(4))  # some are equal
    oracle = {
        'CosineScore': theirs.CosineSimilarityLoss(None),
        'CoSENT': theirs.CoSENTLoss(None),
        'AnglE': theirs.AnglELoss(None),
    }[name]
    assert_equal(getattr(losses, name)(), views, oracle, scores_of(views)[:, 0])


@pytest.mark.parametrize('margin', [0.5, 3.0])
@pytest.mark.parametrize('distance', ['cosine', 'euclidean', 'manhattan'])
@pytest.mark.parametrize('labels', ['both', 'ones', 'zeros'])
def test_pairs_with_labels(distance, margin, labels):
    views = random_views(n_examples=9, label=2)
    views = views._replace(label={'both': views.label, 'ones': views.label * 0 + 1, 'zeros': views.label * 0}[labels])
    metric = theirs.SiameseDistanceMetric.COSINE_DISTANCE
    if distance != 'cosine':  # theirs adds 1e-6 to each difference, against NaN at 0

        def metric(x, y):
            return (x - y).norm(p=2 if distance == 'euclidean' else 1, dim=-1)

    assert_equal(losses.Contrastive(distance, margin), views, theirs.ContrastiveLoss(None, metric, margin), views.label)
    hard = theirs.OnlineContrastiveLoss(None, metric, margin)
    assert_equal(losses.OnlineContrastive(distance, margin), views, hard, views.label, times=9)


class Identity(torch.nn.Module):
    """A model whose texts are their vectors already."""

    def forward(self, features):
        return {'sentence_embedding': features['x']}

    def get_embedding_dimension(self):
        return 8


class Whole:
    """A loss that is to be had with its model only, of vectors."""

    def __init__(self, loss):
        self.loss = loss

    def compute_loss_from_embeddings(self, embeddings, labels):
        return self.loss([{'x': column} for column in embeddings], labels)


def test_contrastive_tension():
    views = random_views(n_examples=9, label=2)
    oracle = Whole(theirs.ContrastiveTensionLoss(Identity()))
    assert_equal(losses.ContrastiveTension(), views, oracle, views.label, times=9)


@pytest.mark.parametrize('parts', [(True, True, False), (True, True, True), (False, True, False), (False, False, True)])
def test_softmax_nli(parts, monkeypatch):
    views = random_views(n_examples=9, label=3)
    ours = losses.SoftmaxNLI(6, 3, *parts).double()
    oracle = theirs.SoftmaxLoss(SimpleNamespace(device='cpu'), 6, 3, *parts)
    oracle.classifier = ours.classifier
    monkeypatch.setattr(
        'sentence_transformers.sentence_transformer.losses.softmax.embed_columns',
        lambda _, columns: [c['x'] for c in columns],
    )
    assert_equal(ours, views, Whole(oracle), views.label)


TRIPLET = {'cosine': 'COSINE', 'euclidean': 'EUCLIDEAN', 'manhattan': 'MANHATTAN'}


@pytest.mark.parametrize('margin', [0.3, 5.0])
@pytest.mark.parametrize('distance', TRIPLET)
def test_triplets(distance, margin):
    oracle = theirs.TripletLoss(None, getattr(theirs.TripletDistanceMetric, TRIPLET[distance]), margin)
    assert_equal(losses.Triplet(distance, margin), random_views(n_negatives=1), oracle)


MINED = {
    'all': (losses.BatchAllTriplet, theirs.BatchAllTripletLoss),
    'hard': (losses.BatchHardTriplet, theirs.BatchHardTripletLoss),
    'semi-hard': (losses.SemiHardTriplet, theirs.BatchSemiHardTripletLoss),
}


@pytest.mark.parametrize('margin', [0.3, 5.0])
@pytest.mark.parametrize('distance', ['cosine', 'euclidean'])
@pytest.mark.parametrize('name', MINED)
@pytest.mark.parametrize('seed', range(3))
def test_triplets_mined_from_classes(name, distance, margin, seed):
    views = random_views(n_examples=12, has_positive=False, label=4, seed=seed)
    ours, oracle = MINED[name]
    metric = getattr(theirs.BatchHardTripletLossDistanceFunction, f'{distance}_distance')
    assert_equal(ours(distance, margin), views, oracle(None, metric, margin), views.label)


@pytest.mark.parametrize('distance', ['cosine', 'euclidean'])
def test_soft_margin(distance):
    views = random_views(n_examples=12, has_positive=False, label=4)
    metric = getattr(theirs.BatchHardTripletLossDistanceFunction, f'{distance}_distance')
    oracle = theirs.BatchHardSoftMarginTripletLoss(None, metric)
    assert_equal(losses.BatchHardTriplet(distance, margin=None), views, oracle, views.label)


def test_mega_batch_margin():
    oracle = theirs.MegaBatchMarginLoss(None, use_mini_batched_version=False)
    oracle.compute_loss_from_embeddings = lambda columns, labels: oracle.calculate_loss([[x] for x in columns])
    assert_equal(losses.MegaBatchMargin(), random_views(n_examples=20), oracle)


@pytest.mark.parametrize('similarity', ['cosine', 'dot'])
@pytest.mark.parametrize('n_negatives', [1, 3])
def test_scores_of_a_teacher(similarity, n_negatives):
    views = random_views(n_negatives=n_negatives, score=True)
    function = util.pairwise_cos_sim if similarity == 'cosine' else util.pairwise_dot_score
    labels = scores_of(views)
    assert_equal(losses.MarginMSE(similarity), views, theirs.MarginMSELoss(None, function), labels)
    oracle = theirs.DistillKLDivLoss(None, function, student_temperature=0.5, teacher_temperature=0.1)
    assert_equal(losses.KLDistillation(similarity, 0.5, 0.1), views, oracle, labels)


@pytest.mark.parametrize('distance', ['mse', 'euclidean', 'cosine'])
@pytest.mark.parametrize('has_layer', [False, True])
def test_vectors_of_a_teacher(distance, has_layer):
    views = random_views(n_negatives=1, teacher=4 if has_layer else 6)
    ours = losses.VectorDistillation(distance, *((6, 4) if has_layer else ())).double()
    oracle = theirs.EmbedDistillLoss(None, 'l2' if distance == 'euclidean' else distance)
    oracle.projection = ours.projection
    assert_equal(ours, views, oracle, columns_of(views._replace(vectors=views.teacher)))


def test_matryoshka():
    model = Identity()
    loss = theirs.MultipleNegativesRankingLoss(model, similarity_fct=util.dot_score)
    inner = loss.compute_loss_from_embeddings  # theirs cuts what a model returns, under the hands of the loss
    loss.forward = lambda columns, _: inner([model.forward(column)['sentence_embedding'] for column in columns], None)
    oracle = Whole(theirs.MatryoshkaLoss(model, loss, [8, 4, 2], [1.0, 0.5, 0.25]))
    ours = losses.Matryoshka(lambda: losses.InfoNCE(similarity='dot'), [8, 4, 2], [1.0, 0.5, 0.25])
    assert_equal(ours, random_views(n_negatives=1, d=8), oracle)


class _Layered(Transformer):
    """Stands in for a transformer: the columns of some views, as if each text were one token, for every layer."""

    auto_model = SimpleNamespace(config=SimpleNamespace(output_hidden_states=False))

    def get_embedding_dimension(self):
        return 6

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, features):
        return {**features, 'token_embeddings': features['all_layer_embeddings'][-1]}


class _Pooled(torch.nn.Module):
    def forward(self, features):
        return {**features, 'sentence_embedding': features['token_embeddings']}


@pytest.mark.parametrize(('wrap', 'dims'), [(False, None), (True, (6, 3))])
def test_adaptive_layers(wrap, dims):
    from sentence_transformers import SentenceTransformer

    views = random_views(n_examples=5, n_negatives=1)
    generator = torch.Generator().manual_seed(9)
    layers = torch.randn(3, *views.vectors.shape, generator=generator, dtype=torch.float64).requires_grad_()
    views = views._replace(layers=layers)
    model = SentenceTransformer(modules=[_Layered(), _Pooled()], device='cpu')
    inner = theirs.MultipleNegativesRankingLoss(model)
    objective = losses.InfoNCE
    if wrap:
        inner = theirs.MatryoshkaLoss(model, inner, list(dims))
        objective = lambda: losses.Matryoshka(losses.InfoNCE, dims)  # noqa: E731
    oracle = theirs.AdaptiveLayerLoss(model, inner, n_layers_per_step=-1)
    of_layers = [columns_of(views._replace(vectors=vectors)) for vectors in [*views.layers, views.vectors]]
    features = [{'all_layer_embeddings': list(column)} for column in zip(*of_layers)]
    plain = oracle(features, None)
    ours = losses.AdaptiveLayers(objective)(views).mean()
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)
    for name in ('vectors', 'layers'):
        found, wanted = (
            torch.autograd.grad(value, getattr(views, name), retain_graph=True)[0] for value in (ours, plain)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11)
