"""A text encoder of ours -> a folder with an ONNX graph, which runs without our code, and its tokenizer (extra `onnx`).

The graph reads padded batches, as such runtimes do: `input_ids` and `attention_mask` (b, n), and returns `vectors`
(b, e). Attention is the definition, so that any runtime has its operators.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xlabml import checkpoints
from xlabml.artifacts.folders import new_folder
from xlabml.errors import CheckpointError, NotSupportedError, SettingsError
from xlabml.heads import (
    AttentionPooling,
    FirstPooling,
    LastPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    TextEncoder,
    WeightedMeanPooling,
)
from xlabml.heads.loading import load_network
from xlabml.heads.text_encoder import frame
from xlabml.tokenizer import Tokenizer
from xlabml.transformer import Before, Block, Transformer
from xlabml.transformer.attention import Pass, Rule, attend, make_masks

from .checking import TEXTS, TOLERANCE, encode
from .folder import Json, write_json
from .tokenizer_json import tokenizer_content

GRAPH = 'model.onnx'
_LARGE_BYTES = 1 << 30
"""Weights of more are put beside the graph: a file of protobuf holds at most 2 GiB."""


class ExportedGraph(NamedTuple):
    """A folder that was written.

    Args:
        folder: Where it is.
        difference: The largest difference of a channel between the runtime's vectors and ours.
    """

    folder: Path
    difference: float


class PaddedEncoder(nn.Module):
    """An encoder over padded rows, of operators that other runtimes have; without dropout.

    Args:
        network: The encoder, in evaluation mode.

    Raises:
        SettingsError: Its pooling cannot be written.
    """

    def __init__(self, network: TextEncoder) -> None:
        super().__init__()
        if not isinstance(network.trunk, Transformer):
            raise SettingsError(
                f'trunk is {type(network.trunk).__name__}, which no graph is made of (xlabml.transformer.Transformer)'
            )
        if type(network.pooling) not in _POOLINGS:
            names = ', '.join(kind.__name__ for kind in _POOLINGS)
            raise SettingsError(f'pooling is {type(network.pooling).__name__}, which no graph is made of ({names})')
        if not network.include_prompt:
            raise SettingsError('include_prompt is false: a graph does not tell a prompt from its text (true)')
        self.network = network
        self.trunk = network.trunk
        self._pool = _POOLINGS[type(network.pooling)]

    def forward(self, input_ids: Int[Tensor, 'b n'], attention_mask: Int[Tensor, 'b n']) -> Float[Tensor, 'b e']:
        """The vector of each row; padding, where the mask is 0, stands behind the text."""
        network = self.network
        trunk = self.trunk
        is_text = attention_mask > 0
        position = torch.arange(input_ids.size(1), device=input_ids.device)[None]
        positions = trunk.positions
        angles = positions.angles(position)
        local = positions.angles(position, is_local=True) if positions.has_local_angles else angles
        before = Before(position, None, None)
        hidden = trunk.embedding(input_ids) * trunk.scale
        hidden = trunk.embedding_norm(positions.embed(hidden, position))
        for block in cast('list[Block]', list(trunk.blocks)):
            rule = block.attention.rule._replace(slopes=positions.slopes, dropout=0.0)
            if network.causal is not None:
                rule = rule._replace(causal=network.causal)
            turned = angles if rule.window is None else local
            hidden = block(hidden, turned, _PaddedPass(rule, position, is_text), before)
        vectors = self._pool(network.pooling, trunk.norm(hidden), is_text)
        for layer in network.dense:
            vectors = layer(vectors)
        return F.normalize(vectors, dim=-1, eps=1e-30) if network.normalize else vectors


class _PaddedPass(Pass):
    """Attention by its definition; padding attends to itself alone, so that it is finite."""

    def __init__(self, rule: Rule, position: Int[Tensor, '1 n'], is_text: Bool[Tensor, 'b n']) -> None:
        visible, self._bias = make_masks(position, position[0], rule)
        is_self = position[:, None, :, None] == position[0]
        self._visible = (visible & is_text[:, None, None]) | is_self
        self._cap = rule.score_cap

    def attend(
        self, q: Float[Tensor, 'b n h c'], k: Float[Tensor, 'b n g c'], v: Float[Tensor, 'b n g c']
    ) -> Float[Tensor, 'b n h c']:
        found = attend(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self._visible, self._bias, self._cap
        )  # b h n c
        return found.transpose(1, 2)


def _mean(pooling: Pooling, hidden: Tensor, is_text: Tensor) -> Tensor:
    weight = is_text.to(hidden.dtype)
    return (hidden * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)


def _weighted_mean(pooling: Pooling, hidden: Tensor, is_text: Tensor) -> Tensor:
    place = torch.arange(1, hidden.size(1) + 1, device=hidden.device)
    weight = is_text.to(hidden.dtype) * place
    return (hidden * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)


def _max(pooling: Pooling, hidden: Tensor, is_text: Tensor) -> Tensor:
    return hidden.masked_fill(~is_text[..., None], torch.finfo(hidden.dtype).min).amax(1)


def _first(pooling: Pooling, hidden: Tensor, is_text: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(pooling: Pooling, hidden: Tensor, is_text: Tensor) -> Tensor:
    last = is_text.sum(1) - 1
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.size(2)))[:, 0]


def _attention(pooling: Pooling, hidden: Tensor, is_text: Tensor) -> Tensor:
    assert isinstance(pooling, AttentionPooling)
    score = hidden @ pooling.query.T / math.sqrt(pooling.d_model)  # b n h
    share = score.masked_fill(~is_text[..., None], -math.inf).softmax(1)
    return (hidden.unflatten(-1, (pooling.n_heads, -1)) * share[..., None]).sum(1).flatten(1)


_POOLINGS: dict[type[Pooling], Callable[[Pooling, Tensor, Tensor], Tensor]] = {
    MeanPooling: _mean,
    WeightedMeanPooling: _weighted_mean,
    MaxPooling: _max,
    FirstPooling: _first,
    LastPooling: _last,
    AttentionPooling: _attention,
}


def export_onnx(ckpt: Path, folder: Path) -> ExportedGraph:
    """Write an encoder as a graph, and compare its vectors with ours before the folder has its name.

    Beside the graph there are `tokenizer.json` (or the SentencePiece model of another library) and `encoder.json`: the
    longest text, prompts, and the width of the vectors.

    Args:
        ckpt: A training checkpoint or an exported file of an encoder.
        folder: What is made.

    Raises:
        FileExistsError: The folder is there.
        NotSupportedError: A package of the extra `onnx` is missing.
        SettingsError: A setting of the encoder is not expressed by a graph.
        CheckpointError: The file is no encoder's, or the vectors differ.
    """
    _require_libraries()
    with new_folder(folder) as part:
        contents = checkpoints.load(ckpt)
        network = load_network(contents, ckpt, TextEncoder).float()
        tokenizer = Tokenizer.from_bytes(contents.tokenizer_bytes())
        try:
            padded = PaddedEncoder(network)
        except SettingsError as error:
            raise SettingsError(f'{ckpt} cannot be written as a graph: {error}') from error
        _write_graph(padded, part / GRAPH)
        _write_beside(part, network, tokenizer)
        difference = _check(part / GRAPH, network, tokenizer)
    return ExportedGraph(folder, difference)


def _require_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise NotSupportedError(
            f"a graph is written and compared by packages of the extra `onnx` ({error}): pip install 'xlabml[onnx]'"
        ) from error


def _write_graph(padded: PaddedEncoder, path: Path) -> None:
    n_bytes = sum(x.numel() * x.element_size() for x in padded.state_dict().values())
    ids = torch.ones(2, min(7, padded.network.max_len), dtype=torch.long)
    axes = {0: torch.export.Dim('texts'), 1: torch.export.Dim('tokens', max=padded.network.max_len)}
    with warnings.catch_warnings(), _quiet(), torch.no_grad():
        warnings.simplefilter('ignore')  # of the exporter, about itself
        torch.onnx.export(
            padded,
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=['input_ids', 'attention_mask'],
            output_names=['vectors'],
            dynamic_shapes=(axes, axes),
            dynamo=True,
            external_data=n_bytes > _LARGE_BYTES,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter logs about packages that it could use off the terminal."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_beside(folder: Path, network: TextEncoder, tokenizer: Tokenizer) -> None:
    """The tokenizer, and what else is to be known."""
    from xlabml.tokenizer.foreign import ForeignTokenizer
    from xlabml.tokenizer.packed import unpack
    from xlabml.tokenizer.sentencepieces import SentencePieceTokenizer

    if isinstance(tokenizer, SentencePieceTokenizer):
        assert isinstance(tokenizer, ForeignTokenizer)
        (folder / 'tokenizer.model').write_bytes(unpack(tokenizer.data, 'tokenizer').file)
    else:
        write_json(folder / 'tokenizer.json', tokenizer_content(tokenizer))
    ends = tokenizer.special_ids
    write_json(
        folder / 'encoder.json',
        {
            'max_len': network.max_len,
            'sos': ends['sos'],
            'eos': ends['eos'],
            'pad': ends['pad'],
            'prompts': cast(Json, network.prompts),
            'd_vector': network.d_vector,
            'normalize': network.normalize,
        },
    )


def _check(path: Path, network: TextEncoder, tokenizer: Tokenizer) -> float:
    """Compare with onnxruntime, in one padded batch and one text at a time.

    Raises:
        CheckpointError: The vectors differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    ends = tokenizer.special_ids
    framed = [frame(ids, ends['sos'], ends['eos'], network.max_len) for ids in tokenizer.encode(list(TEXTS))]
    ours = encode(network, tokenizer, TEXTS)
    together = _run(session, framed, ends['pad'])
    alone = torch.cat([_run(session, [ids], ends['pad']) for ids in framed])
    difference = max(float((ours - theirs).abs().max()) for theirs in (together, alone))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f'the graph has other vectors than the checkpoint, by {difference:.1e}, more than {TOLERANCE:.0e}; please '
            'report it'
        )
    return difference


def _run(session: object, framed: Sequence[Sequence[int]], pad: int) -> Float[Tensor, 's e']:
    longest = max(map(len, framed))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in framed])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in framed])
    inputs = {'input_ids': ids.numpy(), 'attention_mask': mask.numpy()}
    [vectors] = session.run(['vectors'], inputs)  # type: ignore[attr-defined]
    return torch.from_numpy(vectors)
