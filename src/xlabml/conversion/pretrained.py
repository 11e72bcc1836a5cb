"""A pretrained encoder of transformers as the contents of a checkpoint, in memory: a new run begins with it.

Its config.json is read as plain values, of which those that change what is computed are kept; its weights are
safetensors. A folder is a local one, or a snapshot of a hub's repository, of which these files alone are fetched.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from xlabml import checkpoints
from xlabml.checkpoints import Contents, Part
from xlabml.errors import CheckpointError, NotSupportedError, SettingsError
from xlabml.heads import TextEncoder
from xlabml.heads.loading import describe_head, load_network
from xlabml.plain import PlainDict
from xlabml.tokenizer import Tokenizer
from xlabml.transformer import HuggingFaceEncoder
from xlabml.transformer.families import FAMILIES, VOCABULARY, Family

from .bert import plain_name
from .folder import WEIGHTS, Json, read_object, read_weights, whole
from .importing import DATA, TASK, check_frame
from .sentence_folder import read_sentence_folder

HUB = 'hf://'
"""What the name of a hub's repository begins with."""

_FETCHED = ['*.json', WEIGHTS, 'spm.model', 'spiece.model', 'sentencepiece.bpe.model', 'vocab.txt', 'merges.txt']
_SIGNS = ('config.json', WEIGHTS, 'pytorch_model.bin', 'tokenizer.json', 'modules.json')
_PREFIXES = ('bert.', 'roberta.', 'electra.', 'albert.', 'deberta.', 'distilbert.')
_MUST_BE: dict[str, tuple[Json, ...]] = {
    'position_embedding_type': ('absolute', None),
    'is_decoder': (False, None),
    'add_cross_attention': (False, None),
    'is_encoder_decoder': (False, None),
}
"""Values of config.json that would change what is computed, and what they must be."""


def is_pretrained(folder: Path) -> bool:
    """Whether a folder is one that transformers or sentence-transformers has saved, perhaps not all of it."""
    return any((folder / name).is_file() for name in _SIGNS)


def read_pretrained(folder: Path) -> Contents:
    """The encoder in a folder, as a checkpoint holds one.

    Raises:
        FileNotFoundError: A file of the folder is missing.
        CheckpointError: Its files do not belong together, or hold what cannot be used; the message names it.
        NotSupportedError: The library transformers is not installed.
    """
    path = folder / 'config.json'
    config = read_object(path)
    kind = config.get('model_type')
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(f'model_type in {path} is {kind!r:.60}; what can be used is {", ".join(FAMILIES)}')
    family = FAMILIES[kind]
    for name, values in _MUST_BE.items():
        if config.get(name) not in values:
            raise CheckpointError(f'{name} in {path} is {config[name]!r:.60}; only {values[0]!r} can be used')
    kept = _keep_values(config, family, path)
    weights = {plain_name(name, _PREFIXES): tensor for name, tensor in read_weights(folder).items()}
    tokenizer = load_tokenizer(folder)
    check_frame(tokenizer, folder)
    weights = _crop(weights, len(tokenizer), folder)
    around = read_sentence_folder(folder)
    n_positions = _n_positions(kept, family, path)
    trunk: PlainDict = {'model_type': kind, 'config': kept}
    if family.has_types and 'sep' in tokenizer.special_ids:
        trunk['separator'] = tokenizer.special_ids['sep']
    arguments: PlainDict = {
        'n_vocab': len(tokenizer),
        'max_len': min(around.max_len or n_positions, n_positions),
        'trunk': {'class_path': f'{HuggingFaceEncoder.__module__}.{HuggingFaceEncoder.__name__}', 'init_args': trunk},
        'pooling': around.pooling,
        'dense': around.dense or None,
        'normalize': around.normalize,
        'prompts': around.prompts or None,
        'include_prompt': around.include_prompt,
    }
    named = {f'network.trunk.model.{name}': tensor for name, tensor in weights.items()}
    named |= {f'network.{name}': tensor for name, tensor in around.dense_weights.items()}
    made = Contents.of(
        checkpoints.imported(
            Part(TASK, arguments),
            describe_head(TextEncoder, arguments),
            Part(DATA, {'n_vocab': len(tokenizer), 'max_len': arguments['max_len']}),
            named,
            tokenizer.data,
            version('lightning'),
        )
    )
    load_network(made, folder, TextEncoder)  # all of it is there, and fits
    return made


