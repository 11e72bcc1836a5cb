"""Token vectors in place of an encoder: fitted as defined, saved, and used as an encoder is."""

import numpy as np
import pytest
import torch
from bert_folders import write_folder

from xlabml.commands.infer import main as infer
from xlabml.commands.manage import main
from xlabml.conversion import import_folder
from xlabml.errors import DataError, RequestError
from xlabml.heads import StaticEncoder
from xlabml.pipelines import TextEmbedder
from xlabml.pipelines.distilling import Bags, alone, distill, principal_axes, sif_weights, solve

WORDS = ['the', 'quick', 'brown', 'fox', 'jumps', 'lazy', 'dog', 'cat', 'sat', 'on', 'mat', 'fun', 'yes', 'ran', 'not']


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp('distilling')
    folder, _ = write_folder(path / 'folder')
    return str(import_folder(folder, path / 'e.safetensors').export.path)


@pytest.fixture(scope='module')
def embedder(ckpt):
    return TextEmbedder.load(ckpt, 'cpu')


def dense(bags):
    return bags.product(torch.eye(bags.n_vocab))


def make_texts(n):
    draw = np.random.default_rng(0)
    return [' '.join(draw.choice(WORDS, draw.integers(1, 9))) for _ in range(n)]


def test_a_vector_is_the_mean_of_those_of_the_tokens(embedder):
    network = StaticEncoder(len(embedder.tokenizer), 4, 5, normalize=False)
    network.table.data = torch.randn(len(embedder.tokenizer), 5, generator=torch.Generator().manual_seed(0))
    static = TextEmbedder(network.eval().requires_grad_(False), embedder.tokenizer)
    texts = ['the dog', 'cat sat on the mat with a fox', 'yes']
    with pytest.warns(UserWarning, match='1 of 3 texts .* were cut at 4 tokens'):
        found = static.encode(texts)
    for text, vector in zip(texts, found):
        ids = embedder.tokenizer.encode(text)[:4]
        np.testing.assert_allclose(vector, network.table[ids].mean(dim=0), atol=1e-6)
    flat = torch.tensor([[3, 4, 5, 6]])
    torch.testing.assert_close(network(flat), network.table[3:7].mean(dim=0)[None])
    unit = StaticEncoder(8, 4, 5)
    unit.table.data.fill_(2.0)
    torch.testing.assert_close(unit(flat).norm(dim=1), torch.ones(1))


def test_the_table_is_the_least_squares_solution(embedder):
    texts = make_texts(60)
    bags = Bags.of(embedder, texts, 6)
    shares = np.zeros((60, len(embedder.tokenizer)))
    for row, ids in enumerate(embedder.tokenizer.encode(texts)):
        for id in ids[:6]:
            shares[row, id] += 1 / len(ids[:6])
    np.testing.assert_allclose(dense(bags), shares, atol=1e-6)
    counts = (shares * np.array([len(ids[:6]) for ids in embedder.tokenizer.encode(texts)])[:, None]).sum(axis=0)
    np.testing.assert_allclose(bags.counts(), counts, atol=1e-4)
    np.testing.assert_allclose(sif_weights(bags.counts()), 1e-3 / (1e-3 + counts / counts.sum()), rtol=1e-4)
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(60, 3, generator=draw)
    prior = torch.randn(len(embedder.tokenizer), 3, generator=draw)
    for ridge in (1.0, 1e-2):
        square = shares.T @ shares + ridge * np.eye(shares.shape[1])
        exact = np.linalg.solve(square, shares.T @ target.numpy() + ridge * prior.numpy())
        np.testing.assert_allclose(solve(bags, target, prior, ridge, n_steps=60), exact, atol=1e-3)
    np.testing.assert_allclose(dense(bags.pick(torch.arange(60) < 7)), shares[:7], atol=1e-6)


def test_axes_keep_the_most_of_products():
    draw = np.random.default_rng(0)
    vectors = torch.tensor((draw.normal(size=(50, 6)) * [4, 1, 3, 0.1, 0.1, 0.1]), dtype=torch.float32)
    axes, kept = principal_axes(vectors, 3)
    left = np.linalg.svd(vectors.numpy())[1] ** 2
    assert kept == pytest.approx(left[:3].sum() / left.sum(), abs=1e-5)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(3), atol=1e-5, rtol=0)
    assert (vectors @ axes).square().sum() / vectors.square().sum() == pytest.approx(kept, abs=1e-5)


def test_tokens_alone_are_what_the_encoder_makes_of_them(embedder):
    found = alone(embedder)
    tokenizer = embedder.tokenizer
    for word in ('dog', 'fox'):
        (id,) = tokenizer.encode(word)
        np.testing.assert_allclose(found[id], embedder.encode(word), atol=1e-5)
    assert not found[tokenizer.reserved_ids].any()


def test_a_fitted_table_is_nearer_than_tokens_alone(embedder):
    texts = make_texts(300)
    made = distill(embedder, texts)
    assert made.cosine > made.prior_cosine + 0.002
    assert (made.n_texts, made.n_held_out) == (300, 30)
    again = TextEmbedder(made.network, embedder.tokenizer).encode(texts)
    assert (again * embedder.encode(texts)).sum(axis=1).mean() > made.cosine - 0.01
    small = distill(embedder, texts, d_vector=4)
    assert small.network.table.shape == (len(embedder.tokenizer), 4)
    assert 0.5 < small.kept < made.kept + 1e-6
    with pytest.raises(DataError, match='3 texts are too few'):
        distill(embedder, texts[:3])
    with pytest.raises(RequestError, match='d_vector is 17; give 1 to 16'):
        distill(embedder, texts, 17)
    with pytest.raises(RequestError, match='holds token vectors already'):
        distill(TextEmbedder(made.network, embedder.tokenizer), texts)


def test_the_file_embeds_and_searches(ckpt, embedder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XLABML_CACHE', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    texts = list(dict.fromkeys(make_texts(200)))
    (tmp_path / 'c.csv').write_text('a,b\n' + ''.join(f'{text},{text} yes\n' for text in texts), 'utf-8')
    command = ['distill', ckpt, 'c.csv', '--column', 'a', 'b', '--dim', '8', '--output', 's.safetensors']
    assert main(command) == 0
    assert 'token vectors of 8, which keep' in capsys.readouterr().out
    assert main(command) == 2
    assert 's.safetensors is there already' in capsys.readouterr().err
    static = TextEmbedder.load('s.safetensors', 'cpu')
    expected = distill(embedder, [*texts, *(f'{text} yes' for text in texts)], 8).network.table
    torch.testing.assert_close(static.model.table, expected)
    (tmp_path / 'c.txt').write_text('\n'.join(texts) + '\n', 'utf-8')
    assert infer(['s.safetensors', '--embed', 'c.txt', '--output', 'v.npy']) == 0
    vectors = np.load('v.npy')
    np.testing.assert_allclose(vectors, static.encode(texts), atol=1e-6)
    capsys.readouterr()
    assert infer(['s.safetensors', '--search', 'c.txt', 'lazy dog', '--results', '1']) == 0
    best = int((vectors @ static.encode('lazy dog')).argmax())
    assert capsys.readouterr().out.split('  ')[1] == str(best)
    assert main(['distill', 's.safetensors', 'c.txt', '--output', 't.safetensors']) == 2
    assert 'holds token vectors already' in capsys.readouterr().err
