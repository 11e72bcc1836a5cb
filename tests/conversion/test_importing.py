"""Folders of other libraries in our trunk: the same vectors, and what cannot be expressed is refused by name."""

import json

import pytest
import torch
import torch.nn.functional as F
from bert_folders import N_POSITIONS, by_hand, change_json, write_folder, write_json
from foreign import mini_lm
from safetensors.torch import load_file, save_file

from xlabml import checkpoints
from xlabml.conversion import import_folder, importing
from xlabml.conversion.checking import TEXTS, encode
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import TextEncoder
from xlabml.heads.loading import load_network

SHORT = ['The quick brown fox', 'été naïve 世界 12,345 (yes)', 'a', ' ']


def expected(weights, ids, pool, dense=None, n_reserved=0):
    """The vector of a text by hand, its ids with [CLS] and [SEP]."""
    vector = pool(by_hand(weights, ids, n_reserved))
    if dense is not None:
        vector = torch.tanh(vector @ dense['linear.weight'].T + dense['linear.bias'])
    return F.normalize(vector, dim=-1)


POOLINGS = {
    'mean': lambda x: x.mean(0),
    'cls': lambda x: x[0],
    'max': lambda x: x.amax(0),
    'lasttoken': lambda x: x[-1],
    'weightedmean': lambda x: (x * torch.arange(1, len(x) + 1)[:, None]).sum(0) / sum(range(1, len(x) + 1)),
}


@pytest.mark.parametrize(
    ('options', 'n_reserved'),
    [({'pooling': name}, 0) for name in POOLINGS]
    + [
        ({'dense': True}, 0),
        ({'kind': 'roberta', 'prefix': 'roberta.'}, 2),
        ({'prefix': 'bert.'}, 0),
    ],
    ids=str,
)
def test_vectors_are_those_of_bert_by_hand(tmp_path, options, n_reserved, monkeypatch):
    folder, weights = write_folder(tmp_path / 'folder', **options)
    if options.get('kind') == 'roberta':  # the other library would read its WordPiece as the BPE of RoBERTa
        monkeypatch.setattr(importing, 'check_same', lambda *_: None)
    made = import_folder(folder, tmp_path / 'out.safetensors')
    dense = load_file(folder / '2_Dense' / 'model.safetensors') if 'dense' in options else None
    vectors = encode(made.network, made.tokenizer, SHORT)
    pool = POOLINGS[options.get('pooling', 'mean')]
    for text, vector in zip(SHORT, vectors):
        ids = [2, *made.tokenizer.encode(text), 3][:20]
        torch.testing.assert_close(vector, expected(weights, ids, pool, dense, n_reserved), rtol=0, atol=2e-6)
    assert [name for name in made.unused if 'pooler' not in name] == []
    loaded = load_network(checkpoints.load(made.export.path), 'out', TextEncoder)
    assert torch.equal(encode(loaded, made.tokenizer, SHORT), vectors)
    assert loaded.prompts == {'query': 'query: '}


def test_distilbert_is_bert_without_types(tmp_path):
    folder, theirs = write_folder(tmp_path / 'folder', kind='distilbert')
    other, weights = write_folder(tmp_path / 'other', tokenizer=folder / 'tokenizer.json')
    weights['embeddings.token_type_embeddings.weight'].zero_()
    save_file(weights, other / 'model.safetensors')
    one = import_folder(folder, tmp_path / 'one.safetensors')
    two = import_folder(other, tmp_path / 'two.safetensors')
    assert not any('LayerNorm' in name for name in theirs if 'transformer' in name)
    torch.testing.assert_close(encode(one.network, one.tokenizer, SHORT), encode(two.network, two.tokenizer, SHORT))


def test_texts_are_cut_where_the_folder_says_or_the_user(tmp_path):
    folder, _ = write_folder(tmp_path / 'folder')
    assert import_folder(folder, tmp_path / 'a.safetensors').network.max_len == 20
    longer = import_folder(folder, tmp_path / 'b.safetensors', N_POSITIONS)
    assert longer.network.max_len == N_POSITIONS
    assert longer.network.trunk.positions.embedding.weight.shape[0] == N_POSITIONS
    with pytest.raises(SettingsError, match=f'max_len is 25, but .* has positions for {N_POSITIONS} tokens'):
        import_folder(folder, tmp_path / 'c.safetensors', 25)


def test_half_precision_and_names_of_tensorflow_are_read(tmp_path):
    folder, weights = write_folder(tmp_path / 'folder')
    whole = import_folder(folder, tmp_path / 'a.safetensors')
    renamed = {
        name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): tensor.half()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }
    save_file(renamed, folder / 'model.safetensors')
    half = import_folder(folder, tmp_path / 'b.safetensors')
    assert half.network.trunk.embedding.weight.dtype == torch.float32
    torch.testing.assert_close(
        encode(half.network, half.tokenizer, SHORT), encode(whole.network, whole.tokenizer, SHORT), rtol=0, atol=0.01
    )


def test_the_table_may_have_more_rows_than_the_tokenizer_but_not_fewer(tmp_path):
    folder, weights = write_folder(tmp_path / 'folder')
    table = weights['embeddings.word_embeddings.weight']
    made = import_folder(folder, tmp_path / 'a.safetensors')
    weights['embeddings.word_embeddings.weight'] = torch.cat([table, torch.ones(2, table.size(1))])
    save_file(weights, folder / 'model.safetensors')
    change_json(folder / 'config.json', vocab_size=len(table) + 2)
    padded = import_folder(folder, tmp_path / 'b.safetensors')
    assert torch.equal(padded.network.trunk.embedding.weight, made.network.trunk.embedding.weight)
    weights['embeddings.word_embeddings.weight'] = table[:-1]
    save_file(weights, folder / 'model.safetensors')
    with pytest.raises(CheckpointError, match=r'vectors for .* tokens, but its tokenizer has'):
        import_folder(folder, tmp_path / 'c.safetensors')


