"""A guide model beside a task: whose vectors it has, what it leaves out, and what is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from bert_folders import write_folder
from pair_batches import pair_batch

from xlabml import checkpoints
from xlabml.conversion import import_folder
from xlabml.errors import SettingsError
from xlabml.heads import TextEncoder, TokenVectors
from xlabml.losses import InfoNCE, Matryoshka, make_views
from xlabml.models import Embedder
from xlabml.models.guiding import guide_vectors
from xlabml.pipelines import TextEmbedder
from xlabml.pipelines.guide import Guide
from xlabml.tokenizer import Tokenizer, train_tokenizer
from xlabml.transformer import Transformer

GROUPS = [
    ['the lazy dog', 'a dog that is lazy', 'yes'],
    ['the cat', 'cat sat on the mat', 'the brown fox jumps'],
    ['brown fox', 'the quick brown fox', 'fun'],
    ['not fun', 'is it not fun', 'the mat'],
]
PROMPT = 'find this '


@pytest.fixture(scope='module')
def guide(tmp_path_factory):
    """A file with a tokenizer (WordPiece) and prompts of its own."""
    folder, _ = write_folder(tmp_path_factory.mktemp('guide') / 'folder')
    return import_folder(folder, folder.parent / 'guide.safetensors').export.path


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer') / 'tiny.model'
    train_tokenizer([PROMPT, *(text for group in GROUPS for text in group)] * 20, path, 300)
    return Tokenizer.load(path)


def batch_of(tokenizer, groups=GROUPS, prompt='', **options):
    def ids(text):
        return [tokenizer.special_ids['sos'], *tokenizer.encode(prompt), *tokenizer.encode(text), 2]

    n_prompt = len(tokenizer.encode(prompt)) + 1 if prompt else None
    return pair_batch([[ids(text) for text in group] for group in groups], n_prompt=n_prompt, **options)


def make_task(guide, tokenizer, objective):
    torch.manual_seed(0)
    trunk = partial(Transformer, d_model=16, n_layers=1, n_heads=2, d_ff=24, causal=False)
    task = Embedder(len(tokenizer), 64, trunk=trunk, objective=objective, guide=guide and str(guide)).double()
    task.open_files()
    task._tokenizer = tokenizer
    return task


@pytest.mark.parametrize('prompt', ['', PROMPT])
def test_the_guide_reads_each_text_with_its_own_tokenizer_and_prompts(guide, tokenizer, prompt):
    found = guide_vectors(Guide(guide), batch_of(tokenizer, prompt=prompt), tokenizer)
    embedder = TextEmbedder.load(guide, 'cpu')
    assert 'query' in embedder.model.prompts
    wanted = [
        embedder.encode(group[i], 'query' if i == 0 else ('document' if 'document' in embedder.model.prompts else None))
        for group in GROUPS
        for i in range(3)
    ]
    np.testing.assert_allclose(found[:12].numpy(), np.stack(wanted), atol=1e-6)
    assert not np.allclose(wanted[0], embedder.encode(GROUPS[0][0]), atol=1e-3)
    assert (found[12:] == 0).all()
    empty = batch_of(tokenizer)._replace(example=torch.full((14,), -1))
    assert guide_vectors(Guide(guide), empty, tokenizer).shape == (14, 16)  # as wide as that of other ranks


@pytest.mark.parametrize('row_slots', [None, 70])
@pytest.mark.parametrize('wrapped', [False, True])
def test_the_loss_is_that_of_the_guides_vectors_also_in_chunks_and_prefixes(guide, tokenizer, row_slots, wrapped):
    plain = partial(InfoNCE, directions=['q2d', 'q2q'], guide_margin=-0.02)
    objective = partial(Matryoshka, objective=plain, dims=[16, 4]) if wrapped else plain
    task = make_task(guide, tokenizer, objective)
    whole = batch_of(tokenizer)
    views = make_views(task.embed(whole), whole, guide=guide_vectors(Guide(guide), whole, tokenizer))
    sums = task.loss(batch_of(tokenizer, row_slots=row_slots))
    torch.testing.assert_close(sums.objective, objective()(views).sum(), rtol=1e-9, atol=0)
    itself = make_task(None, tokenizer, objective).loss(whole)
    assert sums.objective > 0.1
    assert abs(itself.objective.item() - sums.objective.item()) > 1e-3  # its own vectors leave others out


def test_its_weights_are_neither_trained_nor_saved(guide, tokenizer):
    task = make_task(guide, tokenizer, partial(InfoNCE, guide_margin=0.0))
    plain = make_task(None, tokenizer, InfoNCE)
    assert list(task.state_dict()) == list(plain.state_dict())
    assert len(list(task.parameters())) == len(list(plain.parameters()))
    assert task.facts['guide']['path'] == str(guide)
    assert len(task.facts['guide']['sha256']) == 64
    Embedder(300, 16, objective=partial(InfoNCE, guide_margin=0.0), guide='gone.ckpt')  # as loading a model does


def test_a_guide_that_cannot_be_used_is_refused(guide, tokenizer, tmp_path, monkeypatch):
    guided = partial(InfoNCE, guide_margin=0.0)
    with pytest.raises(SettingsError, match=r'model\.guide is gone\.ckpt, which is not there; give the file'):
        make_task('gone.ckpt', tokenizer, guided)
    with pytest.raises(SettingsError, match=r'which is a folder; give the file'):
        make_task(tmp_path, tokenizer, guided)
    with pytest.raises(SettingsError, match=r'model\.objective does not use it; set guide_margin'):
        make_task(guide, tokenizer, InfoNCE)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, 'load', lambda path: language_model)
        language_model = checkpoints.Contents.of_network(checkpoints.Part('xlabml.heads.LanguageModel', {}), {})
        with pytest.raises(SettingsError, match=r'model\.guide: .* holds a .*, which makes no vectors of texts'):
            Guide(guide)
    pooled = TextEmbedder.load(guide, 'cpu')
    pooled.model.pooling = TokenVectors(16)
    assert isinstance(pooled.model, TextEncoder)
    monkeypatch.setattr(TextEmbedder, 'load', lambda *_: pooled)
    with pytest.raises(SettingsError, match='makes several vectors of a text'):
        Guide(guide)