def fetch_folder(asked: str) -> Path:
    """Fetch the files of an encoder from the Hugging Face hub, into that library's own cache.

    Args:
        asked: `hf://ORG/NAME`, `hf://ORG/NAME@REVISION`.

    Raises:
        SettingsError: It names no repository.
        OSError: It cannot be fetched, and the cache has none.
    """
    name, _, revision = asked.removeprefix(HUB).partition('@')
    if name.count('/') != 1 or not all(name.split('/')):
        raise SettingsError(f'{asked} names no repository of the hub; write hf://ORG/NAME')
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=_FETCHED))
    except Exception as error:  # of that library, and of those below it
        detail = str(error).strip().partition('\n')[0][:200]
        raise OSError(
            f'{asked} cannot be fetched ({type(error).__name__}: {detail}); check the name and the network, or give '
            'the folder of a copy'
        ) from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder; where it has no tokenizer.json, transformers makes one of the files that it has.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: It has no fast form.
    """
    if (folder / 'tokenizer.json').is_file():
        return Tokenizer.load(folder)
    if not any((folder / name).is_file() for name in _FETCHED if not name.startswith(('*', 'model'))):
        raise FileNotFoundError(f'there is no tokenizer in {folder}; it has no tokenizer.json')
    try:
        import transformers
    except ImportError as error:
        raise NotSupportedError(
            f'{folder} has no tokenizer.json, which transformers would make: pip install "xlabml[hf]"'
        ) from error
    with tempfile.TemporaryDirectory() as made:
        try:
            # Classes of the library alone: a folder can name code of its own, which is not loaded.
            found = transformers.AutoTokenizer.from_pretrained(
                str(folder), use_fast=True, local_files_only=True, trust_remote_code=False
            )
            found.save_pretrained(made)
        except Exception as error:  # a library's, of any kind
            raise CheckpointError(
                f'transformers cannot read the tokenizer in {folder}: {type(error).__name__}: {str(error)[:300]}'
            ) from error
        if not (Path(made) / 'tokenizer.json').is_file():
            raise CheckpointError(f'the tokenizer in {folder} has no fast form, which a tokenizer.json is of')
        return Tokenizer.load(made)


def _keep_values(config: dict[str, Json], family: Family, path: Path) -> dict[str, Json]:
    """What of config.json changes what the encoder computes."""
    kept: dict[str, Json] = {}
    for name in sorted(family.keys & config.keys()):
        value = config[name]
        if name == 'pos_att_type' and isinstance(value, str):
            value = list(value.split('|'))
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if isinstance(value, dict) or (isinstance(value, list) and not is_list):
            raise CheckpointError(f'{name} in {path} is {value!r:.60}; copy the folder again')
        kept[name] = value
    whole(config, family.n_layers, path)
    return kept


def _crop(weights: dict[str, Tensor], n_vocab: int, folder: Path) -> dict[str, Tensor]:
    """The encoder's weights alone, with a row for each token: tables are longer than the tokenizer at times."""
    roots = {'embeddings', 'embeddings_project', 'encoder', 'transformer'}
    buffers = {'embeddings.position_ids', 'embeddings.token_type_ids'}
    kept = {name: one for name, one in weights.items() if name.split('.')[0] in roots and name not in buffers}
    table = kept.get(VOCABULARY)
    if table is None:
        raise CheckpointError(f'the weights in {folder} have no {VOCABULARY}; copy the folder again')
    if len(table) < n_vocab:
        raise CheckpointError(
            f'{folder} has vectors for {len(table)} tokens, but its tokenizer has {n_vocab}; give the folder in which '
            'both were saved together'
        )
    return {**kept, VOCABULARY: table[:n_vocab]}


def _n_positions(config: dict[str, Json], family: Family, path: Path) -> int:
    """The longest text that the encoder has positions for."""
    n = whole({'max_position_embeddings': 512, **config}, 'max_position_embeddings', path)
    pad = config.get('pad_token_id')
    return n if family.n_reserved is None else n - family.n_reserved - (pad if isinstance(pad, int) else 1)