def spoil(folder, case):
    """Make a folder one that is refused."""
    if case in ('pickle', 'missing'):
        weights = load_file(folder / 'model.safetensors')
        (folder / 'model.safetensors').unlink()
        if case == 'missing':
            weights.pop('embeddings.LayerNorm.bias')
            save_file(weights, folder / 'model.safetensors')
        else:
            torch.save(weights, folder / 'pytorch_model.bin')
    elif case == 'damaged':
        (folder / 'model.safetensors').write_bytes((folder / 'model.safetensors').read_bytes()[:-100])
    elif case == 'shape':
        weights = load_file(folder / 'model.safetensors')
        weights['encoder.layer.1.output.dense.weight'] = weights['encoder.layer.1.output.dense.weight'][:-1]
        save_file(weights, folder / 'model.safetensors')
    elif case == 'nan':
        weights = load_file(folder / 'model.safetensors')
        weights['embeddings.LayerNorm.bias'][0] = float('nan')
        save_file(weights, folder / 'model.safetensors')
    elif case == 'frame':
        content = json.loads((folder / 'tokenizer.json').read_text('utf-8'))
        write_json(folder / 'tokenizer.json', {**content, 'post_processor': None})
    elif case == 'tokenizer':
        (folder / 'tokenizer.json').unlink()
    elif case == 'code':
        write_json(folder / 'modules.json', [{'type': 'custom.Module', 'path': ''}])
    elif case == 'outside':
        write_json(folder / 'modules.json', [{'type': 'sentence_transformers.models.Transformer', 'path': '../x'}])
    elif case == 'json':
        (folder / 'config.json').write_text('{"a": ')
    elif case in CONFIGS:
        change_json(folder / 'config.json', **CONFIGS[case])
    elif case == 'sqrt':
        write_json(folder / '1_Pooling' / 'config.json', {'pooling_mode_mean_sqrt_len_tokens': True})
    elif case == 'two':
        write_json(folder / '1_Pooling' / 'config.json', {'pooling_mode': ['mean', 'cls']})


CONFIGS = {
    'family': {'model_type': 'mpnet'},
    'relative': {'position_embedding_type': 'relative_key'},
    'decoder': {'is_decoder': True},
    'activation': {'hidden_act': 'mish'},
    'layers': {'num_hidden_layers': 3},
    'huge': {'hidden_size': 1 << 40},
    'heads': {'num_attention_heads': 5},
}
REFUSALS = {
    'pickle': r'pytorch_model\.bin is\); save the weights as one file of safetensors: pickles are not opened',
    'missing': r'have no embeddings\.LayerNorm\.bias',
    'damaged': 'cut short or damaged',
    'shape': 'output.weight has shape .* in the file, and .* by its settings',
    'nan': 'NaN',
    'frame': r'makes \[.*\] of a text, where ours makes',
    'tokenizer': 'there is no tokenizer in',
    'code': r'names custom\.Module, code of its own, which is not executed',
    'outside': 'outside the folder',
    'json': r'config\.json is no JSON',
    'family': "model_type in .* is 'mpnet'; what can be imported is bert",
    'relative': "position_embedding_type in .* is 'relative_key'; only 'absolute'",
    'decoder': 'is_decoder in .* is True; only False',
    'activation': "hidden_act in .* is 'mish'; what can be imported is gelu",
    'layers': r'have no encoder\.layer\.2\.attention\.self\.query\.weight',
    'huge': 'hidden_size in .* is 1099511627776; it must be a whole number',
    'heads': 'd_model 16 is not a multiple of trunk.n_heads 5',
    'sqrt': r"asks for the poolings \['mean_sqrt_len_tokens'\]",
    'two': r"asks for the poolings \['mean', 'cls'\]",
}


@pytest.mark.parametrize('case', REFUSALS)
def test_what_ours_does_not_express_is_refused_by_name(tmp_path, case):
    folder, _ = write_folder(tmp_path / 'folder')
    spoil(folder, case)
    with pytest.raises((CheckpointError, FileNotFoundError), match=REFUSALS[case]):
        import_folder(folder, tmp_path / 'out.safetensors')
    assert not (tmp_path / 'out.safetensors').exists()


def test_nothing_is_overwritten(tmp_path):
    folder, _ = write_folder(tmp_path / 'folder')
    (tmp_path / 'out.safetensors').write_bytes(b'mine')
    with pytest.raises(FileExistsError, match='is there already'):
        import_folder(folder, tmp_path / 'out.safetensors')
    assert (tmp_path / 'out.safetensors').read_bytes() == b'mine'
    with pytest.raises(FileNotFoundError, match='there is no folder'):
        import_folder(folder, tmp_path / 'nowhere' / 'out.safetensors')


@pytest.mark.slow
def test_mini_lm_has_the_vectors_of_sentence_transformers(tmp_path):
    library = pytest.importorskip('sentence_transformers', reason='needs the package sentence-transformers')
    folder = mini_lm()
    made = import_folder(folder, tmp_path / 'out.safetensors')
    texts = [*TEXTS, ' ', '\t\n', '\0', '\u200b', 'ﬁ Ａ é हिन्दी 👩\u200d👧', 'x' * 300, '.']
    theirs = torch.from_numpy(library.SentenceTransformer(str(folder), device='cpu').encode(texts))
    cosine = F.cosine_similarity(encode(made.network, made.tokenizer, texts), theirs)
    assert cosine.min() >= 0.99999
    assert made.difference < 1e-6
