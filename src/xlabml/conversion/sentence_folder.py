"""What a folder of sentence-transformers says around its trunk: pooling, dense layers, normalization, prompts.

A folder without `modules.json`, as transformers saves it, is read as sentence-transformers does: the mean, as it is.
"""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from xlabml.errors import CheckpointError

from .folder import Json, read_json, read_object, read_weights, whole

POOLINGS = {
    'mean': 'MeanPooling',
    'cls': 'FirstPooling',
    'max': 'MaxPooling',
    'weightedmean': 'WeightedMeanPooling',
    'lasttoken': 'LastPooling',
}
"""From their name to our class in heads."""

_EARLIER = {
    'pooling_mode_cls_token': 'cls',
    'pooling_mode_mean_tokens': 'mean',
    'pooling_mode_max_tokens': 'max',
    'pooling_mode_weightedmean_tokens': 'weightedmean',
    'pooling_mode_lasttoken': 'lasttoken',
    'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
}
"""Switches of versions before 5."""

ACTIVATIONS = {
    'torch.nn.modules.activation.Tanh': 'torch.nn.Tanh',
    'torch.nn.modules.linear.Identity': 'torch.nn.Identity',
    'torch.nn.modules.activation.ReLU': 'torch.nn.ReLU',
    'torch.nn.modules.activation.GELU': 'torch.nn.GELU',
    'torch.nn.modules.activation.Sigmoid': 'torch.nn.Sigmoid',
}
"""Of dense layers; no other name is looked up."""


class SentenceFolder(NamedTuple):
    """What is around the trunk, as settings of TextEncoder.

    Args:
        pooling: Settings of the pooling.
        dense: Of each dense layer.
        dense_weights: By their names in TextEncoder.
        normalize: Whether vectors are brought to length 1.
        prompts: By name.
        include_prompt: Whether prompts are pooled.
        default_prompt: The prompt that is put before every text, where none is named; None: none.
        max_len: Texts are cut here, in tokens; None: not said.
    """

    pooling: dict[str, Json]
    dense: list[Json]
    dense_weights: dict[str, Tensor]
    normalize: bool
    prompts: dict[str, str]
    include_prompt: bool
    default_prompt: str | None
    max_len: int | None


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read what is around the trunk.

    Raises:
        CheckpointError: There is a module that ours has no place for.
    """
    modules = _list_modules(folder)
    pooling: dict[str, Json] = {}
    include_prompt = True
    dense: list[Json] = []
    weights: dict[str, Tensor] = {}
    normalize = False
    for kind, place in modules:
        if normalize:
            raise CheckpointError(f'{folder}/modules.json has a {kind} behind Normalize, which no encoder of ours has')
        if kind == 'Pooling' and not pooling:
            pooling, include_prompt = _read_pooling(place / 'config.json')
        elif kind == 'Dense' and pooling:
            dense.append(_read_dense(place / 'config.json'))
            for name, tensor in read_weights(place).items():
                weights[f'dense.{len(dense) - 1}.{name}'] = tensor
        elif kind == 'Normalize' and pooling:
            normalize = True
        else:
            raise CheckpointError(
                f'{folder}/modules.json has a {kind} where ours has no place for it; what can be imported is a '
                'Transformer, one Pooling, any number of Dense, and Normalize, in this order'
            )
    prompts, default = _read_prompts(folder / 'config_sentence_transformers.json')
    if not pooling:
        pooling = {'class_path': 'xlabml.heads.MeanPooling'}
    return SentenceFolder(pooling, dense, weights, normalize, prompts, include_prompt, default, _read_max_len(folder))


def _list_modules(folder: Path) -> list[tuple[str, Path]]:
    """The kind and the folder of each module behind the Transformer."""
    path = folder / 'modules.json'
    if not path.is_file():
        return []
    found: list[tuple[str, Path]] = []
    listed = read_json(path)
    for item in listed if isinstance(listed, list) else []:
        kind = item.get('type') if isinstance(item, dict) else None
        place = item.get('path') if isinstance(item, dict) else None
        if not isinstance(kind, str) or not isinstance(place, str) or (place and Path(place).name != place):
            raise CheckpointError(f'{path} names a module without a type or outside the folder; copy the folder again')
        if not kind.startswith('sentence_transformers.'):
            raise CheckpointError(f'{path} names {kind[:80]}, code of its own, which is not executed')
        found.append((kind.rpartition('.')[2], folder / place))
    if not found or found[0][0] != 'Transformer' or found[0][1] != folder:
        raise CheckpointError(f'{path} does not begin with a Transformer in the folder itself; nothing else is read')
    return found[1:]


def _read_pooling(path: Path) -> tuple[dict[str, Json], bool]:
    config = read_object(path)
    mode = config.get('pooling_mode')
    modes = [mode] if isinstance(mode, str) else mode if isinstance(mode, list) else None
    if modes is None:
        modes = [name for key, name in _EARLIER.items() if config.get(key) is True]
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in POOLINGS:
        raise CheckpointError(
            f'{path} asks for the poolings {modes!r:.80}; one of {", ".join(POOLINGS)} can be imported'
        )
    return {'class_path': f'xlabml.heads.{POOLINGS[modes[0]]}'}, config.get('include_prompt', True) is not False


def _read_dense(path: Path) -> dict[str, Json]:
    config = read_object(path)
    activation = config.get('activation_function')
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise CheckpointError(
            f'activation_function in {path} is {activation!r:.80}; what can be imported is {", ".join(ACTIVATIONS)}'
        )
    return {
        'class_path': 'xlabml.heads.Dense',
        'init_args': {
            'd_out': whole(config, 'out_features', path),
            'bias': config.get('bias', True) is not False,
            'activation': {'class_path': ACTIVATIONS[activation]},
        },
    }


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, those that say something; and the name of the default."""
    config = read_object(path) if path.is_file() else {}
    prompts = config.get('prompts')
    found = prompts.items() if isinstance(prompts, dict) else ()
    default = config.get('default_prompt_name')
    kept = {name: text for name, text in found if isinstance(text, str) and text}
    return kept, default if isinstance(default, str) and default in kept else None


def _read_max_len(folder: Path) -> int | None:
    """Where texts are cut; the least of what the files say, since each of them cuts."""
    found = []
    for name, key in (('sentence_bert_config.json', 'max_seq_length'), ('tokenizer_config.json', 'model_max_length')):
        values = read_object(folder / name) if (folder / name).is_file() else {}
        value = values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found.append(value)
    return min(found, default=None)
