"""A language model of ours -> a folder that transformers loads as Qwen3 or Llama without our code, and from which
llama.cpp's `convert_hf_to_gguf.py` makes a GGUF file.

Both are decoders with RMSNorm before each part, rotations, gated activations and no biases; Qwen3 normalises queries
and keys as well. A rotated pair is channels i and i + c / 2 of a head there, 2i and 2i + 1 here. What scales our
embeddings is in the embeddings there, so a head that shares them here is written as a matrix of its own.
Source: Yang et al. 2025, https://arxiv.org/abs/2505.09388, section 2; Touvron et al. 2023,
https://arxiv.org/abs/2302.13971, section 2.2.
"""

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from xlabml import checkpoints
from xlabml.artifacts.folders import new_folder
from xlabml.artifacts.tensors import write_tensors
from xlabml.errors import CheckpointError, SettingsError
from xlabml.heads import LanguageModel
from xlabml.heads.loading import load_network
from xlabml.tokenizer import OwnTokenizer, Tokenizer
from xlabml.transformer import Block, RMSNorm, Rotary, SwiGLU, Transformer

from .checking import TEXTS
from .exporting import Exported
from .folder import WEIGHTS, Json, write_json
from .modernbert import pairs_apart
from .tokenizer_json import begun_content, special_pieces
from .tokenizer_json import find_obstacles as find_tokenizer_obstacles

TASK = 'xlabml.models.XLabModel'
"""The task whose newest run `last` means."""

TOLERANCE = 1e-4
"""The largest difference of a logit that is not refused; of logits above 1 in size, in proportion."""

_QK_EPS = 1e-5
"""What is added to the mean square of queries and keys here; there it is as in all other norms."""


class Shape(NamedTuple):
    """An architecture of transformers.

    Args:
        kind: Its `model_type`.
        architecture: The name of its class.
        config: What its config.json has beside what both have.
    """

    kind: str
    architecture: str
    config: dict[str, Json]


QWEN3 = Shape('qwen3', 'Qwen3ForCausalLM', {'use_sliding_window': False})
LLAMA = Shape('llama', 'LlamaForCausalLM', {'mlp_bias': False})


def export_decoder(ckpt: Path, folder: Path) -> Exported:
    """Write a language model as transformers saves one, and compare its logits with ours before it has its name.

    Args:
        ckpt: A training checkpoint or an exported file of a language model.
        folder: What is made.

    Returns:
        The folder, and the largest difference of a logit by transformers; None where that is not installed.

    Raises:
        FileExistsError: The folder is there.
        SettingsError: The model has settings that neither shape expresses; all of them are named.
        CheckpointError: The file is no language model's, or the tokens or the logits differ.
    """
    with new_folder(folder) as part:
        contents = checkpoints.load(ckpt)
        model = load_network(contents, ckpt, LanguageModel)
        tokenizer = Tokenizer.from_bytes(contents.tokenizer_bytes())
        if found := [*find_obstacles(model), *find_tokenizer_obstacles(tokenizer)]:
            raise SettingsError(
                f'{ckpt} cannot be written for transformers, which would need code of ours for: {"; ".join(found)}'
            )
        _write(part, model, tokenizer)
        difference = _check_same(part, model, tokenizer)
    return Exported(folder, difference)


