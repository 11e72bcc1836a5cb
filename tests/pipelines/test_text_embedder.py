"""Texts -> vectors from a file: in order, whatever the batches; cut, prompts, types; what is refused before work."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from bert_folders import change_json, write_folder

from xlabml import checkpoints, settings
from xlabml.conversion import import_folder
from xlabml.heads import LanguageModel
from xlabml.heads.loading import describe_head
from xlabml.pipelines import Calibration, TextEmbedder
from xlabml.pipelines import embedder as module

WORDS = [
    'The',
    'Quick',
    'brown',
    'fox',
    'jumps',
    'over',
    'the',
    'lazy',
    'dog',
    'été',
    'naïve',
    '世界',
    '12,345',
    'cat',
    'sat',
    'mat',
    'fun',
    'yes',
]


def make_texts(n, seed=0):
    draw = np.random.default_rng(seed)
    return [' '.join(draw.choice(WORDS, draw.integers(1, 7))) for _ in range(n)]


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    """A text encoder with prompts that are not pooled."""
    path = tmp_path_factory.mktemp('embedder')
    folder, _ = write_folder(path / 'folder')
    change_json(folder / '1_Pooling' / 'config.json', include_prompt=False)
    return import_folder(folder, path / 'e.safetensors').export.path


@pytest.fixture
def embedder(ckpt):
    return TextEmbedder.load(ckpt, 'cpu')


TEXTS = make_texts(60)


def test_vectors_come_in_order_and_do_not_depend_on_batches_or_neighbours(embedder, monkeypatch):
    alone = np.stack([embedder.encode(text) for text in TEXTS])
    assert alone.shape == (60, 16)
    assert alone.dtype == np.float32
    for batch_tokens in (1, 37, 100_000):
        np.testing.assert_allclose(embedder.encode(TEXTS, batch_tokens=batch_tokens), alone, rtol=0, atol=1e-6)
    monkeypatch.setattr(module, 'CHUNK', 7)
    np.testing.assert_allclose(embedder.encode(TEXTS), alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(TEXTS[::-1])[::-1], alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-6)
    tensor = embedder.encode(TEXTS, as_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), alone, rtol=0, atol=1e-6)
    assert embedder.encode([]).shape == (0, 16)


def test_vectors_are_those_of_the_network(embedder):
    ids = [2, *embedder.tokenizer.encode('The fox'), 3]
    with torch.inference_mode():
        expected = embedder.model(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(embedder.encode('The fox'), expected, rtol=0, atol=1e-6)


def test_a_prompt_goes_before_the_text_and_is_not_pooled(embedder):
    prompt = embedder.tokenizer.encode('query: ')
    ids = torch.tensor([[2, *prompt, *embedder.tokenizer.encode('The fox'), 3]])
    with torch.inference_mode():
        pooled = embedder.model.trunk(ids)[0, 1 + len(prompt) :].mean(0)
    expected = torch.nn.functional.normalize(pooled, dim=0).numpy()
    np.testing.assert_allclose(embedder.encode('The fox', prompt='query'), expected, rtol=0, atol=1e-6)


def test_vectors_are_cut_before_they_are_brought_to_length_one(embedder):
    whole = embedder.encode(TEXTS, normalize=False)
    assert (np.abs(np.linalg.norm(whole, axis=1) - 1) > 0.01).all()
    cut = embedder.encode(TEXTS, truncate_dim=4)
    np.testing.assert_allclose(cut, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(embedder.encode(TEXTS, truncate_dim=4, normalize=False), whole[:, :4], atol=1e-6)


def test_long_texts_are_cut_and_counted(embedder):
    long = 'fox ' * 40
    with pytest.warns(UserWarning, match=r'2 of 3 texts \(66\.7%\) were cut at 20 tokens'):
        vectors = embedder.encode([long, 'fox', long + 'cat'])
    assert embedder.cut == (3, 2, 20)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        embedder.encode('fox')
    assert embedder.cut.n_cut == 0


@pytest.mark.parametrize(('dtype', 'columns', 'kind'), [
    ('float16', 16, np.float16), ('int8', 16, np.int8), ('binary', 2, np.uint8),
])  # fmt: skip
def test_types_of_vectors(embedder, dtype, columns, kind):
    calibration = None if dtype == 'float16' else Calibration.fit(embedder.encode(make_texts(200, seed=1)))
    found = embedder.encode(TEXTS, dtype=dtype, calibration=calibration)
    assert (found.shape, found.dtype) == ((60, columns), kind)


def test_several_processes_make_the_same_vectors(ckpt, tmp_path):
    # Not in this process: its modules are checked by the test suite, those of new ones are not.
    script = tmp_path / 'several.py'
    script.write_text(
        'import sys, numpy as np\n'
        'from xlabml.pipelines import TextEmbedder, embedder\n'
        'if __name__ == "__main__":\n'
        '    embedder.CHUNK = 4\n'
        '    texts = sys.argv[2:]\n'
        '    made = TextEmbedder.load(sys.argv[1], "cpu")\n'
        '    one, two = made.encode(texts), made.encode(texts, n_processes=2)\n'
        '    assert len(texts) == 30 and np.abs(one - two).max() < 1e-6, np.abs(one - two).max()\n'
    )
    done = subprocess.run(
        [sys.executable, str(script), str(ckpt), *TEXTS[:30]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


REFUSALS = {
    'text 1 is empty': (['a', ' \n'], {}),
    "no prompt 'document'; its prompts are: query": (['a'], {'prompt': 'document'}),
    'truncate_dim is 17; give 1 to 16': (['a'], {'truncate_dim': 17}),
    'batch_tokens is 0': (['a'], {'batch_tokens': 0}),
    'n_processes is 0': (['a'], {'n_processes': 0}),
    'int8 vectors need a calibration': (['a'], {'dtype': 'int8'}),
}


@pytest.mark.parametrize('message', REFUSALS)
def test_refusals(embedder, message):
    texts, options = REFUSALS[message]
    with pytest.raises(ValueError, match=message):
        embedder.encode(texts, **options)


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match='text 1 is a int; give strings'):
        module.check_texts(['a', 3])


def test_a_zero_vector_is_refused_by_the_number_of_its_text(embedder, monkeypatch):
    monkeypatch.setattr(module, 'CHUNK', 2)
    vectors = embedder.model.vectors

    def spoil(ids, layout, n_prompt):
        return vectors(ids, layout, n_prompt) * (layout.starts.diff() < 6)[:, None]

    embedder.model.vectors = spoil
    with pytest.raises(ValueError, match='the vector of text 3 is zero'):
        embedder.encode(['fox', 'cat', 'cat', 'The Quick brown fox jumps over'])


def test_a_checkpoint_of_another_task_is_refused(tmp_path, embedder):
    part = describe_head(LanguageModel, {'n_vocab': 20, 'max_len': 8})
    path = tmp_path / 'lm.ckpt'
    checkpoints.write(
        {
            'state_dict': {'network.trunk.embedding.weight': torch.ones(20, 4)},
            'hyper_parameters': {'_class_path': 'xlabml.models.XLabModel'},
            'network': part.settings(),
            'XLabDataModule': {'tokenizer': torch.frombuffer(bytearray(embedder.tokenizer.data), dtype=torch.uint8)},
            'global_step': 1,
        },
        path,
    )
    with pytest.raises(
        ValueError, match=r'lm\.ckpt holds a xlabml\.models\.XLabModel, which makes no vectors of texts'
    ):
        TextEmbedder.load(path, 'cpu')
    with pytest.raises(FileNotFoundError):
        TextEmbedder.load(tmp_path / 'nowhere.ckpt', 'cpu')
    assert settings.find_class('xlabml.heads.TextEncoder')


def test_the_first_layers_alone_embed(ckpt, embedder):
    shallow = TextEmbedder.load(ckpt, 'cpu', n_layers=1)
    n_layers = embedder.model.trunk.n_layers
    assert len(shallow.model.list_blocks()) == 1 < n_layers
    ids = torch.tensor([[1, *embedder.tokenizer.encode('lazy dog'), 2]])
    np.testing.assert_allclose(shallow.model(ids), embedder.model(ids, layers=(1,))[0], atol=1e-6)
    with pytest.raises(ValueError, match=f'n_layers is {n_layers + 1}; give 1 to {n_layers}'):
        TextEmbedder.load(ckpt, 'cpu', n_layers=n_layers + 1)
