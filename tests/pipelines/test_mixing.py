"""A language model mixed with n-grams: what it generates, and when its gate is fitted."""

import numpy as np
import pytest
import torch
from test_generator import N_VOCAB, TEXTS, write_checkpoint

from xlabml import checkpoints
from xlabml.errors import RequestError, SettingsError
from xlabml.ngram import Documents, Gate, KneserNey, Mixture, count_ngrams, open_ngrams
from xlabml.pipelines import TextGenerator
from xlabml.pipelines.mixing import Mixing
from xlabml.tokenizer import train_tokenizer

TEXT = 'pack my box with five dozen liquor jugs. '


def documents_of(tokenizer, texts):
    ids = [np.array(tokenizer.encode(text)) for text in texts]
    return Documents(ids, len(tokenizer), tokenizer.special_ids['sos'], tokenizer.special_ids['eos'], tokenizer.hash)


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    tokenizer = train_tokenizer(TEXTS, folder / 't.model', N_VOCAB)
    write_checkpoint(folder / 'a.ckpt', tokenizer)
    documents = documents_of(tokenizer, [TEXT] * 30)
    count_ngrams(documents, folder / 'grams', held_out=[documents.ids[0]] * 2)
    return folder / 'a.ckpt'


@pytest.fixture(scope='module')
def grams(ckpt):
    return ckpt.parent / 'grams'


@pytest.fixture(scope='module')
def mixed(ckpt, grams):
    """The generator, and what it said when it was mixed."""
    generator = TextGenerator.load(ckpt, 'cpu')
    said = []
    generator.mix_with([grams], 'a.ckpt', said.append)
    return generator, said


def test_a_model_that_knows_nothing_continues_counted_texts(mixed, ckpt):
    generator, _ = mixed
    assert generator.generate('pack my', n_tokens=40, greedy=True) == TEXT.removeprefix('pack my')
    assert generator.beam('pack my', n_tokens=40, width=2) == TEXT.removeprefix('pack my')
    assert TextGenerator.load(ckpt, 'cpu').generate('pack my', n_tokens=40, greedy=True) != TEXT.removeprefix('pack my')


def test_texts_of_a_batch_are_mixed_apart(mixed):
    generator, _ = mixed
    prompts = ['pack my', 'pack my box with five', 'the']
    alone = [generator.generate(prompt, n_tokens=5, greedy=True) for prompt in prompts]
    assert generator.generate(prompts, n_tokens=5, greedy=True) == alone


def test_the_gate_is_fitted_once_and_kept_for_each_model(mixed, ckpt, grams, tmp_path):
    _, said = mixed
    assert len(said) == 1
    assert 'gate fitted on' in said[0]
    exported = checkpoints.export(ckpt, tmp_path / 'e.safetensors').path
    TextGenerator.load(exported, 'cpu').mix_with([grams], 'e', said.append)
    assert len(said) == 1
    another = TextGenerator.load(ckpt, 'cpu')
    another.name = 'another'
    another.mix_with([grams], 'a.ckpt', said.append)
    assert len(said) == 2


def test_the_mixed_distribution_is_the_weighted_mean(grams):
    ngrams = KneserNey(open_ngrams(grams))
    half = Mixture(ngrams, Gate(np.zeros(Gate.n_features(5)), 0.1, 1))
    logits = torch.randn(2, N_VOCAB, generator=torch.Generator().manual_seed(0))
    rows = [[1, 20, 21], [1]]
    found = Mixing([half, half])(logits, rows).exp()
    own = logits.softmax(1)
    for i, row in enumerate(rows):
        expected = own[i] / 4 + 0.75 * torch.from_numpy(ngrams.next(row).probabilities).float()
        torch.testing.assert_close(found[i], expected)
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_refusals_name_the_folder_and_what_to_do(ckpt, tmp_path):
    generator = TextGenerator.load(ckpt, 'cpu')
    documents = documents_of(generator.tokenizer, [TEXT] * 3)
    count_ngrams(documents, tmp_path / 'alone')
    with pytest.raises(RequestError, match='alone holds no text that was held out'):
        generator.mix_with([tmp_path / 'alone'], 'a.ckpt', print)
    count_ngrams(documents._replace(tokenizer='theirs'), tmp_path / 'other')
    with pytest.raises(SettingsError, match=r'other was counted with another tokenizer than that of a\.ckpt'):
        generator.mix_with([tmp_path / 'other'], 'a.ckpt', print)
