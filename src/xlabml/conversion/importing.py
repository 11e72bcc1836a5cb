"""A folder of Hugging Face or sentence-transformers -> an exported file of ours: weights, settings, tokenizer."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from xlabml import checkpoints
from xlabml.checkpoints import Contents, Export, Part
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import TextEncoder
from xlabml.heads.loading import describe_head, load_network
from xlabml.plain import PlainDict
from xlabml.tokenizer import Tokenizer

from .bert import Bert, read_bert
from .checking import PROBE, check_same
from .folder import Json, read_object, read_weights
from .modernbert import KIND, read_modernbert
from .sentence_folder import SentenceFolder, read_sentence_folder

TASK = 'xlabml.models.Embedder'
DATA = 'xlabml.datamodules.XLabDataModule'


class Imported(NamedTuple):
    """What was made of a folder.

    Args:
        export: The file that was written.
        network: The encoder.
        tokenizer: Its tokenizer.
        unused: Names of the folder's weights that ours has no place for.
        default_prompt: Name of the prompt that the other library puts before every text; None: none.
        difference: As `check_same` returns it.
    """

    export: Export
    network: TextEncoder
    tokenizer: Tokenizer
    unused: list[str]
    default_prompt: str | None
    difference: float | None


def import_folder(folder: Path, output: Path, max_len: int | None = None) -> Imported:
    """Write the exported file of a text encoder of BERT's family, or of ModernBERT's shape.

    Args:
        folder: As sentence-transformers or transformers saves it, weights as safetensors.
        output: The file to write.
        max_len: Where texts are cut, in tokens with those around them; None: where the folder says.

    Raises:
        FileNotFoundError: A file of the folder is missing, or the folder to write to.
        FileExistsError: The output is there already.
        SettingsError: max_len is more than there are positions.
        CheckpointError: The folder holds what ours does not express; the message names it.
    """
    checkpoints.check_target(output)
    config = read_object(folder / 'config.json')
    bert = read_trunk(config, read_weights(folder), folder)
    around = read_sentence_folder(folder)
    tokenizer = Tokenizer.load(folder)
    check_frame(tokenizer, folder)
    max_len = _choose_max_len(bert, around, max_len, folder)
    weights = _fit(bert.weights, len(tokenizer), max_len, folder) | around.dense_weights
    arguments: PlainDict = {
        'n_vocab': len(tokenizer),
        'max_len': max_len,
        'trunk': bert.trunk,
        'pooling': around.pooling,
        'dense': around.dense or None,
        'normalize': around.normalize,
        'prompts': around.prompts or None,
        'include_prompt': around.include_prompt,
    }
    checkpoint = checkpoints.imported(
        Part(TASK, arguments),
        describe_head(TextEncoder, arguments),
        Part(DATA, {'n_vocab': len(tokenizer), 'max_len': max_len}),
        {f'network.{name}': tensor.contiguous() for name, tensor in weights.items()},
        tokenizer.data,
        version('lightning'),
    )
    network = load_network(Contents.of(checkpoint), folder, TextEncoder)
    difference = None
    if max_len == _own_max_len(bert, around) and around.default_prompt is None:  # else the other library cuts elsewhere
        difference = check_same(folder, network, tokenizer)
    export = checkpoints.write_export(checkpoint, folder, output)
    return Imported(export, network, tokenizer, bert.unused, around.default_prompt, difference)


def read_trunk(config: dict[str, Json], weights: Mapping[str, Tensor], folder: Path) -> Bert:
    """Turn config.json and weights into settings and weights of ours; errors as of `read_bert`."""
    read = read_modernbert if config.get('model_type') == KIND else read_bert
    return read(config, weights, folder)


def _choose_max_len(bert: Bert, around: SentenceFolder, asked: int | None, folder: Path) -> int:
    if asked is not None and asked > bert.n_positions:
        raise SettingsError(f'max_len is {asked}, but {folder} has positions for {bert.n_positions} tokens; give fewer')
    return asked or _own_max_len(bert, around)


def _own_max_len(bert: Bert, around: SentenceFolder) -> int:
    return min(around.max_len or bert.n_positions, bert.n_positions)


def _fit(weights: dict[str, Tensor], n_vocab: int, max_len: int, folder: Path) -> dict[str, Tensor]:
    """The trunk's weights by their names in the network, with a row for each token and each position."""
    table = weights['embedding.weight']
    if len(table) < n_vocab:
        raise CheckpointError(
            f'{folder} has vectors for {len(table)} tokens, but its tokenizer has {n_vocab}; give the folder in which '
            'both were saved together'
        )
    rows = {'embedding.weight': n_vocab, 'positions.embedding.weight': max_len}
    return {f'trunk.{name}': tensor[: rows.get(name)] for name, tensor in weights.items()}


def check_frame(tokenizer: Tokenizer, folder: Path) -> None:
    """Refuse a tokenizer that puts other tokens around a text than ours: sos before it, eos behind it."""
    from xlabml.tokenizer.huggingface import HuggingFaceTokenizer

    if not isinstance(tokenizer, HuggingFaceTokenizer):
        raise CheckpointError(f'{folder} has no tokenizer.json; save its tokenizer as a fast one of transformers')
    ours = [tokenizer.special_ids['sos'], *tokenizer.encode(PROBE), tokenizer.special_ids['eos']]
    theirs = tokenizer.encode_framed(PROBE)
    if ours != theirs:
        raise CheckpointError(
            f'the tokenizer in {folder} makes {theirs[:3]} … {theirs[-2:]} of a text, where ours makes {ours[:3]} … '
            f'{ours[-2:]} (one token before it, one behind it); it cannot be imported'
        )