def find_obstacles(model: LanguageModel) -> list[str]:
    """What of a language model neither shape expresses: each setting, what it is, and what it must be."""
    trunk = model.trunk
    if not isinstance(trunk, Transformer):
        return [f'trunk is {type(trunk).__name__} (xlabml.transformer.Transformer)']
    blocks = cast('list[Block]', list(trunk.blocks))
    first = blocks[0]
    norms = list(_norms(trunk))
    eps = {norm.eps for norm in norms if isinstance(norm, RMSNorm)}
    activation = type(first.feed_forward.activation)
    checks: list[tuple[bool, str]] = [
        (trunk.causal, 'trunk.causal is false (true)'),
        (not first.has_shifts, 'trunk.shift_width is above 1 (1)'),
        (activation is SwiGLU, f'trunk.activation is {activation.__name__} (SwiGLU)'),
        (isinstance(trunk.positions, Rotary), f'trunk.positions is {type(trunk.positions).__name__} (Rotary)'),
        (first.prenorm, 'trunk.prenorm is false (true)'),
        (not isinstance(trunk.norm, nn.Identity), 'trunk.final_norm is false (true)'),
        (isinstance(trunk.embedding_norm, nn.Identity), 'trunk.embedding_norm is true (false)'),
        (
            all(isinstance(norm, RMSNorm) for norm in norms),
            f'trunk.norm is {type(first.feed_forward_norm).__name__} (RMSNorm)',
        ),
        (
            not first.attention.qk_norm or eps <= {_QK_EPS},
            f'trunk.norm.eps is {", ".join(f"{one:g}" for one in eps)} ({_QK_EPS:g}, that of queries and keys, or '
            'trunk.qk_norm false)',
        ),
        (first.attention.output.bias is None, 'trunk.bias is true (false)'),
        (all(block.attention.rule.window is None for block in blocks), 'trunk.window is set (null)'),
        (first.attention.rule.score_cap is None, 'trunk.score_cap is set (null)'),
        (model.head_bias is None, 'head_bias is true (false)'),
        (model.logit_cap is None, 'logit_cap is set (null)'),
    ]
    return [what for is_fit, what in checks if not is_fit]


def choose_shape(trunk: Transformer) -> Shape:
    """The architecture of a trunk without obstacles."""
    return QWEN3 if cast(Block, trunk.blocks[0]).attention.qk_norm else LLAMA


def write_config(model: LanguageModel, tokenizer: Tokenizer) -> dict[str, Json]:
    """config.json."""
    trunk = model.trunk
    shape = choose_shape(trunk)
    base = cast(Rotary, trunk.positions).base
    return {
        'model_type': shape.kind,
        'architectures': [shape.architecture],
        'vocab_size': trunk.embedding.num_embeddings,
        'hidden_size': trunk.d_model,
        'intermediate_size': cast(Block, trunk.blocks[0]).feed_forward.output.in_features,
        'num_hidden_layers': trunk.n_layers,
        'num_attention_heads': trunk.n_heads,
        'num_key_value_heads': trunk.n_kv_heads,
        'head_dim': trunk.d_head,
        'hidden_act': 'silu',
        'max_position_embeddings': model.max_len,
        'rms_norm_eps': cast(RMSNorm, trunk.norm).eps,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': base},
        'rope_theta': base,  # of versions before 5
        'attention_bias': False,
        'attention_dropout': 0.0,
        **shape.config,
        'tie_word_embeddings': _is_tied(model),
        **_ends(tokenizer),
        'dtype': 'float32',
        'torch_dtype': 'float32',  # of versions before 5
    }


def write_weights(model: LanguageModel) -> dict[str, Tensor]:
    """The weights by its names; norms without weights have ones there."""
    trunk = model.trunk
    d_head = trunk.d_head
    order = pairs_apart(d_head)
    table = trunk.embedding.weight
    found = {'model.embed_tokens.weight': table * trunk.scale, 'model.norm.weight': _scale_of(trunk.norm, trunk)}
    if not _is_tied(model):
        found['lm_head.weight'] = table if model.head_weight is None else model.head_weight
    for i, block in enumerate(cast('list[Block]', list(trunk.blocks))):
        layer = f'model.layers.{i}'
        sizes = [n * d_head for n in (trunk.n_heads, trunk.n_kv_heads, trunk.n_kv_heads)]
        q, k, v = block.attention.projection.weight.split(sizes)
        gate, up = block.feed_forward.input.weight.chunk(2)
        found |= {
            f'{layer}.input_layernorm.weight': _scale_of(block.attention_norm, trunk),
            f'{layer}.post_attention_layernorm.weight': _scale_of(block.feed_forward_norm, trunk),
            f'{layer}.self_attn.q_proj.weight': q.unflatten(0, (-1, d_head))[:, order].flatten(0, 1),
            f'{layer}.self_attn.k_proj.weight': k.unflatten(0, (-1, d_head))[:, order].flatten(0, 1),
            f'{layer}.self_attn.v_proj.weight': v,
            f'{layer}.self_attn.o_proj.weight': block.attention.output.weight,
            f'{layer}.mlp.gate_proj.weight': gate,
            f'{layer}.mlp.up_proj.weight': up,
            f'{layer}.mlp.down_proj.weight': block.feed_forward.output.weight,
        }
        if block.attention.qk_norm:
            found |= {f'{layer}.self_attn.{name}_norm.weight': table.new_ones(d_head) for name in 'qk'}
    return {name: tensor.detach().float().clone().contiguous() for name, tensor in found.items()}


