"""The roles of a network's weights, as its modules describe them; used to group, count and plot weights.

A module describes its weights by an attribute or a property `matrices`, which maps their names to `Matrix`:

    self.output = nn.Linear(d_ff, d_model)
    self.matrices = {'output.weight': Matrix(parts=(Part('feed_forward_output', d_model),), is_residual=True)}

and attention by an attribute or a property `attention_pairs`. Weights without a description get a role by their kind.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import nn

Role = Literal['embedding', 'head', 'layer']


class Part(NamedTuple):
    """One of the matrices that are stacked in the rows of a weight.

    Args:
        name: Its output: query, key, value, attention_output, gate, up, feed_forward_input …
        rows: Number of its rows.
    """

    name: str
    rows: int


class Matrix(NamedTuple):
    """The description of a weight of two or more dimensions.

    Args:
        roles: embedding: a lookup table with a vector per id or position; head: maps to scores; layer: any other
            matrix. A tied embedding is a head as well.
        parts: The matrices stacked in it, from its first row on; empty: a single unnamed one.
        is_residual: Whether its output is added to the residual stream.
    """

    roles: frozenset[Role] = frozenset({'layer'})
    parts: tuple[Part, ...] = ()
    is_residual: bool = False


EMBEDDING = Matrix(frozenset({'embedding'}))
HEAD = Matrix(frozenset({'head'}))


class AttentionPairs(NamedTuple):
    """Which (query, key) pairs attention computes, and their width.

    Args:
        causal: A query attends to no later key.
        window: It attends to keys less than this many tokens away; None: any distance.
        n_channels: Channels of all heads.
    """

    causal: bool
    window: int | None
    n_channels: int


def find_matrices(module: nn.Module) -> dict[str, Matrix]:
    """The description of each parameter of two or more dimensions, by its name, in the order of the parameters.

    Without a description the weight of an nn.Embedding is an embedding, any other a layer. A parameter whose dotted
    name has a part that begins with `head` is a head, unless it is an embedding.
    """
    described: dict[int, Matrix] = {}
    for part in module.modules():
        for name, matrix in _own_matrices(part).items():
            owner, _, attribute = name.rpartition('.')
            try:
                parameter = getattr(part.get_submodule(owner), attribute)
            except AttributeError:  # replaced by another module
                continue
            before = described.get(id(parameter))
            # A tied parameter has the roles of both modules.
            described[id(parameter)] = matrix if before is None else before._replace(roles=before.roles | matrix.roles)
    found: dict[str, Matrix] = {}
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            continue
        matrix = described.get(id(parameter), Matrix())
        if 'embedding' not in matrix.roles and any(word.startswith('head') for word in name.split('.')):
            matrix = matrix._replace(roles=HEAD.roles)
        found[name] = matrix
    return found


def find_attention(module: nn.Module) -> list[AttentionPairs]:
    """The pairs that each attention in a module computes."""
    found = (getattr(part, 'attention_pairs', None) for part in module.modules())
    return [pairs for pairs in found if pairs is not None]


def _own_matrices(part: nn.Module) -> Mapping[str, Matrix]:
    matrices = getattr(part, 'matrices', None)
    if isinstance(matrices, Mapping):
        return matrices
    return {'weight': EMBEDDING} if isinstance(part, nn.Embedding) else {}
