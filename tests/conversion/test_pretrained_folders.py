"""Folders of encoders as transformers saves them: read whole or refused by name; the same hidden states."""

import json
import shutil

import pytest
import torch
from bert_folders import change_json
from encoders import CONFIGS, write_encoder
from foreign import mini_lm, sentence_piece
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor

from xlabml.conversion import fetch_folder, import_folder, is_pretrained, read_pretrained
from xlabml.conversion.checking import TEXTS, encode
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import TextEncoder
from xlabml.heads.loading import load_network
from xlabml.tokenizer import Tokenizer

pytest.importorskip('transformers', reason='needs the extra hf')
TEXT = 'The quick brown fox (yes) 12,345'


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp('saved') / 'bert'
    write_encoder(path)
    return path


@pytest.fixture
def folder(saved, tmp_path):
    """A copy whose files a test may change."""
    return shutil.copytree(saved, tmp_path / 'bert')


def open_network(folder):
    contents = read_pretrained(folder)
    return load_network(contents, folder, TextEncoder), Tokenizer.from_bytes(contents.tokenizer_bytes())


@pytest.mark.parametrize('model_type', CONFIGS)
def test_hidden_states_are_those_of_transformers(model_type, tmp_path):
    theirs = write_encoder(tmp_path / 'folder', model_type)
    network, tokenizer = open_network(tmp_path / 'folder')
    ids = torch.tensor([tokenizer.encode_framed(TEXT)])
    assert tokenizer.special_ids['sos'] == ids[0, 0]
    assert tokenizer.special_ids['eos'] == ids[0, -1]
    with torch.no_grad():
        torch.testing.assert_close(network.trunk(ids), theirs(input_ids=ids).last_hidden_state, rtol=0, atol=1e-6)
    assert network.n_vocab == len(tokenizer)
    assert network.max_len == (78 if network.trunk.first_position else 80)


def test_mini_lm_has_the_same_vectors_as_in_our_trunk(tmp_path):
    folder = mini_lm()
    network, tokenizer = open_network(folder)
    ours = import_folder(folder, tmp_path / 'out.safetensors')
    torch.testing.assert_close(
        encode(network, tokenizer, TEXTS), encode(ours.network, ours.tokenizer, TEXTS), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('config.json', r'there is no .*config\.json'),
        ('model.safetensors', r'there is no .*model\.safetensors'),
        ('tokenizer.json', r'no tokenizer in .*; it has no tokenizer\.json'),
    ],
)
def test_a_missing_file_is_named(folder, name, message):
    (folder / name).unlink()
    assert is_pretrained(folder)
    with pytest.raises(FileNotFoundError, match=message):
        read_pretrained(folder)


def test_pickled_weights_are_not_opened(folder):
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    with pytest.raises(FileNotFoundError, match=r'pytorch_model\.bin is\); save the weights as one file of safetens'):
        read_pretrained(folder)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model_type': 'llama'}, r"model_type in .* is 'llama'; what can be used is bert"),
        ({'is_decoder': True}, 'is_decoder in .* is True; only False'),
        ({'position_embedding_type': 'relative_key'}, 'position_embedding_type'),
        ({'num_hidden_layers': '2'}, "num_hidden_layers in .* is '2'; it must be a whole number"),
        ({'num_hidden_layers': 3}, r'do not fit its settings: trunk\.model\.encoder\.layer\.2.* shape none in the fi'),
        ({'num_hidden_layers': 9999}, 'far larger than the weights'),
        ({'hidden_size': 32}, 'do not fit its settings'),
        ({'hidden_act': {'class_path': 'os.system'}}, 'hidden_act in .* is'),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(folder, change, message):
    change_json(folder / 'config.json', **change)
    with pytest.raises(CheckpointError, match=message):
        read_pretrained(folder)


def test_code_that_a_folder_names_is_not_read(folder):
    change_json(folder / 'config.json', auto_map={'AutoModel': 'evil.Model'}, attn_implementation='evil/kernel')
    (folder / 'evil.py').write_text('raise SystemExit(3)')
    arguments = read_pretrained(folder).network.arguments
    assert 'evil' not in json.dumps(arguments)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('encoder.layer.1.output.dense.bias', r'layer\.1\.output\.dense\.bias has shape none in the file'),
        ('embeddings.word_embeddings.weight', r'have no embeddings\.word_embeddings\.weight'),
    ],
)
def test_a_missing_weight_is_named(folder, name, message):
    weights = load_file(folder / 'model.safetensors')
    (found,) = [one for one in weights if one.endswith(name)]
    del weights[found]
    save_file(weights, folder / 'model.safetensors')
    with pytest.raises(CheckpointError, match=message):
        read_pretrained(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    weights = load_file(folder / 'model.safetensors')
    name = 'bert.embeddings.word_embeddings.weight'
    weights[name] = weights[name][:50].contiguous()
    save_file(weights, folder / 'model.safetensors')
    with pytest.raises(CheckpointError, match='vectors for 50 tokens, but its tokenizer has'):
        read_pretrained(folder)


def test_a_tokenizer_without_its_json_is_made_by_the_library(folder):
    """DeBERTa's repositories have files of slow tokenizers alone."""
    expected = Tokenizer.load(folder)
    vocabulary = json.loads((folder / 'tokenizer.json').read_text())['model']['vocab']
    (folder / 'tokenizer.json').unlink()
    (folder / 'vocab.txt').write_text('\n'.join(sorted(vocabulary, key=vocabulary.get)))
    found = open_network(folder)[1]
    assert found.encode(TEXT) == expected.encode(TEXT)
    assert found.special_ids['eos'] == expected.special_ids['eos']


def test_a_sentencepiece_model_as_deberta_has_it_is_read_with_the_same_ids(tmp_path):
    write_encoder(tmp_path / 'folder', 'deberta-v2')
    (tmp_path / 'folder/tokenizer.json').unlink()
    marks = {'pad': '[PAD]', 'bos': '[CLS]', 'eos': '[SEP]', 'unk': '[UNK]'}
    options = {f'{role}_id': number for number, role in enumerate(marks)}
    path = sentence_piece(
        tmp_path / 'folder/spm.model', **options, **{f'{role}_piece': piece for role, piece in marks.items()}
    )
    found = open_network(tmp_path / 'folder')[1]
    assert found.encode(TEXT) == SentencePieceProcessor(model_file=str(path)).encode(TEXT)
    assert [found.special_ids[role] for role in ('pad', 'sos', 'eos', 'unk')] == [0, 1, 2, 3]


def test_a_repository_of_the_hub_is_a_folder_of_its_cache(saved, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options['revision']))
        if name == 'no/where':
            raise ConnectionError('no network')
        return str(saved)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
    assert fetch_folder('hf://google/bert') == saved
    assert fetch_folder('hf://google/bert@v1') == saved
    assert asked == [('google/bert', None), ('google/bert', 'v1')]
    with pytest.raises(OSError, match=r'hf://no/where cannot be fetched \(ConnectionError: no network\)'):
        fetch_folder('hf://no/where')
    with pytest.raises(SettingsError, match='hf://bert names no repository'):
        fetch_folder('hf://bert')


def test_a_folder_of_a_run_is_none_of_transformers(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    assert not is_pretrained(tmp_path)
