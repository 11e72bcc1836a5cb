"""What the weights of a network are: each module says so of its own, and all that group, count or plot them ask here.

A module describes its weights by an attribute or a property `matrices`, from their names in it to `Matrix`:

    self.output = nn.Linear(d_ff, d_model)
    self.matrices = {'output.weight': Matrix(parts=(Part('feed_forward_output', d_model),), is_residual=True)}

and attention by an attribute or a property `attention_pairs`. Modules that say nothing are described by their kind.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import nn

Role = Literal['embedding', 'head', 'layer']


class Part(NamedTuple):
    """One of the matrices that are stacked in a weight, one above the other.

    Args:
        name: What it computes: query, key, value, attention_output, gate, up, feed_forward_input …
        rows: How many rows of the weight it has.
    """

    name: str
    rows: int


class Matrix(NamedTuple):
    """What a weight of two or more dimensions is.

    Args:
        roles: embedding: a vector for each id or position, that is looked up; head: its products are scores; layer: any
            other matrix. An embedding may be a head too, where they are tied.
        parts: The matrices that are stacked in it, from its first row on; empty: it is one, of no name.
        is_residual: Its products are added to the residual stream.
    """

    roles: frozenset[Role] = frozenset({'layer'})
    parts: tuple[Part, ...] = ()
    is_residual: bool = False


EMBEDDING = Matrix(frozenset({'embedding'}))
HEAD = Matrix(frozenset({'head'}))


class AttentionPairs(NamedTuple):
    """Which pairs of a query and a key attention computes, and how wide they are.

    Args:
        causal: A query attends to no later key.
        window: It attends to keys less than this many tokens away; None: any.
        n_channels: Channels of all heads.
    """

    causal: bool
    window: int | None
    n_channels: int


def find_matrices(module: nn.Module) -> dict[str, Matrix]:
    """What each parameter of two or more dimensions is, by its name in the module, in the order of its parameters.

    Where no module describes it: the weight of an nn.Embedding is an embedding; one of whose dotted name some part
    begins with `head` is a head, described or not; any other is of a layer.
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
            # One that two modules describe is tied: it has the roles of both.
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
    """Which pairs each attention in a module computes."""
    found = (getattr(part, 'attention_pairs', None) for part in module.modules())
    return [pairs for pairs in found if pairs is not None]


def _own_matrices(part: nn.Module) -> Mapping[str, Matrix]:
    matrices = getattr(part, 'matrices', None)
    if isinstance(matrices, Mapping):
        return matrices
    return {'weight': EMBEDDING} if isinstance(part, nn.Embedding) else {}