def describe_same(difference: float | None) -> str:
    """What the comparison found, in a line."""
    if difference is None:
        return 'not compared: transformers is not installed'
    return f'same tokens and logits by transformers, to {difference:.0e} ({len(TEXTS)} texts)'


def _norms(trunk: Transformer) -> Iterator[nn.Module]:
    for block in cast('list[Block]', list(trunk.blocks)):
        yield block.attention_norm
        yield block.feed_forward_norm
    if not isinstance(trunk.norm, nn.Identity):
        yield trunk.norm


def _scale_of(norm: nn.Module, trunk: Transformer) -> Tensor:
    weight = cast(RMSNorm, norm).weight
    return trunk.embedding.weight.new_ones(trunk.d_model) if weight is None else weight


def _is_tied(model: LanguageModel) -> bool:
    """Whether embeddings and head are one matrix there too."""
    return model.head_weight is None and model.trunk.scale == 1


def _ends(tokenizer: Tokenizer) -> dict[str, Json]:
    ids = tokenizer.special_ids
    return {'bos_token_id': ids['sos'], 'eos_token_id': ids['eos'], 'pad_token_id': ids['pad']}


def _write(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    write_tensors(folder / WEIGHTS, write_weights(model), {'format': 'pt'})
    write_json(folder / 'config.json', write_config(model, tokenizer))
    write_json(folder / 'generation_config.json', _ends(tokenizer))
    write_json(folder / 'tokenizer.json', begun_content(tokenizer))
    if isinstance(tokenizer, OwnTokenizer):
        (folder / 'tokenizer.model').write_bytes(tokenizer.data)  # what llama.cpp reads
    write_json(
        folder / 'tokenizer_config.json',
        {
            'tokenizer_class': 'PreTrainedTokenizerFast',
            'model_max_length': model.max_len,
            'add_bos_token': True,
            'add_eos_token': False,
            'add_prefix_space': False,
            'clean_up_tokenization_spaces': False,
            **special_pieces(tokenizer),
        },
    )


def _check_same(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> float | None:
    """Compare with transformers, which reads the folder without executing code of it.

    Returns:
        The largest difference of a logit; None: the library is not installed.

    Raises:
        CheckpointError: Tokens or logits differ, or the library cannot read the folder.
    """
    if importlib.util.find_spec('transformers') is None:
        return None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress of its own
            options = {'trust_remote_code': False, 'local_files_only': True}
            network = AutoModelForCausalLM.from_pretrained(str(folder), **options).float().eval()
            encode = AutoTokenizer.from_pretrained(str(folder), **options)
            length = model.max_len
            cut = {'truncation': True, 'max_length': length}
            pairs = [(_prompt(tokenizer, text)[:length], encode(text, **cut)['input_ids']) for text in TEXTS]
            with torch.inference_mode():
                logits = [(model(ids), network(ids).logits) for ids in (torch.tensor([ours]) for ours, _ in pairs)]
    except Exception as error:  # a library's, of any kind
        raise CheckpointError(
            f'transformers cannot read {folder}: {type(error).__name__}: {str(error)[:300]}'
        ) from error
    for text, (ours, theirs) in zip(TEXTS, pairs):
        if list(theirs) != ours:
            raise CheckpointError(
                f'the tokenizer of {folder} makes other tokens by transformers than ours, of {text[:60]!r}; please '
                'report it'
            )
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in logits)
    size = max(1.0, *(float(ours.abs().max()) for ours, _ in logits))
    if not difference <= TOLERANCE * size:
        raise CheckpointError(
            f'the logits of {folder} by transformers differ from ours by {difference:.1e}, more than '
            f'{TOLERANCE * size:.0e}: something in it is not expressed by our settings; please report it'
        )
    return difference


def _prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    return [tokenizer.special_ids['sos'], *tokenizer.encode(text)]
